"""What arms of services have to carry: the gateways' counters, added up, and how many answers came too late.

    added up as they are   for an operator that starts anew: it goes on from where another ended. What such a sum is
                           made of (gateways, revisions) names its epoch: another one is no number to go on from
    tallied as they grow   from then on: gateways and revisions may come and go, and nothing is a burst that never was

Which answers were late is judged as they are counted, for the limit may change.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from slipway.api.manifest import Key
from slipway.decide.release import EDGES_MS
from slipway.decide.scaling.seen import Load
from slipway.signals.report import Counters, sample

UNTIMED_S = 12.0
"""Latencies come every 5 s where there are any: so long without is none."""


@dataclass(frozen=True, slots=True)
class Side:
    """One gateway, as it is added up."""

    epoch: str | None
    """None: it has said nothing yet."""
    counters: Mapping[str, Counters]
    """By `namespace/revision`, cumulative."""
    is_live: bool
    """Whether what it has in flight is so."""


def add_up(
    sides: Iterable[Side],
    names: Collection[str],
    ages: tuple[float, float],
    tallied: "Tallied",
    *,
    copies: bool = False,
) -> Load:
    """Of the revisions of one arm, as `namespace/revision`. `ages`: of the oldest and the youngest word of gateways.

    `copies`: those that a mirror sends are its load, too.
    """
    age_s, heard_s = ages
    arrived = active = held = 0
    terms: list[str] = []
    for side in sides:
        if side.epoch is None:
            continue
        terms.append(side.epoch)
        for name in names:
            if (found := side.counters.get(name)) is None:
                continue
            terms.append(name)
            arrived += found.requests + found.held_lost
            if side.is_live:
                active += found.active
                held += found.held
            if copies and found.shadow is not None:
                arrived += found.shadow.requests
                active += found.shadow.active if side.is_live else 0
    epoch = hashlib.blake2b("\0".join(sorted(terms)).encode(), digest_size=6).hexdigest() if terms else ""
    return Load(age_s, heard_s, epoch, arrived, active, held, tallied.judged, tallied.late, tallied.grown)


@dataclass(frozen=True, slots=True)
class Tallied:
    """Since this process began to ask."""

    judged: float = 0.0
    late: float = 0.0
    grown: Mapping[str, float] = field(default_factory=dict)
    """Revision -> requests."""


@dataclass(slots=True)
class _Timed:
    """How far the latencies of one gateway are behind what it has finished."""

    at: float
    finished: int
    """When latencies last came: all of these are among the next ones, but for those that were given up."""
    timed: int
    base: int
    """That many more were finished than timed when this began."""
    lost: int = 0
    """Given up since."""


@dataclass(slots=True)
class _Judged:
    limits_ms: dict[str, float | None] = field(default_factory=dict)
    """Revision -> what is late."""
    sums: dict[str, list[float]] = field(default_factory=dict)
    """Revision -> judged, late."""
    timed: dict[tuple[str, str], _Timed] = field(default_factory=dict)
    """By gateway and revision."""
    grown: dict[tuple[str, bool], float] = field(default_factory=dict)
    """Revision and whether copies -> requests."""


class Tally:
    """By service. Of those that nobody asks for nothing is kept. Not for threads."""

    def __init__(self) -> None:
        self._services: dict[Key, _Judged] = {}
        self._timing: set[str] = set()
        """Gateways that were seen to tell latencies at all."""
        self.news: set[Key] = set()
        """Services of which something was counted, until somebody takes them out."""

    def judge(self, key: Key, limits_ms: Mapping[str, float | None]) -> None:
        """From now on these revisions of a service are counted; one without a limit is not judged."""
        known = self._services.setdefault(key, _Judged())
        gone = known.limits_ms.keys() - limits_ms.keys()
        known.limits_ms = dict(limits_ms)
        if gone:
            known.grown = {name: number for name, number in known.grown.items() if name[0] not in gone}
            known.sums = {name: sums for name, sums in known.sums.items() if name not in gone}
            known.timed = {place: timed for place, timed in known.timed.items() if place[1] not in gone}

    def drop(self, key: Key) -> None:
        self._services.pop(key, None)
        self.news.discard(key)

    def add(self, key: Key, place: tuple[str, str], now: Counters, before: Counters | None, at: float) -> None:
        """What one gateway counted of one revision (`place`) since its last report, at a time in monotonic seconds."""
        if now.latency_ms:
            self._timing.add(place[0])
        if (known := self._services.get(key)) is None:
            return
        self.news.add(key)
        if place[1] not in known.limits_ms:
            return
        _grow(known.grown, (place[1], False), _arrived(now), _arrived(before))
        if now.shadow is not None:
            _grow(known.grown, (place[1], True), now.shadow.requests, _arrived(before and before.shadow))
        limit_ms = known.limits_ms[place[1]]
        if limit_ms is None:
            known.timed.pop(place, None)
            return
        latency = sample(now, before).latency
        lost = 0
        if place[0] in self._timing:
            lost = _lost(known, place, now, at, is_news=before is None or now.latency_ms != before.latency_ms)
        lost += max(0, now.refused + now.held_lost - (before.refused + before.held_lost if before else 0))
        if latency or lost:
            sums = known.sums.setdefault(place[1], [0.0, 0.0])
            sums[0] += sum(latency) + lost
            sums[1] += late(latency, limit_ms) + lost

    def of(self, key: Key, revisions: Iterable[str], *, copies: bool = False) -> Tallied:
        if (known := self._services.get(key)) is None:
            return Tallied()
        grown: dict[str, float] = {}
        judged = late_ones = 0.0
        for name in revisions:
            grown[name] = known.grown.get((name, False), 0.0) + (known.grown.get((name, True), 0.0) if copies else 0.0)
            found = known.sums.get(name, (0.0, 0.0))
            judged, late_ones = judged + found[0], late_ones + found[1]
        return Tallied(judged, late_ones, grown)


def _arrived(counters: Counters | None) -> int:
    return counters.requests + counters.held_lost if counters is not None else 0


def _grow(sums: dict[tuple[str, bool], float], name: tuple[str, bool], now: int, before: int) -> None:
    """By what came on top; after a reset by all that is there."""
    if grown := now - before if now >= before else now:
        sums[name] = sums.get(name, 0.0) + grown


def _lost(known: _Judged, place: tuple[str, str], now: Counters, at: float, *, is_news: bool) -> int:
    """Requests that ended without an answer to be timed: given up by the gateway, or broken off. At least so many.

    Latencies come every few seconds: whoever had finished when the last ones came must be among these. An agent that
    started anew has counts before it has latencies: fewer than before say nothing yet.
    """
    finished, timed = now.finished - now.refused, sum(now.latency_ms.values())
    before = known.timed.get(place)
    is_soon = before is not None and at - before.at < UNTIMED_S
    if before is None or finished < before.finished or (timed < before.timed and not is_soon):
        known.timed[place] = _Timed(at, finished, timed, max(0, finished - timed))
        return 0
    if is_soon and (not is_news or timed < before.timed):
        return 0
    lost = max(before.lost, before.finished - timed - before.base)
    known.timed[place] = _Timed(at, finished, timed, before.base, lost)
    return lost - before.lost


def late(latency: Collection[int], limit_ms: float) -> float:
    """How many took longer, of requests by bucket of EDGES_MS; within a bucket they are taken to be spread evenly.

    Example:
        ten requests between 160 and 220 ms, limit 190 ms -> 5.0
    """
    found = 0.0
    for place, count in enumerate(latency):
        if not count:
            continue
        low = EDGES_MS[place - 1] if place else 0.0
        high = EDGES_MS[place] if place < len(EDGES_MS) else float("inf")
        if limit_ms <= low:
            found += count
        elif limit_ms < high:
            found += count * (high - limit_ms) / (high - low) if high < float("inf") else count
    return found
