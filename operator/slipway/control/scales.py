"""What the operator's metrics tell of scaling. Series of a service are there while it scales; read at the scrape."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slipway.api.manifest import Key
from slipway.control.arms import Scaled
from slipway.decide.scaling import lead
from slipway.decide.scaling.types import Launch

_LABELS = ("namespace", "service", "variant")
_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01)
_PARTS = tuple(name.removesuffix("_s") for name in Launch._fields[1:])
Arms = Callable[[], Iterable[tuple[Key, Scaled]]]


class ScalingMetrics(Collector):
    """Also told of every decision."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._arms: Arms = tuple
        self._decisions = Counter(
            "slipway_scaling_decisions_total", "Decisions on replicas by their reason.", ("code",), registry=registry
        )
        self._seconds = Histogram(
            "slipway_scaling_decide_seconds", "Duration of a decision.", buckets=_BUCKETS_S, registry=registry
        )
        self._asked = Counter(
            "slipway_scaling_pod_polls_total", "Pods asked for their metrics.", ("result",), registry=registry
        )
        registry.register(self)

    def watch(self, arms: Arms) -> None:
        self._arms = arms

    def decided(self, code: str, seconds: float) -> None:
        self._decisions.labels(code).inc()
        self._seconds.observe(seconds)

    def polled(self, result: str) -> None:
        self._asked.labels(result).inc()

    def collect(self) -> Iterator[Metric]:
        desired = _gauge("desired_replicas", "Replicas that are asked for.")
        ready = _gauge("ready_replicas", "Of the revision that answers.")
        loading = _gauge("loading_replicas", "On their way to be ready.")
        rate = _gauge("capacity", "Requests per second that one replica carries within the objective.")
        lasts = _gauge(
            "lead_time_seconds", "How long launches took of late, by part; all: what is reckoned with.", "part"
        )
        attained = _gauge("objective_attainment_ratio", "Requests of the last five minutes that met the objective.")
        for key, arm in self._arms():
            labels = [*key, arm.variant]
            if arm.demand is None:
                continue
            desired.add_metric(labels, arm.demand.replicas)
            ready.add_metric(labels, arm.ready)
            loading.add_metric(labels, arm.loading)
            if arm.carries.rate > 0:
                rate.add_metric(labels, arm.carries.rate)
            if (share := arm.share_in_time()) is not None:
                attained.add_metric(labels, share)
            known = arm.demand.state.lead
            if known.launches:
                lasts.add_metric([*labels, "all"], lead.lead_s(known))
            for part, seconds in zip(_PARTS, known.parts, strict=False):
                lasts.add_metric([*labels, part], seconds)
        yield from (desired, ready, loading, rate, lasts, attained)


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"slipway_scaling_{name}", about, labels=(*_LABELS, *labels))
