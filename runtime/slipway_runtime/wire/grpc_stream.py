"""The body of a gRPC call: cut into messages, within limits that hold before memory is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from slipway_runtime.wire import grpc_messages as words
from slipway_runtime.wire.grpc_messages import PREFIX, CallHead, Code, GrpcError
from slipway_runtime.wire.http2_headers import Field
from slipway_runtime.wire.http2_limits import STALL_TIMEOUT_S, progress
from slipway_runtime.wire.http2_stream import Buffer, Held, Sender, Stream
from slipway_runtime.wire.inflating import Inflating, NoRoom

Metadata = Sequence[Field]

_SMALL_BYTES = 4096  # pieces of a message below this are gathered, so that many tiny ones cost no more than few
_MESSAGE_OVERHEAD = 64  # of a message that waits, whatever its length


@dataclass(slots=True)
class Limits:
    """Of all calls of a server together, but for the size of a message."""

    max_message_bytes: int
    max_held_bytes: int
    held: Held
    inflating: Inflating

    def check_room(self, count: int) -> None:
        """Before `count` more bytes are held. Raises GrpcError."""
        if self.held.count + count > self.max_held_bytes:
            raise GrpcError(
                Code.RESOURCE_EXHAUSTED,
                f"the server holds {self.held.count} bytes for its clients, {self.max_held_bytes} at most: try again",
            )


class _Arriving:
    """A message that arrives in pieces. Joined once, when it is complete."""

    __slots__ = ("_parts", "_prefix", "advance", "flag", "held", "left")

    def __init__(self) -> None:
        self._prefix = b""
        self._parts: list[Buffer] = []
        self.flag = 0
        self.left = -1  # bytes to come; -1: its prefix is not complete
        self.held = 0
        self.advance = 0  # of flow control, given so that it can arrive at all

    def add_prefix(self, data: bytes, at: int) -> int:
        stop = min(at + PREFIX.size - len(self._prefix), len(data))
        self._prefix += data[at:stop]
        if len(self._prefix) == PREFIX.size:
            self.flag, self.left = PREFIX.unpack(self._prefix)
        return stop

    def add(self, data: bytes, at: int) -> int:
        stop = min(at + self.left, len(data))
        self.left -= stop - at
        piece = memoryview(data)[at:stop]
        parts = self._parts
        if 2 * len(piece) >= len(data) and len(piece) >= _SMALL_BYTES:
            parts.append(piece)
        elif parts and isinstance(parts[-1], bytearray) and len(parts[-1]) < 16 * _SMALL_BYTES:
            parts[-1] += piece
        else:
            parts.append(bytearray(piece))
        return stop

    def message(self) -> bytes:
        return b"".join(self._parts)


class GrpcStream(Stream):
    """A stream whose body is cut into messages."""

    _held = 0
    _inflated = 0  # bytes that are held of what came compressed

    def __init__(self, limits: Limits, sender: Sender, number: int, head: CallHead) -> None:
        # super() would cost every request as much as reading its message.
        Stream.__init__(self, sender, number, head.content_length)
        self._limits, self.head = limits, head
        self._arriving: _Arriving | None = None
        self._is_over = False  # its status is known, though perhaps not sent

    @property
    def timeout_s(self) -> float | None:
        """What the client gave the call when it sent it; None: no limit."""
        return self.head.timeout_s

    def header(self, name: bytes) -> bytes | None:
        """Metadata of the request, by its name in lower case; several of a name are one list with commas."""
        return self.head.value(name)

    def fail(self, code: Code, text: str, trailing: Metadata = ()) -> None:
        raise NotImplementedError

    def received(self, data: bytes, is_last: bool) -> None:
        if self._is_over:
            return
        try:
            if self._arriving is None and len(data) >= PREFIX.size:
                flag, length = PREFIX.unpack_from(data)
                if length + PREFIX.size == len(data) and length <= self._limits.max_message_bytes:
                    self._arrived(flag, data[PREFIX.size :], 0, len(data))
                else:
                    self._gather(data)
            elif data:
                self._gather(data)
            if is_last and not self._is_over:
                self._ended()
        except GrpcError as error:
            self.fail(error.code, error.message)

    def _ended(self) -> None:
        raise NotImplementedError

    def is_stalled(self, now_s: float) -> bool:
        is_waiting = self._arriving is not None and now_s - self.moved_s > STALL_TIMEOUT_S
        return is_waiting or super().is_stalled(now_s)

    def _arrived(self, flag: int, message: bytes, held: int, credit: int) -> None:
        """A message is complete, `held` bytes are reserved for it, `credit` to give back when it is dealt with."""
        raise NotImplementedError

    def _gather(self, data: bytes) -> None:
        now_s = self.sender.now_s
        self.moved_s = progress(self.moved_s, len(data), now_s)
        at = 0
        while at < len(data) and not self._is_over:
            arriving = self._arriving
            if arriving is None:
                arriving = self._arriving = _Arriving()
                self.moved_s = now_s
            if arriving.left < 0:
                at = arriving.add_prefix(data, at)
                if arriving.left < 0:
                    return
                self._begin(arriving, len(data) - at)
            start, at = at, arriving.add(data, at)
            arriving.held += self._hold(at - start, 0)
            if not arriving.left:
                self._arriving = None
                message = arriving.message()
                credit = len(message) + PREFIX.size - arriving.advance
                self._arrived(arriving.flag, message, arriving.held, credit)

    def _begin(self, arriving: _Arriving, here: int) -> None:
        """Let the peer send all of a message, `here` bytes apart, if there is room now. It counts as it arrives."""
        limit = self._limits.max_message_bytes
        if arriving.left > limit:
            raise words.too_large(str(arriving.left), limit)
        self._limits.check_room(arriving.left + _MESSAGE_OVERHEAD)
        arriving.held = self._hold(0)
        short = arriving.left - here - self.receive_window
        if short > 0:
            arriving.advance = max(0, short - self.credit)
            self.grant_now(arriving.advance)

    def _hold(self, length: int, overhead: int = _MESSAGE_OVERHEAD) -> int:
        count = length + overhead
        self._limits.check_room(count)
        self._held += count
        self._limits.held.count += count
        return count

    def _release(self, count: int) -> None:
        self._held -= count
        self._limits.held.count -= count

    # --- messages that came compressed

    def _small_plain(self, flag: int, message: bytes) -> bytes | None:
        """Inflated at once, None if that takes longer. Raises GrpcError."""
        limits = self._limits
        try:
            limits.inflating.check_room()
            plain = words.small_plain(flag, message, self.head.encoding, limits.max_message_bytes)
            if plain is not None:
                self._hold_inflated(plain)
        except NoRoom as error:
            raise GrpcError(Code.RESOURCE_EXHAUSTED, str(error)) from None
        return plain

    async def _plain(self, flag: int, message: bytes) -> bytes:
        """Inflated on a thread. Raises GrpcError."""
        limits = self._limits
        inflate = partial(words.plain, flag, message, self.head.encoding, limits.max_message_bytes)
        try:
            plain = await limits.inflating.run(inflate)
            self._hold_inflated(plain)
        except NoRoom as error:
            raise GrpcError(Code.RESOURCE_EXHAUSTED, str(error)) from None
        return plain

    def _hold_inflated(self, plain: bytes) -> None:
        if not self._is_over:
            self._limits.inflating.hold(len(plain))
            self._inflated += len(plain)

    def _release_inflated(self) -> None:
        if self._inflated:
            self._limits.inflating.release(self._inflated)
            self._inflated = 0
