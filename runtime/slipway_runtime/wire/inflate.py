"""Bodies and messages as they were before gzip or deflate, which never grow above what is allowed. Pure."""

import zlib
from typing import Any

# wbits for zlib: 16 + 15 is a gzip stream, 15 a zlib stream, which is what "deflate" means in HTTP and in gRPC.
WBITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_PIECE_IN, _PIECE_OUT = 1 << 16, 1 << 20
# Nothing honest shrinks more than this but constants, of which some MiB may come: zlib itself reaches 1:1032.
MAX_RATIO = 256
FREE_BYTES = 8 << 20


class Damaged(Exception):
    """What it is not, as a sentence."""


class TooLarge(Exception):
    """More than `most_bytes`, which is the limit or what may come of so few bytes."""

    def __init__(self, most_bytes: int, limit: int) -> None:
        why = f"more than {most_bytes} bytes when decompressed"
        super().__init__(why if most_bytes == limit else f"{why}, {MAX_RATIO} times what was sent")
        self.most_bytes = most_bytes


def inflated(body: bytes | memoryview, coding: bytes, limit: int) -> bytes:
    """The plain bytes: at most `limit`, and at most 256 times those given or 8 MiB.

    Raises:
        Damaged, TooLarge
    """
    most = min(limit, max(MAX_RATIO * len(body), FREE_BYTES))
    inflater = zlib.decompressobj(WBITS[coding])
    try:
        pieces, read = _pieces(inflater, memoryview(body), most)
    except zlib.error as exc:
        raise Damaged(f"not valid {coding.decode()}: {exc}") from None
    if pieces is None:
        raise TooLarge(most, limit)
    if not inflater.eof or inflater.unused_data or read < len(body):
        raise Damaged(f"{coding.decode()} that is cut short, or has something after its end")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _pieces(inflater: Any, body: memoryview, most: int) -> tuple[list[bytes] | None, int]:
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
