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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slipway_runtime.engine.deadlines import Deadlines
from slipway_runtime.engine.job import Job, JobState, Runner
from slipway_runtime.engine.pace import DelayRule, InlineRule
from slipway_runtime.engine.queue import JobQueue
from slipway_runtime.engine.stats import Ran, Stats
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Rows

log = logging.getLogger("slipway.batcher")


@dataclass(frozen=True, slots=True)
class Policy:
    """`max_rows` of one batch, 1 for a model that does not batch. The limits of the queue are of what waits in it."""

    max_rows: int
    max_jobs: int
    max_queue: int
    max_queue_bytes: int
    timeout_s: float
    delay_s: float = 0.0
    levels: int = 1
    weights: Mapping[str, int] = field(default_factory=dict)


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
        self._deadlines = Deadlines(self._loop, self._expire)
        self._inline = InlineRule() if len(runners) == 1 and runners[0].may_run_inline else None
        self._delay = DelayRule(policy.delay_s) if policy.delay_s else None
        self._kick_is_due = False
        self._instances = [_Instance(self, runner, index) for index, runner in enumerate(runners)]
        self.running = 0
        """Requests that the model has."""

    @property
    def waiting(self) -> int:
        return self._queue.count

    def waiting_by_tenant(self) -> dict[tuple[int, str], int]:
        with self._lock:
            return self._queue.waiting_by_tenant()

    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        """Let the job wait for its turn; its `finished` is called later, never from within.

        Raises:
            RequestError: FULL, when too many or too many bytes wait already.
        """
        policy, queue = self._policy, self._queue
        if queue.count >= policy.max_queue or queue.size_bytes + job.size_bytes > policy.max_queue_bytes:
            self._refuse_unless_idle()
        job.queued_ns = time.perf_counter_ns()
        now_s = self._loop.time()
        if timeout_s is None or timeout_s >= policy.timeout_s:
            job.deadline_s = now_s + policy.timeout_s
            self._deadlines.add(job)
        else:
            job.deadline_s = now_s + timeout_s
            self._deadlines.add_own(job)
        if self._delay is not None:
            self._delay.arrived(now_s)
        with self._lock:
            queue.put(job)
        if not self._kick_is_due:
            # At the end of this turn of the loop: what else has arrived by then goes into the same batch.
            self._kick_is_due = True
            self._loop.call_soon(self._kick)

    def cancel(self, job: Job) -> bool:
        """Nobody wants the answer any more: `finished` is not called. Whether the job was not yet finished."""
        if job.state is JobState.DONE:
            return False
        self._settle(job)
        self._deadlines.discard(job)
        return True

    async def close(self) -> None:
        """End the threads, each after the batch it has. What waits is refused."""
        with self._lock:
            left: list[Job] = []
            while self._queue.count:
                left += self._queue.take(self._queue.rows, self._queue.count)[0]
        for job in left:
            self._deadlines.discard(job)
            self._answer(job, RequestError(Kind.UNAVAILABLE, "the model is being unloaded, send the request again"))
        for instance in self._instances:
            instance.stop()
        for instance in self._instances:
            await self._loop.run_in_executor(None, instance.join)
        await asyncio.sleep(0)  # what the threads have posted last
        self._deadlines.close()

    def _refuse_unless_idle(self) -> None:
        """A queue of length 0 still lets in what an idle instance takes at once."""
        idle = sum(instance.idle for instance in self._instances)
        if self._queue.count >= self._policy.max_queue + idle:
            raise RequestError(Kind.FULL, f"Exceeds maximum queue size: {self._policy.max_queue} requests wait already")
        if self._queue.size_bytes and self._queue.count >= idle:
            raise RequestError(
                Kind.FULL, f"Exceeds maximum queue size: {self._queue.size_bytes} bytes wait already, try again shortly"
            )

    # --- taking and running

    def _kick(self) -> None:
        """On the loop: begin what can begin."""
        self._kick_is_due = False
        if not self._queue.count:
            return
        if (hold_s := self._hold_s()) > 0:
            self._kick_is_due = True
            self._loop.call_later(hold_s, self._kick)
            return
        for instance in self._instances:
            if not instance.idle:
                continue
            if self._inline is not None and self._inline.inline:
                self._run_here(instance)
            else:
                instance.wake()
            if not self._queue.count:
                return

    def _hold_s(self) -> float:
        if self._delay is None or self._queue.rows >= self._policy.max_rows:
            return 0.0
        oldest = self._queue.oldest()
        age_s = (time.perf_counter_ns() - oldest.queued_ns) / 1e9
        return self._delay.hold_s(self._queue.count, -age_s, 0.0)

    def _run_here(self, instance: "_Instance") -> None:
        batch = self.take(instance)
        if batch is not None:
            instance.run(batch)
            self.finished(batch)
        if self._queue.count and not self._kick_is_due:
            self._kick_is_due = True
            self._loop.call_soon(self._kick)  # in the next turn: sockets come first

    def take(self, instance: "_Instance") -> _Batch | None:
        """On any thread: the next batch. If nobody waits, the instance is idle from now on."""
        with self._lock:
            jobs, cut = self._queue.take(self._policy.max_rows, self._policy.max_jobs)
            if not jobs:
                instance.idle = True
                return None
            now_ns = time.perf_counter_ns()
            rows = 0
            for job in jobs:
                job.state = JobState.RUNNING
                job.started_ns = now_ns
                rows += job.rows
            self.running += len(jobs)
        return _Batch(jobs, Ran(rows, cut))

    def finished(self, batch: _Batch) -> None:
        """On the loop: hand out the answers of a batch."""
        ran = batch.ran
        self.running -= len(batch.jobs)
        if self._inline is not None:
            self._inline.ran(ran.infer_ns)
        if self._delay is not None:
            self._delay.ran(ran.rows, ran.infer_ns / 1e9)
        self.stats.ran(batch.jobs, ran)
        for job, result in zip(batch.jobs, batch.results, strict=True):
            if job.state is not JobState.DONE:
                self._deadlines.discard(job)
                self._answer(job, result)

    def _answer(self, job: Job, result: Rows | RequestError) -> None:
        job.state = JobState.DONE
        if isinstance(result, RequestError):
            job.error = result
        else:
            job.outputs = result
        try:
            job.finished()
        except Exception:  # the others of the batch are not to suffer from it
            log.exception("an answer could not be given")

    def _expire(self, job: Job) -> None:
        if job.state is JobState.DONE:
            return
        limit_s = job.deadline_s - self._loop.time() + (time.perf_counter_ns() - job.queued_ns) / 1e9
        self._settle(job)
        self._answer(job, RequestError(Kind.DEADLINE, f"Request timeout expired after {max(0.0, limit_s):.3g} s"))

    def _settle(self, job: Job) -> None:
        """Take it out of the queue, if it is still there, and let nobody answer it any more."""
        with self._lock:
            if job.state is JobState.QUEUED:
                self._queue.remove(job)
            job.state = JobState.DONE

    def post(self, batch: _Batch) -> None:
        """On an instance's thread."""
        self._loop.call_soon_threadsafe(self.finished, batch)


class _Instance:
    """A runner and the thread it runs on, unless the loop's own is taken."""

    def __init__(self, batcher: Batcher, runner: Runner, index: int) -> None:
        self._batcher, self._runner = batcher, runner
        self.idle = True
        self._wake = threading.Semaphore(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"model-{index}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self.idle = False
        self._wake.release()

    def stop(self) -> None:
        self._stopping = True
        self._wake.release()

    def join(self) -> None:
        self._thread.join()
        self._runner.close()

    def run(self, batch: _Batch) -> None:
        """On the thread that is this instance's turn. Never raises."""
        began_ns = time.perf_counter_ns()
        count, failure = len(batch.jobs), None
        try:
            batch.results = self._runner.run(batch.jobs)
        except RequestError as error:
            failure = error
        except Exception:
            log.exception("a batch failed in the server itself")
            failure = RequestError(Kind.INTERNAL, "internal error; the server's log says more")
        if failure is None and len(batch.results) != count:
            failure = RequestError(Kind.INTERNAL, f"the model gave {len(batch.results)} answers for {count} requests")
        if failure is not None:
            batch.results = [failure] * count
        batch.ran.infer_ns = time.perf_counter_ns() - began_ns

    def _work(self) -> None:
        while True:
            self._wake.acquire()
            if self._stopping:
                return
            while (batch := self._batcher.take(self)) is not None:
                self.run(batch)
                self._batcher.post(batch)
