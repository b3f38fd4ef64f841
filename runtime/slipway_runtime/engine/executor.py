"""The one thread that runs the model, and the bounded queue before it.

                 queue (max_queue)          slots               thread
    infer() ──▶ waiting, first in first ──▶ given to it ──▶ load, warm-up, forward passes
                out; full = refused

A request leaves the queue when its time is up or its client is gone. One that already runs is answered at
its deadline; the thread ends its forward pass and the result is dropped.
Refuses to know tensors or protocols: the batcher can take the place of this class without either noticing.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from slipway_runtime.errors import Kind, RequestError

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Job(Generic[T]):
    work: Callable[[], T]
    done: "asyncio.Future[T]"
    queued_ns: int = field(default_factory=time.perf_counter_ns)
    started_ns: int = 0
    ended_ns: int = 0
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A result with what it cost. `queue_ns` is the wait before the thread took it up."""

    value: T
    queue_ns: int
    compute_ns: int


class Executor:
    """Must be made inside a running event loop; all methods belong to that loop."""

    def __init__(self, *, slots: int, max_queue: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots = slots
        self._max_queue = max_queue
        self._waiting: dict[_Job[Any], None] = {}  # ordered, and O(1) to leave from the middle
        self._given = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Run something on the model's thread outside of the queue: loading, warming up."""
        return await self._loop.run_in_executor(self._thread, work)

    async def infer(self, work: Callable[[], T], timeout_s: float) -> Timed[T]:
        """Wait for a turn, then run `work`. Cancelling leaves the queue.

        Raises:
            RequestError: UNAVAILABLE when the queue is full, DEADLINE after `timeout_s`; what `work` raises.
        """
        if self._given >= self._slots and len(self._waiting) >= self._max_queue:
            raise RequestError(Kind.UNAVAILABLE, f"Exceeds maximum queue size: {self._max_queue} requests wait already")
        job = _Job(work, self._loop.create_future())
        self._waiting[job] = None
        self._dispatch()
        try:
            async with asyncio.timeout(timeout_s):
                value = await job.done
        except TimeoutError:
            raise RequestError(Kind.DEADLINE, f"Request timeout expired after {timeout_s:g} s") from None
        finally:
            job.abandoned = True
            self._waiting.pop(job, None)
        return Timed(value, job.started_ns - job.queued_ns, job.ended_ns - job.started_ns)

    def _dispatch(self) -> None:
        while self._waiting and self._given < self._slots:
            job = next(iter(self._waiting))
            del self._waiting[job]
            self._given += 1
            self._thread.submit(self._work, job)

    def _work(self, job: _Job[Any]) -> None:
        """On the model's thread."""
        value, error = None, None
        if not job.abandoned:
            job.started_ns = time.perf_counter_ns()
            try:
                value = job.work()
            except RequestError as exc:
                error = exc
            job.ended_ns = time.perf_counter_ns()
        self._loop.call_soon_threadsafe(self._finish, job, value, error)

    def _finish(self, job: _Job[Any], value: object, error: RequestError | None) -> None:
        self._given -= 1
        self._dispatch()
        if job.done.done():
            return
        if error is not None:
            job.done.set_exception(error)
        else:
            job.done.set_result(value)
