"""What becomes of a key after its reconcile: done, later, again with backoff, or given up until it changes.

Like `scaling`, and no other place but `main`, it catches every exception: a bug met by one object must not stop others.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_never

from slipway.api.manifest import Key
from slipway.control.cache import Cache
from slipway.control.log import about
from slipway.control.metrics import Metrics
from slipway.control.workqueue import WorkQueue
from slipway.kube.errors import Conflict, Fenced, KubeError, Throttled, Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """All that could be done now is done. None: nothing to do until something changes."""

    requeue_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """`terminal`: no retry helps until the object changes; else it is tried again with backoff."""

    error: str | Exception
    terminal: bool = False


Outcome = Done | Failed
Reconcile = Callable[[Key], Awaitable[Outcome]]

_PASSING = (Conflict, Throttled, Unavailable, Fenced)
"""Errors of the moment, cured by trying again: worth a line at info, not a warning per attempt."""


class Workers:
    """Runs `reconcile` for keys of the queue, several at a time, never one key twice at a time."""

    def __init__(self, queue: WorkQueue, cache: Cache, reconcile: Reconcile, metrics: Metrics) -> None:
        self._queue, self._cache, self._reconcile, self._metrics = queue, cache, reconcile, metrics

    async def run(self, count: int) -> None:
        """Until the queue is closed and the keys taken are done."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._work(), name=f"worker {number}")

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            try:
                await self.step(key)
            finally:
                self._queue.done(key)

    async def step(self, key: Key) -> None:
        """Reconcile the key once and see to its next time. Raises nothing but cancellation."""
        metadata = (self._cache.service(key) or {}).get("metadata", {})
        with about(
            namespace=key[0],
            name=key[1],
            uid=metadata.get("uid"),
            generation=metadata.get("generation"),
            reconcile_id=secrets.token_hex(4),
        ):
            started = asyncio.get_running_loop().time()
            result = self._settle(key, await self._attempt(key))
            self._metrics.reconciled(result, asyncio.get_running_loop().time() - started)

    async def _attempt(self, key: Key) -> Outcome:
        try:
            return await self._reconcile(key)
        except KubeError as error:
            return Failed(error)
        except Exception as error:
            log.exception("reconcile failed by a bug")
            return Failed(error)

    def _settle(self, key: Key, outcome: Outcome) -> str:
        """The result as controller-runtime names it."""
        match outcome:
            case Done(delay_s):
                self._queue.forget(key)
                if delay_s is None:
                    return "success"
                self._queue.add_after(key, delay_s)
                return "requeue_after"
            case Failed(error, terminal=True):
                log.warning("reconcile cannot succeed until the object changes: %s", error)
                self._queue.forget(key)
                return "terminal_error"
            case Failed(error):
                delay_s = self._retry(key, error)
                level = logging.INFO if isinstance(error, _PASSING) else logging.WARNING
                log.log(level, "reconcile failed, again in %.3f s: %s", delay_s, error)
                return "error"
            case _:
                assert_never(outcome)

    def _retry(self, key: Key, error: str | Exception) -> float:
        delay_s = self._queue.retry(key)
        if isinstance(error, KubeError) and error.retry_after_s > delay_s:
            # A floor: the earlier timer of `retry` must not win over it.
            return self._queue.postpone(key, error.retry_after_s)
        return delay_s
