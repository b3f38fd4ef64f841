"""tritonclient.http's own calls against our routes: the client that people have must be content."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from multiprocessing import shared_memory as posix
from typing import Any

import numpy as np
import pytest
import tritonclient.http as sync_client
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from slipway_runtime.errors import Kind, RequestError
from tests.runtime.http_stand_in import Site

A, B = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 2, np.int32)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.start()
    yield site
    await site.close()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[Any]:
    async with aio.InferenceServerClient(site.address) as client:
        yield client


@pytest.fixture
def segment() -> Iterator[posix.SharedMemory]:
    segment = posix.SharedMemory(create=True, size=256, name=f"slipway-{uuid.uuid4().hex[:12]}")
    yield segment
    segment.close()
    segment.unlink()


def tensor(name: str, data: Any, datatype: str, *, binary: bool = True) -> Any:
    made = sync_client.InferInput(name, list(data.shape), datatype)
    made.set_data_from_numpy(data, binary_data=binary)
    return made


def simple(*, binary: bool = True) -> list[Any]:
    return [tensor("INPUT0", A, "INT32", binary=binary), tensor("INPUT1", B, "INT32", binary=True)]


async def test_health_and_metadata(site: Site, client: Any) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("simple", "1")
    server = await client.get_server_metadata()
    assert (server["name"], "binary_tensor_data" in server["extensions"]) == ("slipway-runtime", True)
    model = await client.get_model_metadata("simple")
    assert model["versions"] == ["1", "3"]
    assert model["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}
    assert (await client.get_model_metadata("simple", "3"))["versions"] == ["3"]
    site.api.state = "draining"
    assert not await client.is_server_ready()
    assert await client.is_server_live()
    site.api.state = "failed"
    assert not await client.is_server_live()


async def test_configuration_and_statistics(client: Any) -> None:
    assert (await client.get_model_config("simple"))["max_batch_size"] == 8
    (row,) = (await client.get_inference_statistics("simple", "3"))["model_stats"]
    assert (row["version"], row["inference_count"]) == ("3", 5)
    assert len((await client.get_inference_statistics())["model_stats"]) > 5


async def test_models_are_listed_loaded_and_unloaded(site: Site, client: Any) -> None:
    await client.unload_model("simple")
    states = {row["name"]: row["state"] for row in await client.get_model_repository_index()}
    assert states["simple"] == "UNAVAILABLE"
    assert not await client.is_model_ready("simple")
    await client.load_model("simple", config=json.dumps({"max_batch_size": 4}))
    assert site.api.loaded == [("simple", {"config": '{"max_batch_size": 4}'})]
    with pytest.raises(InferenceServerException, match="files are not taken from a request") as refused:
        await client.load_model("simple", config="{}", files={"file:1/model.pt": b"x"})
    assert refused.value.status() == "501"


@pytest.mark.parametrize("binary", [True, False])
async def test_infer_gives_sum_and_difference_with_the_id(client: Any, binary: bool) -> None:
    outputs = [sync_client.InferRequestedOutput(f"OUTPUT{index}", binary_data=binary) for index in range(2)]
    result = await client.infer("simple", simple(binary=binary), request_id="7", outputs=outputs)
    assert (result.as_numpy("OUTPUT0") == A + B).all()
    assert (result.as_numpy("OUTPUT1") == A - B).all()
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "simple", "3")


async def test_without_named_outputs_all_come_binary(client: Any) -> None:
    result = await client.infer("simple", simple())
    assert result.get_output("OUTPUT0")["parameters"] == {"binary_data_size": 64}
    assert (result.as_numpy("OUTPUT1") == A - B).all()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_requests_and_answers(client: Any, coding: str) -> None:
    data = np.zeros(5000, np.float32)
    result = await client.infer(
        "identity_fp32",
        [tensor("INPUT0", data, "FP32")],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert (result.as_numpy("OUTPUT0") == data).all()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        pytest.param("FP32", np.array([1.5, -2], np.float32), id="FP32"),
        pytest.param("FP16", np.array([1.5, -2], np.float16), id="FP16"),
        pytest.param("BOOL", np.array([True, False]), id="BOOL"),
        pytest.param("UINT64", np.array([2**64 - 1, 0], np.uint64), id="UINT64"),
        pytest.param("INT8", np.array([-128, 127], np.int8), id="INT8"),
        pytest.param("BYTES", np.array([b"", b"two", "ümlaut".encode()], object), id="BYTES"),
    ],
)
async def test_every_datatype_comes_back(client: Any, datatype: str, data: Any, binary: bool) -> None:
    binary = binary or datatype == "FP16"  # which has no form in JSON
    outputs = [sync_client.InferRequestedOutput("OUTPUT0", binary_data=binary)]
    inputs = [tensor("INPUT0", data, datatype, binary=binary)]
    result = await client.infer(f"identity_{datatype.lower()}", inputs, outputs=outputs)
    expected = [text if binary else text.decode() for text in data] if datatype == "BYTES" else data.tolist()
    assert result.as_numpy("OUTPUT0").tolist() == expected


async def test_parameters_and_headers_reach_the_request(site: Site, client: Any) -> None:
    await client.infer(
        "simple",
        simple(),
        priority=3,
        timeout=2_000_000,
        sequence_id=9,
        sequence_start=True,
        headers={"X-Slipway-Tenant": "blue", "X-Slipway-Timeout-Ms": "1500"},
        query_params={"a": 1},
        parameters={"temperature": 0.5, "word": "x"},
    )
    (seen,) = site.api.seen
    assert (seen.priority, seen.timeout_s, seen.patience_s, seen.tenant) == (3, 2.0, 1.5, "blue")
    assert seen.parameters == {
        "sequence_id": 9,
        "sequence_start": True,
        "sequence_end": False,
        "temperature": 0.5,
        "word": "x",
    }


@pytest.mark.parametrize("binary", [True, False])
async def test_the_top_classes_with_their_labels(client: Any, binary: bool) -> None:
    scores = np.array([[0.1, 0.7, 0.2], [3, 1, 2]], np.float32)
    outputs = [sync_client.InferRequestedOutput("SCORES", binary_data=binary, class_count=2)]
    result = await client.infer("classes", [tensor("IN", scores, "FP32")], outputs=outputs)
    texts = [[b"0.700000:1:dog", b"0.200000:2:bird"], [b"3.000000:0:cat", b"2.000000:2:bird"]]
    expected = texts if binary else [[text.decode() for text in row] for row in texts]
    assert result.as_numpy("SCORES").tolist() == expected


async def test_system_shared_memory_in_and_out(client: Any, segment: posix.SharedMemory) -> None:
    await client.unregister_system_shared_memory()
    await client.unregister_cuda_shared_memory()
    await client.register_system_shared_memory("region", f"/{segment.name}", 192, offset=64)
    assert await client.get_system_shared_memory_status("region") == [
        {"name": "region", "key": f"/{segment.name}", "offset": 64, "byte_size": 192}
    ]
    with pytest.raises(InferenceServerException, match="already in manager"):
        await client.register_system_shared_memory("region", f"/{segment.name}", 192)
    buffer = memoryview(segment.buf or b"")
    buffer[64:128] = A.tobytes()
    inputs = [sync_client.InferInput("INPUT0", [1, 16], "INT32"), tensor("INPUT1", B, "INT32")]
    inputs[0].set_shared_memory("region", 64)
    outputs = [sync_client.InferRequestedOutput("OUTPUT0"), sync_client.InferRequestedOutput("OUTPUT1")]
    outputs[0].set_shared_memory("region", 64, 128)
    result = await client.infer("simple", inputs, outputs=outputs)
    assert (np.frombuffer(bytes(buffer[192:256]), np.int32) == (A + B)[0]).all()
    buffer.release()
    assert (result.as_numpy("OUTPUT1") == A - B).all()
    outputs[0].set_shared_memory("region", 32, 0)
    with pytest.raises(InferenceServerException, match="should be at least 64 bytes to hold the results"):
        await client.infer("simple", inputs, outputs=outputs)
    outputs[0].set_shared_memory("region", 64, 129)
    with pytest.raises(InferenceServerException, match=r"Invalid offset \+ byte size for shared memory region"):
        await client.infer("simple", inputs, outputs=outputs)


async def test_cuda_shared_memory_is_refused_as_not_implemented(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="use system shared memory") as refused:
        await client.register_cuda_shared_memory("region", "aGk=", 0, 64)
    assert refused.value.status() == "501"
    assert await client.get_cuda_shared_memory_status() == []


async def test_trace_and_log_settings(site: Site, client: Any) -> None:
    answer = await client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS", "TENSORS"]})
    assert answer["trace_level"] == ["TIMESTAMPS", "TENSORS"]
    assert (await client.get_trace_settings("simple"))["trace_rate"] == "1000"
    assert (await client.update_log_settings({"log_verbose_level": 2}))["log_verbose_level"] == 2
    assert (await client.get_log_settings())["log_info"] is True
    with pytest.raises(InferenceServerException, match="there is no setting 'log_colour'"):
        await client.update_log_settings({"log_colour": "red"})


@pytest.mark.parametrize(
    ("model", "error", "status", "sentence"),
    [
        pytest.param("nope", None, "404", "unknown model: 'nope'", id="unknown model"),
        pytest.param("count", None, "501", "decoupled", id="decoupled"),
        pytest.param("simple", RequestError(Kind.FULL, "full"), "503", "full", id="full queue"),
        pytest.param("simple", RequestError(Kind.DEADLINE, "late"), "504", "late", id="late"),
        pytest.param("simple", RequestError(Kind.TOO_LARGE, "big"), "413", "big", id="large"),
        pytest.param("simple", ZeroDivisionError(), "500", "internal error", id="a bug of ours"),
    ],
)
async def test_refusals_have_their_status(
    site: Site, model: str, error: Exception | None, status: str, sentence: str
) -> None:
    site.api.fail_next = error
    async with aio.InferenceServerClient(site.address) as client:
        with pytest.raises(InferenceServerException, match=sentence) as refused:
            await client.infer(model, simple())
    assert refused.value.status() == status


async def test_the_blocking_client_is_content_too(site: Site) -> None:
    def use() -> tuple[Any, Any]:
        client = sync_client.InferenceServerClient(site.address)
        try:
            assert client.is_server_live()
            one = client.infer("simple", simple())
            other = client.async_infer("simple", simple()).get_result()
            return one.as_numpy("OUTPUT0"), other.as_numpy("OUTPUT1")
        finally:
            client.close()

    one, other = await asyncio.to_thread(use)
    assert (one == A + B).all()
    assert (other == A - B).all()
