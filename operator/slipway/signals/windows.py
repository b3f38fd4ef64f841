"""What gateways counted of the services that have releases, since what was last written into status.

    no release: a record of the last ten minutes ──first look──► a window ──close──► the next one, from there
                ▲                                                                        │
                └──────────────────────────── watch: the release is over ────────────────┘

A window ends when a status write has carried what was in it: nothing counts twice, nothing in between is lost. The
record tells how stable does when nothing is released; a restart of the operator shortens it. Services that nobody
watches cost nothing.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from slipway.api.manifest import Key
from slipway.decide.release import Sample, Window

RECORD_S, _PART_S = 600.0, 60.0
Samples = dict[str, Sample]


@dataclass(slots=True)
class _Counted:
    """In a stretch of time that begins then."""

    since: float
    samples: Samples = field(default_factory=dict)
    copies: Samples = field(default_factory=dict)

    def add(self, revision: str, sample: Sample, copies: Sample) -> None:
        self.samples[revision] = _sum(self.samples.get(revision, Sample()), sample)
        if copies.requests:
            self.copies[revision] = _sum(self.copies.get(revision, Sample()), copies)


@dataclass(slots=True)
class _Record:
    """The last minutes of a service, the oldest first."""

    since: float
    parts: deque[_Counted] = field(default_factory=deque)

    def part(self, now: float) -> _Counted:
        """The one to count in."""
        self.forget(now)
        if not self.parts or now - self.parts[-1].since >= _PART_S:
            self.parts.append(_Counted(now))
        return self.parts[-1]

    def forget(self, now: float) -> None:
        while self.parts and now - self.parts[0].since > RECORD_S:
            self.parts.popleft()

    def of(self, stable: str, now: float) -> _Counted:
        """What is known of one revision, as one stretch."""
        self.forget(now)
        found = _Counted(max(self.since, now - RECORD_S))
        for part in self.parts:
            if stable in part.samples:
                found.add(stable, part.samples[stable], Sample())
        return found


class Windows:
    """By service. `now` is monotonic seconds, of one clock."""

    def __init__(self) -> None:
        self._open: dict[Key, _Counted] = {}
        self._records: dict[Key, _Record] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._open or key in self._records

    def add(self, key: Key, revision: str, sample: Sample, copies: Sample, now: float) -> None:
        """What one gateway counted since its last report; nothing to do for a service that nobody watches."""
        if found := self._open.get(key):
            found.add(revision, sample, copies)
        elif record := self._records.get(key):
            record.part(now).add(revision, sample, copies)

    def watch(self, key: Key, now: float) -> None:
        """No release is under way, and one may come."""
        self._open.pop(key, None)
        self._records.setdefault(key, _Record(now))

    def look(self, key: Key, stable: str, now: float, age_s: float) -> Window:
        """The window until now. The first one of a release has the record, in which only stable counts."""
        if key not in self._open:
            self._open[key] = self._records.pop(key, _Record(now)).of(stable, now)
        found = self._open[key]
        return Window(now - found.since, age_s, dict(found.samples), dict(found.copies))

    def close(self, key: Key, window: Window) -> None:
        """Begin the next one where that ended; what was counted since `window` was looked at is in it."""
        if found := self._open.get(key):
            found.since += window.seconds
            found.samples = dict(_rest(found.samples, window.samples))
            found.copies = dict(_rest(found.copies, window.copies))

    def drop(self, key: Key) -> None:
        """Nobody asks any more."""
        self._open.pop(key, None)
        self._records.pop(key, None)


def _rest(now: Samples, before: Mapping[str, Sample]) -> Iterator[tuple[str, Sample]]:
    for revision, sample in now.items():
        yield revision, _sum(sample, before.get(revision, Sample()), sign=-1)


def _sum(one: Sample, other: Sample, sign: int = 1) -> Sample:
    width = max(len(one.latency), len(other.latency))
    pairs = zip(_wide(one.latency, width), _wide(other.latency, width), strict=True)
    return Sample(
        requests=one.requests + sign * other.requests,
        errors=one.errors + sign * other.errors,
        latency=tuple(a + sign * b for a, b in pairs),
        rejected=one.rejected + sign * other.rejected,
    )


def _wide(latency: tuple[int, ...], width: int) -> tuple[int, ...]:
    return latency or (0,) * width
