"""What A/B experiments are told from, from one status write to the next: stretches of counts, numbers of Prometheus.

As for releases, a stretch ends when the write that has it in memory was answered, or status shows that it was carried
out. A stretch is longer than the windows of a release and ends at other times, so that each has counts of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from slipway.api.manifest import JSON, Key, Manifest
from slipway.control.judging import Judging
from slipway.decide.release import Reading, Window

_SENT_MAX = 4


class Stretches(Protocol):
    """What gateways counted since the last stretch ended; the first look begins one."""

    def stretch(self, key: Key) -> Window | None: ...

    def end_stretch(self, key: Key, window: Window) -> None: ...

    def forget_stretches(self, key: Key) -> None: ...


class Readings(Protocol):
    """What Prometheus says of each revision. Looking keeps its questions being asked for a minute."""

    def of_each(
        self, key: Key, metrics: Mapping[str, str], revisions: Iterable[str]
    ) -> Mapping[tuple[str, str], Reading]: ...


class Trials:
    def __init__(self, stretches: Stretches, readings: Readings) -> None:
        self._stretches, self._readings = stretches, readings
        self._sent: dict[Key, list[tuple[Window, JSON]]] = {}
        """Stretches in writes of which it is not known whether they were carried out, and the memory there."""

    def window(self, key: Key, service: Manifest | None) -> Window | None:
        """What was counted since the last stretch; None while nothing is compared."""
        found = _of(service)
        if service is None or not found or _policy(service) is None:
            self._sent.pop(key, None)
            self._stretches.forget_stretches(key)
            return None
        for window, memory in reversed(self._sent.get(key, ())):
            if memory == found.get("memory"):
                self.wrote(key, window)
                break
        return self._stretches.stretch(key)

    def readings(self, key: Key, service: Manifest) -> Mapping[tuple[str, str], Reading]:
        """Metric and revision -> number."""
        found, policy = _of(service), _policy(service)
        metrics = {metric["name"]: metric["promql"] for metric in (policy or {}).get("metrics") or ()}
        if not found or not metrics:
            return {}
        return self._readings.of_each(key, metrics, [arm["revision"] for arm in found.get("arms", ())])

    def sends(self, key: Key, body: Manifest, window: Window | None) -> None:
        """Before a status write: its answer may be lost."""
        if window is not None:
            self._sent[key] = [*self._sent.get(key, ())[1 - _SENT_MAX :], (window, _of(body).get("memory"))]

    def wrote(self, key: Key, window: Window | None) -> None:
        """After it."""
        if window is not None:
            self._stretches.end_stretch(key, window)
            self._sent.pop(key, None)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Everything that is told from what gateways count over time."""

    releases: Judging
    experiments: Trials


def _of(service: Manifest | None) -> Manifest:
    """What status, as written, says of the experiment."""
    found: Manifest = ((service or {}).get("status") or {}).get("experiment") or {}
    return found


def _policy(service: Manifest) -> Manifest | None:
    """What is wanted; None: no experiment."""
    found: Manifest | None = (service["spec"].get("traffic") or {}).get("experiment")
    return found
