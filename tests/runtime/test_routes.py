"""REST routes: what is found where, how failures are answered, what headers ask for, streams, V1 and generate."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol.api import EXTENSIONS
from slipway_runtime.protocol.routes import RestOptions, Routes
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.wire.http1_messages import Request, Response
from slipway_runtime.wire.inflating import Inflating
from tests.runtime.fake_api import FakeApi
from tests.runtime.http_stand_in import answer_of

LIMIT = 100_000
BODY = json.dumps(
    {"inputs": [{"name": f"INPUT{i}", "shape": [1, 16], "datatype": "INT32", "data": [i] * 16} for i in range(2)]}
).encode()


class Site:
    def __init__(self, **options: Any) -> None:
        self.api = FakeApi()
        self.routes = Routes(self.api, SharedMemory(), replace(RestOptions(LIMIT), **options))

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        return await answer_of(self.routes, Request(method, path, named, body, keep_alive=True))


@pytest.fixture
def site() -> Site:
    return Site()


def json_of(response: Response) -> Any:
    return json.loads(b"".join(response.body))


async def test_every_answer_is_json_with_a_sentence_when_it_fails(site: Site) -> None:
    for method, path, status in [
        ("GET", "/v2/nothing", 404),
        ("GET", "/nothing", 404),
        ("POST", "/", 405),
        ("GET", "/v2/models/nope", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/v2/models/simple/versions/2/infer", 404),
        ("GET", "/v2/models/simple/infer", 405),
        ("DELETE", "/v2/models/simple", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/models/simple/infer", 400),
        ("POST", "/v2/repository/models/nope/load", 404),
        ("GET", "/v2/systemsharedmemory/region/r/status", 404),
        ("POST", "/v1/models/simple", 404),
    ]:
        response = await site.ask(method, path)
        assert (method, path, response.status) == (method, path, status)
        assert json_of(response)["error"]


async def test_a_wrong_verb_is_told_the_right_ones(site: Site) -> None:
    assert ("allow", "GET, HEAD") in (await site.ask("PUT", "/v2")).headers
    assert ("allow", "POST") in (await site.ask("GET", "/v2/models/simple/infer")).headers
    assert ("allow", "GET, POST, HEAD") in (await site.ask("PUT", "/v2/logging")).headers


@pytest.mark.parametrize(
    "path", ["/v2/models/simple/infer", "/v2/models/simple/versions/1/infer", "/v2/models/s%69mple/infer"]
)
async def test_names_may_be_quoted(site: Site, path: str) -> None:
    response = await site.ask("POST", path, BODY)
    assert json_of(response)["outputs"][0]["data"] == [1] * 16


async def test_many_paths_do_not_fill_the_memory(site: Site) -> None:
    for index in range(3000):
        await site.ask("POST", f"/v2/models/m{index}/infer")
    await site.ask("POST", "/v2/models/" + "m" * 5000 + "/infer")
    assert sum(map(len, site.routes._targets)) < 1024 * 256


async def test_extensions_advertised_are_named_once(site: Site) -> None:
    assert json_of(await site.ask("GET", "/v2"))["extensions"] == list(dict.fromkeys(EXTENSIONS))


async def test_a_server_that_is_not_ready_says_so_with_503(site: Site) -> None:
    site.api.state = "loading"
    for path in ("/v2/health/ready", "/v2/models/simple/ready", "/v1/models/simple"):
        response = await site.ask("GET", path)
        assert response.status == 503
        assert "not ready" in json_of(response)["error"]
    assert (await site.ask("GET", "/v2/health/live")).status == 200


async def test_raw_binary_requests(site: Site) -> None:
    response = await site.ask(
        "POST",
        "/v2/models/identity_fp32/infer",
        np.array([1, 2], np.float32).tobytes(),
        inference_header_content_length="0",
    )
    head = int(dict(response.headers)["inference-header-content-length"])
    assert np.frombuffer(b"".join(response.body)[head:], np.float32).tolist() == [1, 2]


async def test_metrics_are_text(site: Site) -> None:
    response = await site.ask("GET", "/metrics")
    assert response.content_type.startswith("text/plain")
    assert b"".join(response.body) == b"nv_inference_count 1\n"


@pytest.mark.parametrize("status", [503, 429])
async def test_a_full_queue_says_when_to_come_again(status: int) -> None:
    site = Site(full_status=status)
    site.api.fail_next = RequestError(Kind.FULL, "Exceeds maximum queue size", retry_after_s=0.2)
    response = await site.ask("POST", "/v2/models/simple/infer", BODY)
    assert (response.status, dict(response.headers)["retry-after"]) == (status, "1")


async def test_cancelling_reaches_the_request(site: Site) -> None:
    site.api.hold.add("slow")
    body = BODY.replace(b"{", b'{"id":"slow",', 1)
    request = Request("POST", "/v2/models/simple/infer", {}, body, keep_alive=True)
    answers: list[Response] = []
    cancel = site.routes(request, answers.append)
    assert cancel is not None
    cancel()
    assert site.api.tickets[0].gone.is_set()
    assert not answers


async def test_inference_needs_no_task(site: Site) -> None:
    before = asyncio.all_tasks()
    site.routes(Request("POST", "/v2/models/simple/infer", {}, BODY, keep_alive=True), lambda response: None)
    assert asyncio.all_tasks() == before


async def test_the_id_of_a_request_comes_back_as_a_header(site: Site) -> None:
    for path, body in (("/v2/models/simple/infer", BODY), ("/v2/models/simple/infer", b"{"), ("/nothing", b"")):
        assert ("x-request-id", "abc") in (await site.ask("POST", path, body, x_request_id="abc")).headers


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("text", "TEXT application_utilization=0.5, named_metrics.queue=3"),
        ("JSON", 'JSON {"application_utilization": 0.5, "named_metrics": {"queue": 3}}'),
        ("bin", None),
    ],
)
async def test_the_load_is_reported_when_it_is_asked_for(site: Site, form: str, value: str | None) -> None:
    response = await site.ask("POST", "/v2/models/simple/infer", BODY, endpoint_load_metrics_format=form)
    assert dict(response.headers).get("endpoint-load-metrics") == value


async def test_what_the_request_says_and_what_its_client_waits_are_told_apart(site: Site) -> None:
    body = BODY.replace(b"{", b'{"parameters":{"timeout":2000000},', 1)
    await site.ask("POST", "/v2/models/simple/infer", body, x_slipway_timeout_ms="500")
    await site.ask("POST", "/v2/models/simple/infer", body)
    assert [(seen.timeout_s, seen.patience_s) for seen in site.api.seen] == [(2.0, 0.5), (2.0, None)]


@pytest.mark.parametrize("value", ["0", "-1", "soon", ""])
async def test_a_timeout_that_is_none_is_refused(site: Site, value: str) -> None:
    response = await site.ask("POST", "/v2/models/simple/infer", BODY, x_slipway_timeout_ms=value)
    assert "x-slipway-timeout-ms must be a number of milliseconds" in json_of(response)["error"]


async def test_the_header_of_the_tenant_has_the_name_it_was_given() -> None:
    site = Site(tenant_header=b"x-team")
    await site.ask("POST", "/v2/models/simple/infer", BODY, x_team="blue", x_slipway_tenant="red")
    assert site.api.seen[0].tenant == "blue"


# --- codings


async def test_large_answers_are_compressed_for_who_wants_it(site: Site) -> None:
    data = {"inputs": [{"name": "INPUT0", "shape": [2000], "datatype": "FP32", "data": [1.5] * 2000}]}
    body = json.dumps(data).encode()
    path = "/v2/models/identity_fp32/infer"
    plain = b"".join((await site.ask("POST", path, body)).body)
    response = await site.ask("POST", path, body, accept_encoding="br, gzip;q=0.5, deflate;q=0")
    assert dict(response.headers)["content-encoding"] == "gzip"
    assert gzip.decompress(b"".join(response.body)) == plain
    assert not (await site.ask("POST", path, body, accept_encoding="gzip;q=0, br")).headers
    assert not (await site.ask("POST", "/v2/models/simple/infer", BODY, accept_encoding="gzip")).headers
    assert not (await Site(compress_above_bytes=None).ask("POST", path, body, accept_encoding="gzip")).headers


@pytest.mark.parametrize("count", [100, 100_000])
async def test_small_and_large_bodies_pass_compressed_both_ways(count: int) -> None:
    """The large one is worked on by a thread."""
    site = Site(max_body_bytes=10_000_000)
    data = np.random.default_rng(1).random(count, np.float32)
    raw = gzip.compress(data.tobytes())
    path = "/v2/models/identity_fp32/infer"
    headers = {"content_encoding": "gzip", "accept_encoding": "deflate", "inference_header_content_length": "0"}
    response = await site.ask("POST", path, raw, **headers)
    body = b"".join(response.body)
    if ("content-encoding", "deflate") in response.headers:
        body = zlib.decompress(body)
    else:
        assert count == 100
    assert body[int(dict(response.headers)["inference-header-content-length"]) :] == data.tobytes()


async def test_a_large_body_that_cannot_be_read_is_refused_too() -> None:
    site = Site(max_body_bytes=100_000_000)
    noise = np.random.default_rng(1).bytes(20_000)
    response = await site.ask("POST", "/v2/models/simple/infer", noise, content_encoding="gzip")
    assert (response.status, "not valid gzip" in json_of(response)["error"]) == (400, True)
    bomb = gzip.compress(bytes(90_000_000))
    response = await site.ask("POST", "/v2/models/simple/infer", bomb, content_encoding="gzip")
    assert (response.status, "256 times what was sent" in json_of(response)["error"]) == (413, True)


@pytest.mark.parametrize("turns", [0, 1])
async def test_cancelling_while_a_body_is_inflated_leaves_nothing_behind(turns: int) -> None:
    site = Site(max_body_bytes=10_000_000)
    raw = gzip.compress(np.random.default_rng(1).bytes(400_000))
    headers = {b"content-encoding": b"gzip", b"inference-header-content-length": b"0"}
    answers: list[Response] = []
    request = Request("POST", "/v2/models/identity_fp32/infer", headers, raw, keep_alive=True)
    cancel = site.routes(request, answers.append)
    for _ in range(turns):
        await asyncio.sleep(0)
    assert cancel is not None
    cancel()
    await asyncio.gather(*site.routes._running, return_exceptions=True)
    assert (answers, site.api.seen) == ([], [])


@pytest.mark.parametrize(
    ("body", "coding", "status", "sentence"),
    [
        pytest.param(gzip.compress(bytes(LIMIT * 10)), "gzip", 413, f"more than {LIMIT} bytes", id="a bomb"),
        pytest.param(gzip.compress(BODY)[:-9], "gzip", 400, "cut short", id="cut short"),
        pytest.param(gzip.compress(BODY) + b"x", "gzip", 400, "something after its end", id="more than one"),
        pytest.param(b"plain", "gzip", 400, "not valid gzip", id="not gzip"),
        pytest.param(b"plain", "br", 400, "Content-Encoding 'br' is not understood", id="unknown"),
    ],
)
async def test_bodies_that_cannot_be_read_are_refused(
    site: Site, body: bytes, coding: str, status: int, sentence: str
) -> None:
    response = await site.ask("POST", "/v2/models/simple/infer", body, content_encoding=coding)
    assert response.status == status
    assert sentence in json_of(response)["error"]


async def test_a_body_of_exactly_the_limit_passes(site: Site) -> None:
    padded = BODY + b" " * (LIMIT - len(BODY))
    response = await site.ask("POST", "/v2/models/simple/infer", gzip.compress(padded), content_encoding="GZIP")
    assert response.status == 200


async def test_a_body_for_a_model_that_there_is_not_is_not_inflated(site: Site) -> None:
    for path in (
        "/v2/models/nope/infer",
        "/v2/nothing",
        "/v2/models/nope/generate",
        "/v2/models/simple/versions/9/generate_stream",
        "/v1/models/nope:predict",
        "/v1/models/simple:train",
        "/v1/models/simple/versions/9:predict",
    ):
        assert (await site.ask("POST", path, b"no gzip" * 1000, content_encoding="gzip")).status == 404, path
    assert (await site.ask("DELETE", "/v2/models/simple", b"no gzip" * 1000, content_encoding="gzip")).status == 405


@pytest.mark.parametrize("count", [100, 100_000])
async def test_inflated_bodies_that_wait_are_bounded_over_all_requests(count: int) -> None:
    raw = gzip.compress(np.random.default_rng(1).random(count, np.float32).tobytes())
    path = "/v2/models/identity_fp32/infer"
    body = json.dumps(
        {"id": "w", "inputs": [{"name": "INPUT0", "shape": [count], "datatype": "FP32", "data": [0.5] * count}]}
    ).encode()
    site = Site()
    site.routes = Routes(site.api, SharedMemory(), RestOptions(10_000_000), Inflating(len(body) + count))
    waiting = Request("POST", path, {b"content-encoding": b"gzip"}, gzip.compress(body), keep_alive=True)
    headers = {"content_encoding": "gzip", "inference_header_content_length": "0"}
    for _ in range(2):  # also after a request that was cancelled
        site.api.hold = {"w"}
        site.api.holding.clear()
        cancel = site.routes(waiting, lambda _: None)
        await site.api.holding.wait()
        assert (await site.ask("POST", path, raw, **headers)).status == 503
        assert cancel is not None
        cancel()
        assert (await site.ask("POST", path, raw, **headers)).status == 200


# --- generate


async def test_generate_maps_plain_values_in_and_out(site: Site) -> None:
    body = b'{"id":"1","text_input":"hi","mark":"?","parameters":{"temperature":0.5}}'
    response = await site.ask("POST", "/v2/models/say/generate", body)
    assert json_of(response) == {"id": "1", "model_name": "say", "model_version": "1", "text_output": "HI?"}
    assert site.api.seen[0].parameters == {"mark": "?", "temperature": 0.5}


async def test_generate_wants_exactly_one_answer(site: Site) -> None:
    response = await site.ask("POST", "/v2/models/shout/generate", b'{"text_input":["a","b"]}')
    assert response.status == 400
    assert "gave more than one answer where exactly one is expected, use generate_stream" in json_of(response)["error"]
    assert json_of(await site.ask("POST", "/v2/models/shout/generate", b'{"text_input":"a"}'))["text_output"] == "A!"


async def test_generate_stops_a_model_at_its_second_answer(site: Site) -> None:
    response = await site.ask("POST", "/v2/models/count/generate", b'{"IN":1000}')
    assert (response.status, site.api.produced, site.api.closed_streams) == (400, 2, 1)
    none = await site.ask("POST", "/v2/models/count/generate", b'{"IN":0}')
    assert "gave no answer where" in json_of(none)["error"]


async def events_of(stream: AsyncIterator[bytes] | None) -> list[Any]:
    assert stream is not None
    pieces = [piece async for piece in stream]
    assert all(piece.startswith(b"data: ") and piece.endswith(b"\n\n") for piece in pieces)
    return [json.loads(piece[6:]) for piece in pieces]


async def test_generate_stream_sends_events(site: Site) -> None:
    response = await site.ask("POST", "/v2/models/shout/versions/1/generate_stream", b'{"text_input":["a","b"]}')
    assert response.content_type == "text/event-stream"
    assert [event["text_output"] for event in await events_of(response.stream)] == ["A!", "B!"]
    assert site.api.closed_streams == 1


async def test_a_stream_that_fails_later_ends_with_an_error_event(site: Site) -> None:
    response = await site.ask("POST", "/v2/models/count/generate_stream", b'{"IN":-1}')
    assert [event.get("OUT", event.get("error")) for event in await events_of(response.stream)] == [
        0,
        1,
        "counting failed",
    ]


async def test_a_stream_that_fails_at_once_has_a_status(site: Site) -> None:
    assert (await site.ask("POST", "/v2/models/count/generate_stream", b'{"IN":"x"}')).status == 400
    assert (await site.ask("POST", "/v2/models/nope/generate_stream", b'{"IN":"x"}')).status == 404


async def test_a_stream_nobody_reads_is_closed(site: Site) -> None:
    response = await site.ask("POST", "/v2/models/count/generate_stream", b'{"IN":100}')
    stream: Any = response.stream
    await stream.aclose()
    assert site.api.closed_streams == 1
    assert [event async for event in stream] == []


# --- V1


async def test_v1_predicts(site: Site) -> None:
    row = list(range(16))
    body = json.dumps({"instances": [{"INPUT0": row, "INPUT1": row}]}).encode()
    answer = json_of(await site.ask("POST", "/v1/models/simple:predict", body))
    assert answer == {"predictions": [{"OUTPUT0": [2 * value for value in row], "OUTPUT1": [0] * 16}]}
    assert json_of(await site.ask("POST", "/v1/models/simple/versions/1:predict", body)) == answer


async def test_v1_lists_models_and_says_whether_they_are_ready(site: Site) -> None:
    assert "simple" in json_of(await site.ask("GET", "/v1/models"))["models"]
    assert json_of(await site.ask("GET", "/v1/models/simple")) == {"name": "simple", "ready": True}


async def test_unloading_dependents_is_refused_not_ignored(site: Site) -> None:
    path = "/v2/repository/models/simple/unload"
    response = await site.ask("POST", path, b'{"parameters":{"unload_dependents":true}}')
    assert (response.status, "one by one" in json_of(response)["error"]) == (501, True)
    assert (await site.ask("POST", path, b'{"parameters":{"unload_dependents":false}}')).status == 200
