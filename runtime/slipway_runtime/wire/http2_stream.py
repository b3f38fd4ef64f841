"""The sending half of an HTTP/2 connection: streams and their answers, the peer's windows, one write a turn.

    Stream.respond(), begin(), push(), finish() ──▶ Sender ──▶ transport
                     WINDOW_UPDATE, SETTINGS ──────────┘

An answer that all windows allow leaves as one piece. Others wait: a stream whose own window is open stands in the
queue for the connection's, one whose own window is shut stands nowhere until the peer opens it.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from slipway_runtime.wire import http2_frames as h2
from slipway_runtime.wire.http2_frames import ConnectionBroken, ErrorCode
from slipway_runtime.wire.http2_limits import LINGER_S, STALL_TIMEOUT_S, STREAM_WINDOW, progress
from slipway_runtime.wire.stand_in import discard_input

Buffer = bytes | bytearray | memoryview
"""Bytes that are sent uncopied where they are many: not to be changed once they were given. Views are of bytes."""

_WRITE_HIGH, _WRITE_LOW = 2 * 2**20, 2**19
_TURN_BYTES = 2**18  # of one stream before it is the next one's turn
_JOIN_BYTES = h2.MIN_FRAME_SIZE  # up to here copying is cheaper than giving pieces to the kernel one by one

_CUT = 1024  # streams to remember that we ended; four times as many as a peer may have

_HEADER = struct.Struct(">IBI")
_U32 = struct.Struct(">I")

Block = tuple[bytes, bytes]
"""Fields that are sent with many answers: a frame's first bytes, up to the number of its stream, and its payload."""


def headers(fields: bytes) -> Block:
    return h2.head(h2.HEADERS, h2.END_HEADERS, 0, len(fields))[:5], fields


def trailers(fields: bytes) -> Block:
    return h2.head(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 0, len(fields))[:5], fields


@dataclass(slots=True)
class Held:
    """Bytes that a server holds for its clients, over all connections."""

    count: int = 0


class Sender:
    """What leaves a connection. Knows the streams that are open."""

    def __init__(self, held: Held) -> None:
        self.streams: dict[int, Stream] = {}
        self.window = h2.DEFAULT_WINDOW
        self.initial_window = h2.DEFAULT_WINDOW
        self.frame_bytes = h2.MIN_FRAME_SIZE
        self.queue: deque[Stream] = deque()  # with data, and nothing in the way but the connection's window
        self.paused = False
        self.closing = False
        self.closes_when_done = False
        self.flush_is_due = False
        self.turns = 0  # in which something was sent
        self.now_s = 0.0  # of the last thing that arrived: the time to count stalls from
        self._cut: dict[int, None] = {}
        self._held = held
        self._out: list[Buffer] = []
        self._out_bytes = 0  # of large pieces

    def attach(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self.loop = transport, loop
        transport.set_write_buffer_limits(high=_WRITE_HIGH, low=_WRITE_LOW)

    @property
    def is_busy(self) -> bool:
        """Whether the peer still waits for something that it has not been sent."""
        return bool(self.streams or self._out or self._transport.get_write_buffer_size())

    def write(self, data: bytes) -> None:
        """To be sent at the end of this turn of the loop, together with what else there is then."""
        self._out.append(data)
        if not self.flush_is_due:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self.flush_is_due:
            self.flush_is_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        self.flush_is_due = False
        if self._out:
            out, large = self._out, self._out_bytes
            self._out, self._out_bytes = [], 0
            if self.closing or self._transport.is_closing():
                return  # there is nobody to tell
            if large:
                self._transport.writelines(out)
            else:
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self.closes_when_done and not self.streams and not self.closing:
            self.close()

    def close(self) -> None:
        """After what is written. The socket stays until the peer has closed too, or it would lose our last bytes."""
        if self.closing:
            return
        self.closing = True
        if self._transport.can_write_eof() and not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # the peer was faster, and asyncio has not told us yet
                self._transport.abort()
            else:
                discard_input(self._transport)
                self._linger(-1)
        else:
            self._transport.close()

    def _linger(self, unsent: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left == unsent:
            self._transport.abort()
        elif not self._transport.is_closing():
            self.loop.call_later(LINGER_S, self._linger, left)

    def resize(self, initial_window: int) -> None:
        """The peer wants another size of all windows, also of those that are in use (RFC 9113, 6.9.2)."""
        change = initial_window - self.initial_window
        self.initial_window = initial_window
        if change:
            for stream in list(self.streams.values()):
                stream.send_window += change
                if stream.send_window > h2.MAX_WINDOW:
                    raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE beyond a stream's")
                self.enqueue(stream)

    def room(self, stream: "Stream") -> int:
        return min(self.window, stream.send_window, self.frame_bytes)

    def enqueue(self, stream: "Stream") -> None:
        """Its turn comes when those before it had theirs."""
        if not stream.is_queued and stream.pending and stream.send_window > 0:
            stream.is_queued = True
            self.queue.append(stream)
            self.pump()

    def pump(self) -> None:
        """Give turns while there is something to send and the peer takes it."""
        queue = self.queue
        while queue and self.window > 0 and not self.paused:
            stream = queue.popleft()
            stream.is_queued = False
            if stream.pending:
                self._send_turn(stream)
                if stream.pending and stream.send_window > 0:
                    stream.is_queued = True
                    queue.append(stream)
            if self._out_bytes >= _WRITE_LOW:
                self.flush()  # so that a full transport is noticed: it pauses us

    def is_cut(self, number: int) -> bool:
        """Whether we ended a stream that its peer had not: it may have sent more before it heard of that."""
        return number in self._cut

    def cut(self, number: int) -> None:
        # An honest peer cannot have more of them than streams at a time: hearing of the last end, it has heard of the
        # first.
        self._cut[number] = None
        if len(self._cut) > _CUT:
            del self._cut[next(iter(self._cut))]

    def forget(self, stream: "Stream") -> None:
        """The stream has ended, by its last frame or by a reset."""
        stream.closed = True
        self.streams.pop(stream.id, None)
        if not stream.received_all:
            self.cut(stream.id)
        if stream.pending:
            self.hold(stream, -stream.pending_bytes)
            stream.pending.clear()
        if stream.space is not None:
            stream.wake()

    def hold(self, stream: "Stream", count: int) -> None:
        stream.pending_bytes += count
        self._held.count += count

    def _send_turn(self, stream: "Stream") -> None:
        sent = 0
        while stream.pending and sent < _TURN_BYTES:
            room = self.room(stream)
            if room <= 0:
                break
            pieces, length = _take(stream.pending, room)
            self._out.append(h2.head(h2.DATA, 0, stream.id, length))
            self._out += pieces
            self.window -= length
            stream.send_window -= length
            sent += length
            if length >= _JOIN_BYTES:
                self._out_bytes += length
        self.turns += 1
        self.hold(stream, -sent)
        stream.moved_s = progress(stream.moved_s, sent, self.loop.time())
        if not stream.pending:
            if stream.tail:
                self._out.append(stream.tail)
                self.forget(stream)
            stream.wake()
        self._flush_soon()


class Stream:
    """One request and its answer. Subclasses say what is done with what arrives."""

    # Defaults of the class instead of slots: what most requests never change costs them nothing.
    received_all = False
    is_queued = False
    pending_bytes = 0
    credit = 0
    tail = b""
    space: asyncio.Future[None] | None = None

    def __init__(self, sender: Sender, number: int, content_length: int | None) -> None:
        self.sender = sender
        self.id = number
        self.content_length = content_length  # of the body that is still to come, if the peer has said it
        self.send_window = sender.initial_window
        self.receive_window = STREAM_WINDOW
        self.moved_s = sender.now_s
        self.closed = False
        self.pending: list[Buffer] = []

    # --- for subclasses

    def received(self, data: bytes, is_last: bool) -> None:
        """A piece of the body, empty only if it is the last."""

    def gone(self) -> None:
        """Nobody waits for an answer any more: reset by the peer, or its connection is lost."""

    def is_stalled(self, now_s: float) -> bool:
        """Whether the peer has had its time, and did nothing."""
        return bool(self.pending) and now_s - self.moved_s > STALL_TIMEOUT_S

    def is_as_long_as_said(self, size: int, *, is_last: bool) -> bool:
        """Whether a body with `size` more bytes can still have the length that its head gave."""
        if self.content_length is None:
            return True
        self.content_length -= size
        return self.content_length == 0 if is_last else self.content_length >= 0

    # --- the answer

    def respond(self, head: Block, prefix: bytes, body: bytes, tail: Block) -> None:
        """The whole answer: its `headers`, a body that begins with `prefix`, its `trailers`."""
        if self.closed:
            return
        sender = self.sender
        size = len(prefix) + len(body)
        is_small = size <= _JOIN_BYTES and size <= self.send_window and size <= sender.window
        if not is_small or sender.queue or sender.paused or not self.received_all:
            self.begin(head[1])
            self.push((prefix, body), size)
            self.finish(tail[1])
            return
        sender.window -= size
        head_start, head_fields = head
        tail_start, tail_fields = tail
        number = _U32.pack(self.id)
        data_head = _HEADER.pack(size << 8 | h2.DATA, 0, self.id)
        sender.write(
            b"".join((head_start, number, head_fields, data_head, prefix, body, tail_start, number, tail_fields))
        )
        self.closed = True  # what `forget` does, as far as it applies
        del sender.streams[self.id]

    def begin(self, head: bytes) -> None:
        if not self.closed:
            self.sender.write(h2.frame(h2.HEADERS, h2.END_HEADERS, self.id, head))

    def push(self, body: Sequence[Buffer], size: int) -> None:
        """A piece of the answer, now or when the peer's window allows it; `drained` tells."""
        if not self.closed and size:
            if not self.pending:
                self.moved_s = self.sender.loop.time()
            self.pending += [piece for piece in body if piece]
            self.sender.hold(self, size)
            self.sender.enqueue(self)

    async def drained(self) -> None:
        """Wait until all that was pushed is on its way: what keeps a producer from running ahead of its client."""
        while self.pending and not self.closed:
            self.space = asyncio.get_running_loop().create_future()
            await self.space

    def finish(self, fields: bytes) -> None:
        """The end of the answer, after what is pending. The rest of a request that still arrives is not read."""
        if self.closed:
            return
        if fields:
            last = h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, self.id, fields)
        else:
            last = h2.frame(h2.DATA, h2.END_STREAM, self.id)
        if not self.received_all:
            last += h2.rst_stream(self.id, ErrorCode.NO_ERROR)
        if self.pending:
            self.tail = last
        else:
            self.sender.write(last)
            self.sender.forget(self)

    def reset(self, code: ErrorCode) -> None:
        if not self.closed:
            self.sender.write(h2.rst_stream(self.id, code))
            self.sender.forget(self)

    def grant(self, count: int) -> None:
        """Let the peer send `count` more bytes of the body; called for bytes that have been dealt with."""
        self.credit += count
        if self.credit >= STREAM_WINDOW // 2:
            self.grant_now(0)

    def grant_now(self, count: int) -> None:
        """The same, without waiting until it is worth a frame."""
        count += self.credit
        self.credit = 0
        if count and not self.received_all and not self.closed:
            self.receive_window += count
            self.sender.write(h2.window_update(self.id, count))

    def wake(self) -> None:
        if self.space is not None and not self.space.done():
            self.space.set_result(None)


class Refused(Stream):
    """A request that gets the same answer whatever its body is: when that has ended, or is more than a few bytes."""

    def __init__(self, sender: Sender, number: int, content_length: int | None, answer: tuple[bytes, bytes]) -> None:
        """`answer`: the block of its headers, and its body."""
        super().__init__(sender, number, content_length)
        self._head, self._text = answer

    def received(self, data: bytes, is_last: bool) -> None:
        if is_last or self.receive_window < STREAM_WINDOW // 2:
            self.begin(self._head)
            self.push((self._text,), len(self._text))
            self.finish(b"")

    def is_stalled(self, now_s: float) -> bool:
        return now_s - self.moved_s > STALL_TIMEOUT_S


def _take(pending: list[Buffer], room: int) -> tuple[list[Buffer], int]:
    """Up to `room` bytes from the front, uncopied."""
    pieces: list[Buffer] = []
    length = 0
    while pending and length < room:
        piece = pending[0]
        if len(piece) > room - length:
            view = memoryview(piece)
            pending[0] = view[room - length :]
            piece = view[: room - length]
        else:
            del pending[0]
        pieces.append(piece)
        length += len(piece)
    return pieces, length
