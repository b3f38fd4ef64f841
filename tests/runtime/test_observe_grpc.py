"""A line and a span for every gRPC call, by grpcio as the client: answered, refused, given up, streamed."""

import asyncio
import logging
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slipway_runtime.observe import Tracer
from slipway_runtime.observe_grpc import Methods, logged_calls, traced_calls
from slipway_runtime.wire.grpc_calls import Call, GrpcServer, StreamCall, streaming, unary
from slipway_runtime.wire.grpc_messages import Code, GrpcError
from slipway_runtime.wire.http1_messages import Answer, Cancel, Request
from slipway_runtime.wire.http1_server import HttpServer, Limits
from tests.runtime.process import ServerProcess

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Log = pytest.LogCaptureFixture


class Site:
    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.given_up = asyncio.Event()
        self.methods: Methods = {
            b"/t.T/Echo": lambda call, message: call.reply(message),
            b"/t.T/Refuse": lambda call, message: call.fail(Code.NOT_FOUND, "none"),
            b"/t.T/Pieces": lambda call, message: call.reply([message, message]),
            b"/t.T/Raise": self.raises,
            b"/t.T/Wait": self.wait,
            b"/t.T/Async": unary(self.replies),
            b"/t.T/Chat": streaming(self.chat),
        }

    def raises(self, call: Call, message: bytes) -> None:
        raise GrpcError(Code.UNAVAILABLE, "raised")

    def wait(self, call: Call, message: bytes) -> None:
        call.on_cancel = self.given_up.set
        self.waiting.set()

    async def replies(self, call: Call, message: bytes) -> bytes:
        await asyncio.sleep(0)
        if message == b"bad":
            raise GrpcError(Code.INVALID_ARGUMENT, "bad")
        return (call.header(b"x-one") or b"") + message

    async def chat(self, call: StreamCall) -> None:
        async for message in call:
            if message == b"bad":
                raise GrpcError(Code.INTERNAL, "bad")
            await call.send(message)


def http(request: Request, answer: Answer) -> Cancel | None:
    raise AssertionError(request)


@asynccontextmanager
async def served(methods: Methods) -> AsyncIterator[grpc.aio.Channel]:
    calls = GrpcServer(methods, max_message_bytes=1 << 20, max_held_bytes=1 << 24, idle_timeout_s=60)
    limits = Limits(body_bytes=1 << 20, held_bytes=1 << 24, connections=10, idle_timeout_s=60)
    server = HttpServer(http, limits, calls.connection)
    port = await server.listen("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await calls.close(20)  # the client has gone: that it takes a moment is all there is to wait for
    await server.close()


async def test_connections_of_http2_count_as_connections() -> None:
    calls = GrpcServer({}, max_message_bytes=1, max_held_bytes=1, idle_timeout_s=60)
    limits = Limits(body_bytes=1, held_bytes=1, connections=2, idle_timeout_s=60)
    server = HttpServer(http, limits, calls.connection)
    port = await server.listen("127.0.0.1", 0)

    async def connected() -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            return await reader.read(9), writer
        except ConnectionError:
            return b"", writer

    async with asyncio.timeout(20):
        first, second = await connected(), await connected()
        assert (first[0] != b"", second[0] != b"", server.connection_count) == (True, True, 2)
        refused = await connected()
        assert refused[0] == b""
        refused[1].transport.abort()
        first[1].transport.abort()
        while server.connection_count == 2:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)
        third = await connected()
        assert third[0] != b""
        second[1].transport.abort()
        third[1].transport.abort()
        while server.connection_count:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)
    await calls.close(1)
    await server.close()


async def ask(channel: grpc.aio.Channel, name: str, message: bytes, **metadata: str) -> Any:
    """The answer, or the name of the status."""
    try:
        return await channel.unary_unary(f"/t.T/{name}")(message, metadata=tuple(metadata.items()), timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code().name


def lines(caplog: Log) -> list[tuple[str, str, int, int]]:
    found = [dict(vars(record)["f"]) for record in caplog.records if record.name == "slipway.access"]
    assert all(line["ms"] >= 0 for line in found)
    return [(line["rpc"], line["code"], line["bytes_in"], line["bytes_out"]) for line in found]


@pytest.mark.parametrize(
    ("name", "message", "answer", "line"),
    [
        ("Echo", b"abc", b"abc", ("/t.T/Echo", "OK", 3, 3)),
        ("Pieces", b"abc", b"abcabc", ("/t.T/Pieces", "OK", 3, 6)),
        ("Refuse", b"abc", "NOT_FOUND", ("/t.T/Refuse", "NOT_FOUND", 3, 0)),
        ("Raise", b"", "UNAVAILABLE", ("/t.T/Raise", "UNAVAILABLE", 0, 0)),
        ("Async", b"abc", b"1abc", ("/t.T/Async", "OK", 3, 4)),
        ("Async", b"bad", "INVALID_ARGUMENT", ("/t.T/Async", "INVALID_ARGUMENT", 3, 0)),
    ],
)
async def test_a_line_says_what_was_called_and_how_it_ended(
    caplog: Log, name: str, message: bytes, answer: object, line: tuple[str, str, int, int]
) -> None:
    caplog.set_level(logging.INFO)
    async with served(logged_calls(Site().methods)) as channel:
        assert await ask(channel, name, message, **{"x-one": "1"}) == answer
    assert lines(caplog) == [line]


async def test_a_call_that_was_given_up_reaches_the_method_and_has_a_line(caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    site = Site()
    async with served(logged_calls(site.methods)) as channel:
        call = channel.unary_unary("/t.T/Wait")(b"abc")
        await site.waiting.wait()
        call.cancel()
        await site.given_up.wait()
    assert lines(caplog) == [("/t.T/Wait", "CANCELLED", 3, 0)]


@pytest.mark.parametrize(("messages", "code"), [([b"a", b"b"], "OK"), ([b"a", b"bad"], "INTERNAL")])
async def test_a_stream_has_one_line_at_its_end(caplog: Log, messages: list[bytes], code: str) -> None:
    caplog.set_level(logging.INFO)
    async with served(logged_calls(Site().methods)) as channel:
        call = channel.stream_stream("/t.T/Chat")(iter(messages))
        answers = []
        try:
            async for answer in call:
                answers.append(answer)  # noqa: PERF401 - those before the error are kept
        except grpc.aio.AioRpcError as error:
            assert error.code().name == code  # noqa: PT017
    assert answers[0] == b"a"
    assert lines(caplog) == [("/t.T/Chat", code, 0, 0)]


async def spans(call: Callable[[grpc.aio.Channel], Awaitable[Any]]) -> Any:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter)
    async with served(traced_calls(tracer, logged_calls(Site().methods))) as channel:
        await call(channel)
    tracer.close()
    return exporter.get_finished_spans()


async def test_a_span_is_the_child_of_the_callers() -> None:
    (span,) = await spans(lambda channel: ask(channel, "Echo", b"", traceparent=f"00-{TRACE}-{PARENT}-01"))
    assert (span.name, span.kind.name, span.status.is_ok) == ("t.T/Echo", "SERVER", True)
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert dict(span.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "t.T",
        "rpc.method": "Echo",
        "rpc.grpc.status_code": 0,
    }


@pytest.mark.parametrize(("name", "code", "failed"), [("Refuse", 5, False), ("Raise", 14, True)])
async def test_only_failures_of_the_server_mark_a_span(name: str, code: int, failed: bool) -> None:
    (span,) = await spans(lambda channel: ask(channel, name, b""))
    assert span.attributes["rpc.grpc.status_code"] == code
    assert (span.status.status_code.name == "ERROR") is failed


@pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things
def test_a_server_logs_requests_of_both_protocols_when_told(launch: Callable[..., ServerProcess]) -> None:
    server = launch("--model", "sample://hello", "--access-log", "true").wait_ready()
    x = grpc_client.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.ones((1, 4), np.float32))
    with grpc_client.InferenceServerClient(server.grpc) as client:
        assert client.infer("hello", [x]).as_numpy("y").tolist() == [[3.0] * 4]
    assert server.wait_log("call")["rpc"] == "/inference.GRPCInferenceService/ModelInfer"
    with urllib.request.urlopen(f"http://{server.http}/v2", timeout=20) as response:
        response.read()
    line = server.wait_log("request")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v2", 200)
