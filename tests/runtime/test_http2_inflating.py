"""HTTP/2 with frames in any order, and with messages that came compressed."""

import asyncio
import gzip
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_runtime.wire.http2_limits import (
    STREAM_WINDOW,
)
from slipway_runtime.wire.inflating import Inflating
from tests.runtime import http2_peer as raw
from tests.runtime.http2_peer import Peer, frame, message, u32
from tests.runtime.http2_site import MIB, Site

T = TypeVar("T")


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


# --- what came compressed


def compressed(peer: Peer, stream: int, text: bytes, path: str = "/test.Test/Echo") -> bytes:
    head = peer.request(stream, None, path=path, grpc_encoding="gzip")
    return head + frame(raw.DATA, raw.END_STREAM, stream, message(gzip.compress(text), 1))


@pytest.mark.parametrize("path", ["/test.Test/Echo", "/test.Test/Chat"])
async def test_a_large_compressed_message_is_inflated_beside_the_loop(path: str) -> None:
    site = Site(inflating=(inflating := Watched()))
    peer = Peer(site.server, window=2**24, ours=2**24)
    text = bytes(MIB)  # of zeros: 1 kB as they are sent
    peer.send(compressed(peer, 1, text, path))
    await peer.frames()
    assert await asyncio.to_thread(inflating.began.acquire, timeout=20)
    peer.send(peer.request(3))
    assert (await peer.answer(3))[1] == message(b"hello"), "and others are answered meanwhile"
    inflating.go.set()
    await peer.ended(1)
    assert (await peer.answer(1))[1] == message(text)
    assert threading.get_ident() not in inflating.threads
    assert inflating.held_bytes == 0
    assert site.server.held.count == 0


async def test_inflated_messages_count_until_they_are_answered() -> None:
    site = Site(inflating=(inflating := Inflating(100_000)))
    peer = site.peer()
    peer.send(compressed(peer, 1, bytes(90_000), "/test.Test/Wait"))
    await peer.frames()
    assert inflating.held_bytes == 90_000
    peer.send(compressed(peer, 3, bytes(90_000)))
    fields, _ = await peer.answer(3)
    assert (fields["grpc-status"], "more than 100000 bytes in all, try again" in fields["grpc-message"]) == ("8", True)
    site.waiting[0][0].reply(b"done")
    assert inflating.held_bytes == 0
    for number, end in ((5, raw.RST_STREAM), (7, None)):
        peer.send(compressed(peer, number, bytes(90_000), "/test.Test/Wait"))
        await peer.frames()
        assert inflating.held_bytes == 90_000
        if end is not None:
            peer.send(frame(end, 0, number, u32(8)))
        else:
            peer.transport.abort()
        await peer.frames()
        assert inflating.held_bytes == 0


async def test_who_leaves_while_its_message_is_inflated_leaves_nothing_behind() -> None:
    site = Site(inflating=(inflating := Watched()))
    peer = site.peer()
    for number, path in ((1, "/test.Test/Wait"), (3, "/test.Test/Chat")):
        peer.send(compressed(peer, number, bytes(MIB), path))
    await peer.frames()
    for _ in range(2):
        assert await asyncio.to_thread(inflating.began.acquire, timeout=20)
    peer.transport.abort()
    inflating.go.set()
    async with asyncio.timeout(20):
        for _ in range(2):
            await inflating._places.acquire()  # free when a thread has ended, and told the loop of it
    await peer.frames()
    assert (site.waiting, inflating.held_bytes, site.server.held.count) == ([], 0, 0)


class Watched(Inflating):
    """Begins when it is told to, and remembers on which threads."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.began = threading.Semaphore(0)
        self.go = threading.Event()

    async def run(self, inflate: Callable[[], T]) -> T:
        def wait() -> T:
            self.threads.add(threading.get_ident())
            self.began.release()
            assert self.go.wait(20)
            return inflate()

        return await super().run(wait)
