"""Which key is reconciled next, and when a failed one is tried again.

client-go's work queue on one event loop: a key waits at most once, never runs twice at the same time, and an
`add` during its run makes it run exactly once more. Beyond that, lanes (a user's change goes before the cluster's
news, those before resyncs) and turns by namespace inside a lane, so that one tenant's thousand changes delay
nobody's one.

    add ──► CHANGE:     a ▸ k1 k2, b ▸ k3    get ──► running ──► done
            NEWS:       b ▸ k4                           ▲          │ added meanwhile
            BACKGROUND: a ▸ k5 ...                       │          │
    add_after / retry ──► timer ──► add                  └──────────┘

All times are seconds of the loop's clock. Not for threads.
"""

import asyncio
import random
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from slipway.api.manifest import Key


class Lane(IntEnum):
    """Who waits for it; the smaller goes first."""

    CHANGE = 0
    """Somebody asked for something: the first write for it is what they wait for."""
    NEWS = 1
    """The cluster got on with what was asked before."""
    BACKGROUND = 2
    """Nobody waits: resyncs, and what concerns everybody at once."""


_TURNS = (*[Lane.CHANGE, Lane.CHANGE, Lane.NEWS] * 2, Lane.CHANGE, Lane.BACKGROUND)
"""Where each key in turn comes from, if one waits there: late under load, but never starved."""


class QueueObserver(Protocol):
    def added(self) -> None: ...
    def retried(self) -> None: ...
    def waited(self, seconds: float) -> None: ...
    def worked(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class QueueStats:
    depth: int
    running: int
    unfinished_s: float
    """Seconds all keys now running have run, together."""
    longest_running_s: float


class _Line:
    """First in, first out per namespace; namespaces take turns. Every operation is O(1)."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, OrderedDict[Key, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def __contains__(self, key: Key) -> bool:
        return key in self._turns.get(key[0], ())

    def push(self, key: Key) -> None:
        self._turns.setdefault(key[0], OrderedDict())[key] = None

    def pop(self) -> Key:
        namespace, keys = self._turns.popitem(last=False)
        key, _ = keys.popitem(last=False)
        if keys:
            self._turns[namespace] = keys
        return key

    def remove(self, key: Key) -> None:
        keys = self._turns[key[0]]
        del keys[key]
        if not keys:
            del self._turns[key[0]]


class WorkQueue:
    """Keys of InferenceServices that want reconciling."""

    def __init__(
        self,
        *,
        base_s: float = 0.005,
        cap_s: float = 300.0,
        observer: QueueObserver | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._base_s, self._cap_s, self._observer = base_s, cap_s, observer
        self._rng = rng or random.Random()  # noqa: S311 (spreads retries, hides nothing)
        self._lines = {lane: _Line() for lane in Lane}
        self._waiting: dict[Key, float] = {}
        self._running: dict[Key, float] = {}
        self._again: dict[Key, Lane] = {}
        self._timers: dict[Key, tuple[asyncio.TimerHandle, Lane]] = {}
        self._failures: dict[Key, int] = {}
        self._wakeups: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._turn = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Key, lane: Lane = Lane.NEWS) -> None:
        """Have the key reconciled soon. One that waits in a lesser lane moves up."""
        if self._closed:
            return
        if key in self._running:
            self._again[key] = min(lane, self._again.get(key, lane))
        elif key not in self._waiting:
            self._waiting[key] = self._now()
            self._lines[lane].push(key)
            if self._observer:
                self._observer.added()
            self._wake_one()
        elif lesser := next((line for other, line in self._lines.items() if other > lane and key in line), None):
            lesser.remove(key)
            self._lines[lane].push(key)

    def add_after(self, key: Key, delay_s: float, lane: Lane = Lane.NEWS) -> None:
        """Add after `delay_s`. Of several such wishes for a key the earliest holds, in its own lane."""
        if self._closed:
            return
        when = self._now() + delay_s
        if pending := self._timers.get(key):
            if pending[0].when() <= when:
                return
            pending[0].cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(when, self._fire, key), lane

    def retry(self, key: Key) -> float:
        """Add after a delay that doubles with every failure until `forget`; returns it."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # The exponent is bounded first: 2.0**1100 would raise.
        delay_s = min(self._cap_s, self._base_s * 2.0 ** min(failures, 64)) * self._rng.uniform(0.8, 1.2)
        self.add_after(key, delay_s)
        if self._observer:
            self._observer.retried()
        return delay_s

    def postpone(self, key: Key, delay_s: float) -> float:
        """Let the key's timer fire in `delay_s` instead of whenever it was set to; returns it."""
        if pending := self._timers.pop(key, None):
            pending[0].cancel()
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: Key) -> None:
        """The key succeeded or is given up: its next failure is a first one."""
        self._failures.pop(key, None)

    async def get(self) -> Key | None:
        """The next key, or None once closed. Every key got must be `done`. Cancelling loses no key."""
        while not self._waiting:
            if self._closed:
                return None
            await self._sleep()
        key = self._next()
        now = self._now()
        self._running[key] = now
        if self._observer:
            self._observer.waited(now - self._waiting[key])
        del self._waiting[key]
        return key

    def done(self, key: Key) -> None:
        """The run is over; what was added during it waits again."""
        started = self._running.pop(key)
        if self._observer:
            self._observer.worked(self._now() - started)
        if key in self._again:
            self.add(key, self._again.pop(key))

    def close(self) -> None:
        """Drop what waits and wake every getter; running keys finish undisturbed."""
        self._closed = True
        for timer, _ in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._waiting.clear()
        self._again.clear()
        self._lines = {lane: _Line() for lane in Lane}
        while self._wakeups:
            self._wake_one()

    def stats(self) -> QueueStats:
        now = self._now() if self._running else 0.0
        ages = [now - started for started in self._running.values()]
        return QueueStats(len(self._waiting), len(ages), sum(ages), max(ages, default=0.0))

    def _next(self) -> Key:
        turn = _TURNS[self._turn]
        self._turn = (self._turn + 1) % len(_TURNS)
        return next(self._lines[lane] for lane in (turn, *Lane) if self._lines[lane]).pop()

    def _fire(self, key: Key) -> None:
        _, lane = self._timers.pop(key)
        self.add(key, lane)

    async def _sleep(self) -> None:
        wakeup = asyncio.get_running_loop().create_future()
        self._wakeups[wakeup] = None
        try:
            await wakeup
        except asyncio.CancelledError:
            # Cancelled and woken in the same moment: the key this was for is another getter's now.
            if wakeup.done() and not wakeup.cancelled() and self._waiting:
                self._wake_one()
            raise
        finally:
            self._wakeups.pop(wakeup, None)

    def _wake_one(self) -> None:
        while self._wakeups:
            wakeup, _ = self._wakeups.popitem(last=False)
            if not wakeup.done():
                wakeup.set_result(None)
                return

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
