"""What takes too long, and how a connection ends, as a peer of HTTP/2 sees it."""

import asyncio
from functools import partial

import pytest

from slipway_runtime.wire.http2_frames import ErrorCode
from slipway_runtime.wire.http2_limits import (
    HELLO_S,
    STALL_TIMEOUT_S,
)
from tests.runtime import http2_peer as raw
from tests.runtime.http2_peer import Peer, frame, message, u32
from tests.runtime.http2_site import IDLE_S, MIB, Site


@pytest.fixture
async def site() -> Site:
    return Site()


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
