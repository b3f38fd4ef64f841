"""What arrives on a connection of HTTP/1.1: bytes into requests, in turns. Knows nothing of answers.

    bytes ──▶ turns of 16 KiB ──▶ httptools ──▶ queue of Request, or of the Response that refuses what came

Framing (CL + TE, differing lengths, bare CR or LF, bad chunks, folded lines) is refused by llhttp. By hand, because
llhttp leaves it to us: limits of head and body before memory is taken, exactly one Host, Transfer-Encoding in
HTTP/1.0, Expect, time-outs.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import httptools

from slipway_runtime.wire.http1_body import LARGE_BYTES, LargeBody, gather
from slipway_runtime.wire.http1_messages import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
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
# Parsed before others have their turn, bodies of known length apart: at worst 2 ms, of chunks of one byte each.
TURN_BYTES = 16 * 1024
NEVER = float("inf")
_METHODS = {b"POST": "POST", b"GET": "GET"}


class _Refused(Exception):
    """Has the parser leave what is not worth reading any more."""


class Reader(asyncio.Protocol):
    """The half of a connection that reads. `_next` is called when a request, or a refusal, is in the queue."""

    _transport: asyncio.Transport

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._head = Head()
        self._body: list[bytes | bytearray] = []
        self._arriving_bytes = 0  # what is here of the body that is arriving
        self._large: LargeBody | None = None
        self._unread: memoryview | None = None  # what came with more than fits a turn
        self._turn_is_due = False
        self._receiving = False  # between the first byte of a request and its last
        self._expects = False  # the client waits for 100 Continue
        self._input_over = False  # nothing that still arrives will be read as a request
        self._read_paused = False
        self._queue: deque[Request | Response] = deque()
        self._current: Request | None = None  # the one that is being answered
        self.expires_s = 0.0

    def _next(self) -> None:
        """Take up the next request, if it is its turn."""
        raise NotImplementedError

    # --- turns

    def _take(self, data: bytes | memoryview) -> None:
        head = self._head
        self._feed(data)
        if self._receiving:
            self._wait_for_more(len(data), is_same=self._head is head)
        if self._current is None or self._queue:
            self._next()

    def _take_turn(self, data: memoryview) -> None:
        """Of what is more than a turn. The body of a request whose length is known is one call of the parser."""
        self._unread = data[TURN_BYTES:]
        self._take(data[:TURN_BYTES])
        if left := self._left_of_body():
            body, self._unread = self._unread[:left], self._unread[left:]
            self._take(body)
        if self._input_over or not self._unread:
            self._unread = None
            self._step_aside()
        self._pace_reading()

    def _go_on(self) -> None:
        """The next turn, unless it waits for an answer."""
        unread, self._turn_is_due = self._unread, False
        if unread is None or self._queue or self._transport.is_closing():
            return
        if len(unread) > TURN_BYTES:
            self._take_turn(unread)
        else:
            self._unread = None
            self._take(unread)
            self._pace_reading()

    def _left_of_body(self) -> int:
        """Bytes that the parser will take for the body of the request that is arriving, as far as that is known."""
        return max(0, self._head.length - self._arriving_bytes) if self._receiving and not self._input_over else 0

    def _pace_reading(self) -> None:
        """Pause while a whole request waits behind the one being answered: memory for two is enough."""
        if self._transport.is_closing():
            return
        full = bool(self._queue) or self._unread is not None
        if full and not self._queue and not self._turn_is_due:
            self._turn_is_due = True
            asyncio.get_running_loop().call_soon(self._go_on)
        if full != self._read_paused:
            self._read_paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()
            if not full and self._receiving:
                self._wait_again()

    # --- httptools' side, called from within _feed

    def on_message_begin(self) -> None:
        if self._input_over:
            raise _Refused
        self._head = Head()
        if self._arriving_bytes:
            self._hold(-self._arriving_bytes)
        self._receiving = True

    def on_url(self, url: bytes) -> None:
        self._head.url += url
        if len(self._head.url) > MAX_URL_BYTES:
            self._refuse(414, f"the URL is longer than {MAX_URL_BYTES} bytes")
            raise _Refused

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
            raise _Refused

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
            head.length = length
        expect = head.fields.get(b"expect")
        if expect is not None and version == "1.1":
            if expect.lower() != b"100-continue":
                self._refuse(417, "the only expectation that can be met is 100-continue")
            self._expects = True

    def on_body(self, data: bytes) -> None:
        if self._input_over:
            raise _Refused
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

    # --- requests

    def _feed(self, data: bytes | memoryview) -> None:
        while data and not self._input_over:
            try:
                self._parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + bytes(data[upgrade.args[0] :])
            except httptools.HttpParserError as error:
                self._refuse(400, f"not valid HTTP/1.1: {error}")
        if self._large is not None and self._unread is None:
            self._step_aside()

    def _step_aside(self) -> None:
        """For the rest of a large body, once the parser has taken all of it that had been read before."""
        if self._large is not None and self._receiving and not self._input_over:
            self._transport.set_protocol(self._large)

    def _begin_large(self, length: int) -> None:
        prefix = self._head.fields.get(b"inference-header-content-length", b"0")[:10]
        self._large = LargeBody(self, length, int(prefix) if prefix.isdigit() else 0, self._large_complete)
        self._large.progressed = self._large_progressed

    def _large_progressed(self, count: int) -> None:
        if self._hold(count):
            self._moved(count)
        else:
            self._next()

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
        self.expires_s = NEVER

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

    # --- time

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
        self.expires_s = self._server.now_s + STALL_TIMEOUT_S if self._receiving else NEVER
