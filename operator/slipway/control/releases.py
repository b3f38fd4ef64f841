"""What the operator's metrics tell of releases. Series of a service are there while one is under way or has failed.

`slipway_rollout_phase` is read at the scrape, off what status says; the rest is counted as it is written.
"""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slipway.api.conditions import UNDER_WAY, UNWANTED, Phase
from slipway.api.manifest import Manifest
from slipway.control.cache import Cache

_BUCKETS_S = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 43_200, 86_400, 259_200)
_LABELS = ("namespace", "service")
_DONE, _BACK = (Phase.HEALTHY, Phase.DRAINING), (Phase.ROLLING_BACK, Phase.ROLLED_BACK)


class ReleaseMetrics(Collector):
    """Counts what reconciles tell it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cache: Cache | None = None
        self._ended = Counter(
            "slipway_rollouts_total", "Releases by how they ended.", ("result", "reason"), registry=registry
        )
        self._seconds = Histogram(
            "slipway_rollout_duration_seconds",
            "From a release's begin to its promotion or the decision to take it back.",
            ("result",),
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._verdicts = Counter(
            "slipway_rollout_verdicts_total", "Verdicts on intervals of at least 5 s.", ("verdict",), registry=registry
        )
        registry.register(self)

    def watch(self, cache: Cache) -> None:
        """Show what status says, at each scrape."""
        self._cache = cache

    def written(
        self, before: Manifest, after: Manifest, now: datetime, *, is_judged: bool, stable: str | None = None
    ) -> None:
        """Status had `before` of a release, and has `after`; `is_judged`: an interval of evidence is in it.

        `stable`: who answers now.
        """
        if is_judged and (verdicts := after.get("verdicts")):
            self._verdicts.labels(verdicts[0]["verdict"]).inc()
        if before.get("phase") in UNDER_WAY and (result := _result(before, after, stable)):
            why = (after.get("abort") or {}).get("reason", "") if result == "aborted" else ""
            self._ended.labels(result, why).inc()
            if started := before.get("started"):
                seconds = (now - datetime.fromisoformat(started)).total_seconds()
                self._seconds.labels(result).observe(max(0.0, seconds))

    def collect(self) -> Iterator[Metric]:
        phase = GaugeMetricFamily("slipway_rollout_phase", "1 for the phase of a release.", labels=(*_LABELS, "phase"))
        weight = GaugeMetricFamily(
            "slipway_rollout_weight_ratio", "The candidate's share of what stable would get.", labels=_LABELS
        )
        for key in self._cache.services() if self._cache else ():
            service = (self._cache.service(key) if self._cache else None) or {}
            release = (service.get("status") or {}).get("rollout") or {}
            if release.get("phase", Phase.HEALTHY) != Phase.HEALTHY:
                phase.add_metric([*key, release["phase"]], 1)
                weight.add_metric(list(key), release.get("weight", 0) / 10_000)
        yield phase
        yield weight


def _result(before: Manifest, after: Manifest, stable: str | None) -> str:
    """How a release that was under way ended; empty while it has not. An abort is one when it is decided."""
    if after.get("phase") in _DONE:
        return "promoted" if before.get("candidate", stable) == stable else "superseded"
    if after.get("phase") in UNDER_WAY:
        return "" if before.get("candidate") == after.get("candidate") else "superseded"
    if after.get("phase") not in _BACK:
        return ""
    return "superseded" if (after.get("abort") or {}).get("reason") in UNWANTED else "aborted"
