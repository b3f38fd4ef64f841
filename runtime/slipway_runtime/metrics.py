"""What /metrics says: text made from plain integers when somebody scrapes, so that requests never pay for it.

The names are Triton's where Triton has one, and slipway_runtime_* where it has none. prometheus_client would end
Triton's counters with `_total`, so those lines are written here; it writes the process's own metrics.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Metric, ProcessCollector

from slipway_runtime.engine.endpoint import Endpoint
from slipway_runtime.engine.stats import Stats
from slipway_runtime.gpus import Gpu

log = logging.getLogger("slipway.model")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
Sample = tuple[str, dict[str, str], float]
"""What follows the name of the family, labels, value."""
Family = tuple[str, str, str, list[Sample]]
"""Name, type, help, samples."""


class Exposition:
    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)
        self.ready = False
        self.load_seconds: dict[str, float] = {}

    def render(self, endpoints: Sequence[Endpoint], gpus: Sequence[Gpu]) -> bytes:
        return text(self.families(endpoints, gpus))

    def families(self, endpoints: Sequence[Endpoint], gpus: Sequence[Gpu]) -> list[Family]:
        """All that there is something to say about."""
        found = (
            *self._own(),
            *_counters(endpoints),
            *_of_queues(endpoints),
            *_of_gpus(gpus),
            _batch_histogram(endpoints),
            *self._of_the_process(),
            *_of_models(endpoints),
        )
        return [family for family in found if family[3]]

    def _own(self) -> Iterator[Family]:
        loads: list[Sample] = [("", {"model": model}, seconds) for model, seconds in self.load_seconds.items()]
        yield "slipway_runtime_ready", "gauge", "1 while new requests are wanted", [("", {}, float(self.ready))]
        yield "slipway_runtime_load_seconds", "gauge", "From the start of loading to ready", loads

    def _of_the_process(self) -> Iterator[Family]:
        for metric in self._process.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            yield name, metric.type, metric.documentation, [("", dict(one.labels), one.value) for one in metric.samples]


def text(families: Iterable[Family]) -> bytes:
    lines: list[str] = []
    for name, kind, about, samples in families:
        lines += [f"# HELP {name} {_escaped(about)}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{suffix}{_text(labels)} {value:.15g}" for suffix, labels, value in samples]
    return ("\n".join(lines) + "\n").encode()


_COUNTERS: tuple[tuple[str, str, Callable[[Stats], int]], ...] = (
    ("nv_inference_request_success", "Successful requests", lambda s: s.success),
    ("nv_inference_count", "Inferences, each row of a batch is one", lambda s: s.inferences),
    ("nv_inference_exec_count", "Executions of the model", lambda s: s.executions),
    ("nv_inference_request_duration_us", "Time in successful requests", lambda s: s.request_ns // 1000),
    ("nv_inference_queue_duration_us", "Time in the queue", lambda s: s.queue_ns // 1000),
    ("nv_inference_compute_input_duration_us", "Time to fill the batch", lambda s: s.input_ns // 1000),
    ("nv_inference_compute_infer_duration_us", "Time in the model", lambda s: s.infer_ns // 1000),
    ("nv_inference_compute_output_duration_us", "Time to take the batch apart", lambda s: s.output_ns // 1000),
    ("slipway_runtime_stream_responses", "Answers of streams", lambda s: s.responses),
)
_OF_CACHES: tuple[tuple[str, str, Callable[[Stats], int]], ...] = (
    ("nv_cache_num_hits_per_model", "Requests answered from the cache", lambda s: s.cache_hits),
    ("nv_cache_num_misses_per_model", "Requests that were not in the cache", lambda s: s.cache_misses),
)


def _counters(endpoints: Sequence[Endpoint]) -> Iterator[Family]:
    for name, about, value in _COUNTERS:
        yield name, "counter", about, [("", _of(endpoint), value(endpoint.stats)) for endpoint in endpoints]
    failures: list[Sample] = [
        ("", {**_of(endpoint), "reason": reason}, count)
        for endpoint in endpoints
        for reason, count in endpoint.stats.failure.items()
    ]
    yield "nv_inference_request_failure", "counter", "Failed requests", failures
    cached = [endpoint for endpoint in endpoints if endpoint.cache is not None]
    for name, about, value in _OF_CACHES:
        yield name, "counter", about, [("", _of(endpoint), value(endpoint.stats)) for endpoint in cached]
    cuts: list[Sample] = [
        ("", {**_of(endpoint), "reason": str(cut)}, count)
        for endpoint in endpoints
        for cut, count in endpoint.stats.cuts.items()
    ]
    yield "slipway_runtime_batch_cuts", "counter", "Batches by why they were not larger", cuts


def _of_queues(endpoints: Sequence[Endpoint]) -> Iterator[Family]:
    waiting: list[Sample] = [("", _of(endpoint), endpoint.waiting) for endpoint in endpoints]
    yield "nv_inference_pending_request_count", "gauge", "Requests waiting for the model", waiting
    queues: list[Sample] = [
        ("", {**_of(endpoint), "priority": str(level), "tenant": tenant}, count)
        for endpoint in endpoints
        if (queue := endpoint.queue) is not None
        for (level, tenant), count in queue.waiting_by_tenant().items()
    ]
    yield "slipway_runtime_queue_requests", "gauge", "Requests waiting, by priority and tenant", queues
    running: list[Sample] = [("", _of(endpoint), endpoint.in_flight - endpoint.waiting) for endpoint in endpoints]
    yield "slipway_runtime_running_requests", "gauge", "Requests that the model has", running


_OF_GPUS: tuple[tuple[str, str, Callable[[Gpu], float]], ...] = (
    ("nv_gpu_utilization", "GPU utilization (0.0 - 1.0)", lambda gpu: gpu.utilization),
    ("nv_gpu_memory_total_bytes", "GPU memory", lambda gpu: gpu.memory_total_bytes),
    ("nv_gpu_memory_used_bytes", "GPU memory in use", lambda gpu: gpu.memory_used_bytes),
    ("nv_gpu_power_usage", "GPU power in watts", lambda gpu: gpu.power_w),
)


def _of_gpus(gpus: Sequence[Gpu]) -> Iterator[Family]:
    for name, about, value in _OF_GPUS:
        yield name, "gauge", about, [("", {"gpu_uuid": gpu.uuid}, value(gpu)) for gpu in gpus]


def _batch_histogram(endpoints: Sequence[Endpoint]) -> Family:
    samples: list[Sample] = []
    for endpoint in endpoints:
        labels, sizes = _of(endpoint), endpoint.stats.batches
        for bound in BATCH_BUCKETS:
            count = sum(size.executions for rows, size in sizes.items() if rows <= bound)
            samples.append(("_bucket", {**labels, "le": str(bound)}, count))
        count = sum(size.executions for size in sizes.values())
        samples += [
            ("_bucket", {**labels, "le": "+Inf"}, count),
            ("_sum", labels, sum(rows * size.executions for rows, size in sizes.items())),
            ("_count", labels, count),
        ]
    return "slipway_runtime_batch_rows", "histogram", "Rows of a batch", samples


def _of(endpoint: Endpoint) -> dict[str, str]:
    return {"model": endpoint.name, "version": endpoint.version}


def _of_models(endpoints: Sequence[Endpoint]) -> Iterator[Family]:
    """What models' own code made with prometheus_client, with labels that say whose it is."""
    found: dict[str, Family] = {}
    for endpoint in endpoints:
        for instance, registry in enumerate(endpoint.registries):
            whose = {**_of(endpoint), "model_instance": str(instance)}
            for metric in _collected(registry):
                family = f"{metric.name}_total" if metric.type == "counter" else metric.name
                if family.startswith(_RESERVED):
                    continue
                known = found.setdefault(family, (family, _TYPES.get(metric.type, "gauge"), metric.documentation, []))
                known[3].extend(
                    (one.name.removeprefix(family), {**one.labels, **whose}, one.value)
                    for one in metric.samples
                    if one.name.startswith(family)
                    and one.name != f"{family}_created"  # unread, and no part of its type
                )
    yield from found.values()


_RESERVED = ("nv_", "slipway_", "process_")
_TYPES = {name: name for name in ("counter", "gauge", "histogram", "summary")}


def _collected(registry: CollectorRegistry) -> list[Metric]:
    try:
        return list(registry.collect())
    except Exception:  # the user's code: a collector of its own, or a function that a gauge reads
        log.exception("a model's own metrics cannot be read")
        return []


def _text(labels: Mapping[str, object]) -> str:
    pairs = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
