"""Content codings of HTTP bodies: gzip and deflate, in and out. Pure."""

import zlib
from collections.abc import Sequence

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.tensors import Buffer
from slipway_runtime.wire.inflate import WBITS, Damaged, TooLarge, inflated

_LEVEL = 1  # tensors hardly get smaller with more, only later


def decoded(body: bytes | memoryview, coding: bytes, limit: int) -> bytes | memoryview:
    """The body without its Content-Encoding; never grows above `limit` bytes, nor 256 fold and above 8 MiB.

    Raises:
        RequestError: INVALID, or TOO_LARGE.
    """
    name = coding.strip().lower()
    if name in (b"identity", b""):
        return body
    if name not in WBITS:
        shown = coding[:40].decode("latin-1")
        raise invalid(f"Content-Encoding '{shown}' is not understood, use gzip, deflate or none")
    try:
        return inflated(body, name, limit)
    except Damaged as exc:
        raise invalid(f"the body is {exc}") from None
    except TooLarge as exc:
        raise RequestError(Kind.TOO_LARGE, f"the request body is larger than allowed: {exc}") from None


def accepted(header: bytes) -> str | None:
    """Which coding an Accept-Encoding header lets us use: "gzip" before "deflate", None = neither."""
    weights: dict[bytes, float] = {}
    for item in header.lower().split(b","):
        name, _, parameter = item.partition(b";")
        weights[name.strip()] = _weight(parameter)
    for coding in (b"gzip", b"deflate"):
        if weights.get(coding, weights.get(b"*", 0.0)) > 0:
            return coding.decode()
    return None


def _weight(parameter: bytes) -> float:
    name, _, value = parameter.partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def encoded(buffers: Sequence[Buffer], coding: str) -> bytes:
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, WBITS[coding.encode()])
    return b"".join([*(deflater.compress(buffer) for buffer in buffers), deflater.flush()])
