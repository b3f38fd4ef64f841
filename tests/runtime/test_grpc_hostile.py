"""gRPC as no honest client speaks it: bodies that are none, windows overrun, deadlines forgotten."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest

from slipway_runtime.wire import grpc_messages as words
from slipway_runtime.wire.grpc_calls import GrpcServer, streaming
from slipway_runtime.wire.grpc_messages import Code, GrpcError
from tests.runtime import http2_peer as raw
from tests.runtime.grpc_site import LIMIT, Site
from tests.runtime.http2_peer import Peer, frame, message


async def status_of(peer: Peer, stream: int = 1) -> tuple[str, str]:
    fields, _ = await peer.answer(stream)
    return fields.get("grpc-status", ""), fields.get("grpc-message", "")


def bomb() -> bytes:
    return gzip.compress(bytes(2 * LIMIT))


@pytest.mark.parametrize(
    ("path", "encoding", "body", "expected"),
    [
        pytest.param("Echo", "gzip", lambda: message(bomb(), 1), ("8", "decompressed"), id="gzip bomb"),
        pytest.param("Chat", "gzip", lambda: message(bomb(), 1), ("8", "decompressed"), id="gzip bomb in a stream"),
        pytest.param("Echo", "gzip", lambda: message(b"nothing", 1), ("13", "not valid gzip"), id="no gzip"),
        pytest.param("Echo", "gzip", lambda: message(gzip.compress(b"a")[:-1], 1), ("13", "cut short"), id="cut gzip"),
        pytest.param(
            "Echo", "gzip", lambda: message(gzip.compress(b"a") + b"b", 1), ("13", "after its end"), id="gzip and more"
        ),
        pytest.param("Echo", "deflate", lambda: message(zlib.compress(b"a"), 2), ("13", "marked"), id="unknown flag"),
        pytest.param("Echo", "identity", lambda: message(b"a", 1), ("13", "no grpc-encoding"), id="no encoding"),
        pytest.param("Echo", "br", lambda: message(b"a", 1), ("12", "grpc-encoding 'br'"), id="unknown encoding"),
        pytest.param("Echo", "gzip", lambda: message(b"plain"), ("0", ""), id="not compressed although it could be"),
        pytest.param("Echo", "identity", lambda: message(b"a") * 2, ("13", "more than one"), id="two messages"),
        pytest.param("Echo", "identity", lambda: b"", ("13", "before its message"), id="no message"),
        pytest.param("Echo", "identity", lambda: b"\0\0\0", ("13", "before its message"), id="half a prefix"),
        pytest.param(
            "Echo", "identity", lambda: message(b"abc")[:-1], ("13", "before its message"), id="half a message"
        ),
        pytest.param("Echo", "identity", lambda: message(b"a") + b"\0", ("13", "before its message"), id="and a half"),
        pytest.param(
            "Chat", "identity", lambda: message(b"abc")[:-1], ("13", "within a message"), id="half in a stream"
        ),
        pytest.param(
            "Echo", "identity", lambda: b"\0\xff\xff\xff\xff", ("8", "larger than max (4294967295"), id="4 GiB"
        ),
        pytest.param(
            "Chat", "identity", lambda: b"\0\xff\xff\xff\xff", ("8", "larger than max"), id="4 GiB in a stream"
        ),
    ],
)
@pytest.mark.parametrize("piece", [0, 1, 4, 9], ids=["whole", "by 1", "by 4", "by 9"])
async def test_a_body_that_is_none_gets_a_status(
    path: str, encoding: str, body: Callable[[], bytes], expected: tuple[str, str], piece: int
) -> None:
    site = Site()
    peer = Peer(site.server)
    whole = body()
    peer.send(peer.request(1, None, path=f"/test.Test/{path}", grpc_encoding=encoding))
    for at in range(0, len(whole), piece or len(whole) or 1):
        end = raw.END_STREAM if piece and at + piece >= len(whole) else 0
        peer.send(frame(raw.DATA, end, 1, whole[at : at + (piece or len(whole))]))
    if not piece or not whole:
        peer.send(frame(raw.DATA, raw.END_STREAM, 1))
    await peer.ended(1)
    status, text = await status_of(peer)
    assert status == expected[0]
    assert expected[1] in text
    assert await peer.goaway() is None
    peer.transport.abort()
    await peer.frames()
    assert site.server.held.count == 0


async def test_a_conversation_takes_no_more_than_its_window_until_messages_are_read() -> None:
    site = Site()
    site.server = GrpcServer(
        {b"/test.Test/Echo": streaming(site.forever)}, max_message_bytes=LIMIT, max_held_bytes=2**30, idle_timeout_s=1
    )
    peer = Peer(site.server)
    peer.send(peer.request(1, None) + frame(raw.DATA, 0, 1, message(bytes(2**19 - 5)) * 2))
    await peer.frames()
    assert [got for got in peer.seen if got.type == raw.WINDOW_UPDATE and got.stream == 1] == []
    assert site.server.held.count >= 2**20 - 10
    peer.send(frame(raw.DATA, 0, 1, b"x"))
    assert await peer.reset(1) == 3
    await peer.frames()
    assert site.server.held.count == 0
    assert site.cancelled == ["forever"]


async def test_the_window_opens_as_messages_are_read() -> None:
    site = Site()
    peer = Peer(site.server, window=2**24, ours=2**24)
    peer.send(peer.request(1, None, path="/test.Test/Chat"))
    for _ in range(20):
        peer.send(frame(raw.DATA, 0, 1, message(bytes(2**18))))
        await peer.frames()
    assert await peer.reset(1) is None
    assert site.taken == 20


async def test_only_the_first_answer_counts() -> None:
    site = Site()
    peer = Peer(site.server)
    peer.send(peer.request(1, path="/test.Test/Wait"))
    waiting = site.waiting[0]
    waiting.reply(b"first")
    waiting.reply(b"second")
    waiting.fail(Code.INTERNAL, "third")
    fields, body = await peer.answer(1)
    assert (fields["grpc-status"], body) == ("0", message(b"first"))
    peer.transport.abort()
    assert site.cancelled == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1S", 1), (b"250m", 0.25), (b"3H", 10800), (b"2M", 120), (b"99999999u", 99.999999), (b"5n", 5e-9)]
    + [(bad, None) for bad in (b"", b"S", b"1", b"1x", b"-1S", b"1.5S", b"123456789S", b" 1S", "²S".encode())],
)
def test_time_outs_are_read_or_ignored(text: bytes, seconds: float | None) -> None:
    assert words.read_timeout_s(text) == pytest.approx(seconds)


async def test_a_deadline_counts_though_the_client_forgets_it() -> None:
    site = Site()
    peer = Peer(site.server)
    peer.send(peer.request(1, b"30", path="/test.Test/Async", grpc_timeout="10m"))
    peer.send(peer.request(3, path="/test.Test/Forever", grpc_timeout="10m"))
    while len(site.cancelled) < 2:  # noqa: ASYNC110 - the deadlines are real
        await asyncio.sleep(0.001)
    assert (await status_of(peer, 1))[0] == "4"
    assert (await status_of(peer, 3))[0] == "4"


def test_a_status_text_is_cut_and_quoted() -> None:
    block = words.status_block(3, "%" * 2000)
    assert block.endswith(b"%25" * 1024)
    assert words.status_block(0) == words.OK_BLOCK


def test_a_message_that_grows_more_than_honest_ones_is_refused() -> None:
    with pytest.raises(GrpcError, match="256 times what was sent"):
        words.plain(1, gzip.compress(bytes(32 << 20)), b"gzip", 64 << 20)
