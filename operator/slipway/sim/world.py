"""A service on a virtual clock: a queue in front, replicas with slots, launches that take their time, and faults.

    arrival -> first-in-first-out queue (bounded, with a deadline) -> the ready replica with the fewest at work

A replica that is taken away gets nothing new and ends what it has; it is paid for until then, and while it loads.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from slipway.decide.scaling.types import Launch
from slipway.sim.outcome import Outcome
from slipway.sim.policy import Policy, Sight
from slipway.sim.traces import Trace

QUEUE_MOST = 10_000
SCHEDULE_S = 1.0
RESTART_S = 20.0
TAIL_OF = 200
LOOK_BACK_S = 120.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Metrics that go wrong for a while: empty, error, stale, half."""

    kind: str
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which a trace is replayed."""

    lead_s: float
    """Median from launch to ready; lognormal, or drawn from `ratios`."""
    seed: int = 0
    spread: float = 0.35
    ratios: Sequence[float] = ()
    """Measured load times over their median."""
    least: int = 1
    most: int = 64
    quota: int = 10_000
    """Replicas that the cluster has room for."""
    crash_share: float = 0.0
    """Launches that crash when they should become ready, and are started anew."""
    provision_s: float = 0.0
    """What a launch takes longer beyond the nodes that are there, of which there are enough for `nodes` replicas."""
    nodes: int = 10_000
    faults: tuple[Fault, ...] = ()
    jitter_s: float = 0.0
    """By how much the clock that policies see is off, either way."""


class World:
    """One replay. Events in order of time; ticks each second."""

    def __init__(self, trace: Trace, policy: Policy, terms: Terms) -> None:
        self._trace, self._policy, self._terms = trace, policy, terms
        self._random = Random(terms.seed)  # noqa: S311 - a simulation
        self._now = 0.0
        self._events: list[tuple[float, int, int, float, float]] = []
        """Time, number, replica, wait, service; a launch that ends has a wait of -1."""
        self._number = 0
        self._work: dict[int, int] = {}
        """Requests in each ready replica."""
        self._draining: dict[int, int] = {}
        self._loading: dict[int, float] = {}
        """When each was launched."""
        self._waiting_for_room = 0
        self._queue: deque[tuple[float, float]] = deque()
        """When it came, its size."""
        self._running = 0
        self._area = self._paid_s = 0.0
        self._area_at = self._paid_at = 0.0
        self._arrived = self._judged = self._late = self._answered = self._failed = 0
        self._busy_s = 0.0
        self._services: deque[float] = deque(maxlen=TAIL_OF)
        self._launches: deque[Launch] = deque(maxlen=64)
        self._asked = trace.initial
        self._outcome = Outcome(policy=type(policy).__name__, trace=trace.name, lead_s=terms.lead_s)
        for name in range(trace.initial):
            self._work[name] = 0
            # They were launched once too, and whoever watches knows how long that took.
            self._launches.append(Launch(0.0, SCHEDULE_S, load_s=self._launch_s()))
        self._names = trace.initial

    def run(self) -> Outcome:
        times, sizes = self._trace.times, self._trace.sizes
        end, total = times[-1], len(times)
        arrival, tick = 0, 0.0
        events = self._events
        while True:
            coming = times[arrival] if arrival < total else math.inf
            event = events[0][0] if events else math.inf
            now = min(coming, event, tick)
            if now > end and self._paid_at < end:
                self._now = end
                self._pay()
            if arrival >= total and not self._queue and not self._running:
                break
            if now > end + 4 * self._terms.lead_s + 600:
                break
            self._now = now
            if now == tick:
                self._tick()
                tick += 1.0
            elif now == coming:
                self._arrive(sizes[arrival])
                arrival += 1
            else:
                self._end_of(heapq.heappop(events))
        return self._finished(total)

    def _finished(self, total: int) -> Outcome:
        outcome = self._outcome
        # Who never got an answer has missed the objective.
        outcome.late = self._late + (total - self._judged)
        outcome.requests = total
        outcome.gpu_hours = self._paid_s / 3600
        outcome.work_hours = self._trace.work() / 3600
        return outcome

    def _arrive(self, size: float) -> None:
        self._count_area()
        self._arrived += 1
        if len(self._queue) >= QUEUE_MOST:
            self._judged += 1
            self._late += 1
            return
        self._queue.append((self._now, size))
        self._dispatch()

    def _dispatch(self) -> None:
        queue, work, model = self._queue, self._work, self._trace.model
        while queue and work:
            name = min(work, key=work.__getitem__)
            busy = work[name]
            if busy >= model.slots:
                return
            came, size = queue.popleft()
            work[name] = busy + 1
            self._running += 1
            service = size * (model.base_s + model.each_s * (busy + 1))
            self._number += 1
            heapq.heappush(self._events, (self._now + service, self._number, name, self._now - came, service))

    def _end_of(self, event: tuple[float, int, int, float, float]) -> None:
        _, _, name, wait, service = event
        if wait < 0:
            self._launched(name)
            return
        self._count_area()
        self._running -= 1
        self._answered += 1
        self._busy_s += service
        self._services.append(service)
        self._judge(wait, wait + service)
        if name in self._work:
            self._work[name] -= 1
        else:
            left = self._draining[name] - 1
            if left:
                self._draining[name] = left
            else:
                self._pay()
                del self._draining[name]
        self._dispatch()

    def _judge(self, wait: float, latency: float) -> None:
        model = self._trace.model
        self._judged += 1
        is_late = wait > model.wait_s if model.wait_s is not None else latency > (model.latency_s or math.inf)
        if is_late:
            self._late += 1
        self._outcome.add(self._now, latency, is_late=is_late)

    def _launched(self, name: int) -> None:
        begun = self._loading.get(name)
        if begun is None:
            return
        if self._random.random() < self._terms.crash_share:
            self._failed += 1
            self._push_launch(name, RESTART_S)
            return
        self._failed = 0
        self._pay()
        del self._loading[name]
        self._work[name] = 0
        took = self._now - begun
        self._launches.append(Launch(self._now, min(SCHEDULE_S, took), load_s=max(0.0, took - SCHEDULE_S)))
        self._dispatch()

    def _tick(self) -> None:
        self._count_area()
        while self._queue and self._now - self._queue[0][0] > self._trace.model.deadline_s:
            came, _ = self._queue.popleft()
            self._judge(self._now - came, math.inf)
        if self._now > self._trace.times[-1]:
            return
        wanted = self._policy.decide(self._sight())
        self._scale(max(self._terms.least, min(self._terms.most, wanted)))
        self._outcome.sample(self._now, self._asked, len(self._work))

    def _sight(self) -> Sight:
        now, random = self._now, self._random
        metrics = next((one.kind for one in self._terms.faults if one.begin_s <= now < one.end_s), "")
        return Sight(
            now=now + (random.uniform(-1, 1) * self._terms.jitter_s if self._terms.jitter_s else 0.0),
            asked=self._asked,
            ready=len(self._work),
            loading=tuple(now - begun for begun in self._loading.values()),
            in_flight=self._running + len(self._queue),
            queued=len(self._queue),
            area=self._area,
            arrived=self._arrived,
            judged=self._judged,
            late=self._late,
            answered=self._answered,
            busy_s=self._busy_s,
            tail=self._tail() if int(now) % 10 == 0 else None,
            failed=self._failed,
            missing="nvidia.com/gpu" if self._waiting_for_room else "",
            launches=tuple(one for one in self._launches if one.ready_at > now - LOOK_BACK_S),
            metrics=metrics,
        )

    def _tail(self) -> float | None:
        """The 99th percentile of service times over their mean."""
        if len(self._services) < 50:
            return None
        ordered = sorted(self._services)
        return ordered[int(0.99 * len(ordered))] / (sum(ordered) / len(ordered))

    def _scale(self, wanted: int) -> None:
        if wanted != self._asked:
            self._pay()
            self._outcome.change(self._now, wanted - self._asked)
            self._asked = wanted
        have = len(self._work) + len(self._loading)
        if have < wanted:
            room = min(wanted, self._terms.quota - len(self._draining))
            for _ in range(room - have):
                self._pay()
                self._names += 1
                self._loading[self._names] = self._now
                self._push_launch(self._names, self._launch_s())
        elif have > wanted:
            self._remove(have - wanted)
        self._waiting_for_room = max(0, wanted - len(self._work) - len(self._loading))

    def _remove(self, number: int) -> None:
        """Those that load go first, the youngest before; then who has the least to do."""
        self._pay()
        youngest = sorted(self._loading, key=self._loading.__getitem__, reverse=True)[:number]
        for name in youngest:
            del self._loading[name]
        for name in sorted(self._work, key=self._work.__getitem__)[: number - len(youngest)]:
            if busy := self._work.pop(name):
                self._draining[name] = busy

    def _launch_s(self) -> float:
        terms = self._terms
        spread = self._random.choice(terms.ratios) if terms.ratios else math.exp(self._random.gauss(0.0, terms.spread))
        beyond = len(self._work) + len(self._loading) > terms.nodes
        return terms.lead_s * spread + (terms.provision_s if beyond else 0.0)

    def _push_launch(self, name: int, after: float) -> None:
        self._number += 1
        heapq.heappush(self._events, (self._now + after, self._number, name, -1.0, 0.0))

    def _count_area(self) -> None:
        self._area += (self._running + len(self._queue)) * (self._now - self._area_at)
        self._area_at = self._now

    def _pay(self) -> None:
        """Replicas cost while they load, work and drain; not after the end of the trace."""
        until = min(self._now, self._trace.times[-1])
        number = len(self._work) + len(self._loading) + len(self._draining)
        self._paid_s += number * max(0.0, until - self._paid_at)
        self._paid_at = max(self._paid_at, until)


def replay(trace: Trace, policy: Policy, terms: Terms) -> Outcome:
    return World(trace, policy, terms).run()
