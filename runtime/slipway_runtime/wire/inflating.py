"""Who may inflate what arrived compressed, when and where: one `Inflating` for all that a server hears.

Small ones are inflated on the loop. Others wait for one of few threads: zlib takes some 4 ms for a MiB, for which
nobody else is to wait, and each may give the largest body there may be. What has been inflated counts against a
budget of its own, since a client sends a hundredth of it, until the request has been answered.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

INLINE_BYTES = 4 << 10
"""Of a compressed body that may be inflated on the loop,"""
INLINE_PLAIN_BYTES = 256 << 10
"""and of what it may give: a millisecond's worth."""
MAX_BYTES = 256 << 20
_AT_ONCE = 2
_NICE = 5  # a third of the weight of who answers: compressed requests wait where there is nothing to spare


class NoRoom(Exception):
    """Too much is inflated and not answered; a sentence."""


class Inflating:
    """Threads and budget. Used on one event loop."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "inflate", _stand_back)

    def check_room(self) -> None:
        """Before a body is inflated. Raises NoRoom."""
        if self.held_bytes >= self._max_bytes:
            raise self._no_room()

    def hold(self, count: int) -> None:
        """Count bytes that were inflated, to be given back by `release`. Raises NoRoom, and counts nothing."""
        if self.held_bytes + count > self._max_bytes:
            raise self._no_room()
        self.held_bytes += count

    def release(self, count: int) -> None:
        self.held_bytes -= count

    async def run(self, inflate: Callable[[], T]) -> T:
        """Inflate on a thread, when there is a place, which is free for the next when `inflate` has ended.

        Raises:
            NoRoom, or what `inflate` raises.
        """
        await self._places.acquire()
        try:
            self.check_room()
            work = asyncio.get_running_loop().run_in_executor(self._threads, inflate)
        except BaseException:
            self._places.release()
            raise
        work.add_done_callback(self._done)
        return await asyncio.shield(work)

    def _done(self, work: "asyncio.Future[T]") -> None:
        self._places.release()
        if not work.cancelled():
            work.exception()  # seen, though perhaps nobody waits for it any more

    def _no_room(self) -> NoRoom:
        return NoRoom(f"compressed requests that wait have more than {self._max_bytes} bytes in all, try again later")


def _stand_back() -> None:
    """Let threads that answer go first. Of Linux alone, where a thread can have a niceness of its own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(
                os.PRIO_PROCESS, threading.get_native_id(), min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
            )
