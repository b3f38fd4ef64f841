"""What the operator tells about itself on /metrics.

The queue's and the workers' metrics have controller-runtime's names, so that its dashboards and alerts work
unchanged. One registry per process, made in `main`: nothing here is global. Gauges are read at the scrape, so
that an idle operator does no work for them.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from slipway.control.releases import ReleaseMetrics
from slipway.control.scales import ScalingMetrics
from slipway.control.workqueue import WorkQueue
from slipway.signals.gateways import Gateways

CONTROLLER = "inferenceservice"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUEUE_LABELS = ("name", "controller")
_GAUGES = (
    ("workqueue_depth", "Keys that wait.", "depth"),
    ("workqueue_unfinished_work_seconds", "Seconds of runs not done yet, together.", "unfinished_s"),
    ("workqueue_longest_running_processor_seconds", "Age of the oldest run.", "longest_running_s"),
)
"""Name, help, and field of `QueueStats`."""


class Metrics:
    """Also the queue's observer and the client's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._api_calls = self._counter("slipway_api_calls_total", "Calls to the API server.", "verb", "kind", "code")
        self._reconciles = self._counter(
            "controller_runtime_reconcile_total", "Reconciles by result.", "controller", "result"
        )
        self._terminal = self._counter(
            "controller_runtime_terminal_reconcile_errors_total", "Failures not tried again.", "controller"
        ).labels(CONTROLLER)
        self._reconcile_s = self._histogram("slipway_reconcile_seconds", "Duration of a reconcile.", "outcome")
        self._watch_events = self._counter("slipway_watch_events_total", "Events from watches.", "kind")
        self._polls = self._counter("slipway_gateway_polls_total", "Reports asked for.", "result")
        self._questions = self._counter("slipway_prometheus_queries_total", "Questions to Prometheus.", "result")
        self.events_dropped = self._counter("slipway_events_dropped_total", "Kubernetes Events not posted.")
        self.loop_lag = self._histogram("slipway_loop_lag_seconds", "How late the event loop woke a sleeper.")
        self.releases = ReleaseMetrics(self.registry)
        self.scaling = ScalingMetrics(self.registry)
        self.leader = Gauge("slipway_leader", "1 while this process leads.", registry=self.registry)
        self._queue_metrics()

    def called(self, verb: str, kind: str, code: str) -> None:
        self._api_calls.labels(verb, kind, code).inc()

    def seen(self, kind: str) -> None:
        self._watch_events.labels(kind).inc()

    def reconciled(self, result: str, seconds: float) -> None:
        self._reconciles.labels(CONTROLLER, result).inc()
        self._reconcile_s.labels(result).observe(seconds)
        if result == "terminal_error":
            self._terminal.inc()

    def added(self) -> None:
        self._adds.inc()

    def retried(self) -> None:
        self._retries.inc()

    def waited(self, seconds: float) -> None:
        self._queue_s.observe(seconds)

    def worked(self, seconds: float) -> None:
        self._work_s.observe(seconds)

    def watch_queue(self, queue: WorkQueue) -> None:
        """Show the queue's state at each scrape."""
        for name, help_text, field in _GAUGES:
            gauge = Gauge(name, help_text, _QUEUE_LABELS, registry=self.registry).labels(CONTROLLER, CONTROLLER)
            gauge.set_function(partial(_read, queue, field))

    def polled(self, result: str) -> None:
        self._polls.labels(result).inc()

    def asked(self, result: str) -> None:
        self._questions.labels(result).inc()

    def watch_gateways(self, gateways: Gateways) -> None:
        """Show the gateways' state at each scrape. No names: pods come and go, series would stay."""
        behind = Gauge("slipway_gateways_taking_traffic", "Gateways behind their Service.", registry=self.registry)
        behind.set_function(gateways.number_behind)
        silence = Gauge("slipway_gateway_silence_seconds", "Age of the oldest report of those.", registry=self.registry)
        silence.set_function(gateways.silence_s)

    def exposition(self) -> bytes:
        """Text format; call it on the event loop's thread."""
        return generate_latest(self.registry)

    def _queue_metrics(self) -> None:
        self._adds = self._counter("workqueue_adds_total", "Keys added.", *_QUEUE_LABELS).labels(CONTROLLER, CONTROLLER)
        self._retries = self._counter("workqueue_retries_total", "Keys retried.", *_QUEUE_LABELS).labels(
            CONTROLLER, CONTROLLER
        )
        self._queue_s = self._histogram(
            "workqueue_queue_duration_seconds", "Wait before a run.", *_QUEUE_LABELS
        ).labels(CONTROLLER, CONTROLLER)
        self._work_s = self._histogram("workqueue_work_duration_seconds", "Duration of a run.", *_QUEUE_LABELS).labels(
            CONTROLLER, CONTROLLER
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, *labels: str) -> Histogram:
        return Histogram(name, help_text, labels, buckets=_BUCKETS, registry=self.registry)


def _read(queue: WorkQueue, field: str) -> float:
    return float(getattr(queue.stats(), field))
