"""Ways to a model: the batcher itself, with a cache before it, or with an order of sequences before it.

All have `submit` and `cancel`. A way that stands before another sends jobs of its own through it and answers the jobs
it was given when those are finished, so whoever submits does not see which way it is.
"""

import asyncio
import time
from typing import Protocol

from slipway_runtime.engine.batcher import Batcher
from slipway_runtime.engine.cache import Cache, Key
from slipway_runtime.engine.job import DONE, QUEUED, Job
from slipway_runtime.engine.pending import Pending
from slipway_runtime.engine.sequences import Sequences
from slipway_runtime.engine.stats import Stats
from slipway_runtime.errors import RequestError


class Way(Protocol):
    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        """Raises RequestError when the job is not accepted."""

    def cancel(self, job: Job) -> bool:
        """Whether the job was not finished yet; it will not be."""


class _Inner(Job):
    """A job that stands for one or more that were submitted, with the first one's place in the queue.

    Those have deadlines. This one has none: one who joins late waits as long as it would have waited alone.
    """

    __slots__ = ("_then", "cache_key", "outer")
    watched = True

    def __init__(self, first: Job, then: "Cached | Sequenced", cache_key: Key = b"") -> None:
        # Not by super(): it would cost as much again, for fields that are set anew here or that nobody asks for.
        self.outer: dict[Job, None] = {first: None}
        self._then = then
        self.cache_key = cache_key
        self.inputs, self.rows, self.parameters = first.inputs, first.rows, first.parameters
        self.key, self.level, self.tenant = first.key, first.level, first.tenant
        self.size_bytes = first.size_bytes
        self.queued_ns = self.started_ns = 0
        self.state = QUEUED
        self.outputs = self.error = None

    def finished(self) -> None:
        self._then.finished(self)


class _Front:
    """What the two ways in front of another share: deadlines of what they were given, and which inner job does it."""

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending = Pending(self._loop, timeout_s, self._give_up)
        self._inner: dict[Job, _Inner] = {}

    def cancel(self, job: Job) -> bool:
        return self._pending.cancel(job)

    def close(self) -> None:
        """When the way behind has been closed, and so everything is answered."""
        self._pending.close()

    def _answer_all(self, inner: _Inner) -> None:
        """What is told of its answer may cancel others that have the same, or ask anew."""
        jobs, inner.outer = inner.outer, {}
        result = inner.outputs if inner.error is None else inner.error
        for job in jobs:
            del self._inner[job]
        for job in jobs:
            job.queued_ns, job.started_ns = inner.queued_ns, inner.started_ns
            self._pending.answer(job, result)

    def _give_up(self, job: Job) -> None:
        """Take it from its inner job, and that out of the way if it was the last."""
        job.state = DONE
        inner = self._inner.pop(job, None)
        if inner is None:
            return  # it is being answered in this very turn
        del inner.outer[job]
        if not inner.outer:
            self._abandoned(inner)

    def _abandoned(self, inner: _Inner) -> None:
        raise NotImplementedError


class Cached(_Front):
    """Equal requests are asked once: answers are kept, and who asks meanwhile waits for the same answer."""

    def __init__(self, way: Way, cache: Cache, stats: Stats, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._way, self._cache, self._stats = way, cache, stats
        self._flights: dict[Key, _Inner] = {}

    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        began_ns = time.perf_counter_ns()
        stats = self._stats
        key = self._cache.key(job.inputs, job.parameters)
        outputs = self._cache.get(key)
        if outputs is not None:
            self._loop.call_soon(self._pending.answer, job, outputs)
            stats.cache_hits += 1
            stats.cache_hit_ns += time.perf_counter_ns() - began_ns
            return
        stats.cache_misses += 1
        stats.cache_miss_ns += time.perf_counter_ns() - began_ns
        flight = self._flights.get(key)
        if flight is None:
            flight = _Inner(job, self, key)
            self._way.submit(flight)
            self._flights[key] = flight
        else:
            flight.outer[job] = None
        self._inner[job] = flight
        self._pending.add(job, timeout_s)

    def finished(self, inner: _Inner) -> None:
        del self._flights[inner.cache_key]
        if inner.outputs is not None:
            self._cache.put(inner.cache_key, inner.outputs)
        self._answer_all(inner)

    def _abandoned(self, inner: _Inner) -> None:
        del self._flights[inner.cache_key]
        self._way.cancel(inner)


class Sequenced(_Front):
    """One request of a sequence at a time, in order. Who waits for the one before counts as waiting in the queue."""

    def __init__(self, batcher: Batcher, sequences: Sequences, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._batcher, self._sequences = batcher, sequences

    def submit(self, job: Job, timeout_s: float | None = None) -> None:
        inner = _Inner(job, self)
        first = self._sequences.enter(inner, self._loop.time())
        try:
            if first:
                self._batcher.submit(inner)
            else:
                self._batcher.reserve(inner)
        except RequestError:
            self._sequences.refuse(inner)
            raise
        self._inner[job] = inner
        self._pending.add(job, timeout_s)

    def finished(self, inner: _Inner) -> None:
        self._answer_all(inner)
        self._next(inner)

    def _abandoned(self, inner: _Inner) -> None:
        if not inner.queued_ns:  # it waits for the one before it, and is not in the queue
            self._batcher.release(inner)
            self._sequences.leave(inner, self._loop.time(), ran=False)
        elif self._batcher.withdraw(inner):
            self._next(inner)
        # Else the model has it, and the next one waits until it is through.

    def _next(self, inner: _Inner) -> None:
        following = self._sequences.leave(inner, self._loop.time(), ran=bool(inner.started_ns))
        while isinstance(following, _Inner):
            self._batcher.release(following)
            try:
                self._sequences.check(following)
                self._batcher.submit(following)
            except RequestError as error:  # it has lost its start, or the model is being unloaded
                following.error = error
                self._answer_all(following)
                following = self._sequences.leave(following, self._loop.time(), ran=False)
            else:
                return
