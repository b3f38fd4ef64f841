"""What a real Triton 2.51 makes of the repositories, configs and arguments that it gets."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as client
from tritonclient.utils import InferenceServerException

from slipway.signals import pods
from slipway_runtime.triton.server import SHM, shm_prefix
from tests.runtime.process import ServerProcess
from tests.runtime.triton.process import Triton, ask, question

pytestmark = pytest.mark.timeout(240)  # the first to ask waits for all of them to start, on a busy machine


@pytest.fixture(scope="module")
def grpc(chain: Triton) -> Iterator[Any]:
    with client.InferenceServerClient(f"127.0.0.1:{chain.grpc}") as found:
        yield found


def infer_by_grpc(where: Any, *rows: list[float]) -> list[list[float]]:
    tensor = client.InferInput("x", [len(rows), 4], "FP32")
    tensor.set_data_from_numpy(np.array(rows, np.float32))
    found: list[list[float]] = where.infer("shop", [tensor]).as_numpy("y").tolist()
    return found


def test_an_ensemble_answers_by_the_services_name_over_rest_and_grpc(chain: Triton, grpc: Any) -> None:
    assert chain.infer([1, 2, 3, 4])["outputs"][0]["data"] == [3, 5, 7, 9]
    assert infer_by_grpc(grpc, [1, 2, 3, 4], [0, 0, 0, 1]) == [[3, 5, 7, 9], [1, 1, 1, 3]]


def test_metadata_config_and_statistics_are_there_for_tritons_clients(grpc: Any) -> None:
    assert grpc.get_server_metadata().version == "2.51.0"
    assert [tensor.name for tensor in grpc.get_model_metadata("shop").inputs] == ["x"]
    assert grpc.get_model_config("shop").config.name == "shop"
    [found] = grpc.get_inference_statistics("shop").model_stats
    assert found.name == "shop"
    # Of the versions of a step the newest is served, as the config of the repository says by its default.
    assert [stats.version for stats in grpc.get_inference_statistics("increase").model_stats] == ["2"]


CLOSED = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/shop/load"),
    ("POST", "/v2/repository/models/shop/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/a/register"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_changes_the_server_is_closed_over_rest(chain: Triton, method: str, path: str) -> None:
    code, words = chain.get(path) if method == "GET" else chain.post(path, {})
    assert (code, "This API is restricted" in words) == (403, True)


@pytest.mark.parametrize(
    "call",
    [
        lambda grpc: grpc.get_model_repository_index(),
        lambda grpc: grpc.load_model("shop"),
        lambda grpc: grpc.unload_model("shop"),
        lambda grpc: grpc.get_system_shared_memory_status(),
        lambda grpc: grpc.register_system_shared_memory("a", "/a", 4),
        lambda grpc: grpc.get_trace_settings(),
        lambda grpc: grpc.update_log_settings({"log_verbose_level": 1}),
    ],
    ids=["index", "load", "unload", "shm status", "shm register", "trace", "log"],
)
def test_what_changes_the_server_is_closed_over_grpc(grpc: Any, call: Any) -> None:
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        call(grpc)


def test_the_word_that_opens_is_another_for_each_process_and_in_no_log(tritons: dict[str, Triton]) -> None:
    words = set()
    for name in ("chain", "onnx"):
        arguments = _command_line(tritons[name].wait_ready().child())
        [word] = {part.rpartition("slipway=")[2] for part in arguments if "restricted" in part}
        assert not any(word in line for line in tritons[name].lines)
        words.add(word)
    assert len(words) == 2


def _command_line(pid: int) -> list[str]:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return file.read().split("\0")


def test_probes_answer_as_the_operators_ask(chain: Triton) -> None:
    assert chain.get("/v2/health/live")[0] == 200
    assert chain.get("/v2/models/shop/ready")[0] == 200
    assert chain.get("/v2/models/pipeline/ready")[0] == 400  # the name that it had in the repository


def test_the_operator_reads_its_figures_as_it_reads_those_of_pytorch_pods(onnx: Triton) -> None:
    before = pods.parse(onnx.get("/metrics", onnx.metrics)[1].encode(), "shop")
    onnx.infer([time.time() % 1000, 0, 0, 0])
    after = pods.parse(onnx.get("/metrics", onnx.metrics)[1].encode(), "shop")
    assert (after.answered - before.answered, after.pending) == (1, 0)


def test_onnx_without_a_config_tells_its_tensors_and_batches(onnx: Triton) -> None:
    metadata = json.loads(onnx.get("/v2/models/shop")[1])
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    config = json.loads(onnx.get("/v2/models/shop/config")[1])
    assert (config["max_batch_size"], config["dynamic_batching"]["default_queue_policy"]["max_queue_size"]) == (4, 100)


def test_the_same_file_answers_alike_on_triton_and_on_slipway_runtime(onnx: Triton, ours: ServerProcess) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32).tolist()
    by_rest = ask(ours.http, "/v2/models/shop/infer", question(*rows))[1]
    [theirs_by_rest], [own_by_rest] = onnx.infer(*rows)["outputs"], json.loads(by_rest)["outputs"]
    assert np.array_equal(np.float32(theirs_by_rest.pop("data")), np.float32(own_by_rest.pop("data")))
    assert theirs_by_rest == own_by_rest
    with (
        client.InferenceServerClient(f"127.0.0.1:{onnx.grpc}") as theirs,
        client.InferenceServerClient(ours.grpc) as own,
    ):
        assert infer_by_grpc(theirs, *rows) == infer_by_grpc(own, *rows)


def test_torchscript_is_served_where_triton_has_no_backend_for_it(tritons: dict[str, Triton]) -> None:
    """The sample `hello`, with its config in JSON, as slipway-runtime has it; no code of its author runs."""
    torch = tritons["torch"].wait_ready()
    assert torch.infer([1, 2, 3, 4], [0, 0, 0, 1])["outputs"][0]["data"] == [3, 5, 7, 9, 1, 1, 1, 3]
    assert json.loads(torch.get("/v2/models/shop/config")[1])["max_batch_size"] == 64


@pytest.mark.parametrize(
    ("rows", "name", "code"),
    [
        pytest.param([[1.0, 2, 3]], "x", 400, id="too narrow"),
        pytest.param([[1.0, 2, 3, 4]], "z", 400, id="another name"),
        pytest.param([[1.0, 2, 3, 4]] * 5, "x", 400, id="more rows than a batch"),
    ],
)
def test_a_wrong_request_is_the_callers_fault(onnx: Triton, rows: list[list[float]], name: str, code: int) -> None:
    assert onnx.infer(*rows, name=name)[0] == code
    assert onnx.infer([1, 2, 3, 4])["outputs"][0]["data"] == [3, 5, 7, 9]


def test_answers_are_kept_where_that_is_asked_for(onnx: Triton) -> None:
    def hits() -> int:
        stats = json.loads(onnx.get("/v2/models/shop/stats")[1])["model_stats"][0]["inference_stats"]
        return int(stats["cache_hit"]["count"])

    before = hits()
    assert onnx.infer([7, 7, 7, 7]) == onnx.infer([7, 7, 7, 7])
    assert hits() == before + 1


def test_no_more_wait_than_the_operator_said(slow: Triton) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: slow.infer([1, 0, 0, 0]), range(8)))
    refused = [answer for answer in answers if isinstance(answer, tuple)]
    assert {(code, "Exceeds maximum queue size" in words) for code, words in refused} == {(503, True)}
    assert 3 <= 8 - len(refused) <= 4  # one runs and two wait; one more may have been taken off the queue meanwhile


def test_a_broken_model_ends_the_pod_with_its_reason(tritons: dict[str, Triton]) -> None:
    broken = tritons["broken"]
    assert broken.wait() == 65
    assert broken.lines[-1] == "Triton could not load model 'shop': the weights do not fit"


def test_told_to_end_while_it_loads_it_ends_soon(tritons: dict[str, Triton]) -> None:
    loading = tritons["loading"]
    loading.wait_line("loads")
    begun = time.monotonic()
    assert loading.stop() == 0
    assert time.monotonic() - begun < 60  # not the 600 s that the model takes


def test_told_to_end_it_answers_what_it_has(slow: Triton) -> None:
    """The last of `slow`."""
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(slow.infer([3, 0, 0, 0])))
    asking.start()
    time.sleep(0.5)
    assert slow.stop() == 0
    asking.join()
    assert answers[0]["outputs"][0]["data"] == [3, 0, 0, 0]


def test_a_triton_that_dies_takes_the_pod_along(tritons: dict[str, Triton]) -> None:
    """The last of `chain`."""
    chain = tritons["chain"].wait_ready()
    assert list(SHM.glob(f"{shm_prefix(chain.work)}*"))
    os.kill(chain.child(), signal.SIGKILL)
    assert chain.wait() == 1
    assert not list(SHM.glob(f"{shm_prefix(chain.work)}*"))
    assert chain.lines[-1] == "Triton ended by itself with signal 9; the log before has more"
