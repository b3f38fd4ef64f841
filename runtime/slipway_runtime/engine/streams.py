"""Requests that are answered by a stream: each has an instance of the model and a thread for as long as it lasts.

Who waits for an instance gets one by the same rules as who waits for a batch: priority, then the tenant's share. The
thread stops after every few answers that nobody has taken, so a slow client costs an instance, not memory.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from slipway_runtime.engine.job import Job, Runner
from slipway_runtime.engine.policy import Policy
from slipway_runtime.engine.queue import JobQueue
from slipway_runtime.errors import Kind, RequestError, cause
from slipway_runtime.tensors import Rows

log = logging.getLogger("slipway.streams")

AHEAD = 8
"""Answers that a model may be ahead of its client."""
_End = RequestError | None
_Turn = asyncio.Future[Runner | None]
"""None for those who wait in vain, because the model is being unloaded."""


class Streams:
    """Must be made inside a running event loop; all methods belong to it."""

    def __init__(self, runners: Sequence[Runner], policy: Policy) -> None:
        self._loop = asyncio.get_running_loop()
        self._policy = policy
        self._runners = list(runners)
        self._free = deque(runners)
        self._most = min(len(runners), policy.max_jobs)
        self._queue = JobQueue(policy.levels, policy.weights)
        self._turns: dict[Job, _Turn] = {}
        """Of the jobs in the queue."""
        self._threads = ThreadPoolExecutor(len(self._runners), thread_name_prefix="stream")
        self.running = 0
        self._closed = False
        self._open: set[_Bridge] = set()

    @property
    def waiting(self) -> int:
        return self._queue.count

    @property
    def utilization(self) -> float:
        """Streams that run and wait, by instance that may be used."""
        return (self.running + self.waiting) / self._most

    def waiting_by_tenant(self) -> dict[tuple[int, str], int]:
        return self._queue.waiting_by_tenant()

    async def run(self, job: Job, timeout_s: float) -> AsyncGenerator[Rows, None]:
        """The answers, one after the other; closing the iterator ends the model's work at its next answer.

        Raises:
            RequestError: FULL, DEADLINE before the first answer, UNAVAILABLE after `close`, or what the model raised.
        """
        deadline_s = self._loop.time() + timeout_s
        runner = await self._turn(job, timeout_s)
        bridge = _Bridge(self._loop)
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

    async def _turn(self, job: Job, timeout_s: float) -> Runner:
        """An instance, when it is this job's turn. Raises RequestError."""
        self._check_room(job)
        turn: _Turn = self._loop.create_future()
        self._turns[job] = turn
        self._queue.put(job)
        self._give_turns()
        runner: Runner | None = None
        try:
            async with asyncio.timeout(timeout_s):
                runner = await turn
        except TimeoutError:
            raise _expired(timeout_s) from None
        finally:
            if runner is None:
                self._leave(job, turn)
        if runner is None:
            raise _unloaded()
        if self._closed:
            self._release(runner)
            raise _unloaded()
        return runner

    def _leave(self, job: Job, turn: _Turn) -> None:
        if self._turns.pop(job, None) is not None:
            self._queue.remove(job)
        elif turn.done() and not turn.cancelled() and (runner := turn.result()) is not None:
            self._release(runner)  # it came when nobody waited for it any more, in the same turn of the loop

    def _check_room(self, job: Job) -> None:
        """One that need not wait is let in, and one that is larger than all that may wait, when nobody else does."""
        if self._closed:
            raise _unloaded()
        queue, policy = self._queue, self._policy
        if self.running < self._most:
            return
        if queue.count >= policy.max_queue:
            raise RequestError(Kind.FULL, f"Exceeds maximum queue size: {policy.max_queue} requests wait already")
        if queue.size_bytes and queue.size_bytes + job.size_bytes > policy.max_queue_bytes:
            raise RequestError(
                Kind.FULL, f"Exceeds maximum queue size: {queue.size_bytes} bytes wait already, try again shortly"
            )

    def _give_turns(self) -> None:
        """To those whose tenant and priority say so, while there are instances."""
        while self._queue.count and self.running < self._most and not self._closed:
            (job,), _ = self._queue.take(self._policy.max_rows, 1)
            turn = self._turns.pop(job)
            if not turn.done():  # else who waited has just gone
                self.running += 1
                turn.set_result(self._free.popleft())

    def _release(self, runner: Runner) -> None:
        self.running -= 1
        self._free.append(runner)
        self._give_turns()

    async def close(self) -> None:
        """Each ends at the model's next answer, for its client with an error. Who waits is refused."""
        if self._closed:
            return
        self._closed = True
        for turn in self._turns.values():
            if not turn.done():
                turn.set_result(None)
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
