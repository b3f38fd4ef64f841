"""Requests that are answered by a stream: each has an instance of the model and a thread for as long as it lasts.

The thread stops after every few answers that nobody has taken, so a slow client costs an instance, not memory.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from slipway_runtime.engine.job import Job, Runner
from slipway_runtime.errors import Kind, RequestError, cause
from slipway_runtime.tensors import Rows

log = logging.getLogger("slipway.streams")

AHEAD = 8
"""Answers that a model may be ahead of its client."""
_End = RequestError | None


class Streams:
    """Must be made inside a running event loop; all methods belong to it."""

    def __init__(self, runners: Sequence[Runner], max_queue: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._runners = list(runners)
        self._free: asyncio.Queue[Runner | None] = asyncio.Queue()
        """None for those who wait in vain, because the model is being unloaded."""
        for runner in runners:
            self._free.put_nowait(runner)
        self._max_queue = max_queue
        self._threads = ThreadPoolExecutor(len(self._runners), thread_name_prefix="stream")
        self.waiting = 0
        self.running = 0
        self._closed = False
        self._open: set[_Bridge] = set()

    @property
    def utilization(self) -> float:
        """Streams that run and wait, by instance."""
        return (self.running + self.waiting) / len(self._runners)

    async def run(self, job: Job, timeout_s: float) -> AsyncGenerator[Rows, None]:
        """The answers, one after the other; closing the iterator ends the model's work at its next answer.

        Raises:
            RequestError: FULL, DEADLINE before the first answer, UNAVAILABLE after `close`, or what the model raised.
        """
        deadline_s = self._loop.time() + timeout_s
        runner = await self._turn(timeout_s)
        bridge = _Bridge(self._loop)
        self.running += 1
        self._open.add(bridge)
        work = self._loop.run_in_executor(self._threads, bridge.produce, runner, job)
        work.add_done_callback(lambda _: self._release(runner))
        try:
            async with aclosing(bridge.consume(deadline_s, timeout_s)) as answers:
                async for rows in answers:
                    yield rows
        finally:
            self._open.discard(bridge)
            bridge.close()

    def _release(self, runner: Runner) -> None:
        self.running -= 1
        self._free.put_nowait(None if self._closed else runner)

    async def _turn(self, timeout_s: float) -> Runner:
        if self._closed:
            raise _unloaded()
        if self._free.empty() and self.waiting >= self._max_queue:
            raise RequestError(Kind.FULL, f"Exceeds maximum queue size: {self._max_queue} requests wait already")
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                runner = await self._free.get()
        except TimeoutError:
            raise _expired(timeout_s) from None
        finally:
            self.waiting -= 1
        if runner is None or self._closed:
            raise _unloaded()
        return runner

    async def close(self) -> None:
        """Each ends at the model's next answer, for its client with an error. Who waits is refused."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self.waiting):
            self._free.put_nowait(None)
        for bridge in self._open:
            bridge.close(_unloaded())
        await self._loop.run_in_executor(None, self._threads.shutdown)
        for runner in self._runners:
            try:
                await self._loop.run_in_executor(None, runner.close)
            except Exception:
                log.exception("a model could not be closed")


class _Bridge:
    """From the model's thread to the loop, with room for a few answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: asyncio.Queue[Rows | _End] = asyncio.Queue()
        self.room = threading.Semaphore(AHEAD)
        self.closed = False

    def close(self, end: _End = None) -> None:
        """The model's next answer is its last; `end` comes after those that nobody has taken yet."""
        self.closed = True
        self.room.release()
        self._items.put_nowait(end)

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
        except (Exception, SystemExit) as error:  # the model's own; it must not leave the client waiting
            log.exception("a stream failed")
            end = RequestError(Kind.INTERNAL, f"the model failed: {cause(error)}")
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, end)
        except RuntimeError:
            log.warning("the server has ended before the model was through with its last stream")

    async def consume(self, deadline_s: float, timeout_s: float) -> AsyncGenerator[Rows, None]:
        """The first answer must come by `deadline_s`, `timeout_s` after the request."""
        try:
            async with asyncio.timeout_at(deadline_s):
                item = await self._items.get()
        except TimeoutError:
            raise _expired(timeout_s) from None
        while True:
            if isinstance(item, RequestError):
                raise item
            if item is None:
                return
            self.room.release()
            yield item
            item = await self._items.get()


def _expired(timeout_s: float) -> RequestError:
    return RequestError(Kind.DEADLINE, f"Request timeout expired after {timeout_s:g} s")


def _unloaded() -> RequestError:
    return RequestError(Kind.UNAVAILABLE, "the model is being unloaded, send the request again")
