"""What a peer may ask of an HTTP/2 connection before it is shown the door. Pure."""

from slipway_runtime.wire import http2_frames as h2
from slipway_runtime.wire.http2_frames import ConnectionBroken, ErrorCode

HELLO_S = 10.0
"""From connecting to the end of the preface."""
STALL_TIMEOUT_S = 60.0
"""For a peer that neither takes an answer nor goes on with its request, on a stream or on the connection."""
MIN_RATE_BPS = 10_000.0
"""Bytes per second that count as going on: a byte now and then does not keep what is held for it."""
LAST_STREAM_S = 1.0
"""For a peer that does not answer the PING after the GOAWAY that asks it to leave."""
LATE_STAY_S = 1.0
"""For a client that connects while the server drains, until it is asked to leave."""
LINGER_S = 1.0
"""Between two bytes of our last words and the end of the socket: time for the peer to read them."""

MAX_STREAMS = 256
MAX_HEADER_BYTES = 16 * 1024
MAX_BLOCK_BYTES = 64 * 1024
"""Of a header block that is read, for the table's sake, though its fields may be refused."""
MAX_CONTINUATIONS = 16
MAX_FRAME_BYTES = 2**20
STREAM_WINDOW = 2**20
"""What a peer may send on a stream before anything of it has been dealt with."""
CONNECTION_WINDOW = 2**30
CONNECTION_CREDIT = 2**24

OUR_HELLO = h2.settings(
    {
        h2.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        h2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        h2.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
        h2.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
    }
) + h2.window_update(0, CONNECTION_WINDOW - h2.DEFAULT_WINDOW)

CALM = 2000.0
"""Cost of frames that a peer may cause at once, and per second. A PING costs 1."""
_PAID = 2.0  # by every request and every message: grpc-go sends a PING with each answer, to measure its bandwidth
COST = {"settings": 10.0, "ping": 1.0, "reset": 6.0, "priority": 0.5, "window": 0.02, "empty": 0.5, "refused": 6.0}
FREE_BLOCK_BYTES = 2048  # no honest client sends much more with every request
BLOCK_BYTES_PER_COST = 128
FIELDS_PER_COST = 4
"""Of fields beyond what a list may hold: a byte each to send, but not to read."""


def progress(moved_s: float, count: int, now_s: float) -> float:
    """When a peer last did something, counting that it has just moved so many bytes."""
    return min(now_s, moved_s + max(0, count) / MIN_RATE_BPS)


class Patience:
    """Counts frames that cost us more than their sender: floods of PING, SETTINGS, resets, empty frames."""

    def __init__(self, now_s: float) -> None:
        self._cost, self._since_s, self._work = 0.0, now_s, 0

    def spend(self, cost: float, now_s: float, work: int) -> None:
        """`work`: requests and pieces of answers so far. Raises ConnectionBroken."""
        self._cost += cost
        if self._cost > CALM:
            paid = CALM * (now_s - self._since_s) + _PAID * (work - self._work)
            self._cost = max(cost, self._cost - paid)
            self._since_s, self._work = now_s, work
            if self._cost > CALM / 2:
                raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")


class HeaderBlock:
    """A header block in pieces: HEADERS and the CONTINUATION frames after it."""

    def __init__(self, number: int, flags: int, payload: bytes) -> None:
        self.number, self.flags = number, flags
        self._pieces = [payload]
        self._size = len(payload)

    def add(self, number: int, payload: bytes) -> None:
        if number != self.number:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, f"CONTINUATION of stream {number}, not {self.number}")
        self._pieces.append(payload)
        self._size += len(payload)
        if len(self._pieces) > MAX_CONTINUATIONS or self._size > MAX_BLOCK_BYTES:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")

    def whole(self) -> bytes:
        return b"".join(self._pieces)
