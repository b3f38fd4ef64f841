"""HTTP/1.1 on asyncio: one `Connection` per client. Knows nothing of models.

Requests of a connection are answered one after the other, in order; while one is answered the next may arrive, and
then reading pauses.

    bytes ──▶ http1_reader ──▶ queue of Request (or the Response that refuses) ──▶ handler ──▶ bytes

By hand, because no parser does it: back-pressure, and a close that lets the client read the last answer.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

from slipway_runtime.wire.http1_body import LARGE_BYTES
from slipway_runtime.wire.http1_messages import Cancel, Request, Response
from slipway_runtime.wire.http1_reader import NEVER, STALL_TIMEOUT_S, TURN_BYTES, Reader
from slipway_runtime.wire.stand_in import discard_input

if TYPE_CHECKING:
    from slipway_runtime.wire.http1_server import HttpServer

LINGER_S = 2.0  # after a refusal: time for the client to read it before the socket goes
# Of requests that are answered at once, as probes are, before others have their turn.
TURN_REQUESTS = 32
_HTTP2 = b"PRI "  # how the preface of HTTP/2 begins, and no request of HTTP/1


class Connection(Reader):
    def __init__(self, server: "HttpServer") -> None:
        Reader.__init__(self, server)
        self._opening: bytes | None = b""  # until it is known that this is not HTTP/2
        self._handing = False  # the handler has been called and has not returned
        self._cancel: Cancel | None = None
        self._streaming: asyncio.Task[None] | None = None
        self._unbegun: AsyncIterator[bytes] | None = None  # of a stream whose task has not run yet
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._unsent = 0  # bytes not yet with the kernel when we last looked
        self._lingering = False

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._server.admit(self):
            self._expire_in(self._server.idle_timeout_s)
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._let_go()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._streaming is not None:
            self._streaming.cancel()
        self._current, cancel, self._cancel = None, self._cancel, None
        if cancel is not None:
            cancel()

    def data_received(self, data: bytes) -> None:
        if self._opening is not None:
            data = self._opening + data
            if data[:4] == _HTTP2[: len(data)] and self._server.http2 is not None:
                self._opening = data
                if len(data) >= len(_HTTP2):
                    self._hand_over(data)
                return
            self._opening = None
        if self._input_over:
            return
        if len(data) <= TURN_BYTES:
            self._take(data)
        else:
            self._take_turn(memoryview(data))

    def eof_received(self) -> bool:
        """The client is gone: what it waits for is cancelled, what is written is still sent.

        It may also have closed only its own direction, which cannot be told apart. Like Go's server and nginx we do
        not run models on that hope. A request it has not finished is refused, in case it still listens.
        """
        if self._receiving and not self._is_answering():
            self._refuse(400, "the request ended before it was complete")
            self._next()
        return False

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._expire_in(STALL_TIMEOUT_S)

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._lingering:
            self._expire_in(LINGER_S)
        else:
            self._wait_again()
            self._next()

    # --- httptools' side, called from within _feed

    # --- the server's side

    def is_busy(self) -> bool:
        """A request is arriving, or its answer is not yet with the kernel."""
        return self._write_paused or (
            not self._lingering and (self._receiving or self._unread is not None or self._is_answering())
        )

    def close(self) -> None:
        """After what is written has left."""
        self._transport.close()

    def expire(self) -> None:
        """The time the client had is over."""
        if self._write_paused and self._transport.get_write_buffer_size() < self._unsent:
            self.pause_writing()  # slow, but it reads
        elif self._write_paused or self._lingering:
            self._transport.abort()
        elif self._read_paused:
            self.expires_s = NEVER  # what is missing waits in the kernel because we do not read
        elif self._receiving and not self._input_over:
            self._refuse(408, "the request took too long to arrive")
            self._next()
        else:
            self._transport.close()

    # --- ours

    def _is_answering(self) -> bool:
        return bool(self._queue) or self._current is not None or self._write_paused

    def _hand_over(self, data: bytes) -> None:
        """To HTTP/2: this connection is another protocol's from now on."""
        if (make := self._server.http2) is None:
            return
        protocol = make(self._server.hand_over(self))
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def _let_go(self) -> None:
        """Of all requests that are not answered."""
        requests = [item for item in (self._current, *self._queue) if isinstance(item, Request)]
        self._server.hold(-self._arriving_bytes - sum(len(request.body) for request in requests))
        self._arriving_bytes = 0
        self._queue.clear()

    def _next(self) -> None:
        """Take up the next request, if it is its turn."""
        queue, turns = self._queue, TURN_REQUESTS
        while self._current is None and not self._write_paused and not self._transport.is_closing():
            if not queue:
                self._rest()
                break
            if not turns:
                asyncio.get_running_loop().call_soon(self._next)
                break
            turns -= 1
            item = queue.popleft()
            if isinstance(item, Response):
                self._write(item, head_only=False, keep_alive=False)
                self._linger()
                return
            self._current, self._handing = item, True
            cancel = self._server.handler(item, self._answer)
            self._handing = False
            if self._current is item and self._streaming is None:
                self._cancel = cancel
        if queue or self._read_paused:
            self._pace_reading()

    def _rest(self) -> None:
        """Nobody waits for an answer."""
        if self._expects:
            self._expects = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self._input_over and not self._lingering:
            self._transport.close()
        elif not self._receiving:
            self._expire_in(self._server.idle_timeout_s)

    def _answer(self, response: Response) -> None:
        request = self._current
        if request is None or self._transport.is_closing():
            if response.stream is not None:
                self._streaming = asyncio.create_task(_close(response.stream))
            return
        self._cancel = None
        # While draining the client is sent away, but not before it has all it asked for on this connection.
        leaves = self._server.draining and not (self._queue or self._receiving or self._unread)
        keep_alive = request.keep_alive and not leaves
        if response.stream is not None and request.method != "HEAD":
            self._begin_stream(response, response.stream, keep_alive=keep_alive)
            return
        self._write(response, head_only=request.method == "HEAD", keep_alive=keep_alive)
        self._answered(keep_alive=keep_alive)

    def _answered(self, *, keep_alive: bool) -> None:
        if self._current is not None and self._current.body:
            self._server.hold(-len(self._current.body))
        self._current = None
        if not keep_alive:
            self._input_over = True
            self._linger()
        elif not self._handing:
            self._next()

    def _begin_stream(self, response: Response, pieces: AsyncIterator[bytes], *, keep_alive: bool) -> None:
        self._unbegun = pieces
        self._streaming = asyncio.create_task(self._stream(response, pieces, keep_alive=keep_alive))
        self._streaming.add_done_callback(self._close_unbegun)

    def _close_unbegun(self, _: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step does nothing at all, not even what is in its `finally`."""
        if (pieces := self._unbegun) is not None:
            self._unbegun = None
            self._streaming = asyncio.create_task(_close(pieces))

    async def _stream(self, response: Response, pieces: AsyncIterator[bytes], *, keep_alive: bool) -> None:
        """Chunked, or to the end of the connection where the client would not understand that it is."""
        self._unbegun = None
        whole = False
        try:
            self._write(response, head_only=True, keep_alive=keep_alive)
            async for piece in pieces:
                if self._transport.is_closing():
                    return
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if keep_alive else piece)
                if self._write_paused:
                    self._writable = asyncio.get_running_loop().create_future()
                    await self._writable
            whole = True
        finally:
            self._streaming = None
            await _close(pieces)
            if not whole:
                self._transport.abort()  # the only way to say that the answer is not complete
        if keep_alive:
            self._transport.write(b"0\r\n\r\n")
        self._answered(keep_alive=keep_alive)

    def _linger(self) -> None:
        """Close so that the client gets the answer: with bytes unread, close() would reset the connection."""
        self._lingering = True
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
        if not self._write_paused:
            self._expire_in(LINGER_S)
        if self._transport.can_write_eof():
            self._transport.write_eof()
            discard_input(self._transport)
        else:
            self._transport.close()

    def _write(self, response: Response, *, head_only: bool, keep_alive: bool) -> None:
        head = self._server.head_of(response, keep_alive=keep_alive)
        body = response.body
        if head_only or not body:
            self._transport.write(head)
        elif sum(map(len, body)) < LARGE_BYTES:
            self._transport.write(b"".join((head, *body)))  # each piece by itself would be a call of the kernel
        else:
            self._transport.writelines([head, *body])


async def _close(pieces: AsyncIterator[bytes]) -> None:
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()
