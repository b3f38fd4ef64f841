"""tritonclient.grpc's own calls, answered by our HTTP/2 and by grpcio: the client that people have must be content."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from multiprocessing import shared_memory as posix
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as sync_client
from tritonclient.grpc import aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import grpc_services, health
from slipway_runtime.protocol.grpc_schemas import REFLECTIONS, message_class
from slipway_runtime.protocol.grpcio_server import GrpcServer
from slipway_runtime.protocol.http2_methods import http2_methods
from slipway_runtime.protocol.methods import Methods
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.wire.grpc_calls import GrpcServer as OwnServer
from tests.runtime.fake_api import FakeApi

LIMIT = 1 << 20


class Site:
    def __init__(self, backend: str) -> None:
        self.api = FakeApi()
        inference = Methods(self.api, SharedMemory())
        rpcs = grpc_services.all_rpcs(self.api, inference)
        self.server: Any = GrpcServer(rpcs, LIMIT)
        if backend == "own":
            self.server = OwnServer(
                http2_methods(rpcs, inference), max_message_bytes=LIMIT, max_held_bytes=8 * LIMIT, idle_timeout_s=60
            )
        self.address = ""

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.listen('127.0.0.1', 0)}"
        self.client = aio.InferenceServerClient(self.address)


@pytest.fixture(params=["own", "grpcio"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    site = Site(request.param)
    await site.start()
    yield site
    await site.client.close()
    await site.server.close(0)


@pytest.fixture
def segment() -> Iterator[posix.SharedMemory]:
    segment = posix.SharedMemory(create=True, size=256, name=f"slipway-{uuid.uuid4().hex[:12]}")
    yield segment
    segment.close()
    segment.unlink()


A, B = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 2, np.int32)


def tensor(name: str, data: Any, datatype: str) -> Any:
    made = sync_client.InferInput(name, list(data.shape), datatype)
    made.set_data_from_numpy(data)
    return made


def simple() -> list[Any]:
    return [tensor("INPUT0", A, "INT32"), tensor("INPUT1", B, "INT32")]


async def test_health_and_metadata(site: Site) -> None:
    client = site.client
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("simple", "1")
    server = await client.get_server_metadata()
    assert (server.name, "statistics" in server.extensions) == ("slipway-runtime", True)
    model = await client.get_model_metadata("simple")
    assert list(model.versions) == ["1", "3"]
    assert [(each.name, each.datatype, list(each.shape)) for each in model.inputs] == [
        ("INPUT0", "INT32", [-1, 16]),
        ("INPUT1", "INT32", [-1, 16]),
    ]
    site.api.state = "draining"
    assert not await client.is_server_ready()
    assert await client.is_server_live()


async def test_configuration_and_statistics(site: Site) -> None:
    config = (await site.client.get_model_config("count")).config
    assert (config.name, config.model_transaction_policy.decoupled, list(config.input[0].dims)) == ("count", True, [1])
    (row,) = (await site.client.get_inference_statistics("count")).model_stats
    assert (row.inference_count, row.inference_stats.success.ns, row.batch_stats[0].batch_size) == (5, 1000, 4)
    assert len((await site.client.get_inference_statistics()).model_stats) == len(site.api.index(False))


async def test_models_are_listed_loaded_and_unloaded(site: Site) -> None:
    client = site.client
    await client.unload_model("simple")
    states = {row["name"]: row["state"] for row in (await client.get_model_repository_index(as_json=True))["models"]}
    assert states["simple"] == "UNAVAILABLE"
    assert not await client.is_model_ready("simple")
    await client.load_model("simple", config=json.dumps({"max_batch_size": 4}))
    assert site.api.loaded == [("simple", {"config": '{"max_batch_size": 4}'})]
    assert await client.is_model_ready("simple")
    with pytest.raises(InferenceServerException, match="files are not taken from a request") as refused:
        await client.load_model("simple", config="{}", files={"file:1/model.pt": b"x"})
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_infer_gives_sum_and_difference_with_the_id(site: Site) -> None:
    result = await site.client.infer("simple", simple(), request_id="7")
    assert (result.as_numpy("OUTPUT0") == A + B).all()
    assert (result.as_numpy("OUTPUT1") == A - B).all()
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("7", "simple", "3")


async def test_named_outputs_and_versions(site: Site) -> None:
    outputs = [sync_client.InferRequestedOutput("OUTPUT1")]
    result = await site.client.infer("simple", simple(), "1", outputs)
    assert result.as_numpy("OUTPUT0") is None
    assert result.get_response().model_version == "1"


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
async def test_compressed_messages(site: Site, compression: str) -> None:
    result = await site.client.infer("simple", simple(), compression_algorithm=compression)
    assert (result.as_numpy("OUTPUT0") == A + B).all()


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        pytest.param("FP32", np.array([1.5, -2], np.float32), id="FP32"),
        pytest.param("FP16", np.array([1.5, -2], np.float16), id="FP16"),
        pytest.param("BOOL", np.array([True, False]), id="BOOL"),
        pytest.param("UINT64", np.array([2**64 - 1, 0], np.uint64), id="UINT64"),
        pytest.param("INT8", np.array([-128, 127], np.int8), id="INT8"),
        pytest.param("BYTES", np.array([b"", b"\xff\x00two", "ümlaut".encode()], object), id="BYTES"),
    ],
)
async def test_every_datatype_comes_back(site: Site, datatype: str, data: Any) -> None:
    result = await site.client.infer(f"identity_{datatype.lower()}", [tensor("INPUT0", data, datatype)])
    assert result.as_numpy("OUTPUT0").tolist() == data.tolist()


async def test_parameters_reach_the_request(site: Site) -> None:
    await site.client.infer(
        "simple",
        simple(),
        priority=3,
        timeout=2_000_000,
        sequence_id=9,
        sequence_start=True,
        headers={"x-slipway-tenant": "blue"},
        parameters={"temperature": 0.5, "top": 3, "word": "x", "flag": True},
    )
    (seen,) = site.api.seen
    assert (seen.priority, seen.timeout_s, seen.tenant) == (3, 2.0, "blue")
    assert seen.parameters == {
        "sequence_id": 9,
        "sequence_start": True,
        "sequence_end": False,
        "temperature": 0.5,
        "top": 3,
        "word": "x",
        "flag": True,
    }


async def test_the_clients_deadline_is_the_requests(site: Site) -> None:
    await site.client.infer("simple", simple(), client_timeout=5)
    assert 4 < (site.api.seen[0].patience_s or 0) < 5.1  # the client rounds up


async def test_the_top_classes_with_their_labels(site: Site) -> None:
    scores = np.array([[0.1, 0.7, 0.2], [3, 1, 2]], np.float32)
    outputs = [sync_client.InferRequestedOutput("SCORES", class_count=2)]
    result = await site.client.infer("classes", [tensor("IN", scores, "FP32")], outputs=outputs)
    assert result.as_numpy("SCORES").tolist() == [
        [b"0.700000:1:dog", b"0.200000:2:bird"],
        [b"3.000000:0:cat", b"2.000000:2:bird"],
    ]


async def test_system_shared_memory_in_and_out(site: Site, segment: posix.SharedMemory) -> None:
    client = site.client
    await client.unregister_system_shared_memory()
    await client.unregister_cuda_shared_memory()
    await client.register_system_shared_memory("region", f"/{segment.name}", 256)
    status = await client.get_system_shared_memory_status(as_json=True)
    assert status["regions"]["region"]["byte_size"] == "256"
    buffer = memoryview(segment.buf or b"")
    buffer[:128] = A.tobytes() + B.tobytes()
    inputs = [sync_client.InferInput(f"INPUT{index}", [1, 16], "INT32") for index in range(2)]
    outputs = [sync_client.InferRequestedOutput(f"OUTPUT{index}") for index in range(2)]
    for index, item in enumerate(inputs):
        item.set_shared_memory("region", 64, 64 * index)
    for index, output in enumerate(outputs):
        output.set_shared_memory("region", 64, 128 + 64 * index)
    result = await client.infer("simple", inputs, outputs=outputs)
    assert result.get_output("OUTPUT0").parameters["shared_memory_region"].string_param == "region"
    got = np.frombuffer(bytes(buffer[128:256]), np.int32).reshape(2, 1, 16)
    assert (got[0] == A + B).all()
    assert (got[1] == A - B).all()
    buffer.release()
    await client.unregister_system_shared_memory("region")
    with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'region'"):
        await client.infer("simple", inputs)


async def test_cuda_shared_memory_is_refused_as_unimplemented(site: Site) -> None:
    with pytest.raises(InferenceServerException, match="use system shared memory") as refused:
        await site.client.register_cuda_shared_memory("region", b"aGk=", 0, 64)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    assert await site.client.get_cuda_shared_memory_status(as_json=True) == {}


async def test_trace_and_log_settings(site: Site) -> None:
    client = site.client
    answer = await client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS", "TENSORS"]}, as_json=True)
    assert answer["settings"]["trace_level"]["value"] == ["TIMESTAMPS", "TENSORS"]
    assert (await client.get_trace_settings(as_json=True))["settings"]["trace_rate"]["value"] == ["1000"]
    answer = await client.update_log_settings({"log_verbose_level": 2, "log_info": False}, as_json=True)
    assert answer["settings"]["log_verbose_level"]["uint32_param"] == 2
    assert not site.api.log_settings.values["log_info"]
    with pytest.raises(InferenceServerException, match="there is no setting 'log_colour'"):
        await client.update_log_settings({"log_colour": True})


@pytest.mark.parametrize(
    ("model", "error", "status", "sentence"),
    [
        pytest.param("nope", None, "NOT_FOUND", "unknown model: 'nope'", id="unknown model"),
        pytest.param("count", None, "UNIMPLEMENTED", "ModelStreamInfer", id="decoupled"),
        pytest.param("simple", RequestError(Kind.FULL, "full"), "UNAVAILABLE", "full", id="full queue"),
        pytest.param("simple", RequestError(Kind.DEADLINE, "late"), "DEADLINE_EXCEEDED", "late", id="late"),
        pytest.param("simple", RequestError(Kind.TOO_LARGE, "big"), "RESOURCE_EXHAUSTED", "big", id="large"),
        pytest.param("simple", ZeroDivisionError(), "INTERNAL", "internal error", id="a bug of ours"),
    ],
)
async def test_refusals_have_their_status(
    site: Site, model: str, error: Exception | None, status: str, sentence: str
) -> None:
    site.api.fail_next = error
    with pytest.raises(InferenceServerException, match=sentence) as refused:
        await site.client.infer(model, simple())
    assert refused.value.status() == f"StatusCode.{status}"


async def test_a_cancelled_call_cancels_the_request(site: Site) -> None:
    site.api.hold.add("slow")
    async with grpc.aio.insecure_channel(site.address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString
        )
        message = pb.ModelInferRequest(model_name="identity_fp32", id="slow", raw_input_contents=[bytes(4)])
        message.inputs.add(name="INPUT0", datatype="FP32", shape=[1])
        call = infer(message)
        await site.api.holding.wait()
        call.cancel()
        await site.api.tickets[0].gone.wait()


# --- streams


def message_of(model: str, values: list[int], request_id: str) -> dict[str, Any]:
    data = np.array(values, np.int32)
    name = "IN" if model == "count" else "INPUT0"
    inputs = [tensor(name, data, "INT32")] if model == "count" else simple()
    return {"model_name": model, "inputs": inputs, "request_id": request_id}


async def streamed(site: Site, *messages: dict[str, Any]) -> list[tuple[Any, Any]]:
    async def asked() -> AsyncIterator[dict[str, Any]]:
        for message in messages:
            yield message

    return [pair async for pair in site.client.stream_infer(asked())]


async def test_a_decoupled_model_gives_many_answers_and_an_empty_last_one(site: Site) -> None:
    answers: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def answered(result: Any, error: Any) -> None:
        loop.call_soon_threadsafe(answers.put_nowait, error or result.get_response())

    client = sync_client.InferenceServerClient(site.address)
    await asyncio.to_thread(client.start_stream, answered)
    inputs = [tensor("IN", np.array([3], np.int32), "INT32")]
    client.async_stream_infer("count", inputs, request_id="a", enable_empty_final_response=True)
    got = [await answers.get() for _ in range(4)]
    await asyncio.to_thread(client.stop_stream)
    await asyncio.to_thread(client.close)
    assert [int.from_bytes(answer.raw_output_contents[0], "little") for answer in got[:-1]] == [0, 1, 2]
    assert [answer.parameters["triton_final_response"].bool_param for answer in got] == [False] * 3 + [True]
    assert (got[-1].id, len(got[-1].outputs)) == ("a", 0)


async def test_without_being_asked_for_there_is_no_empty_answer(site: Site) -> None:
    assert len(await streamed(site, message_of("count", [3], "a"))) == 3
    assert len(await streamed(site, message_of("count", [0], "a"))) == 0


async def test_plain_models_answer_in_order_on_a_stream(site: Site) -> None:
    results = await streamed(site, *(message_of("simple", [], str(index)) for index in range(400)))
    answers = [result.get_response() for result, _ in results]
    assert [answer.id for answer in answers] == [str(index) for index in range(400)]
    assert all(answer.parameters["triton_final_response"].bool_param for answer in answers)


async def test_a_failed_request_does_not_end_its_stream(site: Site) -> None:
    messages = [message_of("simple", [], "a"), message_of("nope", [], "b"), message_of("count", [-1], "c")]
    results = await streamed(site, *messages, message_of("simple", [], "d"))
    errors = [error.message() for _, error in results if error is not None]
    assert sorted(errors) == ["Request for unknown model: 'nope' is not found", "counting failed"]
    assert [
        result.get_response().id
        for result, error in results
        if error is None and result.as_numpy("OUTPUT0") is not None
    ] == ["a", "d"]


async def test_a_cancelled_stream_cancels_what_is_under_way(site: Site) -> None:
    site.api.hold.add("slow")

    async def asked() -> AsyncIterator[dict[str, Any]]:
        yield message_of("simple", [], "first")
        yield message_of("simple", [], "slow")

    results = site.client.stream_infer(asked())
    await anext(aiter(results))
    await site.api.holding.wait()
    results.cancel()
    await site.api.tickets[-1].gone.wait()


# --- health and reflection


async def call(site: Site, path: str, message: Any, answer: Any) -> Any:
    async with grpc.aio.insecure_channel(site.address) as channel:
        return await channel.unary_unary(path, lambda it: it.SerializeToString(), answer.FromString)(message)


async def test_grpc_health(site: Site) -> None:
    path = "/grpc.health.v1.Health/"
    for service in ("", "inference.GRPCInferenceService"):
        answer = await call(site, path + "Check", health.Request(service=service), health.Response)
        assert answer.status == health.SERVING
    site.api.state = "draining"
    assert (await call(site, path + "Check", health.Request(), health.Response)).status == health.NOT_SERVING
    listed = await call(site, path + "List", health.ListRequest(), health.ListResponse)
    assert {name: each.status for name, each in listed.statuses.items()} == {
        "": health.NOT_SERVING,
        "inference.GRPCInferenceService": health.NOT_SERVING,
    }
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(site, path + "Check", health.Request(service="nope"), health.Response)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("package", REFLECTIONS)
async def test_reflection_lists_services_and_gives_their_files(site: Site, package: str) -> None:
    ask = message_class(f"{package}.ServerReflectionRequest")
    answer_class = message_class(f"{package}.ServerReflectionResponse")
    requests = [
        ask(list_services="*"),
        ask(file_containing_symbol="inference.GRPCInferenceService"),
        ask(file_by_filename="model_config.proto"),
        ask(file_containing_symbol="inference.Nothing"),
        ask(all_extension_numbers_of_type="x"),
    ]
    async with grpc.aio.insecure_channel(site.address) as channel:
        path = f"/{package}.ServerReflection/ServerReflectionInfo"
        call = channel.stream_stream(path, lambda it: it.SerializeToString(), answer_class.FromString)(iter(requests))
        listed, service, file, unknown, extensions = [answer async for answer in call]
    names = [each.name for each in listed.list_services_response.service]
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(names)
    assert len(service.file_descriptor_response.file_descriptor_proto) == 2
    assert b"ModelConfig" in file.file_descriptor_response.file_descriptor_proto[0]
    assert (unknown.error_response.error_code, extensions.error_response.error_code) == (5, 5)
