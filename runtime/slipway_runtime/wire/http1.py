"""HTTP/1.1 on asyncio: one `Connection` per client. Knows nothing of models.

Requests of a connection are answered one after the other, in order; while one is answered the next may arrive, and
then reading pauses.

    bytes ──▶ httptools ──▶ queue of Request (or the Response that refuses) ──▶ handler ──▶ bytes

Framing (CL + TE, differing lengths, bare CR or LF, bad chunks, folded lines) is refused by llhttp. By hand, because
llhttp leaves it to us: limits of head and body before memory is taken, exactly one Host, Transfer-Encoding in
HTTP/1.0, Expect, time-outs, back-pressure, a close that lets the client read the last answer.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

import httptools

from slipway_runtime.wire.http1_body import LARGE_BYTES, LargeBody, gather
from slipway_runtime.wire.http1_messages import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    Cancel,
    Head,
    Request,
    Response,
    refusal,
)
from slipway_runtime.wire.http2_limits import MIN_RATE_BPS

if TYPE_CHECKING:
    from slipway_runtime.wire.http1_server import HttpServer

MAX_URL_BYTES = 8 * 1024
HEAD_TIMEOUT_S = 15.0  # from the first byte of a request to the end of its head: nobody honest needs longer
STALL_TIMEOUT_S = 30.0  # between two pieces of a body, and for a client that does not read its answer
LINGER_S = 2.0  # after a refusal: time for the client to read it before the socket goes
_NEVER = float("inf")
_METHODS = {b"POST": "POST", b"GET": "GET"}
_HTTP2 = b"PRI "  # how the preface of HTTP/2 begins, and no request of HTTP/1


class Connection(asyncio.Protocol):
    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._head = Head()
        self._body: list[bytes | bytearray] = []
        self._arriving_bytes = 0  # what is here of the body that is arriving
        self._large: LargeBody | None = None
        self._opening: bytes | None = b""  # until it is known that this is not HTTP/2
        self._receiving = False  # between the first byte of a request and its last
        self._expects = False  # the client waits for 100 Continue
        self._input_over = False  # nothing that still arrives will be read as a request
        self._queue: deque[Request | Response] = deque()
        self._current: Request | None = None  # the one that is being answered
        self._handing = False  # the handler has been called and has not returned
        self._cancel: Cancel | None = None
        self._streaming: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._unsent = 0  # bytes not yet with the kernel when we last looked
        self._read_paused = False
        self._lingering = False
        self.expires_s = 0.0

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
        head = self._head
        self._feed(data)
        if self._receiving:
            self._wait_for_more(len(data), is_same=self._head is head)
        if self._current is None or self._queue:
            self._next()

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

    def on_message_begin(self) -> None:
        if self._input_over:
            return
        self._head = Head()
        if self._arriving_bytes:
            self._hold(-self._arriving_bytes)
        self._receiving = True

    def on_url(self, url: bytes) -> None:
        self._head.url += url
        if len(self._head.url) > MAX_URL_BYTES:
            self._refuse(414, f"the URL is longer than {MAX_URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        name = name.lower()
        if not head.complete:  # what comes later are trailers of a chunked body: counted, and no more
            if name in head.fields:
                value = head.joined(name, value)
            head.fields[name] = value
        head.count += 1
        head.size_bytes += len(name) + len(value)
        if head.size_bytes > MAX_HEAD_BYTES or head.count > MAX_FIELDS:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        head, server = self._head, self._server
        head.complete = True
        version = self._parser.get_http_version()
        wrong = head.problem(version)
        if wrong is not None:
            self._refuse(400, wrong)
            return
        announced = head.fields.get(b"content-length")
        if announced is not None:
            length = int(announced.partition(b",")[0])  # differing lengths have been refused by llhttp
            if length > server.max_body_bytes:
                self._refuse_body()
                return
            if length >= LARGE_BYTES:
                if not server.has_room(length):
                    self._refuse_full()
                    return
                self._begin_large(length)
        expect = head.fields.get(b"expect")
        if expect is not None and version == "1.1":
            if expect.lower() != b"100-continue":
                self._refuse(417, "the only expectation that can be met is 100-continue")
            self._expects = True

    def on_body(self, data: bytes) -> None:
        if self._input_over:
            return
        self._expects = False  # it did not wait
        if self._arriving_bytes + len(data) > self._server.max_body_bytes:
            self._refuse_body()
        elif self._hold(len(data)):
            if self._large is not None:
                self._large.put(data)
            elif self._body:
                gather(self._body, data)
            else:
                self._body.append(data)

    def on_message_complete(self) -> None:
        if self._input_over or self._parser.should_upgrade():
            return
        # Joining copies nothing where there is but one piece.
        self._accept(self._large.body if self._large is not None else b"".join(self._body))

    # --- the server's side

    def is_busy(self) -> bool:
        """A request is arriving, or its answer is not yet with the kernel."""
        return self._write_paused or (not self._lingering and (self._receiving or self._is_answering()))

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
            self.expires_s = _NEVER  # what is missing waits in the kernel because we do not read
        elif self._receiving and not self._input_over:
            self._refuse(408, "the request took too long to arrive")
            self._next()
        else:
            self._transport.close()

    # --- ours

    def _expire_in(self, seconds: float) -> None:
        self.expires_s = self._server.now_s + seconds

    def _wait_for_more(self, size: int, *, is_same: bool) -> None:
        """A request has begun and not ended with the `size` bytes that came."""
        head = self._head
        if head.complete and head.seen_bytes != self._arriving_bytes:
            if head.seen_bytes < 0:
                self._expire_in(STALL_TIMEOUT_S)
            else:
                self._moved(self._arriving_bytes - head.seen_bytes)
            head.seen_bytes, head.pending_bytes = self._arriving_bytes, 0
        elif not head.complete and not is_same:
            self._expire_in(HEAD_TIMEOUT_S)
        else:
            head.pending_bytes += size
            if head.pending_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def _moved(self, count: int) -> None:
        """So much of a body came. A byte now and then does not keep what is held for it."""
        self.expires_s = min(self._server.now_s + STALL_TIMEOUT_S, self.expires_s + count / MIN_RATE_BPS)

    def _wait_again(self) -> None:
        """The client may go on: its time does not count while it could not."""
        self.expires_s = self._server.now_s + STALL_TIMEOUT_S if self._receiving else _NEVER

    def _begin_large(self, length: int) -> None:
        prefix = self._head.fields.get(b"inference-header-content-length", b"0")[:10]
        self._large = LargeBody(self, length, int(prefix) if prefix.isdigit() else 0, self._large_complete)
        self._large.progressed = self._large_progressed

    def _large_progressed(self, count: int) -> None:
        if self._hold(count):
            self._moved(count)
        else:
            self._next()

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

    def _feed(self, data: bytes) -> None:
        while data and not self._input_over:
            try:
                self._parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse(400, f"not valid HTTP/1.1: {error}")
        if self._large is not None and self._receiving and not self._input_over:
            self._transport.set_protocol(self._large)

    def _large_complete(self) -> None:
        """The body is there. The old parser waits for it in vain."""
        self._transport.set_protocol(self)
        if (large := self._large) is None or self._input_over:
            return
        keep_alive = self._parser.should_keep_alive()
        method = self._parser.get_method()
        self._parser = httptools.HttpRequestParser(self)
        self._accept(large.body, method, keep_alive=keep_alive)
        self._next()

    def _accept(self, body: bytes | memoryview, method: bytes = b"", *, keep_alive: bool | None = None) -> None:
        parser, head = self._parser, self._head
        if keep_alive is None:
            keep_alive = parser.should_keep_alive()
        request = Request(
            _METHODS.get(method := method or parser.get_method()) or method.decode(),
            self._server.path_of(head.url),
            head.fields,
            body,
            keep_alive,
        )
        self._queue.append(request)
        self._receiving = self._expects = False
        self._arriving_bytes = 0
        if self._body:
            self._body = []
        self._large = None
        self._input_over = not keep_alive
        self.expires_s = _NEVER

    def _without_upgrade(self) -> bytes:
        """The head again, without the offer to speak another protocol, for a parser that still reads its body.

        "Upgrade: h2c" (curl --http2, Java's client) is an offer that may be ignored, but llhttp stops at it.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(405, "CONNECT is not served here")
        fields = [item for item in self._head.fields.items() if item[0] not in (b"upgrade", b"connection")]
        if not self._parser.should_keep_alive():
            fields.append((b"connection", b"close"))
        lines = [b"%s %s HTTP/1.1" % (method, self._head.url), *(b"%s: %s" % item for item in fields)]
        self._parser = httptools.HttpRequestParser(self)
        self._large = None
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _refuse(self, status: int, message: str) -> None:
        """Answer after what came before, and read no more."""
        if not self._input_over:
            self._input_over = True
            self._receiving = False
            self._body = []
            self._hold(-self._arriving_bytes)
            if self._large is not None:
                self._transport.set_protocol(self)
                self._large = None
            self._queue.append(refusal(status, message))

    def _refuse_head(self) -> None:
        self._refuse(
            431, f"the request head has more than {MAX_FIELDS} fields or {MAX_HEAD_BYTES} bytes, with trailers"
        )

    def _refuse_body(self) -> None:
        self._refuse(413, f"the request body is larger than {self._server.max_body_bytes} bytes")

    def _refuse_full(self) -> None:
        self._refuse(503, "too many bytes of requests are held already, try again shortly")

    def _hold(self, count: int) -> bool:
        """Count bytes of the body that is arriving; whether there is room for them."""
        if not self._server.hold(count):
            self._refuse_full()
            return False
        self._arriving_bytes += count
        return True

    def _let_go(self) -> None:
        """Of all requests that are not answered."""
        requests = [item for item in (self._current, *self._queue) if isinstance(item, Request)]
        self._server.hold(-self._arriving_bytes - sum(len(request.body) for request in requests))
        self._arriving_bytes = 0
        self._queue.clear()

    def _next(self) -> None:
        """Take up the next request, if it is its turn."""
        queue = self._queue
        while self._current is None and not self._write_paused and not self._transport.is_closing():
            if not queue:
                self._rest()
                break
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

    def _pace_reading(self) -> None:
        """Pause while a whole request waits behind the one being answered: memory for two is enough."""
        full = bool(self._queue) and (self._current is not None or self._write_paused)
        if full != self._read_paused and not self._transport.is_closing():
            self._read_paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()
            if not full and self._receiving:
                self._wait_again()

    def _answer(self, response: Response) -> None:
        request = self._current
        if request is None or self._transport.is_closing():
            if response.stream is not None:
                self._streaming = asyncio.create_task(_close(response.stream))
            return
        self._cancel = None
        # While draining the client is sent away, but not before it has all it asked for on this connection.
        leaves = self._server.draining and not self._queue and not self._receiving
        keep_alive = request.keep_alive and not leaves
        if response.stream is not None and request.method != "HEAD":
            self._streaming = asyncio.create_task(self._stream(response, response.stream, keep_alive=keep_alive))
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

    async def _stream(self, response: Response, pieces: AsyncIterator[bytes], *, keep_alive: bool) -> None:
        """Chunked, or to the end of the connection where the client would not understand that it is."""
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
