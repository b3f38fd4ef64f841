"""Ways to a model: the batcher itself, with a cache before it, or with an order of sequences before it.

All have `submit` and `cancel`. A way that stands before another sends jobs of its own through it and answers the jobs
it was given when those are finished, so whoever submits does not see which way it is.
"""

import asyncio
from typing import Protocol

from slipway_runtime.engine.cache import Cache, Key
from slipway_runtime.engine.deadlines import Deadlines
from slipway_runtime.engine.job import Job, JobState
from slipway_runtime.engine.sequences import Sequences
from slipway_runtime.engine.stats import Stats
from slipway_runtime.errors import Kind, RequestError


class Way(Protocol):
    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        """Raises RequestError when the job is not accepted."""

    def cancel(self, job: Job) -> bool:
        """Whether the job was not finished yet; it will not be."""


class _Inner(Job):
    """A job that stands for one or more that were submitted, with the first one's place in the queue."""

    __slots__ = ("_then", "outer")

    def __init__(self, first: Job, then: "Cached | Sequenced") -> None:
        super().__init__(first.inputs, first.rows)
        self.outer: dict[Job, None] = {first: None}
        self._then = then
        self.parameters = first.parameters
        self.key, self.level, self.tenant = first.key, first.level, first.tenant
        self.size_bytes = first.size_bytes

    def finished(self) -> None:
        self._then.finished(self)

    def answer(self, job: Job) -> None:
        job.state = JobState.DONE
        job.queued_ns, job.started_ns = self.queued_ns, self.started_ns
        job.outputs, job.error = self.outputs, self.error
        job.finished()


class _Front:
    """What the two ways in front of another share: deadlines of what they were given, and which inner job does it."""

    def __init__(self, way: Way, timeout_s: float) -> None:
        self._way = way
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._deadlines = Deadlines(self._loop, self._expire)
        self._inner: dict[Job, _Inner] = {}

    def cancel(self, job: Job) -> bool:
        if job.state is JobState.DONE:
            return False
        job.state = JobState.DONE
        self._deadlines.discard(job)
        self._leave(job)
        return True

    def _wait(self, job: Job, inner: _Inner, timeout_s: float | None) -> None:
        self._inner[job] = inner
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        job.deadline_s = self._loop.time() + limit_s
        self._deadlines.add_own(job)

    def _answer_all(self, inner: _Inner) -> None:
        for job in inner.outer:
            del self._inner[job]
            self._deadlines.discard(job)
            inner.answer(job)

    def _expire(self, job: Job) -> None:
        job.state = JobState.DONE
        self._leave(job)
        job.error = RequestError(Kind.DEADLINE, "Request timeout expired")
        job.finished()

    def _leave(self, job: Job) -> None:
        """The job is answered already: take it from its inner job, and that out of the way if it was the last."""
        inner = self._inner.pop(job)
        del inner.outer[job]
        if not inner.outer:
            self._abandoned(inner)

    def _abandoned(self, inner: _Inner) -> None:
        raise NotImplementedError


class Cached(_Front):
    """Equal requests are asked once: answers are kept, and who asks meanwhile waits for the same answer."""

    def __init__(self, way: Way, cache: Cache, stats: Stats, timeout_s: float) -> None:
        super().__init__(way, timeout_s)
        self._cache, self._stats = cache, stats
        self._flights: dict[Key, _Inner] = {}
        self._keys: dict[_Inner, Key] = {}

    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        key = self._cache.key(job.inputs, job.parameters)
        outputs = self._cache.get(key)
        if outputs is not None:
            self._stats.cache_hits += 1
            job.outputs = outputs
            self._loop.call_soon(self._hit, job)
            return
        self._stats.cache_misses += 1
        flight = self._flights.get(key)
        if flight is None:
            flight = _Inner(job, self)
            self._way.submit(flight)
            self._flights[key], self._keys[flight] = flight, key
        else:
            flight.outer[job] = None
        self._wait(job, flight, timeout_s)

    def finished(self, inner: _Inner) -> None:
        key = self._forget(inner)
        if inner.outputs is not None:
            self._cache.put(key, inner.outputs)
        self._answer_all(inner)

    def _hit(self, job: Job) -> None:
        if job.state is not JobState.DONE:
            job.state = JobState.DONE
            job.finished()

    def cancel(self, job: Job) -> bool:
        if job.state is not JobState.DONE and job not in self._inner:  # a hit that is about to be answered
            job.state = JobState.DONE
            return True
        return super().cancel(job)

    def _abandoned(self, inner: _Inner) -> None:
        self._forget(inner)
        self._way.cancel(inner)

    def _forget(self, inner: _Inner) -> Key:
        key = self._keys.pop(inner)
        del self._flights[key]
        return key


class Sequenced(_Front):
    """One request of a sequence at a time, in order."""

    def __init__(self, way: Way, sequences: Sequences, timeout_s: float) -> None:
        super().__init__(way, timeout_s)
        self._sequences = sequences

    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        inner = _Inner(job, self)
        if self._sequences.enter(inner, self._loop.time()):
            try:
                self._way.submit(inner)
            except RequestError:
                self._next(inner)
                raise
        self._wait(job, inner, timeout_s)

    def finished(self, inner: _Inner) -> None:
        self._answer_all(inner)
        self._next(inner)

    def _abandoned(self, inner: _Inner) -> None:
        if inner.state is JobState.RUNNING:
            return  # the model has it: the next one waits until it is through
        if inner.queued_ns:  # else it waits for the one before it, and is not in the queue
            self._way.cancel(inner)
        self._next(inner)

    def _next(self, inner: _Inner) -> None:
        following = self._sequences.leave(inner, self._loop.time())
        while isinstance(following, _Inner):
            try:
                self._way.submit(following)
            except RequestError as error:
                following.error = error
                self._answer_all(following)
                following = self._sequences.leave(following, self._loop.time())
            else:
                return
