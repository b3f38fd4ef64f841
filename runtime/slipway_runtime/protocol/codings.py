"""Content codings of HTTP bodies: gzip and deflate, in and out. Pure."""

import zlib
from collections.abc import Sequence
from typing import Any

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.tensors import Buffer

# wbits for zlib: 16 + 15 is a gzip stream, 15 a zlib stream, which is what "deflate" means in HTTP.
_WBITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_PIECE_IN, _PIECE_OUT = 1 << 16, 1 << 20
_LEVEL = 1  # tensors hardly get smaller with more, only later
# Nothing honest shrinks more than this but constants, of which some MiB may come: zlib itself reaches 1:1032.
MAX_RATIO = 256
FREE_BYTES = 8 << 20


def decoded(body: bytes | memoryview, coding: bytes, limit: int) -> bytes | memoryview:
    """The body without its Content-Encoding; never grows above `limit` bytes, nor 256 fold and above 8 MiB.

    Raises:
        RequestError: INVALID, or TOO_LARGE.
    """
    name = coding.strip().lower()
    if name in (b"identity", b""):
        return body
    if name not in _WBITS:
        shown = coding[:40].decode("latin-1")
        raise invalid(f"Content-Encoding '{shown}' is not understood, use gzip, deflate or none")
    most = min(limit, max(MAX_RATIO * len(body), FREE_BYTES))
    inflater = zlib.decompressobj(_WBITS[name])
    try:
        pieces, read = _inflated(inflater, memoryview(body), most)
    except zlib.error as exc:
        raise invalid(f"the body is not valid {name.decode()}: {exc}") from None
    if pieces is None:
        why = f"the request body is larger than {most} bytes"
        raise RequestError(Kind.TOO_LARGE, why if most == limit else f"{why}, {MAX_RATIO} times what was sent")
    if not inflater.eof or inflater.unused_data or read < len(body):
        raise invalid(f"the {name.decode()} body is cut short, or has something after its end")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _inflated(inflater: Any, body: memoryview, most: int) -> tuple[list[bytes] | None, int]:
    """The plain bytes, None for more than `most` of them, and how much of the body was looked at.

    In pieces: zlib lets other threads run while it works, but not while it puts a large whole together, which one
    that is to be refused does not need.
    """
    pieces: list[bytes] = []
    read = 0
    while read < len(body) and not inflater.eof:
        todo: bytes | memoryview = body[read : read + _PIECE_IN]
        read += len(todo)
        while todo and not inflater.eof:
            pieces.append(inflater.decompress(todo, min(_PIECE_OUT, most + 1)))
            most -= len(pieces[-1])
            if most < 0:
                return None, read
            todo = inflater.unconsumed_tail
    return pieces, read


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
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WBITS[coding.encode()])
    return b"".join([*(deflater.compress(buffer) for buffer in buffers), deflater.flush()])
