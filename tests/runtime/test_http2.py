"""HTTP/2 as a peer sees it, frame by frame: states of streams, windows, limits, floods, draining."""

import asyncio
import struct
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_runtime.wire.grpc_calls import Call, GrpcServer, StreamCall, streaming
from slipway_runtime.wire.http2_frames import ErrorCode
from slipway_runtime.wire.http2_limits import (
    HELLO_S,
    MAX_BLOCK_BYTES,
    MAX_HEADER_BYTES,
    MAX_STREAMS,
    STALL_TIMEOUT_S,
    STREAM_WINDOW,
)
from tests.runtime import http2_peer as raw
from tests.runtime.http2_peer import Peer, frame, message, u32

IDLE_S = 300.0
MIB = 2**20


class Site:
    """A server with methods that echo at once, never, or when they are told to."""

    def __init__(self, max_held_bytes: int = 64 * MIB) -> None:
        self.waiting: list[tuple[Call, bytes]] = []
        self.cancelled: list[Call] = []
        self.server = GrpcServer(
            {
                b"/test.Test/Echo": lambda call, text: call.reply(text),
                b"/test.Test/Wait": self.wait,
                b"/test.Test/Chat": streaming(self.chat),
                b"/test.Test/Deaf": streaming(self.deaf),
            },
            max_message_bytes=32 * MIB,
            max_held_bytes=max_held_bytes,
            idle_timeout_s=IDLE_S,
        )

    def wait(self, call: Call, text: bytes) -> None:
        self.waiting.append((call, text))
        call.on_cancel = lambda: self.cancelled.append(call)

    async def chat(self, call: StreamCall) -> None:
        async for text in call:
            await call.send(text)

    async def deaf(self, call: StreamCall) -> None:
        await asyncio.Event().wait()

    def peer(self, *, greets: bool = True, window: int = 65_535) -> Peer:
        return Peer(self.server, greets=greets, window=window)


def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock: a machine that is busy must not make a flood look like a brook."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", partial(float, loop.time()))


@pytest.fixture
async def site() -> Site:
    return Site()


# --- requests and answers


async def test_a_request_is_answered(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1))
    fields, body = await peer.answer(1)
    assert fields == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
    assert body == message(b"hello")


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 10, 64, 1000])
async def test_requests_may_arrive_in_pieces_of_any_size(site: Site, piece: int) -> None:
    peer = site.peer(greets=False)
    calls = b"".join(peer.request(stream, b"text of %d" % stream) for stream in (1, 3, 5))
    peer.send(raw.PREFACE + raw.settings({}) + calls, piece)
    for stream in (1, 3, 5):
        assert (await peer.answer(stream))[1] == message(b"text of %d" % stream)


async def test_padding_priority_and_continuation_change_nothing(site: Site) -> None:
    peer = site.peer()
    block = peer.block()
    head = b"\x03" + b"\0\0\0\x05\x10" + block[:9] + b"\0\0\0"
    peer.send(frame(raw.HEADERS, raw.PADDED | raw.HAS_PRIORITY, 1, head))
    peer.send(frame(raw.CONTINUATION, 0, 1, block[9:12]) + frame(raw.CONTINUATION, raw.END_HEADERS, 1, block[12:]))
    peer.send(frame(raw.DATA, raw.PADDED, 1, b"\x04" + message(b"hello")[:7] + b"\0\0\0\0"))
    peer.send(frame(raw.DATA, raw.PADDED | raw.END_STREAM, 1, b"\x00" + message(b"hello")[7:]))
    assert (await peer.answer(1))[1] == message(b"hello")


async def test_a_body_may_end_with_trailers_or_an_empty_frame(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None) + frame(raw.DATA, 0, 1, message(b"a")))
    peer.send(frame(raw.HEADERS, raw.END_STREAM | raw.END_HEADERS, 1, peer.block((("x-last", "1"),))))
    peer.send(peer.request(3, None) + frame(raw.DATA, 0, 3, message(b"b")) + frame(raw.DATA, raw.END_STREAM, 3))
    assert (await peer.answer(1))[1] == message(b"a")
    assert (await peer.answer(3))[1] == message(b"b")


async def test_unknown_frames_are_ignored(site: Site) -> None:
    peer = site.peer()
    peer.send(frame(0xBE, 0xFF, 0, b"what") + peer.request(1) + frame(0xBF, 0, 7))
    assert (await peer.answer(1))[0]["grpc-status"] == "0"


async def test_a_ping_comes_back_and_settings_are_acknowledged(site: Site) -> None:
    peer = site.peer()
    peer.send(frame(raw.PING, 0, 0, b"12345678") + frame(raw.PING, raw.ACK, 0, b"87654321"))
    frames = await peer.frames()
    assert [got.payload for got in frames if got.type == raw.PING] == [b"12345678"]
    assert [got.flags for got in frames if got.type == raw.SETTINGS] == [0, raw.ACK]


async def test_answers_of_one_turn_leave_in_one_write(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = site.peer()
    peer.send(b"".join(peer.request(stream, path="/test.Test/Wait") for stream in range(1, 21, 2)))
    await peer.frames()
    writes: list[int] = []
    monkeypatch.setattr(peer.transport, "write", lambda data: writes.append(len(data)))
    for call, text in site.waiting:
        call.reply(text)
    await peer.frames()
    assert len(writes) == 1
    assert writes[0] > 10 * len(message(b"hello"))


# --- what is refused


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(raw.FIELDS[1:], id="no method"),
        pytest.param((raw.FIELDS[0], *raw.FIELDS[2:]), id="no scheme"),
        pytest.param((*raw.FIELDS[:2], *raw.FIELDS[3:]), id="no path"),
        pytest.param((*raw.FIELDS[:2], (":path", ""), *raw.FIELDS[3:]), id="empty path"),
        pytest.param((*raw.FIELDS[:2], (":path", "no-slash"), *raw.FIELDS[3:]), id="path that is none"),
        pytest.param((*raw.FIELDS, (":path", "/late")), id="pseudo header after others"),
        pytest.param((raw.FIELDS[0], *raw.FIELDS), id="method twice"),
        pytest.param(((":status", "200"), *raw.FIELDS), id="pseudo header of answers"),
        pytest.param((*raw.FIELDS, ("X-Upper", "1")), id="upper case"),
        pytest.param((*raw.FIELDS, ("connection", "close")), id="connection"),
        pytest.param((*raw.FIELDS, ("transfer-encoding", "chunked")), id="transfer-encoding"),
        pytest.param((*raw.FIELDS, ("te", "trailers, deflate")), id="te"),
        pytest.param((*raw.FIELDS, ("x", "a\nb")), id="line feed in a value"),
        pytest.param((*raw.FIELDS, ("x", " a")), id="space before a value"),
        pytest.param((*raw.FIELDS, ("x y", "a")), id="space in a name"),
        pytest.param((*raw.FIELDS, ("", "a")), id="empty name"),
        pytest.param((*raw.FIELDS, ("content-length", "-1")), id="negative length"),
        pytest.param((*raw.FIELDS, ("content-length", "10"), ("content-length", "11")), id="two lengths"),
        pytest.param((*raw.FIELDS, ("content-length", "9" * 16)), id="endless length"),
        pytest.param((*raw.FIELDS, ("content-length", "9")), id="length below the body's"),
        pytest.param((*raw.FIELDS, ("content-length", "11")), id="length above the body's"),
    ],
)
async def test_a_malformed_request_ends_its_stream_and_no_other(
    site: Site, fields: tuple[tuple[str, str], ...]
) -> None:
    peer = site.peer()
    peer.send(frame(raw.HEADERS, raw.END_HEADERS, 1, peer.block(fields)))
    peer.send(frame(raw.DATA, raw.END_STREAM, 1, message(b"hello")))
    peer.send(peer.request(3))
    assert await peer.reset(1) == ErrorCode.PROTOCOL_ERROR
    assert (await peer.answer(3))[0]["grpc-status"] == "0"


async def test_the_right_content_length_is_no_problem(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, content_length="10"))
    assert (await peer.answer(1))[0]["grpc-status"] == "0"


@pytest.mark.parametrize(("name", "value", "status"), [("method", "GET", "405"), ("content-type", "text/html", "415")])
async def test_a_request_that_is_not_grpc_gets_an_answer_of_http(
    site: Site, name: str, value: str, status: str
) -> None:
    peer = site.peer()
    peer.send(frame(raw.HEADERS, raw.END_HEADERS, 1, peer.block(raw.FIELDS, {name: value})))
    peer.send(frame(raw.DATA, raw.END_STREAM, 1, message(b"hello")))
    fields, body = await peer.answer(1)
    assert fields[":status"] == status
    assert body.startswith(b"gRPC is spoken here")


async def test_a_long_request_that_is_not_grpc_is_not_read_to_its_end(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None, content_type="text/html"))
    peer.send(frame(raw.DATA, 0, 1, bytes(MIB - 1)))
    assert (await peer.answer(1))[0][":status"] == "415"
    assert await peer.reset(1) == ErrorCode.NO_ERROR


BROKEN: dict[str, tuple[Callable[[Peer], bytes], ErrorCode]] = {
    "DATA of no stream": (lambda p: frame(raw.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA of a stream that has not begun": (lambda p: frame(raw.DATA, 0, 9, b"x"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS of no stream": (lambda p: p.request(0), ErrorCode.PROTOCOL_ERROR),
    "HEADERS of an even stream": (lambda p: p.request(2), ErrorCode.PROTOCOL_ERROR),
    "HEADERS of an earlier stream": (lambda p: p.request(5) + p.request(3), ErrorCode.STREAM_CLOSED),
    "HEADERS again": (lambda p: p.request(1) + p.request(1), ErrorCode.STREAM_CLOSED),
    "DATA after the end": (lambda p: p.request(1) + frame(raw.DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
    "HEADERS shorter than their priority": (lambda p: frame(raw.HEADERS, 36, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "a stream that depends on itself": (
        lambda p: frame(raw.HEADERS, 36, 1, u32(1) + b"\0" + p.block()),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PRIORITY of no stream": (lambda p: frame(raw.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "PRIORITY on itself": (lambda p: frame(raw.PRIORITY, 0, 3, u32(3) + b"\0"), ErrorCode.PROTOCOL_ERROR),
    "a short PRIORITY": (lambda p: frame(raw.PRIORITY, 0, 3, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM of no stream": (lambda p: frame(raw.RST_STREAM, 0, 0, u32(8)), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM before HEADERS": (lambda p: frame(raw.RST_STREAM, 0, 1, u32(8)), ErrorCode.PROTOCOL_ERROR),
    "a short RST_STREAM": (lambda p: p.request(1) + frame(raw.RST_STREAM, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (lambda p: frame(raw.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS ACK with content": (lambda p: frame(raw.SETTINGS, raw.ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS of half a pair": (lambda p: frame(raw.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "PUSH_PROMISE": (lambda p: frame(raw.PUSH_PROMISE, 4, 1, u32(2)), ErrorCode.PROTOCOL_ERROR),
    "PING of a stream": (lambda p: frame(raw.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a short PING": (lambda p: frame(raw.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY of a stream": (lambda p: frame(raw.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of 0": (lambda p: frame(raw.WINDOW_UPDATE, 0, 0, u32(0)), ErrorCode.PROTOCOL_ERROR),
    "a connection's window beyond 2^31-1": (
        lambda p: frame(raw.WINDOW_UPDATE, 0, 0, u32(2**31 - 1)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a short WINDOW_UPDATE": (lambda p: frame(raw.WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE before HEADERS": (lambda p: frame(raw.WINDOW_UPDATE, 0, 1, u32(1)), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (lambda p: frame(raw.CONTINUATION, 4, 1), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION of another stream": (
        lambda p: frame(raw.HEADERS, 0, 1, b"\x82") + frame(raw.CONTINUATION, 4, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "a frame within a header block": (
        lambda p: frame(raw.HEADERS, 0, 1, b"\x82") + frame(raw.PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "too much padding": (lambda p: p.request(1, None) + frame(raw.DATA, 8, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "a header block that cannot be read": (lambda p: frame(raw.HEADERS, 5, 1, b"\xff"), ErrorCode.COMPRESSION_ERROR),
    "a frame that is too large": (lambda p: b"\x10\0\x01\0\0\0\0\0\x01", ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("piece", [0, 1], ids=["at once", "byte by byte"])
async def test_a_peer_that_breaks_the_protocol_is_sent_away(site: Site, name: str, piece: int) -> None:
    data, code = BROKEN[name]
    peer = site.peer()
    peer.send(data(peer), piece)
    assert await peer.goaway() == code
    peer.transport.abort()
    assert not site.server.connections
    assert site.server.held.count == 0


@pytest.mark.parametrize(
    "hello",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP/1.1"),
        pytest.param(raw.PREFACE[:-1] + b"x", id="a preface with a mistake"),
        pytest.param(raw.PREFACE + frame(raw.PING, 0, 0, bytes(8)), id="PING before SETTINGS"),
        pytest.param(raw.PREFACE + frame(raw.SETTINGS, raw.ACK, 0) * 2, id="only an ACK"),
    ],
)
async def test_who_does_not_say_hello_as_agreed_is_sent_away(site: Site, hello: bytes) -> None:
    peer = site.peer(greets=False)
    peer.send(hello)
    if hello.endswith(frame(raw.SETTINGS, raw.ACK, 0)):
        peer.send(peer.request(1))
    assert await peer.goaway() == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(lambda p: frame(raw.WINDOW_UPDATE, 0, 1, u32(0)), ErrorCode.PROTOCOL_ERROR, id="update of 0"),
        pytest.param(
            lambda p: frame(raw.WINDOW_UPDATE, 0, 1, u32(2**31 - 1)),
            ErrorCode.FLOW_CONTROL_ERROR,
            id="window too large",
        ),
        pytest.param(lambda p: frame(raw.PRIORITY, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR, id="short PRIORITY"),
        pytest.param(lambda p: frame(raw.PRIORITY, 0, 1, u32(1) + b"\0"), ErrorCode.PROTOCOL_ERROR, id="own child"),
        pytest.param(lambda p: frame(raw.HEADERS, 4, 1, p.block()), ErrorCode.PROTOCOL_ERROR, id="a second HEADERS"),
        pytest.param(lambda p: frame(raw.HEADERS, 5, 1, p.block()), ErrorCode.PROTOCOL_ERROR, id="pseudo trailers"),
        pytest.param(
            lambda p: frame(raw.DATA, 0, 1, message(b"x" * 9)[:5] + bytes(0)) + frame(raw.DATA, 0, 1, bytes(2**20 - 4)),
            ErrorCode.FLOW_CONTROL_ERROR,
            id="more than its window",
        ),
    ],
)
async def test_a_mistake_on_a_stream_ends_that_and_no_other(
    site: Site, frames: Callable[[Peer], bytes], code: ErrorCode
) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None, path="/test.Test/Deaf") + peer.request(3, path="/test.Test/Wait"))
    peer.send(frames(peer))
    assert await peer.reset(1) == code
    site.waiting[0][0].reply(b"still here")
    assert (await peer.answer(3))[1] == message(b"still here")
    assert site.server.held.count == 0


async def test_more_after_the_end_of_a_request_ends_its_stream(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, path="/test.Test/Wait") + frame(raw.DATA, 0, 1, b"more"))
    assert await peer.reset(1) == ErrorCode.STREAM_CLOSED
    assert len(site.cancelled) == 1


# --- streams that ended while something was under way


async def test_a_reset_cancels_a_call_once_and_its_answer_goes_nowhere(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, path="/test.Test/Wait"))
    reset = frame(raw.RST_STREAM, 0, 1, u32(8))
    peer.send(reset + reset)
    assert len(site.cancelled) == 1
    await peer.frames()
    peer.seen.clear()
    site.waiting[0][0].reply(b"too late")
    await peer.frames()
    assert peer.seen == []
    assert not site.server.is_busy()


async def test_a_reset_while_the_answer_waits_for_its_window_frees_it(site: Site) -> None:
    peer = site.peer(window=10)
    peer.send(peer.request(1, b"x" * 1000) + peer.request(3, b"y" * 1000, path="/test.Test/Wait"))
    await peer.frames()
    assert sum(peer.sizes(1)) == 10
    assert site.server.held.count == 1005 - 10
    peer.send(frame(raw.RST_STREAM, 0, 1, u32(8)))
    assert site.server.held.count == 0
    peer.send(frame(raw.WINDOW_UPDATE, 0, 1, u32(1000)))
    await peer.frames()
    assert sum(peer.sizes(1)) == 10
    assert await peer.goaway() is None


async def test_what_still_comes_for_a_stream_that_we_ended_is_ignored(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None, path="/no/where"))
    assert (await peer.answer(1))[0]["grpc-status"] == "12"
    assert await peer.reset(1) == ErrorCode.NO_ERROR
    peer.send(frame(raw.DATA, 0, 1, b"x" * 1000) + frame(raw.WINDOW_UPDATE, 0, 1, u32(5)))
    peer.send(frame(raw.HEADERS, raw.END_HEADERS | raw.END_STREAM, 1, peer.block((("x-last", "1"),))))
    peer.send(frame(raw.RST_STREAM, 0, 1, u32(8)) + peer.request(3))
    assert (await peer.answer(3))[0]["grpc-status"] == "0"
    assert await peer.goaway() is None


async def test_a_lost_connection_cancels_all_its_calls(site: Site) -> None:
    peer = site.peer()
    peer.send(b"".join(peer.request(stream, path="/test.Test/Wait") for stream in (1, 3, 5)))
    peer.send(peer.request(7, None) + frame(raw.DATA, 0, 7, message(bytes(1000))[:500]))
    assert site.server.held.count > 490
    peer.transport.abort()
    assert len(site.cancelled) == 3
    assert site.server.held.count == 0
    assert not site.server.is_busy()
    for call, text in site.waiting:
        call.reply(text)


async def test_one_cancel_that_fails_does_not_keep_the_others(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    peer = site.peer()
    peer.send(b"".join(peer.request(stream, path="/test.Test/Wait") for stream in (1, 3)))
    site.waiting[0][0].on_cancel = lambda: 1 / 0
    peer.transport.abort()
    assert len(site.cancelled) == 1
    assert "failed in the server itself" in caplog.text


# --- flow control


@pytest.mark.parametrize("window", [1, 7, 100])
async def test_an_answer_goes_through_a_tiny_window_as_it_opens(site: Site, window: int) -> None:
    peer = site.peer(window=window)
    text = bytes(range(256))
    peer.send(peer.request(1, text))
    for _ in range(len(message(text))):
        peer.send(frame(raw.WINDOW_UPDATE, 0, 1, u32(window)))
    fields, body = await peer.answer(1)
    assert body == message(text)
    assert fields["grpc-status"] == "0"
    assert max(peer.sizes(1)) <= 2 * window
    assert site.server.held.count == 0


async def test_streams_share_the_connections_window_in_turns(site: Site) -> None:
    peer = Peer(site.server, window=2**24, ours=1)  # 65,536 bytes for all
    for stream in (1, 3):
        peer.send(peer.request(stream, None) + frame(raw.DATA, raw.END_STREAM, stream, message(bytes(700_000))))
    peer.send(peer.request(5, b"small"))
    await peer.frames()
    assert sum(peer.sizes(1)) + sum(peer.sizes(3)) + sum(peer.sizes(5)) == 65_536
    for _ in range(30):
        peer.send(frame(raw.WINDOW_UPDATE, 0, 0, u32(65_536)))
        await peer.frames()
    assert [sum(peer.sizes(stream)) for stream in (1, 3, 5)] == [700_005, 700_005, 10]
    order = [got.stream for got in peer.seen if got.type == raw.DATA]
    assert order.index(5) < len(order) - 1 - order[::-1].index(1), "the small answer had to wait for all of a large one"


async def test_a_stream_whose_window_is_shut_keeps_nobody_else(site: Site) -> None:
    peer = site.peer(window=0)
    peer.send(peer.request(1) + peer.request(3) + frame(raw.WINDOW_UPDATE, 0, 3, u32(100)))
    assert (await peer.answer(3))[1] == message(b"hello")
    assert (await peer.answer(1))[1] == b""


async def test_a_new_initial_window_counts_for_streams_that_are_open(site: Site) -> None:
    peer = site.peer(window=4)
    peer.send(peer.request(1))
    assert (await peer.answer(1))[1] == message(b"hello")[:4]
    peer.send(raw.settings({4: 2}))  # two less than nothing
    peer.send(frame(raw.WINDOW_UPDATE, 0, 1, u32(2)))
    assert (await peer.answer(1))[1] == message(b"hello")[:4]
    peer.send(raw.settings({4: 3}))
    assert (await peer.answer(1))[1] == message(b"hello")[:5]
    peer.send(raw.settings({4: 100}))
    assert (await peer.answer(1))[0]["grpc-status"] == "0"


async def test_an_initial_window_that_overflows_a_streams_is_refused(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, path="/test.Test/Wait") + frame(raw.WINDOW_UPDATE, 0, 1, u32(2**31 - 1 - 65_535)))
    peer.send(raw.settings({4: 65_536}))
    assert await peer.goaway() == ErrorCode.FLOW_CONTROL_ERROR


async def test_frames_are_no_larger_than_the_peer_takes(site: Site) -> None:
    peer = site.peer(window=2**24)
    peer.send(frame(raw.WINDOW_UPDATE, 0, 0, u32(2**24)))
    peer.send(peer.request(1, bytes(100_000)))
    await peer.frames()
    assert max(peer.sizes(1)) == 16_384
    peer.send(raw.settings({5: 50_000}) + peer.request(3, bytes(100_000)))
    await peer.frames()
    assert max(peer.sizes(3)) == 50_000


async def test_a_peer_that_does_not_read_is_not_read_and_answers_stay_bounded(site: Site) -> None:
    peer = Peer(site.server, window=2**31 - 1, ours=2**30)
    peer.transport.takes = False
    for stream in range(1, 17, 2):
        peer.send(peer.request(stream, None) + frame(raw.DATA, raw.END_STREAM, stream, message(bytes(MIB - 10))))
    await peer.frames()
    assert not peer.transport.is_reading()
    assert peer.transport.unread < 4 * MIB
    assert site.server.held.count > 4 * MIB, "what waits counts"
    while peer.transport.unread:
        peer.transport.take()
        await peer.frames()
    assert peer.transport.is_reading()
    assert sum(sum(peer.sizes(stream)) for stream in range(1, 17, 2)) == 8 * (MIB - 5)
    assert site.server.held.count == 0


async def test_a_message_larger_than_the_window_is_let_through(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None, path="/test.Test/Wait"))
    text = bytes(3 * MIB)
    peer.send(frame(raw.DATA, 0, 1, message(text)[: MIB // 2]))
    await peer.frames()
    granted = sum(got.number for got in peer.seen if got.type == raw.WINDOW_UPDATE and got.stream == 1)
    assert granted == len(message(text)) - MIB
    for at in range(MIB // 2, len(message(text)), MIB // 2):
        peer.send(frame(raw.DATA, 0, 1, message(text)[at : at + MIB // 2]))
    peer.send(frame(raw.DATA, raw.END_STREAM, 1))
    assert site.waiting[0][1] == text
    assert site.server.held.count == 0


async def test_bytes_of_padding_are_given_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None, path="/test.Test/Deaf"))
    freeze(monkeypatch)
    peer.send(frame(raw.DATA, raw.PADDED, 1, b"\xff" + bytes(255)) * 6000)
    assert await peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM, "frames of nothing but padding are a flood"
    assert sum(got.number for got in peer.seen if got.type == raw.WINDOW_UPDATE and got.stream == 1) >= MIB // 2


async def test_the_connections_window_is_given_back_also_for_streams_that_ended(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None, path="/no/where"))
    for _ in range(17):
        peer.send(frame(raw.DATA, 0, 1, bytes(MIB)))
    await peer.frames()
    granted = [got.number for got in peer.seen if got.type == raw.WINDOW_UPDATE and got.stream == 0]
    assert granted == [2**30 - 65_535, 16 * MIB]


# --- limits


async def test_headers_beyond_the_limit_are_refused_and_the_connection_lives(site: Site) -> None:
    peer = site.peer()
    peer.send(frame(raw.HEADERS, 5, 1, peer.block((*raw.FIELDS, ("x-big", "x" * MAX_HEADER_BYTES)))))
    fields, _ = await peer.answer(1)
    assert fields["grpc-status"] == "8"
    assert "16384 bytes of headers" in fields["grpc-message"]
    peer.send(peer.request(3))
    assert (await peer.answer(3))[0]["grpc-status"] == "0"


async def test_streams_beyond_the_limit_are_refused(site: Site) -> None:
    peer = site.peer()
    calls = [peer.request(2 * number + 1, path="/test.Test/Wait") for number in range(MAX_STREAMS + 1)]
    peer.send(b"".join(calls))
    assert await peer.reset(2 * MAX_STREAMS + 1) == ErrorCode.REFUSED_STREAM
    site.waiting[0][0].reply(b"")
    peer.send(peer.request(2 * MAX_STREAMS + 3, path="/test.Test/Wait"))
    assert await peer.reset(2 * MAX_STREAMS + 3) is None
    assert len(site.waiting) == MAX_STREAMS + 1


async def test_messages_beyond_what_the_server_may_hold_are_refused_before_they_come() -> None:
    site = Site(max_held_bytes=10 * MIB)
    first, second = site.peer(), site.peer()
    data = message(bytes(6 * MIB))
    first.send(first.request(1, None) + frame(raw.DATA, 0, 1, data[:1000]))
    for at in range(1000, 5 * MIB, MIB // 2):
        first.send(frame(raw.DATA, 0, 1, data[at : at + MIB // 2]))
    second.send(second.request(1, None) + frame(raw.DATA, 0, 1, data[:1000]))
    fields, _ = await second.answer(1)
    assert fields["grpc-status"] == "8"
    assert "10485760 at most" in fields["grpc-message"]
    first.transport.abort()
    second.send(second.request(3, None, path="/test.Test/Wait") + frame(raw.DATA, 0, 3, message(bytes(6 * MIB))[:1000]))
    assert "grpc-status" not in (await second.answer(3))[0]


async def test_messages_that_are_announced_and_do_not_come_take_no_room() -> None:
    site = Site(max_held_bytes=10 * MIB)
    peers = [site.peer() for _ in range(8)]
    for peer in peers:
        peer.send(peer.request(1, None) + frame(raw.DATA, 0, 1, message(bytes(6 * MIB))[:1000]))
    assert site.server.held.count < 8 * 1100
    for peer in peers:
        peer.transport.abort()
    assert site.server.held.count == 0


async def test_answers_that_nobody_takes_count_as_held() -> None:
    site = Site(max_held_bytes=MIB)
    lazy, other = site.peer(window=0), site.peer()
    lazy.send(lazy.request(1, bytes(MIB - 100)))
    other.send(other.request(1, None) + frame(raw.DATA, 0, 1, message(bytes(50_000))[:10]))
    assert (await other.answer(1))[0]["grpc-status"] == "8"


async def test_many_tiny_pieces_of_a_message_take_no_more_memory_than_few(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None, path="/test.Test/Wait"))
    whole = message(bytes(200_000))
    for at in range(0, len(whole) - 1, 2):
        peer.send(frame(raw.DATA, 0, 1, whole[at : at + 2]))
    (stream,) = peer.connection._streams.values()
    assert len(stream._arriving._parts) < 10  # type: ignore[attr-defined]
    peer.send(frame(raw.DATA, raw.END_STREAM, 1, whole[-1:]))
    assert site.waiting[0][1] == whole[5:]


FLOODS: dict[str, Callable[[Peer], bytes]] = {
    "rapid reset": lambda p: b"".join(
        p.request(2 * n + 1, None) + frame(raw.RST_STREAM, 0, 2 * n + 1, u32(8)) for n in range(3000)
    ),
    "RST_STREAM of a stream that has ended": lambda p: p.request(1) + frame(raw.RST_STREAM, 0, 1, u32(8)) * 3000,
    "PING": lambda p: frame(raw.PING, 0, 0, bytes(8)) * 5000,
    "PING ACK": lambda p: frame(raw.PING, 1, 0, bytes(8)) * 5000,
    "SETTINGS": lambda p: frame(raw.SETTINGS, 0, 0) * 1000,
    "SETTINGS ACK": lambda p: frame(raw.SETTINGS, 1, 0) * 5000,
    "SETTINGS of hundreds of pairs": lambda p: frame(raw.SETTINGS, 0, 0, struct.pack(">HI", 4, 1) * 500),
    "CONTINUATION": lambda p: frame(raw.HEADERS, 0, 1, b"\x82") + frame(raw.CONTINUATION, 0, 1, b"\x82" * 9000) * 10,
    "empty CONTINUATION": lambda p: frame(raw.HEADERS, 0, 1, b"\x82") + frame(raw.CONTINUATION, 0, 1) * 20,
    "empty DATA": lambda p: p.request(1, None) + frame(raw.DATA, 0, 1) * 9000,
    "WINDOW_UPDATE": lambda p: frame(raw.WINDOW_UPDATE, 0, 0, u32(1)) * 150_000,
    "PRIORITY": lambda p: frame(raw.PRIORITY, 0, 1, bytes(5)) * 9000,
    "GOAWAY": lambda p: frame(raw.GOAWAY, 0, 0, bytes(8)) * 5000,
    "unknown frames": lambda p: frame(99, 0, 0) * 5000,
    "malformed requests": lambda p: b"".join(p.request(2 * n + 1, method="") for n in range(1500)),
    "HPACK bombs": lambda p: b"".join(
        frame(raw.HEADERS, 5, 2 * n + 1, b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 60_000) for n in range(9)
    ),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_the_connection_and_holds_nothing(
    site: Site, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(monkeypatch)
    peer = site.peer()
    peer.send(FLOODS[name](peer), 65_536)
    assert await peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM
    assert len(peer.transport.written) < MIB
    peer.transport.abort()
    assert site.server.held.count == 0
    assert not site.server.connections


async def test_an_honest_peer_with_many_calls_is_no_flood(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    freeze(monkeypatch)
    peer = Peer(site.server, window=2**24, ours=2**30)
    for number in range(20_000):
        peer.send(peer.request(2 * number + 1) + frame(raw.WINDOW_UPDATE, 0, 0, u32(10)))
    peer.send(frame(raw.PING, 0, 0, bytes(8)))
    assert await peer.goaway() is None
    assert len([got for got in peer.seen if got.type == raw.DATA]) == 20_000


async def test_a_ping_with_every_answer_is_no_flood(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    freeze(monkeypatch)
    peer = Peer(site.server, window=2**24, ours=2**30)
    ping = frame(raw.PING, 0, 0, bytes(8))
    peer.send(b"".join(peer.request(2 * number + 1) + ping for number in range(10_000)))
    talk = message(b"hello")
    peer.send(peer.request(20_001, None, path="/test.Test/Chat"))
    for _ in range(4000):
        peer.send(frame(raw.DATA, 0, 20_001, talk) + ping)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert await peer.goaway() is None


async def test_calls_of_methods_that_are_not_there_are_no_flood(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    freeze(monkeypatch)
    peer = site.peer()
    peer.send(b"".join(peer.request(2 * number + 1, path="/no/where") for number in range(3000)))
    peer.send(peer.request(6001))
    assert (await peer.answer(6001))[0]["grpc-status"] == "0"


async def test_a_header_block_is_as_large_as_it_may_be_and_not_larger(site: Site) -> None:
    peer = site.peer()
    peer.send(frame(raw.HEADERS, 0, 1, b"\x82" * MAX_BLOCK_BYTES) + frame(raw.CONTINUATION, 4, 1, b"\x82"))
    assert await peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM


# --- time


@pytest.mark.parametrize("is_halfway", [False, True], ids=["no preface", "no SETTINGS"])
async def test_who_says_no_hello_is_cut_off(site: Site, is_halfway: bool) -> None:
    peer = site.peer(greets=False)
    peer.send(raw.PREFACE[:10])
    if is_halfway:
        peer.send(raw.PREFACE[10:])
    now_s = asyncio.get_running_loop().time()
    site.server.sweep(now_s + HELLO_S - 1)
    assert not peer.transport.is_closing()
    site.server.sweep(now_s + HELLO_S + 1)
    assert peer.transport.is_closing()


async def test_an_idle_connection_is_asked_to_leave_and_one_with_a_call_is_not(site: Site) -> None:
    idle, busy = site.peer(), site.peer()
    busy.send(busy.request(1, path="/test.Test/Wait"))
    site.server.sweep(asyncio.get_running_loop().time() + IDLE_S + 1)
    assert [got.type for got in await idle.frames()][-2:] == [raw.GOAWAY, raw.PING]
    assert raw.GOAWAY not in [got.type for got in await busy.frames()]
    idle.send(frame(raw.PING, raw.ACK, 0, idle.seen[-1].payload))
    assert await idle.goaway() == ErrorCode.NO_ERROR


async def test_a_request_that_does_not_go_on_is_reset(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, None))
    peer.send(peer.request(3, None, path="/test.Test/Chat") + frame(raw.DATA, 0, 3, message(b"whole")))
    peer.send(peer.request(5, None, path="/test.Test/Chat") + frame(raw.DATA, 0, 5, message(b"part")[:-1]))
    peer.send(peer.request(7, path="/test.Test/Wait"))
    peer.send(peer.request(9, None, content_type="text/html"))
    await peer.frames()
    site.server.sweep(asyncio.get_running_loop().time() + STALL_TIMEOUT_S + 1)
    resets = [await peer.reset(stream) for stream in (1, 3, 5, 7, 9)]
    assert resets == [ErrorCode.CANCEL, None, ErrorCode.CANCEL, None, ErrorCode.CANCEL]


async def test_a_byte_now_and_then_does_not_keep_a_request_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = site.peer(), site.peer()
    loop, start_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    whole = message(bytes(900_000))
    for peer in (slow, fast):
        peer.send(peer.request(1, None) + frame(raw.DATA, 0, 1, whole[:6]))
    at = 6
    for second in range(0, int(STALL_TIMEOUT_S) + 5, 5):
        monkeypatch.setattr(loop, "time", partial(float, start_s + second))
        slow.send(frame(raw.DATA, 0, 1, b"x"))
        fast.send(frame(raw.DATA, 0, 1, whole[at : at + 60_000]))
        at += 60_000
        site.server.sweep(start_s + second)
    site.server.sweep(start_s + STALL_TIMEOUT_S + 1)
    monkeypatch.undo()
    assert await slow.reset(1) == ErrorCode.CANCEL
    assert await fast.reset(1) is None


async def test_an_answer_that_is_not_taken_is_given_up(site: Site) -> None:
    peer = site.peer(window=0)
    peer.send(peer.request(1))
    site.server.sweep(asyncio.get_running_loop().time() + STALL_TIMEOUT_S - 5)
    assert await peer.reset(1) is None
    site.server.sweep(asyncio.get_running_loop().time() + STALL_TIMEOUT_S + 1)
    assert await peer.reset(1) == ErrorCode.CANCEL
    assert site.server.held.count == 0


async def test_an_answer_that_came_late_has_its_whole_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = site.peer(window=0)
    peer.send(peer.request(1, path="/test.Test/Wait"))
    loop, start_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    monkeypatch.setattr(loop, "time", lambda: start_s + 1000)
    site.waiting[0][0].reply(b"late")
    monkeypatch.undo()
    site.server.sweep(start_s + 1001)
    assert await peer.reset(1) is None
    site.server.sweep(start_s + 1001 + STALL_TIMEOUT_S)
    assert await peer.reset(1) == ErrorCode.CANCEL


async def test_a_peer_that_reads_nothing_is_cut_off_and_one_that_reads_slowly_is_not(site: Site) -> None:
    peer = Peer(site.server, window=2**31 - 1, ours=2**30)
    peer.transport.takes = False
    peer.send(peer.request(1, None) + frame(raw.DATA, 0, 1, message(bytes(3 * MIB))[: MIB - 10]))
    for at in range(MIB - 10, 3 * MIB + 5, MIB - 10):
        peer.send(frame(raw.DATA, 0, 1, message(bytes(3 * MIB))[at : at + MIB - 10]))
    peer.send(frame(raw.DATA, raw.END_STREAM, 1))
    await peer.frames()
    now_s = asyncio.get_running_loop().time()
    peer.transport.unread -= 100_000
    site.server.sweep(now_s + STALL_TIMEOUT_S + 1)
    assert not peer.transport.is_closing()
    site.server.sweep(now_s + STALL_TIMEOUT_S + 12)
    assert peer.transport.is_closing()
    assert site.server.held.count == 0


async def test_a_header_block_that_does_not_end_is_given_up(site: Site) -> None:
    peer = site.peer()
    peer.send(frame(raw.HEADERS, 0, 1, b"\x82"))
    site.server.sweep(asyncio.get_running_loop().time() + STALL_TIMEOUT_S + 1)
    assert await peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM


async def test_a_server_without_connections_has_no_timer(site: Site) -> None:
    has_timer = [site.server._sweeper is not None]
    peer, other = site.peer(), site.peer()
    for ending in ([], [peer], [other]):
        for one in ending:
            one.transport.abort()
        has_timer.append(site.server._sweeper is not None)
    assert has_timer == [False, True, True, False]


# --- leaving


async def test_draining_serves_what_is_on_its_way_and_then_closes(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, path="/test.Test/Wait"))
    site.server.drain()
    frames = await peer.frames()
    assert [(got.type, got.payload[:4]) for got in frames[-2:]] == [(raw.GOAWAY, u32(2**31 - 1)), (raw.PING, b"drai")]
    peer.send(peer.request(3, path="/test.Test/Wait"))  # sent before the peer knew
    peer.send(frame(raw.PING, raw.ACK, 0, frames[-1].payload))
    assert (await peer.frames())[-1].payload[:4] == u32(3)
    peer.send(peer.request(5))  # sent although it knew: not served, and no reason to be rude
    peer.send(peer.request(7, None) + frame(raw.DATA, 0, 7, b"x") + frame(raw.RST_STREAM, 0, 7, u32(8)))
    for call, _ in site.waiting:
        assert not peer.transport.eof
        call.reply(b"served")
        await peer.frames()
    for stream in (1, 3):
        assert (await peer.answer(stream))[1] == message(b"served")
    assert (await peer.answer(5))[0] == {}
    assert peer.transport.eof
    assert not peer.transport.is_closing(), "the socket waits for the peer, or it would lose our last bytes"


async def test_who_connects_while_the_server_drains_is_served_and_asked_to_leave(site: Site) -> None:
    site.server.drain()
    peer = site.peer()
    peer.send(peer.request(1))
    assert (await peer.answer(1))[0]["grpc-status"] == "0"
    assert raw.GOAWAY not in [got.type for got in peer.seen]  # at once it would be taken for a failure
    async with asyncio.timeout(10):
        while raw.GOAWAY not in [got.type for got in await peer.frames()]:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


async def test_close_waits_for_what_runs_and_gives_up_after_its_grace(site: Site) -> None:
    peer = site.peer()
    peer.send(peer.request(1, path="/test.Test/Wait"))
    closing = asyncio.create_task(site.server.close(30))
    pings = [got for got in await peer.frames() if got.type == raw.PING]
    peer.send(frame(raw.PING, raw.ACK, 0, pings[0].payload))
    assert site.server.is_busy()
    site.waiting[0][0].reply(b"done")
    await peer.frames()
    assert not closing.done()
    peer.transport.abort()  # as a client does that has its answer and sees the end
    await closing
    assert (await peer.answer(1))[1] == message(b"done")

    late = site.peer()
    late.send(late.request(1, path="/test.Test/Wait"))
    closing = asyncio.create_task(site.server.close(0))
    await late.frames()
    await asyncio.sleep(0.05)
    assert await late.goaway() == ErrorCode.NO_ERROR
    assert len(site.cancelled) == 1
    late.transport.abort()
    await closing
    await site.server.close(0)


async def test_a_connection_whose_first_bytes_were_read_already_is_taken_over(site: Site) -> None:
    class Sniffer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            protocol = site.server.connection()
            self.transport.set_protocol(protocol)
            protocol.connection_made(self.transport)
            protocol.data_received(data)

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(Sniffer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1])
    peer = site.peer(greets=False)
    writer.write(raw.PREFACE + raw.settings({}) + peer.request(1))
    got = b""
    while b"grpc-status" not in got:
        got += await reader.read(65_536)
    assert message(b"hello") in got
    writer.close()
    await writer.wait_closed()
    peer.transport.abort()
    listener.close()
    while site.server.connections:  # noqa: ASYNC110 - the socket's end takes the loop a turn or two
        await asyncio.sleep(0)


# --- any order of frames


KINDS = st.sampled_from(["call", "open", "data", "end", "reset", "window", "settings", "ping", "reply", "trailers"])


async def play(steps: list[tuple[str, int, int]], window: int) -> None:
    site = Site()
    peer = site.peer(window=window)
    paths = ("/test.Test/Echo", "/test.Test/Wait", "/test.Test/Chat", "/no/where")
    last = -1
    for kind, which, how in steps:
        stream = max(1, last - 2 * which)
        if kind in {"call", "open"}:
            last += 2
            peer.send(peer.request(last, b"x" * which if kind == "call" else None, path=paths[how]))
        elif kind == "reply" and site.waiting:
            site.waiting.pop()[0].reply(b"y" * 20)
        else:
            peer.send(
                {
                    "data": frame(raw.DATA, 0, stream, message(b"z" * how)[: 5 + which]),
                    "end": frame(raw.DATA, raw.END_STREAM, stream),
                    "reset": frame(raw.RST_STREAM, 0, stream, u32(8)),
                    "window": frame(raw.WINDOW_UPDATE, 0, stream if how else 0, u32(which * 5 + 1)),
                    "settings": raw.settings({4: which * 10}),
                    "trailers": frame(raw.HEADERS, 5, stream, peer.block((("x-last", "1"),))),
                }.get(kind, frame(raw.PING, 0, 0, bytes(8)))
            )
        await peer.frames()
    peer.transport.abort()
    await peer.frames()
    assert site.server.held.count == 0
    assert not site.server.is_busy()
    assert not site.server.connections


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 4), st.integers(0, 3)), max_size=40), st.integers(0, 50))
def test_no_order_of_frames_leaves_anything_behind(steps: list[tuple[str, int, int]], window: int) -> None:
    asyncio.run(play(steps, window))


def test_stream_window_is_what_the_readers_of_this_file_think() -> None:
    assert STREAM_WINDOW == MIB
