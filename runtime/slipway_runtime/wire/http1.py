"""HTTP/1.1 on asyncio: sockets, time and limits around `http_messages`. Knows nothing of models.

One `Connection` per client. Requests of a connection are answered one after the other, in order; while one is
answered the next may arrive, and then reading pauses.

    bytes ──▶ httptools ──▶ queue of Request (or the Response that refuses) ──▶ handler ──▶ bytes

Framing (CL + TE, differing lengths, bare CR or LF, bad chunks, folded lines) is refused by llhttp. By hand, because
llhttp leaves it to us: limits of head and body before memory is taken, exactly one Host, Transfer-Encoding in
HTTP/1.0, Expect, time-outs, back-pressure, a close that lets the client read the last answer.
"""

import asyncio
import email.utils
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from slipway_runtime.wire.http1_messages import Request, Response, head_of, joined, path_of, problem, refusal

MAX_HEAD_BYTES = 32 * 1024
MAX_URL_BYTES = 8 * 1024
MAX_FIELDS = 100
HEAD_TIMEOUT_S = 15.0  # from the first byte of a request to the end of its head: nobody honest needs longer
STALL_TIMEOUT_S = 30.0  # between two pieces of a body, and for a client that does not read its answer
BACKLOG = 2048
LINGER_S = 2.0  # after a refusal: time for the client to read it before the socket goes

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class _Head:
    """What is known of the request that is arriving."""

    url: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    fields_bytes: int = 0
    pending_bytes: int = 0  # fed while the head stayed unfinished: what the parser may be holding
    complete: bool = False


class Connection(asyncio.Protocol):
    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._head = _Head()
        self._body: list[bytes] = []
        self._body_size = 0
        self._receiving = False  # between the first byte of a request and its last
        self._expects = False  # the client waits for 100 Continue
        self._input_over = False  # nothing that still arrives will be read as a request
        self._queue: deque[Request | Response] = deque()
        self._task: asyncio.Task[None] | None = None
        self._write_paused = False
        self._unsent = 0  # bytes not yet with the kernel when we last looked
        self._read_paused = False
        self._lingering = False
        self.expires_s = 0.0

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        self._expire_in(self._server.idle_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._input_over:
            return
        head = self._head
        self._feed(data)
        if self._receiving and self._head is head and not head.complete:
            head.pending_bytes += len(data)
            if head.pending_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
        self._next()

    def eof_received(self) -> bool:
        """The client sends no more. Answers it still waits for are written before the connection closes."""
        self._input_over = True
        return self._is_answering() and not self._lingering

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._expire_in(STALL_TIMEOUT_S)

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._lingering:
            self._expire_in(LINGER_S)
        else:
            self.expires_s = float("inf")
            self._next()

    # --- httptools' side, called from within _feed

    def on_message_begin(self) -> None:
        if self._input_over:
            return
        self._head, self._body, self._body_size = _Head(), [], 0
        self._receiving = True
        self._expire_in(HEAD_TIMEOUT_S)

    def on_url(self, url: bytes) -> None:
        self._head.url += url
        if len(self._head.url) > MAX_URL_BYTES:
            self._refuse(414, f"the URL is longer than {MAX_URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        if head.complete:
            return  # a trailer of a chunked body: nothing here listens to those
        head.fields.append((name, value))
        head.fields_bytes += len(name) + len(value)
        if len(head.fields) > MAX_FIELDS or head.fields_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        self._head.complete = True
        self._expire_in(STALL_TIMEOUT_S)
        fields = [(name.lower(), value) for name, value in self._head.fields]
        version = self._parser.get_http_version()
        wrong = problem(version, self._head.url, fields)
        if wrong is not None:
            self._refuse(400, wrong)
            return
        length = next((value for name, value in fields if name == b"content-length"), b"0")
        if int(length) > self._server.max_body_bytes:
            self._refuse_body()
            return
        expect = next((value for name, value in fields if name == b"expect"), None)
        if expect is not None and version == "1.1":
            if expect.lower() != b"100-continue":
                self._refuse(417, "the only expectation that can be met is 100-continue")
            self._expects = True

    def on_body(self, data: bytes) -> None:
        if self._input_over:
            return
        self._body_size += len(data)
        if self._body_size > self._server.max_body_bytes:
            self._refuse_body()
            return
        self._expects = False  # it did not wait
        self._body.append(data)
        self._expire_in(STALL_TIMEOUT_S)

    def on_message_complete(self) -> None:
        if self._input_over or self._parser.should_upgrade():
            return
        self._receiving = self._expects = False
        request = Request(
            method=self._parser.get_method().decode(),
            path=path_of(self._head.url),
            headers=joined(self._head.fields),
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
            keep_alive=self._parser.should_keep_alive(),
        )
        self._queue.append(request)
        self._head, self._body = _Head(), []
        self._input_over = not request.keep_alive
        self.expires_s = float("inf")

    # --- ours

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
            self.expires_s = float("inf")  # what is missing waits in the kernel because we do not read
        elif self._receiving and not self._input_over:
            self._refuse(408, "the request took too long to arrive")
            self._next()
        else:
            self._transport.close()

    def _expire_in(self, seconds: float) -> None:
        self.expires_s = self._server.clock() + seconds

    def _is_answering(self) -> bool:
        return bool(self._queue) or self._task is not None or self._write_paused

    def _feed(self, data: bytes) -> None:
        while data and not self._input_over:
            try:
                self._parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse(400, f"not valid HTTP/1.1: {error}")

    def _without_upgrade(self) -> bytes:
        """The head again, without the offer to speak another protocol, for a parser that still reads its body.

        "Upgrade: h2c" (curl --http2, Java's client) is an offer that may be ignored, but llhttp stops at it.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(405, "CONNECT is not served here")
        fields = [field for field in self._head.fields if field[0].lower() not in (b"upgrade", b"connection")]
        if not self._parser.should_keep_alive():
            fields.append((b"Connection", b"close"))
        lines = [b"%s %s HTTP/1.1" % (method, self._head.url), *(b"%s: %s" % field for field in fields)]
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _refuse(self, status: int, message: str) -> None:
        """Answer after what came before, and read no more."""
        if not self._input_over:
            self._input_over = True
            self._receiving = False
            self._body = []
            self._queue.append(refusal(status, message))

    def _refuse_head(self) -> None:
        self._refuse(431, f"the request head has more than {MAX_FIELDS} fields or {MAX_HEAD_BYTES} bytes")

    def _refuse_body(self) -> None:
        self._refuse(413, f"the request body is larger than {self._server.max_body_bytes} bytes")

    def _next(self) -> None:
        """Take up the next request, if it is its turn."""
        self._pace_reading()
        if self._task is not None or self._write_paused or self._transport.is_closing():
            return
        if not self._queue:
            if self._expects:
                self._expects = False
                self._transport.writelines([b"HTTP/1.1 100 Continue\r\n\r\n"])
            elif self._input_over and not self._lingering:
                self._transport.close()
            elif not self._receiving:
                self._expire_in(self._server.idle_timeout_s)
            return
        item = self._queue.popleft()
        if isinstance(item, Response):
            self._write(item, head_only=False, keep_alive=False)
            self._linger()
            return
        self._task = asyncio.create_task(self._answer(item))

    def _pace_reading(self) -> None:
        """Pause while a whole request waits behind the one being answered: memory for two is enough."""
        full = bool(self._queue) and (self._task is not None or self._write_paused)
        if full != self._read_paused and not self._transport.is_closing():
            self._read_paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    async def _answer(self, request: Request) -> None:
        response = await self._server.handler(request)
        self._task = None
        if self._transport.is_closing():
            return
        # While draining the client is sent away, but not before it has all it asked for on this connection.
        leaves = self._server.draining and not self._queue and not self._receiving
        keep_alive = request.keep_alive and not leaves
        self._write(response, head_only=request.method == "HEAD", keep_alive=keep_alive)
        if keep_alive:
            self._next()
        else:
            self._input_over = True
            self._linger()

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
        head = head_of(response, self._server.date(), keep_alive=keep_alive)
        self._transport.writelines([head, *(() if head_only else response.body)])


class HttpServer:
    """The listening socket and the connections that came from it."""

    def __init__(self, handler: Handler, *, max_body_bytes: int, idle_timeout_s: float) -> None:
        self.handler = handler
        self.max_body_bytes = max_body_bytes
        self.idle_timeout_s = idle_timeout_s
        self.connections: set[Connection] = set()
        self.draining = False
        self.clock = time.monotonic
        self._date = (0, b"")
        self._listener: asyncio.Server | None = None
        self._empty = asyncio.Event()

    async def listen(self, host: str, port: int) -> int:
        """Start; returns the port. Raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), sock=_bound(host, port))
        self._sweeper = asyncio.create_task(self._sweep())
        return int(self._listener.sockets[0].getsockname()[1])

    def is_busy(self) -> bool:
        return any(connection.is_busy() for connection in self.connections)

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def close(self) -> None:
        """Listen no more and close every connection; returns when all that was written has been sent."""
        if self._listener is None:
            return
        self._listener.close()
        self._sweeper.cancel()
        for connection in list(self.connections):
            connection.close()
        if self.connections:
            self._empty.clear()
            await self._empty.wait()

    def date(self) -> bytes:
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, email.utils.formatdate(now, usegmt=True).encode())
        return self._date[1]

    async def _sweep(self) -> None:
        """One timer for all connections: it costs nothing per request, and a time-out may come a quarter late."""
        while True:
            await asyncio.sleep(min(1.0, self.idle_timeout_s / 4))
            now = self.clock()
            for connection in [c for c in self.connections if c.expires_s <= now]:
                connection.expire()


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket; no host = every address, IPv4 and IPv6 on one port where the machine has both."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)
