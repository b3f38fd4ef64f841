"""The words of gRPC over HTTP/2: requests' headers, messages in bodies, status, compression. Pure.

Source: github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum

from slipway_runtime.wire.http2_headers import STATUS_200, Field, literal
from slipway_runtime.wire.http2_requests import Head
from slipway_runtime.wire.inflate import Damaged, TooLarge, inflated
from slipway_runtime.wire.inflating import INLINE_BYTES, INLINE_PLAIN_BYTES

PREFIX = struct.Struct(">BI")
"""Before every message: whether it is compressed, and its length."""
ACCEPTED = b"identity, deflate, gzip"
_CODINGS = (b"gzip", b"deflate")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_MESSAGE_TEXT = 1024
_GRPC = b"application/grpc"


class Code(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """What a call ends with instead of an answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class CallHead(Head):
    """The headers of a call."""

    __slots__ = ("encoding", "refusal", "timeout_s")

    def __init__(self, fields: list[Field]) -> None:
        super().__init__(fields)
        content_type, timeout, encoding = b"", b"", b"identity"
        for name, value in fields:
            if name == b"content-type":
                content_type = value
            elif name == b"grpc-timeout":
                timeout = value
            elif name == b"grpc-encoding":
                encoding = value
        self.encoding = encoding
        self.timeout_s = read_timeout_s(timeout)
        self.refusal: bytes | tuple[bytes, bytes] | None = self._http_refusal(content_type) or self._refusal()
        """The answer, if these headers say already that the call cannot be: trailers, or what HTTP has instead."""

    def _http_refusal(self, content_type: bytes) -> tuple[bytes, bytes] | None:
        """The answer, in headers and a body, to a request that is not gRPC."""
        if self.method != b"POST":
            return _http_answer(b"405", b"gRPC is spoken here, and its method is POST\n")
        if not content_type.startswith(_GRPC) or content_type[len(_GRPC) :][:1] not in {b"", b"+", b";"}:
            return _http_answer(b"415", b"gRPC is spoken here, and its content-type is application/grpc\n")
        return None

    def _refusal(self) -> bytes | None:
        if self.encoding == b"identity" or self.encoding in _CODINGS:
            return None
        name = self.encoding.decode("latin-1")[:40]
        text = f"grpc-encoding '{name}' is not understood, use gzip, deflate or identity"
        return RESPONSE_BLOCK + literal(b"grpc-accept-encoding", ACCEPTED) + status_block(Code.UNIMPLEMENTED, text)


def _http_answer(status: bytes, text: bytes) -> tuple[bytes, bytes]:
    return literal(b":status", status) + literal(b"content-type", b"text/plain"), text


def too_large_head(limit: int) -> CallHead:
    """Stands for headers that are too many to be read."""
    head = CallHead([])
    head.problem = head.trailers_problem = ""
    head.refusal = refused(Code.RESOURCE_EXHAUSTED, f"the request has more than {limit} bytes of headers")
    return head


def read_timeout_s(text: bytes) -> float | None:
    """At most 8 digits and a unit; what is not that counts as no limit."""
    unit_s = _UNITS_S.get(text[-1:])
    if unit_s is None or not text[:-1].isdigit() or len(text) > 9:
        return None
    return int(text[:-1]) * unit_s


def metadata_block(metadata: Sequence[Field]) -> bytes:
    return b"".join(literal(name, value) for name, value in metadata)


def status_block(code: int, text: str = "") -> bytes:
    """Trailers with a status; the text in percent encoding, cut at 1,024 bytes."""
    plain = text.encode(errors="replace")[:_MAX_MESSAGE_TEXT]
    quoted = b"".join(bytes((byte,)) if 0x20 <= byte < 0x7F and byte != 0x25 else b"%%%02X" % byte for byte in plain)
    return literal(b"grpc-status", b"%d" % code) + (literal(b"grpc-message", quoted) if quoted else b"")


RESPONSE_BLOCK = STATUS_200 + literal(b"content-type", _GRPC)
OK_BLOCK = status_block(Code.OK)


def refused(code: Code, text: str) -> bytes:
    """Headers that are the whole answer."""
    return RESPONSE_BLOCK + status_block(code, text)


def too_large(what: str, limit: int) -> GrpcError:
    return GrpcError(Code.RESOURCE_EXHAUSTED, f"Received message larger than max ({what} vs. {limit})")


def plain(flag: int, message: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """A compressed message as it was before, which never grows above what is allowed. Raises GrpcError."""
    if flag != 1 or encoding not in _CODINGS:
        raise GrpcError(Code.INTERNAL, "a message is marked as compressed, but no grpc-encoding says how")
    try:
        return inflated(message, encoding, max_bytes)
    except Damaged as error:
        raise GrpcError(Code.INTERNAL, f"the message is {error}") from None
    except TooLarge as error:
        raise too_large(str(error), error.most_bytes) from None


def small_plain(flag: int, message: bytes, encoding: bytes, max_bytes: int) -> bytes | None:
    """The same at once; None for one that takes longer. Raises GrpcError."""
    if len(message) > INLINE_BYTES:
        return None
    try:
        return plain(flag, message, encoding, min(max_bytes, INLINE_PLAIN_BYTES))
    except GrpcError as error:
        if error.code is Code.RESOURCE_EXHAUSTED and max_bytes > INLINE_PLAIN_BYTES:
            return None
        raise
