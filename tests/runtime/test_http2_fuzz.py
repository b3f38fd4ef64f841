"""Mutated connections: nothing a peer sends raises, and nothing of it is left when it has gone.

Few by default; with SLIPWAY_FULL=1 a hundred thousand connections and a million header blocks; with SLIPWAY_FUZZ=N
N of each (a million connections take about five minutes).
"""

import asyncio
import os
import random
from typing import Any

import pytest
from hpack import Encoder

from slipway_runtime.wire.grpc_calls import Call, GrpcServer, Method, StreamCall, Streaming, streaming
from slipway_runtime.wire.http2_frames import ConnectionBroken, FrameReader
from slipway_runtime.wire.http2_headers import HeaderDecoder
from slipway_runtime.wire.http2_requests import Head
from tests.runtime import http2_peer as raw
from tests.runtime.http2_peer import Peer, Transport, frame, message, u32

FULL = os.environ.get("SLIPWAY_FULL") == "1"
CONNECTIONS = int(os.environ.get("SLIPWAY_FUZZ") or (100_000 if FULL else 3_000))
BLOCKS = int(os.environ.get("SLIPWAY_FUZZ") or (1_000_000 if FULL else 20_000))
MINUTES_S = 1200


class Sink(Transport):
    """Forgets what is written, and waits for nobody."""

    def write(self, data: Any) -> None:
        self.unread = 0

    def writelines(self, list_of_data: Any) -> None:
        self.unread = 0

    def can_write_eof(self) -> bool:
        return False


def make_server() -> GrpcServer:
    waiting: list[Call] = []

    def wait(call: Call, text: bytes) -> None:
        waiting.append(call)
        call.on_cancel = lambda: waiting.remove(call)
        if len(waiting) > 3:
            waiting.pop(0).reply(text)

    async def chat(call: StreamCall) -> None:
        async for text in call:
            await call.send(text)

    methods: dict[bytes, Method | Streaming] = {
        b"/test.Test/Echo": lambda call, text: call.reply(text),
        b"/test.Test/Wait": wait,
        b"/test.Test/Chat": streaming(chat),
    }
    return GrpcServer(methods, max_message_bytes=5000, max_held_bytes=20_000, idle_timeout_s=60)


def seeds(server: GrpcServer) -> list[list[bytes]]:
    """Honest connections, as lists of frames."""
    peer = Peer(server, greets=False)
    hello = [raw.PREFACE, raw.settings({4: 50}), frame(raw.WINDOW_UPDATE, 0, 0, u32(1000))]
    wait, chat = "/test.Test/Wait", "/test.Test/Chat"
    block = peer.block()
    made = [
        [*hello, peer.request(1), peer.request(3, b"x" * 300), peer.request(5)],
        [*hello, peer.request(1, path=wait), frame(raw.RST_STREAM, 0, 1, u32(8)), peer.request(3, path=wait)],
        [*hello, peer.request(1, None, path=chat), *[frame(raw.DATA, 0, 1, message(b"z" * 9)[:7])] * 4],
        [
            *hello,
            frame(raw.HEADERS, 0, 1, block[:5]),
            frame(raw.CONTINUATION, 4, 1, block[5:]),
            frame(0, 1, 1, message(b"a")),
        ],
        [
            *hello,
            peer.request(1, None),
            frame(raw.DATA, 8, 1, b"\x02" + message(b"ab") + b"\0\0"),
            frame(raw.DATA, 1, 1),
        ],
        [*hello, frame(raw.HEADERS, 36, 1, u32(3) + b"\x07" + block), frame(raw.DATA, 0, 1, message(bytes(3000)))],
        [
            *hello,
            peer.request(1, grpc_encoding="gzip"),
            peer.request(3, content_length="10"),
            raw.settings({4: 9, 5: 20_000}),
        ],
        [
            *hello,
            frame(raw.PING, 0, 0, bytes(8)),
            frame(raw.PRIORITY, 0, 5, bytes(5)),
            frame(raw.GOAWAY, 0, 0, bytes(8)),
        ],
        [
            *hello,
            peer.request(1, b"y" * 200),
            *[frame(raw.WINDOW_UPDATE, 0, 1, u32(60))] * 4,
            peer.request(3, method="GET"),
        ],
    ]
    peer.transport.abort()
    return made


def mutated(frames: list[bytes], rng: random.Random) -> bytes:
    frames = list(frames)
    for _ in range(rng.choice((0, 0, 1, 2))):  # the order of frames
        at = rng.randrange(len(frames))
        frames.insert(rng.randrange(len(frames) + 1), frames[at] if rng.random() < 0.6 else frames.pop(at))
    data = bytearray(b"".join(frames))
    for _ in range(rng.choice((0, 1, 1, 2, 5))):  # their bytes
        at = rng.randrange(min(24, len(data) - 1), len(data)) if rng.random() < 0.97 else rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice((0, 1, 4, 5, 9, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + rng.choice((1, 1, 9, 40))]
            case 3:
                data[at:at] = rng.randbytes(rng.choice((1, 9)))
            case _:
                data[at] = rng.randrange(256)
        if len(data) < 2:
            break
    return bytes(data)


@pytest.mark.timeout(MINUTES_S)
async def test_mutated_connections_raise_nothing_and_leave_nothing() -> None:
    rng = random.Random(f"connections {CONNECTIONS}")  # noqa: S311 - the same every time
    server = make_server()
    honest = seeds(server)
    begun = len(asyncio.all_tasks())
    for count in range(CONNECTIONS):
        data = mutated(rng.choice(honest), rng)
        connection, transport = server.connection(), Sink()
        transport.protocol = connection
        connection.connection_made(transport)
        piece = rng.choice((len(data), len(data), 1, 5, 30))
        for at in range(0, len(data), max(piece, 1)):
            connection.data_received(data[at : at + piece])
        if count % 10 == 0:
            await asyncio.sleep(0)
        transport.abort()
        assert server.held.count == 0, data
        assert not server.connections, data
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == begun


@pytest.mark.timeout(MINUTES_S)
def test_mutated_header_blocks_are_fields_or_a_broken_connection() -> None:
    rng = random.Random(f"blocks {BLOCKS}")  # noqa: S311
    encoder = Encoder()
    fields = [*raw.FIELDS, ("grpc-timeout", "99m"), ("x-long", "v" * 200), ("content-length", "5")]
    honest = [bytes(encoder.encode(fields, huffman=huffman)) for huffman in (True, False, True)]
    frames = [frame(raw.HEADERS, 4, 1, block) for block in honest]
    too_large = Head([])
    read = broken = 0
    for _ in range(BLOCKS // 4):
        reader, decoder = FrameReader(2**14, 2**14), HeaderDecoder(Head, too_large, 1000)
        for sent in (*frames, rng.choice(frames)):
            data = bytearray(sent)
            if rng.random() < 0.5:
                data[rng.randrange(9, len(data))] = rng.randrange(256)
            try:
                for *_, payload in reader.feed(bytes(data)):
                    assert decoder.decode(payload).problem is not None
                    read += 1
            except ConnectionBroken:
                broken += 1
                break
    assert read > BLOCKS / 10
    assert broken > BLOCKS / 100
