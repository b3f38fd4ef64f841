"""Raw bytes before and behind the gateway: what it lets pass, slipway-runtime's own parser reads as the same."""

import contextlib
import json
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest
from hpack import Encoder

from slipway.api.routing import RoutedMatch, RoutedMirror
from slipway.api.traffic import Match
from slipway.gateway.views import Endpoint
from slipway_runtime.wire.http1_messages import Answer, Request, Response
from slipway_runtime.wire.http1_server import HttpServer, Limits
from tests.gateway import clients, envoy, pods
from tests.gateway.services import service
from tests.gateway.waiting import until
from tests.runtime import smuggling
from tests.runtime.http2_peer import PREFACE, frame, settings

HOST = "hello.vision"


@contextlib.asynccontextmanager
async def runtime(seen: list[Request]) -> AsyncIterator[Endpoint]:
    """The HTTP/1.1 of slipway-runtime, with no model behind it."""

    def handle(request: Request, answer: Answer) -> None:
        seen.append(request)
        answer(Response(200, (b"{}",)))

    server = HttpServer(handle, Limits(1 << 20, 1 << 24, 1000, 75.0))
    port = await server.listen("127.0.0.1", 0)
    try:
        yield Endpoint("127.0.0.1", port)
    finally:
        await server.close()


async def test_no_form_of_one_request_is_answered_or_passed_on_as_two(tmp_path: Path) -> None:
    seen: list[Request] = []
    async with runtime(seen) as one:
        view = service({"old": 10_000}, {"old": [one]}, name="hello")
        async with envoy.serving(tmp_path, view) as gateway:
            forms = list(smuggling.forms(HOST))
            answers = await clients.raws(gateway.port, [form for _, form in forms], wait_s=0.7)
            found = {name: clients.statuses(answer) for (name, _), answer in zip(forms, answers, strict=True)}
            passed = [(request.method, request.path) for request in seen]
            seen.clear()
            two = clients.statuses(await clients.raw(gateway.port, smuggling.two(HOST), wait_s=0.7))
    assert len(forms) >= 200
    wrong = {name: some for name, some in found.items() if len([code for code in some if code < 400]) > 1}
    assert wrong == {}
    # What the gateway takes as one the runtime takes as that one: the second request, which is in it, never shows.
    assert set(passed) <= {("POST", "/v2/models/hello/infer")}
    assert len(passed) == sum(code < 400 for some in found.values() for code in some)
    assert sum(some == [400] for some in found.values()) > 0.5 * len(forms)
    assert two == [200, 200], "two that are two are answered as two, or this would see nothing"
    assert [request.method for request in seen] == ["POST", "GET"]


IDENTITY = ["x-slipway-tenant", "X-Slipway-Tenant", "x-slipway-scope", "x-slipway-shadow", "x-slipway-revision"]
PROXIES = [
    *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-prefix"),
    *("forwarded", "x-real-ip", "x-original-url", "x-rewrite-url", "x-envoy-external-address", "x-envoy-internal"),
    *("x-envoy-original-path", "x-envoy-upstream-rq-timeout-ms", "x-envoy-retry-on", "x-envoy-max-retries"),
    *("x-envoy-decorator-operation", "x-envoy-force-trace", "x-envoy-downstream-service-cluster"),
    *("x-envoy-upstream-alt-stat-name", "x-envoy-hedge-on-per-try-timeout", "x-envoy-expected-rq-timeout-ms"),
    *("x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-ip-tags", "x-envoy-attempt-count", "x-request-id"),
]
UNDERSCORES = ["x_slipway_tenant", "X_API_KEY", "x-slipway_tenant", "x_slipway-scope", "content_length", "host_"]
CONNECTION = [f"connection\0{name}" for name in ("x-slipway-tenant", "authorization", "x-api-key", "close, host")]


async def test_forged_headers_give_no_rights_and_reach_no_pod(tmp_path: Path) -> None:
    """Everyone of them asks for a closed revision, another client's name or another way."""
    forged = [(name, value) for name in IDENTITY + PROXIES for value in ("closed", "vision/hello")]
    forged += [tuple(name.split("\0")) for name in CONNECTION]  # type: ignore[misc]
    seen: list[Request] = []
    async with runtime(seen) as one, pods.pod("closed") as closed:
        view = service(
            {"closed": 0, "old": 10_000},
            {"old": [one], "closed": [closed]},
            name="hello",
            rules=[RoutedMatch(revision="closed", match=[Match(header="x-group", exact="beta")])],
        )
        async with envoy.serving(tmp_path, view) as gateway:
            forms = [_head((name, value)) for name, value in forged]
            answers = await clients.raws(gateway.port, forms)
            assert len(forms) >= 40
            for (name, value), answer in zip(forged, answers, strict=True):
                assert clients.statuses(answer) in ([200], [400], [403]), (name, value, answer)
            assert len(seen) >= len(IDENTITY + PROXIES)
            refused = await clients.raws(gateway.port, [_head((name, "x")) for name in UNDERSCORES])
            assert [clients.statuses(answer) for answer in refused] == [[400]] * len(UNDERSCORES)
            assert closed.seen == []
            assert b"closed" in await clients.raw(gateway.port, _head(("x-group", "beta")))
    for request in seen:
        values = {value for name, value in request.headers.items() if name != b"x-group"}
        assert not {b"closed", b"vision/hello"} & values, request.headers
        ours = {name: value for name, value in request.headers.items() if name.startswith(b"x-slipway-")}
        assert ours == {b"x-slipway-revision": b"old"}, "the gateway's own word, whatever the caller wrote"


def _head(*headers: tuple[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    close = "" if any(name == "connection" and "close" in value for name, value in headers) else "connection: close\r\n"
    return f"GET /v2 HTTP/1.1\r\nhost: {HOST}\r\n{close}{lines}\r\n".encode()


H2 = {
    "a line break in the path": [(":path", "/v2 HTTP/1.1\r\nx: y")],
    "a line break in a value": [(":path", "/v2"), ("x-a", "b\r\nx-slipway-tenant: c")],
    "a bare line feed in a value": [(":path", "/v2"), ("x-a", "b\nc: d")],
    "a NUL in a value": [(":path", "/v2"), ("x-a", "b\0c")],
    "a colon in a name": [(":path", "/v2"), ("x:a", "b")],
    "a blank in a name": [(":path", "/v2"), ("x a", "b")],
    "a name in capitals": [(":path", "/v2"), ("X-A", "b")],
    "transfer-encoding": [(":path", "/v2"), ("transfer-encoding", "chunked")],
    "connection": [(":path", "/v2"), ("connection", "close")],
    "a length that is not the body's": [(":path", "/v2"), ("content-length", "50")],
    "two lengths": [(":path", "/v2"), ("content-length", "0"), ("content-length", "5")],
    "two paths": [(":path", "/v2"), (":path", "/v2/logging")],
    "a pseudo-header after others": [("x-a", "b"), (":path", "/v2/logging")],
    "an unknown pseudo-header": [(":path", "/v2"), (":x", "y")],
    "no path": [],
    "an empty path": [(":path", "")],
    "a blank in the path": [(":path", "/v2 x")],
    "te other than trailers": [(":path", "/v2"), ("te", "gzip")],
    "another host": [(":path", "/v2"), ("host", "other.vision")],
    "an underscore": [(":path", "/v2"), ("x_slipway_tenant", "me")],
}


@pytest.mark.parametrize("form", H2)
async def test_what_http2_can_say_and_http1_cannot_does_not_reach_a_pod(tmp_path: Path, form: str) -> None:
    seen: list[Request] = []
    async with runtime(seen) as one:
        view = service({"old": 10_000}, {"old": [one]}, name="hello")
        async with envoy.serving(tmp_path, view) as gateway:
            fields = [(":method", "GET"), (":scheme", "http"), (":authority", HOST), *H2[form]]
            block = Encoder().encode(fields, huffman=False)
            await clients.raw(gateway.port, PREFACE + settings({}) + frame(1, 5, 1, block), wait_s=0.3)
    assert len(seen) <= 1
    for request in seen:
        # Where it is answered at all, it is as the plain request that it also could be.
        assert form in {"two lengths", "te other than trailers", "another host", "a name in capitals"}, request
        assert (request.path, request.headers[b"host"]) == ("/v2", HOST.encode())


async def test_a_second_head_in_a_body_stays_a_body_on_the_way_to_copies_too(tmp_path: Path) -> None:
    seen: list[Request] = []
    copies: list[Request] = []
    inner = f"POST /v2/models/hello/infer HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n"
    async with runtime(seen) as one, runtime(copies) as other:
        view = service(
            {"old": 10_000, "b": 0},
            {"old": [one], "b": [other]},
            name="hello",
            mirror=RoutedMirror(revision="b", share=10_000),
        )
        async with envoy.serving(tmp_path, view) as gateway:
            for length, body in product((True, False), (inner, json.dumps(inner))):
                framing = f"content-length: {len(body)}" if length else "transfer-encoding: chunked"
                sent = body if length else f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
                head = f"POST /v2/models/hello/infer HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{framing}\r\n\r\n"
                assert clients.statuses(await clients.raw(gateway.port, (head + sent).encode())) == [200]
            await until(lambda: len(copies) >= 4, "every copy arrives, for which no answer waits")
    assert len(seen) == len(copies) == 4
    assert {bytes(request.body) for request in seen + copies} == {inner.encode(), json.dumps(inner).encode()}
