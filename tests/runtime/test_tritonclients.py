"""Every call that the four clients of tritonclient have, against a real process with the models of their examples."""

import asyncio
import inspect
import json
import queue
import uuid
from collections.abc import AsyncIterator, Iterator
from multiprocessing import shared_memory as posix
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

from tests.runtime.conftest import EXAMPLES
from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

A, B = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 2, np.int32)
LIBRARIES: dict[str, Any] = {"http": http_client, "http.aio": http_aio, "grpc": grpc_client, "grpc.aio": grpc_aio}


class Client:
    """One of the four; what is a coroutine is waited for, what is a message is asked for as JSON."""

    def __init__(self, library: str, server: ServerProcess) -> None:
        self.is_grpc = library.startswith("grpc")
        self.library = LIBRARIES[library]
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._made(server))

    async def _made(self, server: ServerProcess) -> Any:
        return self.library.InferenceServerClient(server.grpc if self.is_grpc else server.http)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            result = getattr(self._client, name)(*arguments, **named)
            return self._runner.run(_awaited(result)) if inspect.isawaitable(result) else result

        return call

    def json(self, name: str, *arguments: Any) -> Any:
        return getattr(self, name)(*arguments, **({"as_json": True} if self.is_grpc else {}))

    def run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    def tensor(self, name: str, data: Any, datatype: str) -> Any:
        made = self.library.InferInput(name, list(data.shape), datatype)
        made.set_data_from_numpy(data)
        return made

    def simple(self) -> list[Any]:
        return [self.tensor("INPUT0", A, "INT32"), self.tensor("INPUT1", B, "INT32")]

    def status(self, http: str, grpc: str) -> str:
        return f"StatusCode.{grpc}" if self.is_grpc else http

    def end(self) -> None:
        self.close()
        self._runner.close()


async def _awaited(result: Any) -> Any:
    return await result


@pytest.fixture(params=LIBRARIES)
def client(request: pytest.FixtureRequest, examples: ServerProcess) -> Iterator[Client]:
    client = Client(request.param, examples)
    yield client
    client.end()


@pytest.fixture
def segment() -> Iterator[posix.SharedMemory]:
    segment = posix.SharedMemory(create=True, size=256, name=f"slipway-{uuid.uuid4().hex[:12]}")
    yield segment
    segment.close()
    segment.unlink()


def test_health_and_metadata(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("nope")
    server = client.json("get_server_metadata")
    assert server["name"] == "slipway-runtime"
    assert {"model_repository", "sequence", "statistics", "system_shared_memory"} <= set(server["extensions"])
    assert "cuda_shared_memory" not in server["extensions"]
    model = client.json("get_model_metadata", "simple")
    assert [each["name"] for each in model["inputs"]] == ["INPUT0", "INPUT1"]
    assert list(map(int, model["inputs"][0]["shape"])) == [-1, 16]
    assert client.json("get_model_metadata", "simple_string", "1")["outputs"][0]["datatype"] == "BYTES"


def test_configuration(client: Client) -> None:
    config = client.json("get_model_config", "simple")
    config = config.get("config", config)
    assert (config["name"], config["max_batch_size"]) == ("simple", 64)
    assert [each["data_type"] for each in config["input"]] == ["TYPE_INT32", "TYPE_INT32"]
    config = client.json("get_model_config", "repeat_int32", "1")
    assert config.get("config", config)["model_transaction_policy"]["decoupled"] is True


def test_statistics_count_what_was_asked(client: Client) -> None:
    def counted() -> int:
        (row,) = client.json("get_inference_statistics", "simple", "1")["model_stats"]
        return int(row.get("inference_stats", {}).get("success", {}).get("count", 0))

    before = counted()
    for _ in range(3):
        client.infer("simple", client.simple())
    assert counted() == before + 3
    rows = client.json("get_inference_statistics")["model_stats"]
    assert {row["name"] for row in rows} >= set(EXAMPLES)


def test_the_repository_lists_unloads_and_loads(client: Client) -> None:
    def states() -> dict[str, str]:
        index = client.json("get_model_repository_index")
        return {row["name"]: row["state"] for row in (index.get("models", []) if client.is_grpc else index)}

    assert states() == dict.fromkeys(EXAMPLES, "READY")
    client.unload_model("simple")
    assert states()["simple"] == "UNAVAILABLE"
    assert not client.is_model_ready("simple")
    with pytest.raises(InferenceServerException, match="model 'simple' is unavailable") as refused:
        client.infer("simple", client.simple())
    assert refused.value.status() == client.status("503", "UNAVAILABLE")
    client.load_model("simple")
    assert client.is_model_ready("simple")
    assert client.infer("simple", client.simple()).as_numpy("OUTPUT0").tolist() == (A + B).tolist()


def test_a_load_may_bring_its_own_config(client: Client) -> None:
    config = client.json("get_model_config", "simple")
    given = config.get("config", config) | {"max_batch_size": 2}
    client.load_model("simple", config=json.dumps(given))
    try:
        tensors = [client.tensor(name, np.zeros((3, 16), np.int32), "INT32") for name in ("INPUT0", "INPUT1")]
        with pytest.raises(InferenceServerException, match="batch-size must be <= 2"):
            client.infer("simple", tensors)
        with pytest.raises(InferenceServerException, match="is not JSON"):
            client.load_model("simple", config="{")
        assert client.infer("simple", client.simple()).as_numpy("OUTPUT0").tolist() == (A + B).tolist()
    finally:
        client.load_model("simple")


def test_infer_with_every_option(client: Client) -> None:
    outputs = [client.library.InferRequestedOutput("OUTPUT1")]
    more: dict[str, Any] = {"client_timeout": 20} if client.is_grpc else {"query_params": {"a": 1}}
    result = client.infer(
        "simple",
        client.simple(),
        model_version="1",
        outputs=outputs,
        request_id="42",
        priority=1,
        timeout=20_000_000,
        headers={"x-slipway-tenant": "blue"},
        parameters={"mine": "word", "number": 3, "flag": True},
        **more,
    )
    assert result.as_numpy("OUTPUT0") is None
    assert (result.as_numpy("OUTPUT1") == A - B).all()
    answer = result.get_response()
    assert (answer.id if client.is_grpc else answer["id"]) == "42"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compression(client: Client, coding: str) -> None:
    data = np.zeros((64, 16), np.int32)
    tensors = [client.tensor("INPUT0", data, "INT32"), client.tensor("INPUT1", data + 1, "INT32")]
    if client.is_grpc:
        options = {"compression_algorithm": coding}
    else:
        options = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    assert (client.infer("simple", tensors, **options).as_numpy("OUTPUT1") == -1).all()


def test_text(client: Client) -> None:
    numbers = [np.array([[str(number).encode() for number in row]], object) for row in (range(16), range(16, 0, -1))]
    tensors = [client.tensor(f"INPUT{index}", data, "BYTES") for index, data in enumerate(numbers)]
    result = client.infer("simple_string", tensors)
    assert [int(text) for text in result.as_numpy("OUTPUT0")[0]] == [16] * 16
    assert [int(text) for text in result.as_numpy("OUTPUT1")[0]] == list(range(-16, 16, 2))
    words = np.array([[b"", b"two", "ümlaut".encode(), bytes(range(256))]], object)
    result = client.infer("simple_identity", [client.tensor("INPUT0", words, "BYTES")])
    assert result.as_numpy("OUTPUT0").tolist() == words.tolist()


def test_classification(client: Client) -> None:
    outputs = [client.library.InferRequestedOutput("OUTPUT0", class_count=3)]
    result = client.infer("simple", client.simple(), outputs=outputs)
    assert result.as_numpy("OUTPUT0").tolist() == [[b"17:15", b"16:14", b"15:13"]]


def test_system_shared_memory(client: Client, segment: posix.SharedMemory) -> None:
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    client.register_system_shared_memory("inputs", f"/{segment.name}", 128)
    client.register_system_shared_memory("outputs", f"/{segment.name}", 128, offset=128)
    status = client.json("get_system_shared_memory_status")
    assert set(status["regions"] if client.is_grpc else [region["name"] for region in status]) == {"inputs", "outputs"}
    assert segment.buf is not None
    segment.buf[:64], segment.buf[64:128] = A.tobytes(), B.tobytes()
    tensors = [client.library.InferInput(f"INPUT{index}", [1, 16], "INT32") for index in range(2)]
    outputs = [client.library.InferRequestedOutput(f"OUTPUT{index}") for index in range(2)]
    for index in range(2):
        tensors[index].set_shared_memory("inputs", 64, 64 * index)
        outputs[index].set_shared_memory("outputs", 64, 64 * index)
    client.infer("simple", tensors, outputs=outputs)
    assert bytes(segment.buf[128:192]) == (A + B).tobytes()
    assert bytes(segment.buf[192:]) == (A - B).tobytes()
    client.unregister_system_shared_memory("inputs")
    with pytest.raises(InferenceServerException, match="inputs"):
        client.infer("simple", tensors, outputs=outputs)
    client.unregister_system_shared_memory()
    status = client.json("get_system_shared_memory_status")
    assert not (status.get("regions") if client.is_grpc else status)


def test_cuda_shared_memory_is_not_implemented_without_a_gpu(client: Client) -> None:
    with pytest.raises(InferenceServerException, match="use system shared memory") as refused:
        client.register_cuda_shared_memory("region", b"aGk=", 0, 64)
    assert refused.value.status() == client.status("501", "UNIMPLEMENTED")
    assert not client.json("get_cuda_shared_memory_status")


def test_trace_and_log_settings(client: Client) -> None:
    def values(settings: Any) -> Any:
        return settings["settings"] if client.is_grpc else settings

    trace = values(client.json("get_trace_settings"))
    assert trace["trace_level"] == ({"value": ["OFF"]} if client.is_grpc else ["OFF"])
    assert values(client.json("get_trace_settings", "simple")) == trace
    client.update_trace_settings(settings={"trace_level": "OFF"} if client.is_grpc else {"trace_level": ["OFF"]})
    with pytest.raises(InferenceServerException, match="start it with --tracing") as refused:
        client.update_trace_settings(settings={"trace_rate": "7"})
    assert refused.value.status() == client.status("501", "UNIMPLEMENTED")
    client.update_log_settings({"log_verbose_level": 1})
    log = values(client.json("get_log_settings"))
    verbose = log["log_verbose_level"]
    assert (verbose["uint32_param"] if client.is_grpc else verbose) == 1
    client.update_log_settings({"log_verbose_level": 0, "log_info": True})


@pytest.mark.parametrize("identity", [7, "seven"])
def test_a_sequence_is_summed_up(client: Client, identity: int | str) -> None:
    def step(number: int, **flags: bool) -> int:
        tensors = [client.tensor("INPUT", np.array([[number]], np.int32), "INT32")]
        result = client.infer("simple_sequence", tensors, sequence_id=identity, **flags)
        return int(result.as_numpy("OUTPUT")[0, 0])

    assert step(5, sequence_start=True) == 5
    assert step(6) == 11
    assert step(-1, sequence_end=True) == 10
    with pytest.raises(InferenceServerException, match="sequence"):
        step(1)
    assert step(3, sequence_start=True, sequence_end=True) == 3


@pytest.mark.parametrize(
    ("change", "sentence", "status"),
    [
        pytest.param({"model": "nope"}, "unknown model: 'nope'", ("404", "NOT_FOUND"), id="model"),
        pytest.param({"version": "9"}, "'simple' version 9 is not found", ("404", "NOT_FOUND"), id="version"),
        pytest.param({"inputs": 1}, "but got 1 inputs", ("400", "INVALID_ARGUMENT"), id="one input"),
        pytest.param({"output": "Z"}, "inference output 'Z'", ("400", "INVALID_ARGUMENT"), id="output"),
        pytest.param({"model": "repeat_int32"}, "decoupled", ("501", "UNIMPLEMENTED"), id="decoupled"),
    ],
)
def test_what_is_wrong_is_refused(
    client: Client, change: dict[str, Any], sentence: str, status: tuple[str, str]
) -> None:
    tensors = client.simple()[: change.get("inputs", 2)]
    outputs = [client.library.InferRequestedOutput(change["output"])] if "output" in change else None
    with pytest.raises(InferenceServerException, match=sentence) as refused:
        client.infer(change.get("model", "simple"), tensors, change.get("version", ""), outputs)
    assert refused.value.status() == client.status(*status)


def test_a_request_out_of_time_is_told_so(client: Client) -> None:
    def ask() -> None:
        for _ in range(200):  # one alone may be quicker than the microsecond it has
            client.infer("simple", client.simple(), timeout=1)

    with pytest.raises(InferenceServerException, match="timeout expired") as refused:
        ask()
    assert refused.value.status() == client.status("504", "DEADLINE_EXCEEDED")


def test_async_infer_by_http(examples: ServerProcess) -> None:
    with http_client.InferenceServerClient(examples.http, concurrency=4) as client:
        made = Client("http", examples)
        pending = [client.async_infer("simple", made.simple(), request_id=str(number)) for number in range(40)]
        answers = [each.get_result() for each in pending]
        made.end()
    assert [answer.get_response()["id"] for answer in answers] == [str(number) for number in range(40)]
    assert all((answer.as_numpy("OUTPUT0") == A + B).all() for answer in answers)


def test_async_infer_by_grpc_and_its_cancelling(examples: ServerProcess) -> None:
    made = Client("grpc", examples)
    got: queue.Queue[Any] = queue.Queue()
    for number in range(40):
        made.async_infer(
            "simple", made.simple(), lambda result, error: got.put((result, error)), request_id=str(number)
        )
    answers = [got.get(timeout=20) for _ in range(40)]
    assert {result.get_response().id for result, error in answers if error is None} == set(map(str, range(40)))
    made.end()


def repeat(library: Any, numbers: list[int], delay_ms: int = 1) -> list[Any]:
    tensors = []
    for name, data, datatype in (
        ("IN", np.array(numbers, np.int32), "INT32"),
        ("DELAY", np.full(len(numbers), delay_ms, np.uint32), "UINT32"),
        ("WAIT", np.array([0], np.uint32), "UINT32"),
    ):
        tensors.append(library.InferInput(name, list(data.shape), datatype))
        tensors[-1].set_data_from_numpy(data)
    return tensors


def test_a_stream_of_a_decoupled_model_by_callbacks(examples: ServerProcess) -> None:
    got: queue.Queue[Any] = queue.Queue()
    with grpc_client.InferenceServerClient(examples.grpc) as client:
        client.start_stream(lambda result, error: got.put((result, error)))
        client.async_stream_infer("repeat_int32", repeat(grpc_client, [4, 2, 9]), request_id="a")
        client.async_stream_infer(
            "repeat_int32", repeat(grpc_client, [1]), request_id="b", enable_empty_final_response=True
        )
        client.async_stream_infer("nope", repeat(grpc_client, [1]), request_id="c")
        answers = [got.get(timeout=20) for _ in range(6)]
        client.stop_stream()
    errors = [error for _, error in answers if error is not None]
    assert len(errors) == 1
    assert "unknown model: 'nope'" in str(errors[0])
    responses = [(result.get_response().id, result.as_numpy("OUT")) for result, error in answers if error is None]
    assert [int(out[0]) for name, out in responses if name == "a"] == [4, 2, 9]
    assert [None if out is None else int(out[0]) for name, out in responses if name == "b"] == [1, None]


def test_a_stream_of_a_decoupled_model_by_asyncio(examples: ServerProcess) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {
                "model_name": "repeat_int32",
                "inputs": repeat(grpc_aio, [number, number + 10]),
                "request_id": str(number),
            }

    async def use() -> list[tuple[str, int]]:
        async with grpc_aio.InferenceServerClient(examples.grpc) as client:
            answers = client.stream_infer(requests())
            got = []
            async for result, error in answers:
                assert error is None
                got.append((result.get_response().id, int(result.as_numpy("OUT")[0])))
                if len(got) == 6:
                    answers.cancel()
                    return got
        return got

    assert sorted(asyncio.run(use())) == [(str(n), n + more) for n in range(3) for more in (0, 10)]


def test_sequences_on_a_stream_keep_their_order(examples: ServerProcess) -> None:
    got: queue.Queue[Any] = queue.Queue()
    with grpc_client.InferenceServerClient(examples.grpc) as client:
        client.start_stream(lambda result, error: got.put((result, error)))
        for number in range(1, 31):
            for identity in (101, 102):
                tensor = grpc_client.InferInput("INPUT", [1, 1], "INT32")
                tensor.set_data_from_numpy(np.array([[number * identity]], np.int32))
                client.async_stream_infer(
                    "simple_sequence",
                    [tensor],
                    request_id=str(identity),
                    sequence_id=identity,
                    sequence_start=number == 1,
                    sequence_end=number == 30,
                )
        answers = [got.get(timeout=20) for _ in range(60)]
        client.stop_stream()
    assert [error for _, error in answers if error is not None] == []
    for identity in (101, 102):
        sums = [
            int(result.as_numpy("OUTPUT")[0, 0]) for result, _ in answers if result.get_response().id == str(identity)
        ]
        assert sums == [identity * number * (number + 1) // 2 for number in range(1, 31)]
