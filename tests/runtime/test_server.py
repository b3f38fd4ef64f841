"""Real processes, real torch, real clients: tritonclient by HTTP, gRPC and both of their asyncio versions."""

import asyncio
import json
import time
import urllib.request
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

from slipway_runtime.protocol.api import EXTENSIONS
from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

Servers = dict[str, ServerProcess]
INPUT0 = np.arange(16, dtype=np.int32).reshape(1, 16)
INPUT1 = np.ones((1, 16), dtype=np.int32)


def inputs(library: Any, **options: Any) -> list[Any]:
    made = []
    for name, data in (("INPUT0", INPUT0), ("INPUT1", INPUT1)):
        made.append(library.InferInput(name, data.shape, "INT32"))
        made[-1].set_data_from_numpy(data, **options)
    return made


def check(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), INPUT0 + INPUT1)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), INPUT0 - INPUT1)


def post(server: ServerProcess, model: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{server.http}/v2/models/{model}/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - loopback
        return dict(json.load(response))


def test_the_first_request_of_the_readme(servers: Servers) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    assert post(servers["hello"], "hello", body) == {
        "model_name": "hello",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [3.0, 5.0, 7.0, 9.0]}],
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_http_infers(servers: Servers, binary_in: bool, binary_out: bool, compression: str | None) -> None:
    with http_client.InferenceServerClient(servers["add-sub"].http) as client:
        outputs = [http_client.InferRequestedOutput(name, binary_data=binary_out) for name in ("OUTPUT0", "OUTPUT1")]
        result = client.infer(
            "simple",
            inputs(http_client, binary_data=binary_in),
            outputs=outputs,
            request_id="42",
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
    check(result)
    assert result.get_response()["id"] == "42"


def test_tritonclient_http_with_its_defaults(servers: Servers) -> None:
    with http_client.InferenceServerClient(servers["add-sub"].http, concurrency=4) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("simple")
        assert client.is_model_ready("simple", "1")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["extensions"] == list(EXTENSIONS)
        assert [t["name"] for t in client.get_model_metadata("simple")["inputs"]] == ["INPUT0", "INPUT1"]
        check(client.infer("simple", inputs(http_client)))
        for pending in [client.async_infer("simple", inputs(http_client)) for _ in range(20)]:
            check(pending.get_result())
        with pytest.raises(InferenceServerException, match="unknown model: 'other'"):
            client.infer("other", inputs(http_client))


def test_tritonclient_grpc_with_its_defaults(servers: Servers) -> None:
    with grpc_client.InferenceServerClient(servers["add-sub"].grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("simple")
        assert client.get_server_metadata().name == "slipway-runtime"
        assert [t.name for t in client.get_model_metadata("simple").outputs] == ["OUTPUT0", "OUTPUT1"]
        result = client.infer("simple", inputs(grpc_client), request_id="42")
        check(result)
        assert result.get_response().id == "42"
        one = client.infer("simple", inputs(grpc_client), outputs=[grpc_client.InferRequestedOutput("OUTPUT1")])
        assert one.as_numpy("OUTPUT0") is None
        check(client.infer("simple", inputs(grpc_client), compression_algorithm="gzip"))
        with pytest.raises(InferenceServerException, match="unknown model: 'other'") as caught:
            client.infer("other", inputs(grpc_client))
        assert caught.value.status() == "StatusCode.NOT_FOUND"


async def test_tritonclients_asyncio_versions(servers: Servers) -> None:
    async with (
        http_aio.InferenceServerClient(servers["add-sub"].http) as http,
        grpc_aio.InferenceServerClient(servers["add-sub"].grpc) as grpc,
    ):
        assert await http.is_server_ready()
        assert await grpc.is_model_ready("simple")
        results = await asyncio.gather(
            *(http.infer("simple", inputs(http_aio)) for _ in range(20)),
            *(grpc.infer("simple", inputs(grpc_aio)) for _ in range(20)),
        )
        for result in results:
            check(result)


async def test_no_answer_goes_to_another_request(servers: Servers) -> None:
    async def ask(client: Any, library: Any, number: int) -> bool:
        item = library.InferInput("x", [1, 4], "FP32")
        item.set_data_from_numpy(np.full((1, 4), number, np.float32))
        answer = (await client.infer("hello", [item])).as_numpy("y")
        return bool((answer == 2 * number + 1).all())

    async with (
        http_aio.InferenceServerClient(servers["hello"].http) as http,
        grpc_aio.InferenceServerClient(servers["hello"].grpc) as grpc,
    ):
        clients = [(http, http_aio), (grpc, grpc_aio)]
        answers = await asyncio.gather(*(ask(*clients[n % 2], n) for n in range(400)))
    assert answers == [True] * 400


def test_a_body_of_megabytes_and_a_wrong_batch(servers: Servers) -> None:
    data = np.zeros((200_000, 4), np.float32)
    item = http_client.InferInput("x", data.shape, "FP32")
    item.set_data_from_numpy(data)
    with (
        http_client.InferenceServerClient(servers["hello"].http) as client,
        pytest.raises(InferenceServerException, match="batch-size must be <= 64"),
    ):
        client.infer("hello", [item])


async def test_more_than_the_queue_holds_is_refused_and_the_rest_answered(servers: Servers) -> None:
    """`slow` has room for one request with the model and two that wait."""
    item = http_aio.InferInput("x", [1, 4], "FP32")
    item.set_data_from_numpy(np.ones((1, 4), np.float32))
    async with http_aio.InferenceServerClient(servers["slow"].http) as client:
        # Connected, so that all of them come while the model has the first.
        assert all(await asyncio.gather(*(client.is_server_live() for _ in range(8))))
        results = await asyncio.gather(*(client.infer("slow", [item]) for _ in range(8)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, InferenceServerException)]
    assert len(refused) == 5
    assert {error.status() for error in refused} == {"503"}
    assert all("maximum queue size" in error.message() for error in refused)


def test_metrics_of_a_real_process(servers: Servers) -> None:
    with urllib.request.urlopen(f"http://{servers['hello'].http}/metrics", timeout=20) as response:
        text = response.read().decode()
    assert 'nv_inference_count{model="hello",version="1"}' in text
    assert "process_resident_memory_bytes" in text

    def value(name: str) -> float:
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    lives_s = time.time() - value("process_start_time_seconds")
    assert 0 < value('slipway_runtime_load_seconds{model="hello"}') < lives_s
