"""From a socket into a file without a way through this process: the kernel hands pages over (splice(2)).

Without TLS only. It saves one of two copies of every byte, which is what other tools are fast by.
"""

import contextlib
import errno
import fcntl
import os
import select

from slipway_runtime.fetch import dial

_PIPE = 1 << 20


class Pipe:
    """What one thread moves bytes through; empty between two calls."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        self.works = hasattr(os, "splice")
        """Not every filesystem takes bytes this way."""
        with contextlib.suppress(OSError):  # beyond what an unprivileged process may have of it
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PIPE)

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)

    def move(self, source: int, target: int, at: int, most: int) -> int:
        """Move what has come at a socket to a place in a file; 0: the other side has closed.

        Raises:
            TimeoutError: nothing came.  OSError: the disk, or the connection.
        """
        try:
            count = os.splice(source, self._in, min(most, _PIPE))
        except BlockingIOError:
            poll = select.poll()
            poll.register(source, select.POLLIN)
            if not poll.poll(dial.STALL_S * 1000):
                raise TimeoutError from None
            count = os.splice(source, self._in, min(most, _PIPE))
        self._empty(target, at, count)
        return count

    def _empty(self, target: int, at: int, count: int) -> None:
        while count:
            try:
                moved = os.splice(self._out, target, count, offset_dst=at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.works = False
                moved = os.pwrite(target, data := os.read(self._out, count), at)
                while moved < len(data):
                    moved += os.pwrite(target, data[moved:], at + moved)
            at, count = at + moved, count - moved
