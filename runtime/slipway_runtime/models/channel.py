"""Arrays between two processes of ours: their bytes through memory that both see, all the rest as a small message.

Each side writes to one block and reads from the other's. A block only grows; whoever writes to it makes it larger, and
the reader maps it again when a message says so. A message that was sent must be read before the next one is written.
"""

import mmap
import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from slipway_runtime.tensors import Array

_ALIGNMENT = 64
_SMALLEST = 1 << 16


class _Block:
    def __init__(self, fd: int, access: int = mmap.ACCESS_DEFAULT) -> None:
        self._fd, self._access = fd, access
        self._map: mmap.mmap | None = None

    def at_least(self, size: int) -> mmap.mmap:
        """The block with room for `size`, which is made if there is none."""
        if self._map is None or len(self._map) < size:
            wanted = max(_SMALLEST, 1 << (size - 1).bit_length(), os.fstat(self._fd).st_size)
            os.ftruncate(self._fd, wanted)
            self._map = mmap.mmap(
                self._fd, wanted, access=self._access
            )  # arrays on the old map keep it for as long as they live
        return self._map


class Channel:
    """One end. `fds` are those of the socket, of the block it writes and of the block it reads.

    `shared`: others read the same block, so the arrays that are received cannot be written to.
    """

    def __init__(self, fds: tuple[int, int, int], *, shared: bool = False) -> None:
        socket, written, read = fds
        self.connection = Connection(socket)
        self._written = _Block(written)
        self._read = _Block(read, mmap.ACCESS_READ if shared else mmap.ACCESS_DEFAULT)

    def send(self, message: object, arrays: list[Array]) -> None:
        """Raises OSError when the other end is gone."""
        self.post(self.packed(message, arrays))

    def packed(self, message: object, arrays: list[Array]) -> bytes:
        """What `post` sends, also that of other channels that write to the same block; the arrays are in the block."""
        places: list[Any] = []
        end = 0
        for array in arrays:
            if array.dtype == object:
                places.append(array)
                continue
            places.append((array.dtype.str, array.shape, end))
            end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        if end:
            block = self._written.at_least(end)
            for array, place in zip(arrays, places, strict=True):
                if isinstance(place, tuple):
                    np.copyto(_view(block, place), array)
        return pickle.dumps((message, places, end), pickle.HIGHEST_PROTOCOL)

    def post(self, packed: bytes) -> None:
        """Raises OSError when the other end is gone."""
        self.connection.send_bytes(packed)

    def receive(self) -> tuple[Any, list[Array]]:
        """The arrays are views of the other's block, until it sends again. Raises EOFError, OSError."""
        # Written by our own other end, over a socket that nobody else has.
        message, places, end = pickle.loads(self.connection.recv_bytes())  # noqa: S301
        block = self._read.at_least(end) if end else None
        return message, [_view(block, place) if isinstance(place, tuple) else place for place in places]

    def close(self) -> None:
        self.connection.close()


def _view(block: mmap.mmap | None, place: tuple[str, tuple[int, ...], int]) -> Array:
    dtype, shape, start = place
    if block is None:  # nothing but empty arrays
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, block, start)
