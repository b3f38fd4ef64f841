"""A client that speaks in single frames, to a server's connection in the same process: no socket, no clock.

Frames are cut and made here by hand, not by the code under test.
"""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpack import Decoder, Encoder

from slipway_runtime.wire.grpc_calls import GrpcServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, HAS_PRIORITY = 4, 8, 32
FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Test/Echo"),
    (":authority", "here"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


def frame(type_: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((type_, flags)) + struct.pack(">I", stream) + payload


def u32(*numbers: int) -> bytes:
    return b"".join(struct.pack(">I", number) for number in numbers)


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


def message(text: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(text)) + text


@dataclass(frozen=True)
class Frame:
    type: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The last number of RST_STREAM, GOAWAY's code, WINDOW_UPDATE."""
        at = 4 if self.type == GOAWAY else 0
        return int(struct.unpack_from(">I", self.payload, at)[0])


class Transport(asyncio.Transport):
    """Keeps what is written. `takes` = False: a peer that does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.unread = 0
        self.takes = True
        self._reading = True
        self.eof = self._aborted = False
        self.protocol: Any = None
        self._high, self._low = 65536, 16384

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = high or 0, low or 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        if not self.takes:
            was, self.unread = self.unread, self.unread + len(data)
            if was <= self._high < self.unread:
                self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def take(self) -> None:
        """The peer reads all there is."""
        was, self.unread = self.unread, 0
        if was > self._high:
            self.protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self._aborted

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._aborted:
            self._aborted = True
            self.protocol.connection_lost(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Peer:
    def __init__(self, server: GrpcServer, *, greets: bool = True, window: int = 65_535, ours: int = 2**16) -> None:
        """`window`: of each of our streams; `ours` more for the connection."""
        self.connection = server.connection()
        self.transport = Transport()
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)
        self._encoder, self._decoder = Encoder(), Decoder()
        self._read = 0
        self.seen: list[Frame] = []
        if greets:
            self.send(PREFACE + settings({4: window}) + frame(WINDOW_UPDATE, 0, 0, u32(ours)))

    def send(self, data: bytes, piece: int = 0) -> None:
        for at in range(0, len(data), piece or len(data) or 1):
            self.connection.data_received(bytes(data[at : at + (piece or len(data))]))

    async def frames(self) -> list[Frame]:
        """What arrived since the last call, after the loop had time for all that is due."""
        for turn in range(1000):
            await asyncio.sleep(0)
            if turn >= 10 and (self.transport.is_reading() or self.transport.unread):
                break
        new = []
        written = bytes(self.transport.written)
        while len(written) - self._read >= 9:
            length = int.from_bytes(written[self._read : self._read + 3], "big")
            start = self._read + 9
            assert start + length <= len(written), "half a frame was written"
            type_, flags = written[self._read + 3 : self._read + 5]
            stream = int.from_bytes(written[self._read + 5 : start], "big")
            new.append(Frame(type_, flags, stream, written[start : start + length]))
            self._read = start + length
        self.seen += new
        return new

    def block(self, fields: Sequence[tuple[str, str]] = FIELDS, changed: Mapping[str, str] | None = None) -> bytes:
        """A header block; "path" and the like among `changed` change a field, others are added."""
        names = {key if f":{key}" not in dict(fields) else f":{key}": value for key, value in (changed or {}).items()}
        names = {key.replace("_", "-"): value for key, value in names.items()}
        old = [(key, names.pop(key, value)) for key, value in fields]
        return bytes(self._encoder.encode([*old, *names.items()]))

    def request(self, stream: int, text: bytes | None = b"hello", **changed: str) -> bytes:
        """A whole call; with `text` None only its HEADERS, and the stream stays open."""
        head = frame(HEADERS, END_HEADERS, stream, self.block(FIELDS, changed))
        return head if text is None else head + frame(DATA, END_STREAM, stream, message(text))

    async def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """All headers and trailers together, and the messages behind their prefixes."""
        await self.frames()
        fields: dict[str, str] = {}
        body = b""
        for got in self.seen:
            if got.type == HEADERS and got.stream == stream:
                fields |= {str(name): str(value) for name, value in self._decoder.decode(got.payload)}
            elif got.type == DATA and got.stream == stream:
                body += got.payload
        return fields, body

    async def ended(self, stream: int) -> None:
        """Wait for the end of an answer, from whatever thread it has to come."""
        async with asyncio.timeout(20):
            while not any(got.stream == stream and got.flags & END_STREAM for got in self.seen):
                await asyncio.sleep(0.001)
                await self.frames()

    async def goaway(self) -> int | None:
        """The code the connection ended with, None if it did not."""
        await self.frames()
        codes = [got.number for got in self.seen if got.type == GOAWAY]
        return codes[-1] if codes and self.transport.eof else None

    async def reset(self, stream: int) -> int | None:
        await self.frames()
        codes = [got.number for got in self.seen if got.type == RST_STREAM and got.stream == stream]
        return codes[-1] if codes else None

    def sizes(self, stream: int) -> list[int]:
        return [len(got.payload) for got in self.seen if got.type == DATA and got.stream == stream]
