"""Requests that are answered by a stream: each has an instance of the model and a thread for as long as it lasts.

The thread stops after every few answers that nobody has taken, so a slow client costs an instance, not memory.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from slipway_runtime.engine.job import Job, Runner
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Rows

AHEAD = 8
"""Answers that a model may be ahead of its client."""
_End = RequestError | None


class Streams:
    """Must be made inside a running event loop; all methods belong to it."""

    def __init__(self, runners: Sequence[Runner], max_queue: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._runners = list(runners)
        self._free: asyncio.Queue[Runner] = asyncio.Queue()
        for runner in runners:
            self._free.put_nowait(runner)
        self._max_queue = max_queue
        self._threads = ThreadPoolExecutor(len(self._runners), thread_name_prefix="stream")
        self.waiting = 0
        self.running = 0

    async def run(self, job: Job, timeout_s: float) -> AsyncIterator[Rows]:
        """The answers, one after the other; closing the iterator ends the model's work at its next answer.

        Raises:
            RequestError: FULL, DEADLINE before the first answer, or what the model raised.
        """
        runner = await self._turn(timeout_s)
        bridge = _Bridge(self._loop)
        self.running += 1
        work = self._loop.run_in_executor(self._threads, bridge.produce, runner, job)
        try:
            async for rows in bridge.consume():
                yield rows
        finally:
            bridge.closed = True
            bridge.room.release()
            work.add_done_callback(lambda _: self._release(runner))

    def _release(self, runner: Runner) -> None:
        self.running -= 1
        self._free.put_nowait(runner)

    async def _turn(self, timeout_s: float) -> Runner:
        if self._free.empty() and self.waiting >= self._max_queue:
            raise RequestError(Kind.FULL, f"Exceeds maximum queue size: {self._max_queue} requests wait already")
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await self._free.get()
        except TimeoutError:
            raise RequestError(Kind.DEADLINE, f"Request timeout expired after {timeout_s:.3g} s") from None
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        """After what runs."""
        await self._loop.run_in_executor(None, self._threads.shutdown)
        for runner in self._runners:
            runner.close()


class _Bridge:
    """From the model's thread to the loop, with room for a few answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: asyncio.Queue[Rows | _End] = asyncio.Queue()
        self.room = threading.Semaphore(AHEAD)
        self.closed = False

    def produce(self, runner: Runner, job: Job) -> None:
        """On the model's thread."""
        end: _End = None
        try:
            for rows in runner.stream(job):
                self.room.acquire()
                if self.closed:
                    break
                self._loop.call_soon_threadsafe(self._items.put_nowait, rows)
        except RequestError as error:
            end = error
        except Exception as error:  # the model's own; it must not leave the client waiting
            end = RequestError(Kind.INTERNAL, f"the model failed: {error}")
        self._loop.call_soon_threadsafe(self._items.put_nowait, end)

    async def consume(self) -> AsyncIterator[Rows]:
        while True:
            item = await self._items.get()
            if isinstance(item, RequestError):
                raise item
            if item is None:
                return
            self.room.release()
            yield item
