"""HTTP/2 on asyncio for a server: what arrives on a connection. Knows nothing of gRPC.

    bytes ──▶ http2_reader ──▶ Connection ──▶ host.accept() ──▶ Stream.received()
                                  │                                  │
    bytes ◀───────────────────────┴──── Sender ◀── Stream.respond() ─┘

`http2_limits` says what a peer may ask for, and for how long; all of it is checked before memory is taken.
"""

import asyncio
import socket
from typing import Generic, Protocol, TypeVar, cast

from slipway_runtime.wire import http2_frames as h2
from slipway_runtime.wire import http2_limits as limits
from slipway_runtime.wire.http2_frames import ConnectionBroken, ErrorCode
from slipway_runtime.wire.http2_headers import Field, HeaderDecoder
from slipway_runtime.wire.http2_limits import Patience
from slipway_runtime.wire.http2_reader import Reader
from slipway_runtime.wire.http2_requests import Head
from slipway_runtime.wire.http2_stream import Held, Sender, Stream

H = TypeVar("H", bound=Head)

_OF_THE_CONNECTION = frozenset((h2.SETTINGS, h2.PING, h2.GOAWAY))
_DRAIN_PING = b"draining"


class Host(Protocol[H]):
    """What a connection wants of the server it belongs to."""

    held: Held
    draining: bool

    def parse(self, fields: list[Field]) -> H: ...
    def accept(self, sender: Sender, number: int, head: H) -> Stream | bytes:
        """Begin a request; a block of headers is the whole answer."""

    def opened(self, connection: "Connection[H]") -> None: ...
    def closed(self, connection: "Connection[H]") -> None: ...


class Connection(Reader, Generic[H]):
    """One client. Also for a transport that had another protocol: `connection_made`, then what was read already."""

    def __init__(self, host: Host[H], too_large: H) -> None:
        """`too_large` is the head of a request with more than MAX_HEADER_BYTES of headers."""
        Reader.__init__(self, host.held)
        self._host = host
        self._headers = HeaderDecoder(host.parse, too_large, limits.MAX_HEADER_BYTES)
        self._known_heads = self._headers.known
        self._streams = self._sender.streams
        self._last = 0  # stream that was begun
        self._last_served = h2.MAX_STREAM_ID  # those after it were refused all at once, by GOAWAY
        self._received = 0
        self._draining = False
        self._unsent = 0

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._sender.attach(self._transport, self._loop)
        self._since_s = self.active_s = self._sender.now_s = self._loop.time()
        self._patience = Patience(self.active_s)
        if (sock := transport.get_extra_info("socket")) is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host.opened(self)
        self._sender.write(limits.OUR_HELLO)
        if self._host.draining:
            # Not at once: a client takes that for a connection that failed, and waits before it tries again.
            self._loop.call_later(limits.LATE_STAY_S, self.drain)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.closing = True
        self._host.closed(self)
        self._drop_all()

    def pause_writing(self) -> None:
        # A peer that does not read its answers gets no further request read.
        self._sender.paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self.active_s = self._loop.time()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._sender.paused = False
        self._read_again()
        now_s = self._loop.time()
        for stream in self._streams.values():
            stream.moved_s = now_s  # it was us who did not listen
        self._sender.pump()

    # --- the host's side

    @property
    def is_busy(self) -> bool:
        return self._later is not None or self._sender.is_busy

    @property
    def streams(self) -> list[Stream]:
        return list(self._streams.values())

    def drain(self) -> None:
        """Ask the peer to leave: its requests that are on their way are served, later ones it sends elsewhere.

        What it sends after it has answered the PING, it sent knowing of the GOAWAY.
        """
        if self._draining or self._sender.closing:
            return
        self._draining = True
        self._sender.write(h2.goaway(h2.MAX_STREAM_ID, ErrorCode.NO_ERROR, "draining"))
        self._sender.write(h2.frame(h2.PING, 0, 0, _DRAIN_PING))
        self._loop.call_later(limits.LAST_STREAM_S, self._announce_last)

    def _announce_last(self) -> None:
        if self._last_served == h2.MAX_STREAM_ID and not self._sender.closing:
            self._last_served = self._last
            self._sender.closes_when_done = True
            self._sender.write(h2.goaway(self._last, ErrorCode.NO_ERROR, "draining"))

    def sweep(self, now_s: float, idle_timeout_s: float) -> None:
        """Called now and then: ends whoever has had its time."""
        quiet_s = now_s - self.active_s
        if self._next == h2.SETTINGS and now_s - self._since_s > limits.HELLO_S:
            self._transport.abort()
        elif self._sender.paused:
            self._sweep_unread(now_s)
        elif not self._streams and quiet_s > idle_timeout_s:
            self.drain()
        else:
            for stream in [stream for stream in self._streams.values() if stream.is_stalled(now_s)]:
                self._break(stream, ErrorCode.CANCEL)
            if self._unfinished is not None and quiet_s > limits.STALL_TIMEOUT_S:
                self.end(ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not end")

    def end(self, code: ErrorCode, why: str) -> None:
        """GOAWAY and close; what runs is given up."""
        if not self._sender.closing:
            self._sender.write(h2.goaway(min(self._last, self._last_served), code, why))
            self._sender.flush()
            self._sender.close()
            self._drop_all()

    def abort(self) -> None:
        self._transport.abort()

    def _sweep_unread(self, now_s: float) -> None:
        unsent = self._transport.get_write_buffer_size()
        self.active_s = limits.progress(self.active_s, self._unsent - unsent, now_s)
        self._unsent = unsent
        if now_s - self.active_s > limits.STALL_TIMEOUT_S:
            self._transport.abort()

    # --- frames that arrive

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        if self._received >= limits.CONNECTION_CREDIT:
            self._sender.write(h2.window_update(0, self._received))
            self._received = 0
        if flags & h2.PADDED:
            payload = h2.without_padding(payload)
        stream = self._streams.get(number)
        if stream is None:
            self._late(number, "DATA")
            return
        stream.receive_window -= size
        if stream.received_all or stream.receive_window < 0:
            self._break(stream, ErrorCode.STREAM_CLOSED if stream.received_all else ErrorCode.FLOW_CONTROL_ERROR)
            return
        if size > len(payload):
            stream.grant(size - len(payload))
        is_last = flags & h2.END_STREAM != 0
        if not payload and not is_last:
            self._calm("empty")
        elif stream.content_length is not None:
            self._body(stream, payload, is_last)
        else:
            stream.received_all = is_last
            stream.received(payload, is_last)

    def _body(self, stream: Stream, body: bytes, is_last: bool) -> None:
        if stream.is_as_long_as_said(len(body), is_last=is_last):
            stream.received_all = is_last
            stream.received(body, is_last)
        else:
            self._break(stream, ErrorCode.PROTOCOL_ERROR)

    def _block(self, number: int, flags: int, block: bytes) -> None:
        if len(block) > limits.FREE_BLOCK_BYTES:
            self._pay(len(block) / limits.BLOCK_BYTES_PER_COST)
        head = self._known_heads.get(block)
        if head is None:  # also of a stream that is refused: the table is the connection's
            head = self._headers.decode(block)
            self._pay(self._headers.beyond / limits.FIELDS_PER_COST)
        is_last = flags & h2.END_STREAM != 0
        if number <= self._last:
            self._trailers(number, head, is_last=is_last)
            return
        self._last = number
        if number > self._last_served or head.problem or len(self._streams) >= limits.MAX_STREAMS:
            self._refuse(number, head, is_last=is_last)
            return
        begun = self._host.accept(self._sender, number, head)
        if isinstance(begun, bytes):
            self._answer_at_once(number, begun, is_last=is_last)
            return
        self._streams[number] = begun
        if is_last:
            self._body(begun, b"", True)

    def _refuse(self, number: int, head: H, *, is_last: bool) -> None:
        if not is_last:
            self._sender.cut(number)
        if number > self._last_served:
            return  # GOAWAY said so
        self._calm("refused")
        code = ErrorCode.PROTOCOL_ERROR if head.problem else ErrorCode.REFUSED_STREAM
        self._sender.write(h2.rst_stream(number, code))

    def _answer_at_once(self, number: int, block: bytes, *, is_last: bool) -> None:
        answer = h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, number, block)
        if not is_last:
            self._sender.cut(number)
            answer += h2.rst_stream(number, ErrorCode.NO_ERROR)
        self._sender.write(answer)

    def _trailers(self, number: int, head: H, *, is_last: bool) -> None:
        stream = self._streams.get(number)
        if stream is None:
            self._late(number, "HEADERS")
        elif stream.received_all:
            self._break(stream, ErrorCode.STREAM_CLOSED)
        elif not is_last or head.trailers_problem:
            self._break(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            self._body(stream, b"", True)

    def _late(self, number: int, what: str) -> None:
        """A frame of a stream that is no more: in order only if it was us who ended it."""
        self._known(number, what)
        if not self._sender.is_cut(number):
            raise ConnectionBroken(ErrorCode.STREAM_CLOSED, f"{what} of stream {number}, which has ended")

    def _known(self, number: int, what: str) -> Stream | None:
        """The stream if it still is; ConnectionBroken if there never was one."""
        if not number or number > self._last:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, f"{what} of stream {number}, which has not begun")
        return self._streams.get(number)

    def _control(self, type_: int, flags: int, number: int, payload: bytes) -> None:
        if number and type_ in _OF_THE_CONNECTION:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, f"a frame of type {type_} of stream {number}")
        match type_:
            case h2.WINDOW_UPDATE:
                self._window_update(number, h2.read_u32(payload) & h2.MAX_WINDOW)
            case h2.RST_STREAM:
                self._reset(number, payload)
            case h2.SETTINGS:
                self._settings(flags, payload)
            case h2.PING:
                self._ping(flags, payload)
            case h2.CONTINUATION:
                self._continue_headers(flags, number, payload)
            case h2.PRIORITY:
                self._priority(number, payload)
            case h2.PUSH_PROMISE:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE of a client")
            case _:
                self._calm("ping")  # GOAWAY, as no stream is ours, and types that nobody knows

    def _window_update(self, number: int, increment: int) -> None:
        self._calm("window")
        sender = self._sender
        if number == 0:
            if not increment or sender.window + increment > h2.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise ConnectionBroken(code, "WINDOW_UPDATE of nothing or of too much")
            sender.window += increment
            sender.pump()
        elif (stream := self._known(number, "WINDOW_UPDATE")) is not None:
            self._open_window(stream, increment)

    def _open_window(self, stream: Stream, increment: int) -> None:
        stream.send_window += increment
        if not increment:
            self._break(stream, ErrorCode.PROTOCOL_ERROR)
        elif stream.send_window > h2.MAX_WINDOW:
            self._break(stream, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            self._sender.enqueue(stream)

    def _reset(self, number: int, payload: bytes) -> None:
        stream = self._known(number, "RST_STREAM")
        h2.read_u32(payload)
        self._calm("reset")
        if stream is not None:
            stream.received_all = True  # nothing more may come, unlike after a reset of ours
            self._drop(stream)

    def _settings(self, flags: int, payload: bytes) -> None:
        self._calm("settings")
        values = h2.read_settings(flags, payload)
        if flags & h2.ACK:
            return
        self._next = -1
        self._sender.write(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self._sender.frame_bytes = min(values.get(h2.MAX_FRAME_SIZE, self._sender.frame_bytes), limits.MAX_FRAME_BYTES)
        self._sender.resize(values.get(h2.INITIAL_WINDOW_SIZE, self._sender.initial_window))

    def _ping(self, flags: int, payload: bytes) -> None:
        self._calm("ping")
        if len(payload) != 8:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "PING that has not 8 bytes")
        if not flags & h2.ACK:
            self._sender.write(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif self._draining and payload == _DRAIN_PING:
            self._announce_last()

    def _priority(self, number: int, payload: bytes) -> None:
        self._calm("priority")
        code = h2.check_priority(number, payload)
        stream = self._streams.get(number)
        if code and stream is not None:
            self._break(stream, code)
        elif code:
            raise ConnectionBroken(code, f"PRIORITY of stream {number} that is none")

    def _calm(self, what: str) -> None:
        self._pay(limits.COST[what])

    def _pay(self, cost: float) -> None:
        self._patience.spend(cost, self.active_s, self._last // 2 + self._sender.turns)

    def _break(self, stream: Stream, code: ErrorCode) -> None:
        """The peer broke the rules of a stream."""
        stream.reset(code)
        stream.gone()

    def _drop(self, stream: Stream) -> None:
        """The peer does not want the answer."""
        self._sender.forget(stream)
        stream.gone()

    def _drop_all(self) -> None:
        for stream in list(self._streams.values()):
            self._drop(stream)
