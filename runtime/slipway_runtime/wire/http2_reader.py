"""What arrives on a connection of HTTP/2: bytes into frames and whole header blocks, in turns.

bytes ──▶ the preface ──▶ FrameReader ──▶ 128 frames a turn ──▶ Reader's subclass: _data, _block, _control
"""

import asyncio
from collections.abc import Iterator
from itertools import chain

from slipway_runtime.wire import http2_frames as h2
from slipway_runtime.wire import http2_limits as limits
from slipway_runtime.wire.http2_frames import ConnectionBroken, ErrorCode, Frame
from slipway_runtime.wire.http2_limits import HeaderBlock
from slipway_runtime.wire.http2_stream import Held, Sender

# Of one connection before the others have theirs: at worst a millisecond or two, of requests that the peer resets.
TURN_FRAMES = 128


class Reader(asyncio.Protocol):
    """The half of a connection that reads. What a subclass is given is in order: after the hello, blocks whole."""

    _transport: asyncio.Transport
    _loop: asyncio.AbstractEventLoop

    def __init__(self, held: Held) -> None:
        self._sender = Sender(held)
        self._reader = h2.FrameReader(limits.MAX_FRAME_BYTES, limits.MAX_BLOCK_BYTES)
        self._hello: bytes | None = b""  # None when it is complete
        self._next = h2.SETTINGS  # the only type of frame that may come now; -1: any
        self._unfinished: HeaderBlock | None = None
        self._later: Iterator[Frame] | None = None  # what came with more than fits a turn
        self._turn_is_due = False
        self.active_s = 0.0

    def end(self, code: ErrorCode, why: str) -> None:
        """GOAWAY and close; what runs is given up."""
        raise NotImplementedError

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        raise NotImplementedError

    def _block(self, number: int, flags: int, block: bytes) -> None:
        raise NotImplementedError

    def _control(self, type_: int, flags: int, number: int, payload: bytes) -> None:
        raise NotImplementedError

    # --- turns

    def data_received(self, data: bytes) -> None:
        if self._sender.closing:
            return
        try:
            if self._hello is not None:
                data = self._greet(data)
            frames = self._reader.feed(data)
        except ConnectionBroken as broken:
            self.end(broken.code, broken.why)
            return
        if self._later is not None:
            self._later = chain(self._later, frames)
        else:
            self._take_turn(frames)

    def _take_turn(self, frames: Iterator[Frame]) -> None:
        sender = self._sender
        self.active_s = sender.now_s = self._loop.time()
        sender.flush_is_due = True  # at the end of this, without the loop
        left = TURN_FRAMES
        try:
            for type_, flags, number, payload in frames:
                if self._next >= 0 and type_ != self._next:
                    raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, f"not the type of frame that must come: {type_}")  # noqa: TRY301
                if type_ == h2.DATA:
                    self._data(flags, number, payload)
                elif type_ == h2.HEADERS:
                    self._begin_headers(flags, number, payload)
                else:
                    self._control(type_, flags, number, payload)
                left -= 1
                if not left:
                    self._wait_for_turn(frames)
                    break
        except ConnectionBroken as broken:
            self.end(broken.code, broken.why)
        sender.flush()

    def _wait_for_turn(self, frames: Iterator[Frame]) -> None:
        self._later = frames
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._read_again()

    def _go_on(self) -> None:
        """The next turn. While the peer does not read its answers there is none: `_read_again` comes when it does."""
        later, self._turn_is_due = self._later, False
        if later is None or self._sender.paused:
            return
        self._later = None
        if not self._sender.closing:
            self._take_turn(later)
        self._read_again()

    def _read_again(self) -> None:
        """If nothing is in the way any more."""
        if self._later is not None:
            if not self._turn_is_due:
                self._turn_is_due = True
                self._loop.call_soon(self._go_on)
        elif not self._sender.paused and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- hello and headers

    def _greet(self, data: bytes) -> bytes:
        hello = (self._hello or b"") + data
        start = hello[: len(h2.PREFACE)]
        if not h2.PREFACE.startswith(start):
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self._hello = None if start == h2.PREFACE else hello
        return hello[len(h2.PREFACE) :]

    def _begin_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, f"HEADERS of stream {number}")
        if flags & h2.PADDED:
            payload = h2.without_padding(payload)
        if flags & h2.HAS_PRIORITY:
            payload = h2.without_priority(number, payload)
        if flags & h2.END_HEADERS:
            self._block(number, flags, payload)
        else:
            self._unfinished = HeaderBlock(number, flags, payload)
            self._next = h2.CONTINUATION

    def _continue_headers(self, flags: int, number: int, payload: bytes) -> None:
        block = self._unfinished
        if block is None:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.add(number, payload)
        if flags & h2.END_HEADERS:
            self._unfinished = None
            self._next = -1
            self._block(number, block.flags, block.whole())
