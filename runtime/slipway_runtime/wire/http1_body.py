"""Large request bodies: read from the socket straight into the memory they stay in.

The usual way a body is copied three times (out of the socket, out of the parser, together). One of tensors is mostly
copying, so when its length is known and large, the parser steps aside until all of it is there.

    data_received ──▶ parser ──▶ head is complete, Content-Length is large ──▶ LargeBody takes over the transport
                        ▲                                                            │
                        └──────────── a new parser, when the body is complete ◀──────┘
"""

import asyncio
from collections.abc import Callable

import numpy as np

from slipway_runtime.wire.stand_in import StandIn

LARGE_BYTES = 64 * 1024
_SMALL_BYTES = 4096
_READ_BYTES = 256 * 1024  # at once: as much may have been taken before it is counted
_ALIGNMENT = 64


def gather(pieces: list[bytes | bytearray], data: bytes) -> None:
    """Add one more. Small ones go together: each alone would take many times its size."""
    last = pieces[-1] if pieces else None
    if last is None or len(data) >= _SMALL_BYTES:
        pieces.append(data)
    elif isinstance(last, bytearray) and len(last) < LARGE_BYTES:
        last += data
    else:
        pieces.append(bytearray(data))


class LargeBody(StandIn):
    """Stands in for `owner` as the transport's protocol. `complete` is called when the last byte is there."""

    def __init__(self, owner: asyncio.Protocol, size: int, prefix: int, complete: Callable[[], None]) -> None:
        """`prefix` bytes come before the tensors, which are to lie at an address that suits any type."""
        StandIn.__init__(self, owner)
        self._size, self._complete = size, complete
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        begin = -(memory.ctypes.data + prefix) % _ALIGNMENT
        self.body = memory.data[begin : begin + size]
        self._filled = 0
        self.progressed: Callable[[int], None] = lambda count: None

    @property
    def missing(self) -> int:
        return self._size - self._filled

    def put(self, data: bytes | memoryview) -> None:
        """What had been read before. Never more than is missing."""
        self.body[self._filled : self._filled + len(data)] = data
        self._filled += len(data)

    # --- asyncio's side

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.body[self._filled : self._filled + _READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self.progressed(nbytes)
        if not self.missing:
            self._complete()
