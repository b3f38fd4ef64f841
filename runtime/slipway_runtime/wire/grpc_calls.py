"""gRPC calls on HTTP/2 streams: unary and streaming. Knows neither models nor protobuf: messages are bytes.

A unary method is called with the call and its message, and answers now or later by `call.reply` or `call.fail`: no
task and no future stands between. `unary` makes such a method of a coroutine function, `streaming` makes a method
for many messages either way.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from slipway_runtime.wire import grpc_messages as words
from slipway_runtime.wire.grpc_messages import OK_BLOCK, PREFIX, RESPONSE_BLOCK, CallHead, Code, GrpcError
from slipway_runtime.wire.http2 import MAX_HEADER_BYTES
from slipway_runtime.wire.http2_headers import Field
from slipway_runtime.wire.http2_server import Http2Server
from slipway_runtime.wire.http2_stream import STALL_TIMEOUT_S, Buffer, Sender, Stream

log = logging.getLogger("slipway.grpc")

Method = Callable[["Call", bytes], None]
Metadata = Sequence[Field]

_SMALL_BYTES = 4096  # pieces of a message below this are gathered, so that many tiny ones cost no more than few
_MESSAGE_OVERHEAD = 64  # of a message that waits, whatever its length


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


class _GrpcStream(Stream):
    """A stream whose body is cut into messages."""

    __slots__ = ("_arriving", "_held", "_is_over", "_server", "head")

    def __init__(self, server: "GrpcServer", sender: Sender, number: int, head: CallHead) -> None:
        super().__init__(sender, number, head.content_length)
        self._server, self.head = server, head
        self._arriving: _Arriving | None = None
        self._held = 0
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

    def received(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            if self._arriving is None and len(data) >= PREFIX.size:
                flag, length = PREFIX.unpack_from(data)
                if length + PREFIX.size == len(data) and length <= self._server.max_message_bytes:
                    self._arrived(flag, data[PREFIX.size :], 0, len(data))
                    return
            self._gather(data)
        except GrpcError as error:
            self.fail(error.code, error.message)

    def is_stalled(self, now_s: float) -> bool:
        is_waiting = self._arriving is not None and now_s - self.moved_s > STALL_TIMEOUT_S
        return is_waiting or super().is_stalled(now_s)

    def _arrived(self, flag: int, message: bytes, held: int, credit: int) -> None:
        """A message is complete, `held` bytes are reserved for it, `credit` to give back when it is dealt with."""
        raise NotImplementedError

    def _gather(self, data: bytes) -> None:
        self.moved_s = self.sender.now_s
        at = 0
        while at < len(data) and not self._is_over:
            arriving = self._arriving = self._arriving or _Arriving()
            if arriving.left < 0:
                at = arriving.add_prefix(data, at)
                if arriving.left < 0:
                    return
                self._begin(arriving, len(data) - at)
            at = arriving.add(data, at)
            if not arriving.left:
                self._arriving = None
                message = arriving.message()
                credit = len(message) + PREFIX.size - arriving.advance
                self._arrived(arriving.flag, message, arriving.held, credit)

    def _begin(self, arriving: _Arriving, here: int) -> None:
        """Reserve the memory of a message before it comes, `here` bytes apart, and let the peer send all of it."""
        limit = self._server.max_message_bytes
        if arriving.left > limit:
            raise words.too_large(str(arriving.left), limit)
        arriving.held = self._hold(arriving.left)
        short = arriving.left - here - self.receive_window
        if short > 0:
            arriving.advance = max(0, short - self.credit)
            self.grant_now(arriving.advance)

    def _hold(self, length: int) -> int:
        count = length + _MESSAGE_OVERHEAD
        self._server.check_room(count)
        self._held += count
        self._server.held.count += count
        return count

    def _release(self, count: int) -> None:
        self._held -= count
        self._server.held.count -= count


class Call(_GrpcStream):
    """A unary call: one message in, one message out. The first of `reply` and `fail` counts, a second does nothing."""

    __slots__ = ("_flag", "_message", "_method", "on_cancel")

    def __init__(self, server: "GrpcServer", sender: Sender, number: int, head: CallHead, method: Method) -> None:
        super().__init__(server, sender, number, head)
        self._method = method
        self._flag = 0
        self._message: bytes | None = None
        self.on_cancel: Callable[[], object] | None = None
        """For the method to set: called at most once, if the client has gone before it was answered."""

    def reply(self, message: Buffer | Sequence[Buffer], initial: Metadata = (), trailing: Metadata = ()) -> None:
        """Answer. The buffers belong to the connection from now on; `initial` and `trailing` go around the message."""
        if self._is_over:
            return
        self._is_over = True
        self.on_cancel = None
        body, size = _body(message)
        head = RESPONSE_BLOCK + words.metadata_block(initial) if initial else RESPONSE_BLOCK
        self.respond(head, body, size, OK_BLOCK + words.metadata_block(trailing) if trailing else OK_BLOCK)

    def fail(self, code: Code, text: str, trailing: Metadata = ()) -> None:
        if self._is_over:
            return
        self._is_over = True
        self.on_cancel = None
        self._release(self._held)
        self._arriving = self._message = None
        self.finish(words.refused(code, text) + words.metadata_block(trailing))

    def ended(self) -> None:
        message = self._message
        if message is None or self._arriving is not None:
            self.fail(Code.INTERNAL, "the request ended before its message did")
            return
        self._message = None
        if self._held:
            self._release(self._held)
        try:
            if self._flag:
                message = words.plain(self._flag, message, self.head.encoding, self._server.max_message_bytes)
            self._method(self, message)
        except GrpcError as error:
            self.fail(error.code, error.message)
        except Exception:
            _log_failure(self.head)
            self.fail(Code.INTERNAL, _OUR_FAULT)

    def gone(self) -> None:
        self._release(self._held)
        self._is_over = True
        on_cancel, self.on_cancel = self.on_cancel, None
        if on_cancel is not None:
            on_cancel()

    def is_stalled(self, now_s: float) -> bool:
        is_waiting = not self.received_all and now_s - self.moved_s > STALL_TIMEOUT_S
        return is_waiting or super().is_stalled(now_s)

    def _arrived(self, flag: int, message: bytes, held: int, credit: int) -> None:
        if self._message is not None:
            raise GrpcError(Code.INTERNAL, "more than one message in a call that takes one")
        self._flag, self._message = flag, message


class StreamCall(_GrpcStream):
    """Any number of messages either way.

    async for message in call: ...      the client's, as fast as they are taken and no faster
    await call.send(message)            as fast as the client takes them
    """

    __slots__ = ("_has_begun", "_inbox", "_task", "_waiter", "initial", "trailing")

    def __init__(self, server: "GrpcServer", sender: Sender, number: int, head: CallHead, method: "Streaming") -> None:
        super().__init__(server, sender, number, head)
        self._inbox: deque[tuple[int, bytes, int, int]] = deque()  # flag, message, bytes held, credit
        self._waiter: asyncio.Future[None] | None = None
        self._has_begun = False
        self.initial: Metadata = ()
        """Sent before the first message."""
        self.trailing: Metadata = ()
        """Sent with the status."""
        self._task = asyncio.get_running_loop().create_task(self._run(method.function))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._inbox:
            if self.received_all or self._is_over:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        flag, message, held, credit = self._inbox.popleft()
        self._release(held)
        self.grant(credit)
        return words.plain(flag, message, self.head.encoding, self._server.max_message_bytes)

    async def send(self, message: Buffer | Sequence[Buffer]) -> None:
        """Returns when the message is on its way; the buffers must not be changed. Cancelled if the client goes."""
        body, size = _body(message)
        self._begin_answer()
        self.push(body, size)
        await asyncio.sleep(0)  # others have their turn, even if this window never shuts
        await self.drained()

    def fail(self, code: Code, text: str, trailing: Metadata = ()) -> None:
        """End at once, whatever the method does."""
        self._end(code, text, trailing)
        self._task.cancel()

    def ended(self) -> None:
        if self._arriving is not None:
            self.fail(Code.INTERNAL, "the request ended within a message")
        self._notice()

    def gone(self) -> None:
        self._clear()
        self._task.cancel()

    def _arrived(self, flag: int, message: bytes, held: int, credit: int) -> None:
        self._inbox.append((flag, message, held or self._hold(len(message)), credit))
        self._notice()

    def _notice(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _run(self, function: Callable[["StreamCall"], Awaitable[None]]) -> None:
        error = await _outcome(self, function(self))
        if error is None:
            if not self._is_over:
                self._begin_answer()
            self._end(Code.OK, "", self.trailing)
        else:
            self._end(error.code, error.message, self.trailing)

    def _begin_answer(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self.begin(RESPONSE_BLOCK + words.metadata_block(self.initial))

    def _end(self, code: Code, text: str, trailing: Metadata) -> None:
        if self._is_over:
            return
        self._clear()
        status = words.status_block(code, text) + words.metadata_block(trailing)
        self.finish(status if self._has_begun else RESPONSE_BLOCK + status)

    def _clear(self) -> None:
        self._is_over = True
        self._release(self._held)
        self._inbox.clear()
        self._arriving = None


class Streaming:
    """A method of many messages; made by `streaming`."""

    def __init__(self, function: Callable[[StreamCall], Awaitable[None]]) -> None:
        self.function = function


def streaming(function: Callable[[StreamCall], Awaitable[None]]) -> Streaming:
    """A method of a coroutine function that reads the call's messages and sends others. It may raise GrpcError.

    It runs in a task, which is cancelled when the client goes; past the client's deadline it ends with that status.
    """
    return Streaming(function)


def unary(function: Callable[[Call, bytes], Awaitable[Buffer | Sequence[Buffer]]]) -> Method:
    """A unary method of a coroutine function, which may raise GrpcError; task and deadline as with `streaming`."""

    def begin(call: Call, message: bytes) -> None:
        call.on_cancel = asyncio.get_running_loop().create_task(answer(call, message)).cancel

    async def answer(call: Call, message: bytes) -> None:
        async def replied() -> None:
            call.reply(await function(call, message))

        error = await _outcome(call, replied())
        if error is not None:
            call.fail(error.code, error.message)

    return begin


_OUR_FAULT = "internal error; the server's log says more"


def _log_failure(head: CallHead) -> None:
    log.exception("%s failed in the server itself", head.path.decode("latin-1")[:200])


async def _outcome(call: _GrpcStream, work: Awaitable[None]) -> GrpcError | None:
    """What a coroutine ends with, within the client's deadline."""
    try:
        async with asyncio.timeout(call.timeout_s) as deadline:
            await work
    except GrpcError as error:
        return error
    except Exception as error:
        if isinstance(error, TimeoutError) and deadline.expired():
            return GrpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        _log_failure(call.head)
        return GrpcError(Code.INTERNAL, _OUR_FAULT)
    return None


def _body(message: Buffer | Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """A message behind its prefix, and how many bytes that is."""
    if isinstance(message, bytes):
        return [PREFIX.pack(0, len(message)), message], len(message) + PREFIX.size
    pieces = [message] if isinstance(message, bytearray | memoryview) else list(message)
    size = sum(len(piece) for piece in pieces)
    return [PREFIX.pack(0, size), *pieces], size + PREFIX.size


class GrpcServer(Http2Server[CallHead]):
    """Calls of methods by path (`/package.Service/Method`), for any number of connections."""

    def __init__(
        self,
        methods: Mapping[bytes, Method | Streaming],
        *,
        max_message_bytes: int,
        max_held_bytes: int,
        idle_timeout_s: float,
    ) -> None:
        """`max_held_bytes`: of messages that arrive or wait to be taken, and answers that clients do not take."""
        super().__init__(CallHead, words.too_large_head(MAX_HEADER_BYTES), idle_timeout_s=idle_timeout_s)
        self._methods = dict(methods)
        self.max_message_bytes = max_message_bytes
        self._max_held_bytes = max_held_bytes

    def accept(self, sender: Sender, number: int, head: CallHead) -> Stream | bytes:
        if head.refusal is not None:
            return head.refusal
        method = self._methods.get(head.path)
        if method is None:
            return words.refused(Code.UNIMPLEMENTED, f"Method not found: {head.path.decode('latin-1')[:200]}")
        if isinstance(method, Streaming):
            return StreamCall(self, sender, number, head, method)
        return Call(self, sender, number, head, method)

    def check_room(self, count: int) -> None:
        """Before `count` more bytes are held. Raises GrpcError."""
        if self.held.count + count > self._max_held_bytes:
            raise GrpcError(
                Code.RESOURCE_EXHAUSTED,
                f"the server holds {self.held.count} bytes for its clients, {self._max_held_bytes} at most, try again",
            )
