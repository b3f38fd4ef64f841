"""gRPC calls on HTTP/2 streams: unary and streaming. Knows neither models nor protobuf: messages are bytes.

A unary method is called with the call and its message, and answers now or later by `call.reply` or `call.fail`: no
task and no future stands between. `unary` makes such a method of a coroutine function, `streaming` makes a method
for many messages either way.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

from slipway_runtime.wire import grpc_messages as words
from slipway_runtime.wire.grpc_messages import OK_BLOCK, PREFIX, RESPONSE_BLOCK, CallHead, Code, GrpcError
from slipway_runtime.wire.grpc_stream import GrpcStream, Limits, Metadata
from slipway_runtime.wire.http2_limits import MAX_HEADER_BYTES, STALL_TIMEOUT_S
from slipway_runtime.wire.http2_server import Http2Server
from slipway_runtime.wire.http2_stream import Buffer, Refused, Sender, Stream, headers, trailers
from slipway_runtime.wire.inflating import Inflating

log = logging.getLogger("slipway.grpc")

Method = Callable[["Call", bytes], None]
Converse = Callable[["StreamCall"], Awaitable[None]]

_HEAD, _TAIL = headers(RESPONSE_BLOCK), trailers(OK_BLOCK)


class Call(GrpcStream):
    """A unary call: one message in, one message out. The first of `reply` and `fail` counts, a second does nothing."""

    on_cancel: Callable[[], object] | None = None
    """For the method to set: called at most once, if the client has gone before it was answered."""
    _flag = 0

    def __init__(self, limits: Limits, method: Method, sender: Sender, number: int, head: CallHead) -> None:
        GrpcStream.__init__(self, limits, sender, number, head)
        self._method = method
        self._message: bytes | None = None

    def received(self, data: bytes, is_last: bool) -> None:
        if is_last and len(data) >= PREFIX.size and self._message is None and self._arriving is None:
            flag, length = PREFIX.unpack_from(data)
            if not flag and length + PREFIX.size == len(data) and length <= self._limits.max_message_bytes:
                self._call(data[PREFIX.size :])  # the whole request is here: nearly always
                return
        super().received(data, is_last)

    def reply(self, message: Buffer | Sequence[Buffer], initial: Metadata = (), trailing: Metadata = ()) -> None:
        """Answer. The buffers belong to the connection from now on; `initial` and `trailing` go around the message."""
        if self._is_over:
            return
        self._is_over = True
        self.on_cancel = None
        if self._flag:
            self._release_inflated()
        head = headers(RESPONSE_BLOCK + words.metadata_block(initial)) if initial else _HEAD
        tail = trailers(OK_BLOCK + words.metadata_block(trailing)) if trailing else _TAIL
        if isinstance(message, bytes):
            self.respond(head, PREFIX.pack(0, len(message)), message, tail)
            return
        body, size = _body(message)
        self.begin(head[1])
        self.push(body, size)
        self.finish(tail[1])

    def fail(self, code: Code, text: str, trailing: Metadata = ()) -> None:
        if self._is_over:
            return
        self._is_over = True
        self.on_cancel = None
        self._release(self._held)
        self._release_inflated()
        self._arriving = self._message = None
        self.finish(words.refused(code, text) + words.metadata_block(trailing))

    def _ended(self) -> None:
        message = self._message
        if message is None or self._arriving is not None:
            raise GrpcError(Code.INTERNAL, "the request ended before its message did")
        self._message = None
        if self._held:
            self._release(self._held)
        if self._flag:
            self._inflate(message)
        else:
            self._call(message)

    def _inflate(self, message: bytes) -> None:
        plain = self._small_plain(self._flag, message)
        if plain is not None:
            self._call(plain)
        else:
            self.on_cancel = asyncio.get_running_loop().create_task(self._inflate_large(message)).cancel

    async def _inflate_large(self, message: bytes) -> None:
        try:
            plain = await self._plain(self._flag, message)
        except GrpcError as error:
            self.fail(error.code, error.message)
        else:
            self._call(plain)

    def _call(self, message: bytes) -> None:
        try:
            self._method(self, message)
        except GrpcError as error:
            self.fail(error.code, error.message)
        except Exception:
            _log_failure(self.head)
            self.fail(Code.INTERNAL, _OUR_FAULT)

    def gone(self) -> None:
        self._release(self._held)
        self._release_inflated()
        self._is_over = True
        on_cancel, self.on_cancel = self.on_cancel, None
        if on_cancel is None:
            return
        try:
            on_cancel()
        except Exception:  # one method's mistake is not to keep the other calls of the connection
            _log_failure(self.head)

    def is_stalled(self, now_s: float) -> bool:
        is_waiting = not self.received_all and now_s - self.moved_s > STALL_TIMEOUT_S
        return is_waiting or super().is_stalled(now_s)

    def _arrived(self, flag: int, message: bytes, held: int, credit: int) -> None:
        if self._message is not None:
            raise GrpcError(Code.INTERNAL, "more than one message in a call that takes one")
        self._flag, self._message = flag, message


class StreamCall(GrpcStream):
    """Any number of messages either way.

    async for message in call: ...      the client's, as fast as they are taken and no faster
    await call.send(message)            as fast as the client takes them
    """

    initial: Metadata = ()
    """Sent before the first message."""
    trailing: Metadata = ()
    """Sent with the status."""
    _waiter: asyncio.Future[None] | None = None
    _has_begun = False

    def __init__(self, limits: Limits, function: Converse, sender: Sender, number: int, head: CallHead) -> None:
        super().__init__(limits, sender, number, head)
        self._inbox: deque[tuple[int, bytes, int, int]] = deque()  # flag, message, bytes held, credit
        self._task = asyncio.get_running_loop().create_task(self._run(function))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._inbox:
            if self.received_all or self._is_over:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        flag, message, held, credit = self._inbox.popleft()
        self._release_inflated()
        if flag:
            message = await self._inflated_next(flag, message)
        if not self._is_over:  # or all has been released already
            self._release(held)
        self.grant(credit)
        return message

    async def _inflated_next(self, flag: int, message: bytes) -> bytes:
        plain = self._small_plain(flag, message)
        return plain if plain is not None else await self._plain(flag, message)

    async def send(self, message: Buffer | Sequence[Buffer]) -> None:
        """Returns when the message is on its way; the buffers must not be changed. Cancelled if the client goes."""
        body, size = _body(message)
        if not self._is_over:
            self._begin_answer()
            self.push(body, size)
        await asyncio.sleep(0)  # others have their turn, even if this window never shuts
        await self.drained()

    def fail(self, code: Code, text: str, trailing: Metadata = ()) -> None:
        """End at once, whatever the method does."""
        self._end(code, text, trailing)
        self._task.cancel()

    @property
    def is_idle(self) -> bool:
        """Whether only the client could make anything happen here: its next message is waited for."""
        waits = self._waiter is not None and not self._waiter.done()
        return waits and self._arriving is None and not (self._inbox or self.received_all or self.pending)

    def _ended(self) -> None:
        if self._arriving is not None:
            raise GrpcError(Code.INTERNAL, "the request ended within a message")
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

    async def _run(self, function: Converse) -> None:
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
        self._release_inflated()
        self._inbox.clear()
        self._arriving = None


class Streaming:
    """A method of many messages; made by `streaming`."""

    def __init__(self, function: Converse) -> None:
        self.function = function


def streaming(function: Converse) -> Streaming:
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


_DRAINED = "the server ends and nothing is asked for on this stream: begin a new one, of another server"
_OUR_FAULT = "internal error; the server's log says more"


def _log_failure(head: CallHead) -> None:
    log.exception("%s failed in the server itself", head.path.decode("latin-1")[:200])


async def _outcome(call: GrpcStream, work: Awaitable[None]) -> GrpcError | None:
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
        inflating: Inflating | None = None,
    ) -> None:
        """`max_held_bytes`: of messages that arrive or wait to be taken, and answers that clients do not take."""
        super().__init__(CallHead, words.too_large_head(MAX_HEADER_BYTES), idle_timeout_s=idle_timeout_s)
        limits = Limits(max_message_bytes, max_held_bytes, self.held, inflating or Inflating())
        self._methods: dict[bytes, Callable[[Sender, int, CallHead], Stream]] = {}
        for path, method in methods.items():
            if isinstance(method, Streaming):
                self._methods[path] = partial(StreamCall, limits, method.function)
            else:
                self._methods[path] = partial(Call, limits, method)

    def end_idle_streams(self) -> None:
        """With a status, not as if all were well: tritonclient would take more requests for a stream that is gone."""
        for connection in list(self.connections):
            for stream in connection.streams:
                if isinstance(stream, StreamCall) and stream.is_idle:
                    stream.fail(Code.UNAVAILABLE, _DRAINED)

    def accept(self, sender: Sender, number: int, head: CallHead) -> Stream | bytes:
        if head.refusal is not None:
            if isinstance(head.refusal, bytes):
                return head.refusal
            return Refused(sender, number, head.content_length, head.refusal)
        method = self._methods.get(head.path)
        if method is None:
            return words.refused(Code.UNIMPLEMENTED, f"Method not found: {head.path.decode('latin-1')[:200]}")
        return method(sender, number, head)
