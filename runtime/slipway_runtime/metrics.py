"""What happened, as numbers: plain integers that requests add to, text only when somebody scrapes.

The names are Triton's, exactly. prometheus_client would end counters with `_total`, so those lines are
written here; it writes the process's own metrics.
"""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest

# Triton's reasons for a failed request.
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Stats:
    """Counts since the start; durations are summed nanoseconds. `inferences` counts each row of a batch."""

    success: int = 0
    failure: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    inferences: int = 0
    executions: int = 0
    request_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0


class Exposition:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.ready = Gauge("slipway_runtime_ready", "1 while new requests are wanted.", registry=self._registry)
        self.load_seconds = Gauge(
            "slipway_runtime_load_seconds", "From the start of loading to ready.", registry=self._registry
        )

    def render(self, stats: Stats, model: str, waiting: int) -> bytes:
        labels = f'model="{_escaped(model)}",version="1"'
        lines: list[str] = []
        failures = [(f'{labels},reason="{reason}"', count) for reason, count in stats.failure.items()]
        for name, kind, about, samples in (
            ("nv_inference_request_success", "counter", "Successful requests", [(labels, stats.success)]),
            ("nv_inference_request_failure", "counter", "Failed requests", failures),
            ("nv_inference_count", "counter", "Inferences, each row of a batch is one", [(labels, stats.inferences)]),
            ("nv_inference_exec_count", "counter", "Executions of the model", [(labels, stats.executions)]),
            ("nv_inference_pending_request_count", "gauge", "Requests waiting for the model", [(labels, waiting)]),
            ("nv_inference_request_duration_us", "counter", "Time in requests", [(labels, stats.request_ns // 1000)]),
            ("nv_inference_queue_duration_us", "counter", "Time in the queue", [(labels, stats.queue_ns // 1000)]),
            (
                "nv_inference_compute_infer_duration_us",
                "counter",
                "Time in the model",
                [(labels, stats.compute_ns // 1000)],
            ),
        ):
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{{{label}}} {value}" for label, value in samples]
        return ("\n".join(lines) + "\n").encode() + generate_latest(self._registry)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
