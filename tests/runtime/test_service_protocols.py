"""What the whole server answers in each state, by REST and by both gRPC backends, with a model that is a function."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from slipway_runtime.errors import Kind
from slipway_runtime.protocol.grpc_codes import CODES
from slipway_runtime.protocol.grpc_services import all_rpcs
from slipway_runtime.protocol.grpcio_server import GrpcServer
from slipway_runtime.protocol.http2_methods import http2_methods
from slipway_runtime.protocol.methods import Methods
from slipway_runtime.protocol.routes import STATUS
from slipway_runtime.wire.grpc_calls import GrpcServer as OwnServer
from tests.runtime.fake_source import BODY, LIMIT, FakeSource, N, World, X, of, settle


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


@pytest.fixture(params=["own", "grpcio"])
async def stub(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Any]:
    """tritonclient's own stub, connected."""
    inference = Methods(world.service, world.memory)
    rpcs = all_rpcs(world.service, inference)
    server: Any = GrpcServer(rpcs, LIMIT)
    if request.param == "own":
        methods = http2_methods(rpcs, inference)
        server = OwnServer(methods, max_message_bytes=LIMIT, max_held_bytes=8 * LIMIT, idle_timeout_s=60)
    port = await server.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
    await server.close(0)


def message(x: Sequence[float] = (1, 2), n: int = 10, name: str = "m") -> Any:
    request = pb.ModelInferRequest(model_name=name)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.inputs.add(name="n", datatype="INT64", shape=[1, 1])
    request.raw_input_contents.extend([np.array(x, np.float32).tobytes(), np.array([n], np.int64).tobytes()])
    return request


async def test_live_at_once_ready_when_loaded_not_ready_while_draining(world: World, stub: Any) -> None:
    async def seen() -> tuple[int, int, int, bool, bool]:
        statuses = [
            of(await world.rest("GET", f"/v2/{path}"))[0] for path in ("health/live", "health/ready", "models/m/ready")
        ]
        ready = (await stub.ServerReady(pb.ServerReadyRequest())).ready
        model = (await stub.ModelReady(pb.ModelReadyRequest(name="m"))).ready
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        return (*statuses, ready, model)

    world.source.gate.clear()
    starting = asyncio.create_task(world.start())
    await settle(lambda: bool(world.service.index(False)[0].get("state") == "LOADING"))
    assert await seen() == (200, 503, 503, False, False)
    world.source.gate.set()
    await starting
    assert await seen() == (200, 200, 200, True, True)
    world.service.set_draining()
    assert await seen() == (200, 503, 503, False, False)
    assert (await world.infer()).status == 200
    assert list((await stub.ModelInfer(message())).raw_output_contents)


async def test_a_model_that_loads_is_unavailable_not_unknown(world: World, stub: Any) -> None:
    world.source.gate.clear()
    starting = asyncio.create_task(world.start())
    await settle(lambda: bool(world.service.index(False)[0].get("state") == "LOADING"))
    assert of(await world.infer()) == (503, {"error": "model 'm' is loading, try again shortly"})
    with pytest.raises(grpc.aio.AioRpcError, match="is loading") as caught:
        await stub.ModelInfer(message())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    world.source.gate.set()
    await starting


@pytest.mark.parametrize(
    "path",
    ["models/other", "models/other/ready", "models/other/infer", "models/m/versions/2", "models/m/versions/2/ready"],
)
async def test_another_model_or_version_is_not_found(world: World, path: str) -> None:
    status, body = of(await (await world.start()).rest("POST" if path.endswith("infer") else "GET", f"/v2/{path}"))
    assert status == 404
    assert body["error"].startswith("Request for unknown model: '")


async def test_names_and_versions_in_urls_are_decoded() -> None:
    world = await World(FakeSource("a b/ü")).start()
    assert of(await world.rest("GET", "/v2/models/a%20b%2F%C3%BC/versions/1/ready"))[0] == 200
    assert (await world.infer("/v2/models/a%20b%2F%C3%BC/versions/1/infer")).status == 200
    await world.close()


async def test_metadata_is_the_same_by_both_protocols(world: World, stub: Any) -> None:
    await world.start()
    _, model = of(await world.rest("GET", "/v2/models/m"))
    assert model == {
        "name": "m",
        "versions": ["1"],
        "platform": "test",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "n", "datatype": "INT64", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "n", "datatype": "INT64", "shape": [-1, 1]},
        ],
    }
    reply = await stub.ModelMetadata(pb.ModelMetadataRequest(name="m"))
    assert [(t.name, t.datatype, list(t.shape)) for t in reply.inputs] == [
        ("x", "FP32", [-1, 2]),
        ("n", "INT64", [-1, 1]),
    ]
    _, server = of(await world.rest("GET", "/v2"))
    reply = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (server["name"], server["extensions"]) == (reply.name, list(reply.extensions))


async def test_inference_gives_all_outputs_or_those_asked_for(world: World, stub: Any) -> None:
    await world.start()
    status, body = of(await world.infer(id="7"))
    assert (status, body["model_name"], body["model_version"], body["id"]) == (200, "m", "1", "7")
    assert [(o["name"], o["data"]) for o in body["outputs"]] == [("sum", [11, 12]), ("n", [10])]
    _, body = of(await world.infer(outputs=[{"name": "n"}]))
    assert [o["name"] for o in body["outputs"]] == ["n"]
    reply = await stub.ModelInfer(message())
    assert np.frombuffer(reply.raw_output_contents[0], np.float32).tolist() == [11, 12]


async def test_inputs_may_come_in_any_order(world: World) -> None:
    _, body = of(await (await world.start()).infer(inputs=[N, X]))
    assert body["outputs"][0]["data"] == [11, 12]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"inputs": [X]}, "expected 2 inputs but got 1 inputs for model 'm'", id="one missing"),
        pytest.param(
            {"inputs": [X, N, {**X, "name": "z"}]}, "unexpected inference input 'z' for model 'm'", id="extra"
        ),
        pytest.param({"inputs": [X, X, N]}, "an input is given twice", id="twice"),
        pytest.param({"inputs": [{**X, "datatype": "FP64"}, N]}, "'FP64', but model 'm' expects 'FP32'", id="datatype"),
        pytest.param({"inputs": [{**X, "shape": [2, 1]}, N]}, "Expected [-1, 2], got [2, 1]", id="shape"),
        pytest.param({"inputs": [{**X, "shape": [2]}, N]}, "unexpected shape for input 'x'", id="dimensions"),
        pytest.param(
            {"inputs": [{**X, "shape": [5, 2], "data": [0] * 10}, {**N, "shape": [5, 1], "data": [0] * 5}]},
            "batch-size must be <= 4 for 'm'",
            id="batch",
        ),
        pytest.param(
            {"inputs": [{**X, "shape": [0, 2], "data": []}, {**N, "shape": [0, 1], "data": []}]},
            "at least 1, got 0",
            id="empty batch",
        ),
        pytest.param(
            {"inputs": [X, {**N, "shape": [2, 1], "data": [1, 2]}]}, "different batch sizes [1, 2]", id="uneven batch"
        ),
        pytest.param({"outputs": [{"name": "z"}]}, "unexpected inference output 'z' for model 'm'", id="output"),
        pytest.param({"outputs": [{"name": "n"}, {"name": "n"}]}, "an output is asked for twice", id="output twice"),
    ],
)
async def test_what_does_not_fit_the_model_is_refused(world: World, change: dict[str, Any], sentence: str) -> None:
    status, body = of(await (await world.start()).infer(**change))
    assert status == 400
    assert sentence in body["error"]


async def test_a_failing_model_answers_500_and_the_server_lives(world: World, stub: Any) -> None:
    await world.start()
    assert of(await world.infer(inputs=[X, {**N, "data": [13]}])) == (500, {"error": "the model failed: thirteen"})
    with pytest.raises(grpc.aio.AioRpcError, match="thirteen") as caught:
        await stub.ModelInfer(message(n=13))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert (await world.infer()).status == 200


async def test_a_defect_of_the_server_is_an_answer_too(
    world: World, stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await world.start()

    def broken(batch: Sequence[Any]) -> list[Any]:
        raise ZeroDivisionError

    world.model.run = broken  # type: ignore[method-assign]
    assert of(await world.infer()) == (500, {"error": "internal error; the server's log says more"})
    with pytest.raises(grpc.aio.AioRpcError, match="internal error") as caught:
        await stub.ModelInfer(message())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert len([record for record in caplog.records if record.exc_info]) == 2


async def test_a_full_queue_is_503_and_unavailable(world: World, stub: Any) -> None:
    (await world.start()).model.hold.clear()
    tasks = [asyncio.create_task(world.infer()) for _ in range(2)]
    await settle(lambda: world.service.in_flight == 2)
    assert of(await world.infer())[0] == 503
    with pytest.raises(grpc.aio.AioRpcError, match="Exceeds maximum queue size") as caught:
        await stub.ModelInfer(message())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    world.model.hold.set()
    assert [(await task).status for task in tasks] == [200, 200]


async def test_the_clients_deadline_and_ours_both_count(world: World, stub: Any) -> None:
    (await world.start()).model.hold.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message(), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert of(await world.infer(parameters={"timeout": 50_000}))[0] == 504
    request = message()
    request.parameters["timeout"].int64_param = 50_000
    with pytest.raises(grpc.aio.AioRpcError, match="timeout expired") as caught:
        await stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_servers_own_limit_counts_without_one_of_the_client(world: World, stub: Any) -> None:
    world.source.policy = replace(world.source.policy, timeout_s=0.05)
    (await world.start()).model.hold.clear()
    assert of(await world.infer())[0] == 504
    with pytest.raises(grpc.aio.AioRpcError, match=r"timeout expired after 0\.05 s") as caught:
        await stub.ModelInfer(message(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_grpc_client_that_leaves_leaves_the_queue(world: World, stub: Any) -> None:
    (await world.start()).model.hold.clear()
    first = asyncio.create_task(world.infer())
    await settle(lambda: world.service.in_flight == 1)
    call = stub.ModelInfer(message())
    await settle(lambda: world.service.in_flight == 2)
    call.cancel()
    await settle(lambda: world.service.in_flight == 1)
    assert world.service.entry("m", "").endpoint.stats.failure["CANCELED"] == 1
    world.model.hold.set()
    assert (await first).status == 200


async def test_what_is_not_served_by_grpc_is_unimplemented(world: World, stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="use system shared memory") as caught:
        await stub.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="region", byte_size=64))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_unloaded_model_is_unavailable_by_both_protocols(world: World, stub: Any) -> None:
    await world.start()
    assert (await world.rest("POST", "/v2/repository/models/m/unload")).status == 200
    assert of(await world.infer())[0] == 503
    with pytest.raises(grpc.aio.AioRpcError, match="is unavailable: unloaded") as caught:
        await stub.ModelInfer(message())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"))
    assert list((await stub.ModelInfer(message())).raw_output_contents)
    assert (await world.infer()).status == 200


async def test_statistics_and_index_are_the_same_by_both_protocols(world: World, stub: Any) -> None:
    await world.start()
    await world.infer()
    await stub.ModelInfer(message())
    _, body = of(await world.rest("GET", "/v2/models/m/stats"))
    (row,) = body["model_stats"]
    (reply,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest(name="m"))).model_stats
    assert (row["inference_count"], row["execution_count"], row["inference_stats"]["success"]["count"]) == (2, 2, 2)
    assert (reply.inference_count, reply.inference_stats.queue.ns) == (2, row["inference_stats"]["queue"]["ns"])
    _, index = of(await world.rest("POST", "/v2/repository/index"))
    listed = (await stub.RepositoryIndex(pb.RepositoryIndexRequest())).models
    assert [(each.name, each.version, each.state) for each in listed] == [("m", "1", "READY")]
    assert index == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]


async def test_a_grpc_message_above_the_limit_is_refused(world: World, stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(message(x=[0.0] * LIMIT))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v2/models/m/infer", 405, "POST"),
        ("POST", "/v2/models/m", 405, "GET, HEAD"),
        ("DELETE", "/v2/health/live", 405, "GET, HEAD"),
        ("HEAD", "/v2/health/live", 200, None),
        ("GET", "/v2/", 200, None),
        ("GET", "/", 200, None),
        ("GET", "/v2/models", 404, None),
        ("GET", "/v2/models/m/config", 200, None),
        ("POST", "/v2/repository/index", 200, None),
        ("GET", "/v2/repository/index", 405, "POST"),
        ("GET", "/v2/models/m/nothing", 404, None),
    ],
)
async def test_routes_and_verbs(world: World, method: str, path: str, status: int, allow: str | None) -> None:
    response = await (await world.start()).rest(method, path)
    assert response.status == status
    assert dict(response.headers).get("allow") == allow
    assert ("error" in of(response)[1]) == (status >= 400)


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
async def test_compressed_bodies_are_read(world: World, coding: str, encode: Callable[[bytes], bytes]) -> None:
    body = encode(json.dumps(BODY).encode())
    assert (await (await world.start()).rest("POST", "/v2/models/m/infer", body, content_encoding=coding)).status == 200


@pytest.mark.parametrize(
    ("body", "coding", "status", "sentence"),
    [
        pytest.param(
            gzip.compress(bytes(50_000_000)), "gzip", 413, f"more than {LIMIT} bytes when decompressed", id="bomb"
        ),
        pytest.param(b"nonsense", "gzip", 400, "not valid gzip", id="no gzip"),
        pytest.param(gzip.compress(b"{}" * 99)[:-12], "gzip", 400, "gzip that is cut short", id="cut short"),
        pytest.param(b"{}", "br", 400, "Content-Encoding 'br' is not understood", id="unknown"),
    ],
)
async def test_a_wrong_compressed_body_is_refused(
    world: World, body: bytes, coding: str, status: int, sentence: str
) -> None:
    got, answer = of(await (await world.start()).rest("POST", "/v2/models/m/infer", body, content_encoding=coding))
    assert (got, sentence in answer["error"]) == (status, True), answer


async def test_metrics_have_tritons_names_and_add_up(world: World) -> None:
    await world.start()
    two: dict[str, Any] = {
        "inputs": [{**X, "shape": [2, 2], "data": [1, 2, 3, 4]}, {**N, "shape": [2, 1], "data": [1, 2]}]
    }
    await world.infer(**two)
    await world.infer()
    await world.infer(inputs=[X])
    await world.infer(inputs=[X, {**N, "data": [13]}])
    response = await world.rest("GET", "/metrics")
    text = bytes(response.body[0]).decode()
    for line in (
        "# TYPE nv_inference_request_success counter",
        'nv_inference_request_success{model="m",version="1"} 2',
        'nv_inference_request_failure{model="m",version="1",reason="OTHER"} 1',
        'nv_inference_request_failure{model="m",version="1",reason="BACKEND"} 1',
        'nv_inference_count{model="m",version="1"} 3',
        'nv_inference_exec_count{model="m",version="1"} 2',
        "slipway_runtime_ready 1",
    ):
        assert f"\n{line}\n" in f"\n{text}"
    assert '\nslipway_runtime_load_seconds{model="m"} ' in text
    for name in ("request", "queue", "compute_infer"):
        assert f"nv_inference_{name}_duration_us{{" in text
    world.service.set_draining()
    assert b"slipway_runtime_ready 0\n" in bytes((await world.rest("GET", "/metrics")).body[0])


async def test_a_model_name_cannot_forge_metrics() -> None:
    world = await World(FakeSource('a"} 1\nevil 2')).start()
    metrics = await world.service.metrics()
    assert not any(line.startswith("evil") for line in metrics.decode().splitlines())
    await world.close()


def test_every_kind_of_failure_has_a_code_in_both_protocols() -> None:
    assert set(STATUS) == set(CODES) == set(Kind)
