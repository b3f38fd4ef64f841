"""HTTP/2 frames (RFC 9113, sections 4 and 6): bytes into frames and frames into bytes. Pure.

+-----------------------------------------------+
|                 Length (24)                   |
+---------------+---------------+---------------+
|   Type (8)    |   Flags (8)   |  then: stream identifier (32), payload (Length bytes)
+---------------+---------------+
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Plain ints: an enum member in a comparison costs more than the rest of reading a frame.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# Identifiers of SETTINGS.
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 2, 3, 4, 5, 6

DEFAULT_WINDOW = 65_535
MAX_WINDOW = MAX_STREAM_ID = 2**31 - 1
MIN_FRAME_SIZE, MAX_FRAME_SIZE_ALLOWED = 2**14, 2**24 - 1

HEADER_BYTES = 9
_HEADER = struct.Struct(">IBI")
_U32 = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_MAX_SETTINGS = 64  # six are defined; a frame of thousands only wants to keep us busy

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream identifier, payload."""


class ErrorCode(IntEnum):
    """RFC 9113, section 7; those we send."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionBroken(Exception):
    """The peer broke the protocol: the whole connection ends with GOAWAY."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


class FrameReader:
    """Cuts what arrives into frames.

    DATA that has not arrived whole is passed on in pieces, each as a frame of its own and only the last with
    END_STREAM, so that nothing large is glued together twice. Of other frames at most one is held, unfinished.
    """

    def __init__(self, max_data: int, max_other: int) -> None:
        """Largest payload of a DATA frame, and of any other."""
        self._max_data, self._max_other = max_data, max_other
        self._rest = bytearray()
        self._wanted = HEADER_BYTES  # how much of it must be there before it is worth looking again
        self._left = 0  # of a DATA frame that was passed on in part
        self._cut: tuple[int, int] = (0, 0)  # its flags and stream

    @property
    def held_bytes(self) -> int:
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes.

        Raises:
            ConnectionBroken: a frame is too large; after the frames before it.
        """
        at = 0
        if self._left:
            piece = data[: self._left]
            at = len(piece)
            yield self._piece(piece)
        elif self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        end = len(data)
        unpack, max_other = _HEADER.unpack_from, self._max_other
        while end - at >= HEADER_BYTES:
            length_type, flags, stream = unpack(data, at)
            type_ = length_type & 0xFF
            length = length_type >> 8
            if length > max_other:
                self._check(type_, length)
            start = at + HEADER_BYTES
            at = start + length
            if at > end:
                if type_ == DATA and not flags & PADDED:
                    self._left, self._cut = length, (flags, stream & MAX_STREAM_ID)
                    if start < end:
                        yield self._piece(data[start:])
                    return
                at = start - HEADER_BYTES
                self._wanted = HEADER_BYTES + length
                break
            yield type_, flags, stream & MAX_STREAM_ID, data[start:at]
        else:
            self._wanted = HEADER_BYTES
        if at < end:
            self._rest += data[at:]

    def _piece(self, piece: bytes) -> Frame:
        self._left -= len(piece)
        flags, stream = self._cut
        return DATA, flags & ~END_STREAM if self._left else flags, stream, piece

    def _check(self, type_: int, length: int) -> None:
        if length > self._max_data:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if type_ != DATA:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, f"a frame of type {type_} with {length} bytes")


def head(type_: int, flags: int, stream: int, length: int) -> bytes:
    """A frame without its payload, which is sent after it uncopied."""
    return _HEADER.pack(length << 8 | type_, flags, stream)


def frame(type_: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _HEADER.pack(len(payload) << 8 | type_, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def read_settings(flags: int, payload: bytes) -> dict[int, int]:
    """Checked values by identifier, the last of each; unknown ones are among them, as the RFC wants them ignored."""
    if len(payload) % _SETTING.size or (flags & ACK and payload):
        raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that is no list of pairs, or an ACK with one")
    if len(payload) > _MAX_SETTINGS * _SETTING.size:
        raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, f"more than {_MAX_SETTINGS} settings in a frame")
    for key, value in _SETTING.iter_unpack(payload):
        if key == ENABLE_PUSH and value > 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if key == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE above 2^31-1")
        if key == MAX_FRAME_SIZE and not MIN_FRAME_SIZE <= value <= MAX_FRAME_SIZE_ALLOWED:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
    return dict(_SETTING.iter_unpack(payload))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _U32.pack(increment))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream, _U32.pack(code))


def goaway(last_stream: int, code: ErrorCode, why: str) -> bytes:
    return frame(GOAWAY, 0, 0, _U32.pack(last_stream) + _U32.pack(code) + why.encode()[:64])


def read_u32(payload: bytes) -> int:
    """The one number of RST_STREAM and WINDOW_UPDATE."""
    if len(payload) != _U32.size:
        raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, f"{len(payload)} bytes where 4 belong")
    return int(_U32.unpack(payload)[0])


def without_padding(payload: bytes) -> bytes:
    """Payload of a DATA or HEADERS frame that is PADDED."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def without_priority(number: int, payload: bytes) -> bytes:
    """The header block of a HEADERS frame that HAS_PRIORITY, which we ignore as RFC 9113, 5.3.2 advises."""
    if len(payload) < 5:
        raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
    if check_priority(number, payload[:5]):
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
    return payload[5:]


def check_priority(number: int, payload: bytes) -> ErrorCode:
    """What is wrong with a PRIORITY; NO_ERROR if nothing is."""
    if not number:
        return ErrorCode.PROTOCOL_ERROR
    if len(payload) != 5:
        return ErrorCode.FRAME_SIZE_ERROR
    is_own_child = int(_U32.unpack_from(payload)[0]) & MAX_STREAM_ID == number
    return ErrorCode.PROTOCOL_ERROR if is_own_child else ErrorCode.NO_ERROR
