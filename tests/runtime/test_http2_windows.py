"""Windows and limits of HTTP/2, as a peer sees them: nothing is held beyond them, nobody is kept by another."""

import asyncio
import struct
from collections.abc import Callable

import pytest

from slipway_runtime.wire.http2_frames import ErrorCode
from slipway_runtime.wire.http2_limits import (
    MAX_BLOCK_BYTES,
    MAX_HEADER_BYTES,
    MAX_STREAMS,
)
from tests.runtime import http2_peer as raw
from tests.runtime.http2_peer import Peer, frame, message, u32
from tests.runtime.http2_site import MIB, Site, freeze

# --- flow control


@pytest.fixture
async def site() -> Site:
    return Site()


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
