"""Batches while the model is busy: whatever waits when an instance gets free is the next batch.

    loop's thread                      lock                     one thread per instance
    submit ──▶ JobQueue ───────────────┼───────────▶ take ──▶ runner.run ──▶ take ──▶ ...
    finished ◀── call_soon_threadsafe ◀┼──────────────────────────┘
         └── or, while the model is quick: take, run and finish right here (pace.InlineRule)

An instance takes its next batch itself, so it never idles for a hand-over, and what came last with a high priority is
in that batch. A request leaves the queue when its time is up or its client is gone; one that runs already is answered
at its deadline, and what the model makes of it is dropped.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipway_runtime.engine.job import DONE, QUEUED, RUNNING, Job, Runner, Spent
from slipway_runtime.engine.pace import DelayRule, InlineRule
from slipway_runtime.engine.pending import Pending
from slipway_runtime.engine.policy import Policy
from slipway_runtime.engine.queue import Cut, JobQueue
from slipway_runtime.engine.stats import Ran, Stats
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Parameter, Rows

log = logging.getLogger("slipway.batcher")

_NONE = -1_000_000_000
"""A limit below whatever waits, so that the usual check of `submit` refuses all."""


@dataclass(slots=True)
class _Batch:
    jobs: list[Job]
    ran: Ran
    results: Sequence[Rows | RequestError] = ()


class Batcher:
    """Must be made inside a running event loop; all methods belong to that loop's thread."""

    def __init__(self, runners: Sequence[Runner], policy: Policy, stats: Stats) -> None:
        self._policy, self.stats = policy, stats
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._queue = JobQueue(policy.levels, policy.weights)
        self._pending = Pending(self._loop, policy.timeout_s, self._give_up)
        self._inline = InlineRule() if len(runners) == 1 and runners[0].may_run_inline else None
        if self._inline is not None:
            attach(runners[0])
        self._delay = DelayRule(policy.delay_s) if policy.delay_s else None
        self._max_queue, self._max_queue_bytes = policy.max_queue, policy.max_queue_bytes
        self._reserved = 0
        self._closed = False
        self._kick_is_due = False
        self._batch_s = 0.0  # one batch takes, of late
        self._held: asyncio.TimerHandle | None = None
        # Each of the two is written by one side only: the first under the lock, the second on the loop.
        self._taken = self._returned = 0
        self._instances = [_Instance(self, runner, index) for index, runner in enumerate(runners)]
        # Of the requests that may be with the model an instance takes no more than would leave the others theirs.
        self._share = -(-policy.max_jobs // len(runners))

    @property
    def waiting(self) -> int:
        return self._queue.count + self._reserved

    @property
    def running(self) -> int:
        """Requests that the model has."""
        return self._taken - self._returned

    @property
    def utilization(self) -> float:
        """Instances that have a batch and batches that wait, by instance: above 1 it cannot keep up."""
        busy = sum(instance.busy for instance in self._instances)
        return busy / self._usable + self._rounds

    @property
    def _usable(self) -> int:
        """Instances that can work at once."""
        return min(len(self._instances), self._policy.max_jobs)

    @property
    def _rounds(self) -> float:
        """Batches that wait, for every instance that can work."""
        queue = self._queue
        return max(queue.rows / self._policy.max_rows, queue.count / self._share) / self._usable

    def waiting_by_tenant(self) -> dict[tuple[int, str], int]:
        with self._lock:
            return self._queue.waiting_by_tenant()

    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        """Let the job wait for its turn; its `finished` is called later, never from within.

        Raises:
            RequestError: FULL, when too many or too many bytes wait already; UNAVAILABLE after `close`.
        """
        queue = self._queue
        if queue.count >= self._max_queue or queue.size_bytes + job.size_bytes > self._max_queue_bytes:
            self._refuse_unless_free(job)
        job.queued_ns = time.perf_counter_ns()
        if not job.watched:
            self._pending.add(job, timeout_s)
        if self._delay is not None:
            self._delay.arrived(self._loop.time())
        with self._lock:
            queue.put(job)
        if not self._kick_is_due:
            # At the end of this turn of the loop: what else has arrived by then goes into the same batch.
            self._kick_is_due = True
            self._loop.call_soon(self._kick)

    def cancel(self, job: Job) -> bool:
        """Nobody wants the answer any more: `finished` is not called. Whether the job was not yet finished."""
        return self._pending.cancel(job)

    def forget(self, sequence: Parameter) -> None:
        """Let every instance know, before its next batch, that a sequence does not go on."""
        for instance in self._instances:
            instance.forgotten.append(sequence)

    def withdraw(self, job: Job) -> bool:
        """As `cancel`, but only if the model does not have it already."""
        with self._lock:
            if job.state is not QUEUED:
                return False
            self._queue.remove(job)
            job.state = DONE
        self._pending.forget(job)
        return True

    def reserve(self, job: Job) -> None:
        """Let a job count as waiting that is to be submitted later, after `release`. Raises as `submit` does."""
        queue = self._queue
        if queue.count >= self._max_queue or queue.size_bytes + job.size_bytes > self._max_queue_bytes:
            raise self._refusal()
        self._reserved += 1
        self._max_queue -= 1
        self._max_queue_bytes -= job.size_bytes

    def release(self, job: Job) -> None:
        self._reserved -= 1
        self._max_queue += 1
        self._max_queue_bytes += job.size_bytes

    async def close(self) -> None:
        """End the threads, each after the batch it has. What waits is refused, and all that comes later."""
        if self._closed:
            return
        self._closed, self._max_queue = True, _NONE
        with self._lock:
            left: list[Job] = []
            while self._queue.count:
                left += self._queue.take(self._queue.rows, self._queue.count)[0]
            for job in left:
                job.state = RUNNING  # it is in the queue no more: one that is answered may cancel another
        for job in left:
            self._pending.answer(job, self._refusal())
        for instance in self._instances:
            instance.stop()
        # Side by side: one that does not end is not to keep the others.
        await asyncio.gather(*(self._loop.run_in_executor(None, instance.join) for instance in self._instances))
        await asyncio.sleep(0)  # what the threads have posted last
        self._pending.close()
        if self._held is not None:
            self._held.cancel()

    def _refuse_unless_free(self, job: Job) -> None:
        """A queue of length 0 still lets in what an instance takes at once, and one of few bytes what is larger."""
        queue, idle = self._queue, sum(not instance.busy for instance in self._instances)
        free = min(idle, self._policy.max_jobs - self._jobs_of_all())
        too_large = queue.size_bytes + job.size_bytes > self._max_queue_bytes
        if queue.count >= self._max_queue + free or (too_large and queue.size_bytes and queue.count >= free):
            raise self._refusal()

    def _refusal(self) -> RequestError:
        if self._closed:
            return RequestError(Kind.UNAVAILABLE, "the model is being unloaded, send the request again")
        # When what waits now will have been run, if nothing changes.
        after_s = self._batch_s * self._rounds
        if self._queue.count >= self._max_queue:
            most = self._policy.max_queue
            return RequestError(Kind.FULL, f"Exceeds maximum queue size: {most} requests wait already", after_s)
        waiting = self._queue.size_bytes + self._policy.max_queue_bytes - self._max_queue_bytes
        return RequestError(
            Kind.FULL, f"Exceeds maximum queue size: {waiting} bytes wait already, try again shortly", after_s
        )

    # --- taking and running

    def _kick(self) -> None:
        """On the loop: begin what can begin."""
        self._kick_is_due = False
        if not self._queue.count:
            return
        if self._inline is not None and self._inline.inline:
            self._run_here(self._instances[0])
            return
        with self._lock:
            self._wake_one()

    def _wake_one(self) -> None:
        """Under the lock. One that finds more than it can take wakes the next."""
        if not self._queue.count or self._room() <= 0:
            return
        for instance in self._instances:
            if instance.idle:
                if not self._is_held():
                    instance.wake()
                return

    def _is_held(self) -> bool:
        """Whether what waits is to wait a little longer, although an instance is idle."""
        if self._delay is None or not self._policy.may_grow(self._queue.rows):
            return False
        now_s = self._loop.time()
        age_s = (time.perf_counter_ns() - self._queue.oldest().queued_ns) / 1e9
        hold_s = self._delay.hold_s(self._queue.count, now_s - age_s, now_s)
        if hold_s <= 0:
            return False
        self._loop.call_soon_threadsafe(self._hold, hold_s)
        return True

    def _hold(self, hold_s: float) -> None:
        if self._held is not None:
            self._held.cancel()
        self._held = self._loop.call_later(hold_s, self._kick)

    def _run_here(self, instance: "_Instance") -> None:
        if not instance.idle:
            return  # its thread has a batch, and asks for the next kick itself
        with self._lock:
            batch = None if self._is_held() else self._take(instance)
        if batch is None:
            return
        instance.run(batch)
        instance.busy, instance.jobs = False, 0
        self.finished(batch)
        if self._queue.count and not self._kick_is_due:
            self._kick_is_due = True
            self._loop.call_soon(self._kick)  # in the next turn: sockets come first

    def take(self, instance: "_Instance") -> _Batch | None:
        """On an instance's thread: the next batch. Without one the instance is idle from now on."""
        with self._lock:
            instance.jobs = 0
            here = self._inline is None or not self._inline.inline
            batch = self._take(instance) if here else None
            if batch is None:
                instance.idle, instance.busy = True, False
            if self._queue.count:
                if here:
                    self._wake_one()
                else:
                    self.post(self._kick)
        return batch

    def _take(self, instance: "_Instance") -> _Batch | None:
        """Under the lock, for an instance that holds nothing."""
        if (room := self._room()) <= 0:
            return None  # the others have all that may be with the model; the first that has answered takes it
        most = self._policy.rows_of_next(self._queue.rows)
        jobs, cut = self._queue.take(most, room)
        if not jobs:
            return None
        if cut is Cut.FULL and most < self._policy.max_rows:
            cut = Cut.PREFERRED
        instance.busy, instance.jobs = True, len(jobs)
        self._taken += len(jobs)
        now_ns, rows = time.perf_counter_ns(), 0
        for job in jobs:
            job.state = RUNNING
            job.started_ns = now_ns
            rows += job.rows
        return _Batch(jobs, Ran(rows, cut))

    def _room(self) -> int:
        """Under the lock: how many requests one more batch may have."""
        return min(self._share, self._policy.max_jobs - self._jobs_of_all())

    def _jobs_of_all(self) -> int:
        return sum([instance.jobs for instance in self._instances])

    def finished(self, batch: _Batch) -> None:
        """On the loop: hand out the answers of a batch."""
        ran = batch.ran
        self._returned += len(batch.jobs)
        if self._inline is not None:
            self._inline.ran(ran.cpu_ns)
        self.stats.last_ms = time.time_ns() // 1_000_000
        self._batch_s += 0.1 * (ran.took_ns / 1e9 - self._batch_s)
        if self._delay is not None:
            self._delay.ran(ran.rows, ran.took_ns / 1e9)
        jobs = batch.jobs
        if RequestError in map(type, batch.results):
            jobs = [job for job, result in zip(jobs, batch.results, strict=True) if type(result) is not RequestError]
            ran.failed_rows = ran.rows - sum(job.rows for job in jobs)
        if jobs:
            self.stats.ran(jobs, ran)
        for job, result in zip(batch.jobs, batch.results, strict=True):
            self._pending.answer(job, result)

    def _give_up(self, job: Job) -> None:
        with self._lock:
            if job.state is QUEUED:
                self._queue.remove(job)
            job.state = DONE

    def post(self, what: Callable[..., None], *arguments: object) -> None:
        """On an instance's thread."""
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            log.warning("the server has ended before the model was through with its last batch")


def attach(runner: Runner) -> None:
    """On every thread that is going to call `run`, before it does."""
    if (attaching := getattr(runner, "attach", None)) is not None:
        attaching()


class _Instance:
    """A runner and the thread it runs on, unless the loop's own is taken."""

    def __init__(self, batcher: Batcher, runner: Runner, index: int) -> None:
        self._batcher, self._runner = batcher, runner
        self.idle = True
        """Its thread sleeps and has not been woken."""
        self.busy = False
        """The model has a batch."""
        self.jobs = 0
        """Requests in it; written under the batcher's lock."""
        self._spent: Spent | None = getattr(runner, "spent", None)
        if self._spent is not None:
            self._spent.taken()  # the warm-up's
        self.forgotten: deque[Parameter] = deque()
        self._wake = threading.Semaphore(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"model-{index}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Under the batcher's lock."""
        self.idle = False
        self._wake.release()

    def stop(self) -> None:
        self._stopping = True
        self._wake.release()

    def join(self) -> None:
        self._thread.join()
        try:
            self._runner.close()
        except Exception:
            log.exception("a model could not be closed")

    def run(self, batch: _Batch) -> None:
        """On the thread that is this instance's turn. Never raises."""
        began_ns, began_cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
        count, failure = len(batch.jobs), None
        try:
            while self.forgotten:
                sequence = self.forgotten.popleft()
                if (forget := getattr(self._runner, "forget", None)) is not None:
                    forget(sequence)
            batch.results = self._runner.run(batch.jobs)
            if len(batch.results) != count:
                failure = RequestError(
                    Kind.INTERNAL, f"the model gave {len(batch.results)} answers for {count} requests"
                )
        except RequestError as error:
            failure = error
        except (Exception, SystemExit):  # a model that calls exit() ends neither the server nor its own thread
            log.exception("a batch failed in the server itself")
            failure = RequestError(Kind.INTERNAL, "internal error; the server's log says more")
        if failure is not None:
            batch.results = [failure] * count
        ran = batch.ran
        ran.took_ns = time.perf_counter_ns() - began_ns
        ran.cpu_ns = time.thread_time_ns() - began_cpu_ns
        if self._spent is not None:
            ran.input_ns, ran.output_ns = self._spent.taken()

    def _work(self) -> None:
        attach(self._runner)
        while True:
            self._wake.acquire()
            if self._stopping:
                return
            while (batch := self._batcher.take(self)) is not None:
                self.run(batch)
                self._batcher.post(self._batcher.finished, batch)
