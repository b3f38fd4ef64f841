"""What a release is judged by, from one status write to the next: windows of counts, numbers of Prometheus.

A window ends when the write that carries its evidence has been answered. Was the answer lost, the next look at status
tells whether it was carried out: nothing is counted twice, and nothing that was not written is forgotten.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from slipway.api.conditions import UNDER_WAY
from slipway.api.manifest import JSON, Key, Manifest
from slipway.decide.release import Reading, Window

_SENT_MAX = 4


class Windows(Protocol):
    """What gateways counted since the last close; the first look opens it. `watch` while none is needed yet."""

    def window(self, key: Key, stable: str) -> Window | None: ...

    def close(self, key: Key, window: Window) -> None: ...

    def watch(self, key: Key) -> None: ...

    def rest(self, key: Key) -> None: ...


class Readings(Protocol):
    """What Prometheus says. Looking keeps its questions being asked for a minute."""

    def of(self, key: Key, metrics: Mapping[str, str], stable: str, candidate: str) -> Mapping[str, Reading]: ...


class Ledger(Protocol):
    """Who counts what becomes of releases."""

    def written(
        self, before: Manifest, after: Manifest, now: datetime, *, is_judged: bool, stable: str | None
    ) -> None: ...


class Judging:
    def __init__(self, windows: Windows, readings: Readings | None = None, ledger: Ledger | None = None) -> None:
        self._windows, self._readings, self._ledger = windows, readings, ledger
        self._sent: dict[Key, list[tuple[Window, JSON]]] = {}
        """Windows in writes of which it is not known whether they were carried out, and the evidence there."""

    def window(self, key: Key, service: Manifest | None) -> Window | None:
        """What gateways counted of a release since its evidence was last written; None where there is none."""
        release = of(service)
        if service is None or release.get("phase") not in UNDER_WAY or not _is_judged(service):
            self._sent.pop(key, None)
            self._rest(key, service)
            return None
        for window, evidence in reversed(self._sent.get(key, ())):
            if evidence == release.get("evidence"):
                self._windows.close(key, window)
                del self._sent[key]
                break
        return self._windows.window(key, service["status"].get("stable", ""))

    def _rest(self, key: Key, service: Manifest | None) -> None:
        if service is not None and _is_judged(service):
            self._windows.watch(key)
        else:
            self._windows.rest(key)

    def readings(self, key: Key, service: Manifest) -> Mapping[str, Reading]:
        release, status = of(service), service.get("status") or {}
        analysis = (service["spec"].get("rollout") or {}).get("analysis") or {}
        metrics = {metric["name"]: metric["promql"] for metric in analysis.get("metrics") or ()}
        if self._readings is None or not metrics or release.get("phase") not in UNDER_WAY:
            return {}
        return self._readings.of(key, metrics, status.get("stable", ""), release.get("candidate", ""))

    def sends(self, key: Key, body: Manifest, window: Window | None) -> None:
        """Before a status write: its answer may be lost."""
        if window is not None:
            self._sent[key] = [*self._sent.get(key, ())[1 - _SENT_MAX :], (window, of(body).get("evidence"))]

    def wrote(self, key: Key, before: Manifest, body: Manifest, window: Window | None, now: datetime) -> None:
        """After it."""
        if window is not None:
            self.ends(key, window)
        if self._ledger is not None:
            stable = body["status"].get("stable")
            self._ledger.written(of(before), of(body), now, is_judged=window is not None, stable=stable)

    def ends(self, key: Key, window: Window) -> None:
        """All that was in that window counts."""
        self._windows.close(key, window)
        self._sent.pop(key, None)


def _is_judged(service: Manifest) -> bool:
    """Whether a release of this service would be compared with anything."""
    wanted = service["spec"].get("rollout") or {"strategy": "None"}
    return bool(wanted.get("strategy") != "None" or of(service).get("weight"))


def of(service: Manifest | None) -> Manifest:
    """What status, as written, says of the release."""
    found: Manifest = ((service or {}).get("status") or {}).get("rollout") or {}
    return found
