"""HTTP/2 as a peer sees it, frame by frame: requests, answers, what is refused, streams that end early."""

from collections.abc import Callable

import pytest

from slipway_runtime.wire.http2_frames import ErrorCode
from tests.runtime import http2_peer as raw
from tests.runtime.http2_peer import Peer, frame, message, u32
from tests.runtime.http2_site import MIB, Site

# --- requests and answers


@pytest.fixture
async def site() -> Site:
    return Site()


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
