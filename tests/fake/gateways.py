"""Gateways as the operator sees them: what each serves of a service, and when it last said so.

They take the routing that stands in status when a test lets them, at once or never.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from slipway.api.manifest import Key, Manifest
from slipway.decide.release import Sample, Window
from slipway.decide.types import GatewayView
from slipway.kube.kinds import INFERENCE_SERVICE
from slipway.signals.windows import Windows

from .store import EPOCH, Store

NOTHING = Sample()


@dataclass(slots=True)
class FakeGateway:
    takes_traffic: bool = True
    is_silent: bool = False
    refuses: str = ""
    """Its words, when it refuses whatever is new."""
    notes: dict[Key, str] = field(default_factory=dict)
    tables: dict[Key, Manifest] = field(default_factory=dict)
    """Routing that it serves."""
    refused: dict[Key, str] = field(default_factory=dict)
    said_at: datetime = EPOCH


class FakeGateways:
    """Implements `slipway.control.reconcile.Signals`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.pods = {"gw-a": FakeGateway(), "gw-b": FakeGateway()}
        self.are_known = True
        self.requests: dict[Key, dict[str, int]] = {}
        self.windows, self.stretches = Windows(), Windows()
        self.hurries = 0

    def hurry(self) -> None:
        self.hurries += 1

    def take(self) -> bool:
        """Whether any of them took, or refused, anything new."""
        news = False
        for pod in self.pods.values():
            if pod.is_silent:
                continue
            pod.said_at = self._store.now
            for service in self._store.list(INFERENCE_SERVICE):
                news |= self._offer(pod, service)
        return news

    def serving(self, key: Key) -> list[Manifest]:
        """The tables that requests meet."""
        return [pod.tables[key] for pod in self.pods.values() if pod.takes_traffic and key in pod.tables]

    def views(self, key: Key) -> tuple[GatewayView, ...] | None:
        if not self.are_known:
            return None
        return tuple(
            GatewayView(
                name=name,
                takes_traffic=pod.takes_traffic,
                age_s=(self._store.now - pod.said_at).total_seconds(),
                taken=pod.tables.get(key, {}).get("version", ""),
                refused=pod.refused.get(key, ""),
                words=pod.refuses,
                note=pod.notes.get(key, ""),
            )
            for name, pod in self.pods.items()
        )

    def counts(self, key: Key) -> Mapping[str, int]:
        return self.requests.get(key, {})

    def count(self, key: Key, revision: str, sample: Sample, copies: Sample = NOTHING) -> None:
        """What all of them together counted just now."""
        counts = self.requests.setdefault(key, {})
        counts[revision] = counts.get(revision, 0) + sample.requests
        self.windows.add(key, revision, sample, copies, self._now)
        self.stretches.add(key, revision, sample, copies, self._now)

    @property
    def _now(self) -> float:
        return self._store.now.timestamp()

    def window(self, key: Key, stable: str) -> Window | None:
        if not self.are_known:
            return None
        return self.windows.look(key, stable, self._now, self._age_s)

    @property
    def _age_s(self) -> float:
        ages = [(self._store.now - pod.said_at).total_seconds() for pod in self.pods.values() if pod.takes_traffic]
        return max(ages, default=0.0)

    def stretch(self, key: Key) -> Window | None:
        return self.stretches.look(key, "", self._now, self._age_s) if self.are_known else None

    def end_stretch(self, key: Key, window: Window) -> None:
        self.stretches.close(key, window)

    def forget_stretches(self, key: Key) -> None:
        self.stretches.drop(key)

    def watch(self, key: Key) -> None:
        self.windows.watch(key, self._now)

    def close(self, key: Key, window: Window) -> None:
        self.windows.close(key, window)

    def rest(self, key: Key) -> None:
        self.windows.drop(key)

    def _offer(self, pod: FakeGateway, service: Manifest) -> bool:
        key = service["metadata"]["namespace"], service["metadata"]["name"]
        routing = service.get("status", {}).get("routing")
        if not routing or pod.tables.get(key) == routing:
            return False
        if pod.refuses:
            before, pod.refused[key] = pod.refused.get(key), routing["version"]
            return before != pod.refused[key]
        pod.tables[key] = routing
        pod.refused.pop(key, None)
        return True
