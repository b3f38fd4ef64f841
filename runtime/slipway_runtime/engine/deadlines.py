"""When requests expire: one timer for all, set to the earliest.

Nearly all requests have the same time limit, so they expire in the order they came: those cost a dict entry. Requests
with a limit of their own go into a heap; who has been answered meanwhile is left in it until half of it is such.
"""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from slipway_runtime.engine.job import Job
from slipway_runtime.errors import Kind, RequestError


class Deadlines:
    """`expired` is called once for every job that was not discarded before its `deadline_s` (the loop's time)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, usual_s: float, expired: Callable[[Job], None]) -> None:
        self._loop, self._usual_s, self._expired = loop, usual_s, expired
        self._usual: dict[Job, None] = {}  # all with the same limit: in order of their deadlines
        self._own: list[tuple[float, int, Job]] = []
        self._own_live: set[Job] = set()
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = float("inf")

    def add(self, job: Job, limit_s: float | None = None) -> None:
        """From now on. Without a limit of its own, and at most, the usual one counts."""
        now_s = self._loop.time()
        if limit_s is not None and limit_s < self._usual_s:
            job.limit_s, job.deadline_s = limit_s, now_s + limit_s
            self._add_own(job)
            return
        job.limit_s, job.deadline_s = self._usual_s, now_s + self._usual_s
        self._usual[job] = None
        if self._timer is None:
            self._set(job.deadline_s)

    def _add_own(self, job: Job) -> None:
        heapq.heappush(self._own, (job.deadline_s, next(self._order), job))
        self._own_live.add(job)
        if job.deadline_s < self._timer_s:
            self._set(job.deadline_s)

    def discard(self, job: Job) -> None:
        """The job has been answered."""
        if self._usual.pop(job, self) is None or not self._own:
            return
        self._own_live.discard(job)
        if len(self._own) > 2 * len(self._own_live) + 64:
            self._own = [entry for entry in self._own if entry[2] in self._own_live]
            heapq.heapify(self._own)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = when_s
        self._timer = self._loop.call_at(when_s, self._look)

    def _look(self) -> None:
        self._timer, self._timer_s = None, float("inf")
        # uvloop's timers count in milliseconds and may come that much early.
        now_s = self._loop.time() + 0.001
        due = self._due(now_s)
        earliest_s = min(
            next((job.deadline_s for job in self._usual), float("inf")),
            self._own[0][0] if self._own else float("inf"),
        )
        if earliest_s < float("inf"):
            self._set(earliest_s)
        for job in due:
            self._expired(job)

    def _due(self, now_s: float) -> list[Job]:
        due: list[Job] = []
        for job in self._usual:
            if job.deadline_s > now_s:
                break
            due.append(job)
        for job in due:
            del self._usual[job]
        while self._own and (self._own[0][0] <= now_s or self._own[0][2] not in self._own_live):
            job = heapq.heappop(self._own)[2]
            if job in self._own_live:
                self._own_live.discard(job)
                due.append(job)
        return due


def expired(job: Job) -> RequestError:
    return RequestError(Kind.DEADLINE, f"Request timeout expired after {job.limit_s:g} s")
