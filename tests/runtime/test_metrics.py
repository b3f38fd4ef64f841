"""What /metrics says: Triton's names, figures that add up, and text that no name can break."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from slipway_runtime.engine.cache import Cache
from slipway_runtime.engine.endpoint import Done, Endpoint, Load, Options
from slipway_runtime.engine.ensemble import Step
from slipway_runtime.engine.job import Call
from slipway_runtime.engine.policy import Policy
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.gpus import Gpu
from slipway_runtime.metrics import BATCH_BUCKETS, CONTENT_TYPE, Exposition
from slipway_runtime.tensors import InferRequest, Metadata, Rows, Tensor, TensorSpec

POLICY = Policy(max_rows=4, max_jobs=100, max_queue=100, max_queue_bytes=1 << 20, timeout_s=10, levels=2)
METADATA = Metadata("test", (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),), 4)


class Doubling:
    may_run_inline = False

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        return [
            RequestError(Kind.INTERNAL, "thirteen") if (call.inputs[0] == 13).any() else [call.inputs[0] * 2]
            for call in batch
        ]

    def stream(self, call: Call) -> Iterator[Rows]:
        yield call.inputs

    def close(self) -> None:
        pass


class Model:
    metadata = METADATA
    decoupled = False
    broken = ""

    def __init__(self) -> None:
        self.runners = [Doubling()]


class Host:
    def __init__(self) -> None:
        self.load_now = Load()

    def submit_step(self, step: Step, request: InferRequest, done: Done) -> NoReturn:
        raise AssertionError(f"{step} of no ensemble")


def endpoint(name: str = "m", **options: Any) -> Endpoint:
    return Endpoint(name, "1", Model(), Options(POLICY, **options), Host())


def asked(*values: float, **more: Any) -> InferRequest:
    return InferRequest([Tensor("x", "FP32", np.array(values, np.float32).reshape(-1, 1))], **more)


Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(endpoints: Sequence[Endpoint], gpus: Sequence[Gpu] = ()) -> Found:
    text = Exposition().render(endpoints, gpus).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser calls every counter _total; what counts is how it stands in the text.
            name = sample.name if f"\n{sample.name}" in text else sample.name.removesuffix("_total")
            assert f"\n{name}" in text
            found[name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def of_model(name: str, found: Found, **labels: str) -> float:
    return found[name, tuple(sorted({"model": "m", "version": "1", **labels}.items()))]


async def test_requests_rows_and_runs_are_counted_under_tritons_names() -> None:
    served = endpoint()
    await served.infer(asked(1))
    await served.infer(asked(1, 2, 3))
    with pytest.raises(RequestError, match="thirteen"):
        await served.infer(asked(13))
    found = read([served])
    await served.close()
    assert of_model("nv_inference_request_success", found) == 2
    assert of_model("nv_inference_request_failure", found, reason="BACKEND") == 1
    assert of_model("nv_inference_request_failure", found, reason="REJECTED") == 0
    assert of_model("nv_inference_count", found) == 4, "what failed is counted by its failure alone"
    assert of_model("nv_inference_exec_count", found) == 2
    assert of_model("nv_inference_pending_request_count", found) == 0
    assert of_model("slipway_runtime_running_requests", found) == 0
    assert of_model("slipway_runtime_batch_cuts", found, reason="queue_empty") == 2
    spent = of_model("nv_inference_request_duration_us", found)
    assert spent >= of_model("nv_inference_compute_infer_duration_us", found) >= 0


async def test_the_histogram_of_batches_is_cumulative_and_ends_with_all() -> None:
    served = endpoint()
    for rows in (1, 1, 2, 3, 4):
        await served.infer(asked(*range(rows)))
    found = read([served])
    await served.close()
    counts = [of_model("slipway_runtime_batch_rows_bucket", found, le=str(bound)) for bound in BATCH_BUCKETS]
    assert counts[:4] == [2, 3, 5, 5]
    assert sorted(counts) == counts
    assert of_model("slipway_runtime_batch_rows_bucket", found, le="+Inf") == 5
    assert of_model("slipway_runtime_batch_rows_count", found) == 5
    assert of_model("slipway_runtime_batch_rows_sum", found) == 11


async def test_what_waits_is_told_by_priority_and_tenant() -> None:
    served = endpoint()
    asks = [
        served.submit(asked(1, tenant=tenant, priority=level), lambda result: None)
        for tenant, level in (("a", 1), ("a", 2), ("b", 2), ("b", 2))
    ]
    found = read([served])  # before the loop's next turn, so nothing runs yet
    assert of_model("nv_inference_pending_request_count", found) == 4
    assert of_model("slipway_runtime_queue_requests", found, priority="1", tenant="a") == 1
    assert of_model("slipway_runtime_queue_requests", found, priority="2", tenant="b") == 2
    for ask in asks:
        ask.cancel()
    await asyncio.sleep(0)
    assert of_model("nv_inference_request_failure", read([served]), reason="CANCELED") == 4
    await served.close()


async def test_the_cache_is_told_only_of_models_that_have_one() -> None:
    with_cache, without = endpoint(cache=Cache(1 << 20)), endpoint("other")
    for _ in range(3):
        await with_cache.infer(asked(1))
    found = read([with_cache, without])
    assert of_model("nv_cache_num_misses_per_model", found) == 1
    assert of_model("nv_cache_num_hits_per_model", found) == 2
    assert [key for key in found if key[0].startswith("nv_cache") and ("model", "other") in key[1]] == []
    await with_cache.close()
    await without.close()


async def test_names_of_models_and_tenants_cannot_forge_lines() -> None:
    evil = 'x"} 1\nslipway_runtime_ready 7\n\\'
    served = endpoint(evil)
    ask = served.submit(asked(1, tenant=evil), lambda result: None)
    found = read([served])
    ask.cancel()
    await served.close()
    assert found["slipway_runtime_ready", ()] == 0
    labels = {"model": evil, "version": "1", "tenant": evil, "priority": "1"}
    assert found["slipway_runtime_queue_requests", tuple(sorted(labels.items()))] == 1


def test_gpus_are_told_by_their_uuid_and_a_server_without_has_no_line() -> None:
    found = read([], [Gpu("GPU-1", 0.5, 80, 20, 250.5)])
    labels = (("gpu_uuid", "GPU-1"),)
    assert {name: found[name, labels] for name, key in found if key == labels} == {
        "nv_gpu_utilization": 0.5,
        "nv_gpu_memory_total_bytes": 80,
        "nv_gpu_memory_used_bytes": 20,
        "nv_gpu_power_usage": 250.5,
    }
    assert not [name for name, _ in read([]) if name.startswith("nv_")]


def test_the_process_and_what_loading_took_are_told() -> None:
    exposition = Exposition()
    exposition.ready = True
    exposition.load_seconds["m"] = 1.25
    text = exposition.render([], []).decode()
    assert "slipway_runtime_ready 1\n" in text
    assert 'slipway_runtime_load_seconds{model="m"} 1.25\n' in text
    assert "process_resident_memory_bytes " in text
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


async def test_counters_stay_whole_however_large_they_get() -> None:
    served = endpoint()
    served.stats.inferences = 123_456_789_012_345
    served.stats.request_ns = 10**18 + 999
    found = read([served])
    await served.close()
    assert of_model("nv_inference_count", found) == 123_456_789_012_345
    assert of_model("nv_inference_request_duration_us", found) == 10**15


def test_every_family_has_one_help_and_one_type() -> None:
    async def rendered() -> str:
        one, other = endpoint(), endpoint("other")
        text = Exposition().render([one, other], []).decode()
        await one.close()
        await other.close()
        return text

    lines = asyncio.run(rendered()).splitlines()
    for kind in ("# HELP ", "# TYPE "):
        names = [line.split()[2] for line in lines if line.startswith(kind)]
        assert len(names) == len(set(names))


def own(registry: CollectorRegistry) -> Doubling:
    runner = Doubling()
    runner.metrics = registry  # type: ignore[attr-defined]
    return runner


async def told(*registries: CollectorRegistry) -> Found:
    served = endpoint()
    served._model.runners[:] = [own(registry) for registry in registries]  # type: ignore[index]
    found = read([served])
    await served.close()
    return found


async def test_what_a_models_own_code_counts_is_told_with_whose_it_is() -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    for number, registry in enumerate(registries):
        Counter("odd_answers", 'Not "numbers",\nor \\ worse', ["why"], registry=registry).labels("NaN").inc(number + 1)
        Gauge("drift", "Of inputs", registry=registry).set(float("nan") if number else 0.5)
        Histogram("score", "Of answers", buckets=(0.5, 1), registry=registry).observe(0.7)
    found = await told(*registries)
    assert of_model("odd_answers_total", found, why="NaN", model_instance="0") == 1
    assert of_model("odd_answers_total", found, why="NaN", model_instance="1") == 2
    assert of_model("drift", found, model_instance="0") == 0.5
    assert math.isnan(of_model("drift", found, model_instance="1"))
    assert of_model("score_bucket", found, le="0.5", model_instance="0") == 0
    assert of_model("score_bucket", found, le="+Inf", model_instance="0") == 1
    assert of_model("score_count", found, model_instance="1") == 1
    assert not [name for name, _ in found if name.endswith("_created")]


async def test_a_models_own_code_cannot_speak_for_the_server() -> None:
    registry = CollectorRegistry()
    Gauge("nv_inference_count", "A lie", registry=registry).set(1e9)
    Gauge("slipway_runtime_ready", "A lie", registry=registry).set(7)
    Gauge("whose", "A lie", ["model"], registry=registry).labels("another").set(1)
    found = await told(registry)
    assert of_model("nv_inference_count", found) == 0
    assert found["slipway_runtime_ready", ()] == 0
    assert of_model("whose", found, model_instance="0") == 1


async def test_a_models_metric_that_cannot_be_read_takes_no_other_away(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    Gauge("broken", "Fails", registry=registry).set_function(lambda: 1 / 0)
    found = await told(registry)
    assert of_model("nv_inference_count", found) == 0
    assert "a model's own metrics cannot be read" in caplog.text
