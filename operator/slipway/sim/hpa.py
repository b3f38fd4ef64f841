"""Kubernetes' HorizontalPodAutoscaler v2: the replica calculator, stabilisation, and the rate policies of `behavior`.

`desired_of_pods` is the Pods metric (an average over pods, with what it assumes of pods without a sample);
`desired_of_total` the External metric with an AverageValue, which KEDA uses.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from slipway.sim.policy import Sight

SYNC_S = 15.0
SCRAPE_S = 15.0
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Policies:
    """One direction of `behavior`."""

    stabilize_s: float
    pods: int | None
    percent: int | None
    period_s: float = 15.0
    select: str = "Max"


@dataclass(frozen=True, slots=True)
class Behavior:
    up: Policies = field(default_factory=lambda: Policies(0.0, 4, 100))
    down: Policies = field(default_factory=lambda: Policies(300.0, None, 100))


def desired_of_pods(
    samples: list[float],
    target: float,
    replicas: int,
    *,
    unready: int = 0,
    missing: int = 0,
    assumed: float | None = None,
    tolerance: float = TOLERANCE,
) -> int:
    """By samples of ready pods. `unready` pods count as zero on the way up, `missing` ones by the direction.

    `assumed`: what missing ones are taken for on the way down; the target, or for CPU all that they request.
    """
    if not samples:
        return replicas
    ratio = sum(samples) / len(samples) / target
    if not missing and not (unready and ratio > 1):
        return replicas if abs(1 - ratio) <= tolerance else math.ceil(ratio * len(samples) - 1e-9)
    filled = list(samples)
    if missing:
        # On the way down they are taken to be at their target, on the way up to do nothing.
        filled += [(target if assumed is None else assumed) if ratio < 1 else 0.0] * missing
    if ratio > 1:
        filled += [0.0] * unready
    again = sum(filled) / len(filled) / target
    if abs(1 - again) <= tolerance or (ratio < 1) != (again < 1):
        return replicas
    wish = math.ceil(again * len(filled) - 1e-9)
    is_reversed = (again < 1 and wish > replicas) or (again > 1 and wish < replicas)
    return replicas if is_reversed else wish


def desired_of_total(total: float, target: float, replicas: int, tolerance: float = TOLERANCE) -> int:
    """By a total over the replicas of the status, ready or not."""
    ratio = total / (target * replicas) if replicas else math.inf
    return replicas if abs(1 - ratio) <= tolerance else math.ceil(total / target - 1e-9)


class Normalizer:
    """Stabilisation and rate limits: from a raw recommendation to what is written."""

    def __init__(self, behavior: Behavior, least: int, most: int) -> None:
        self.behavior, self.least, self.most = behavior, least, most
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def normalize(self, desired: int, replicas: int, now: float) -> int:
        if not self._recommended:
            # The first thing that is recommended is what is there.
            self._recommended.append((now, replicas))
        stable = self._stabilized(desired, replicas, now)
        limited = self._limited(stable, replicas, now)
        if limited != replicas:
            self._changes.append((now, limited - replicas))
        return limited

    def _stabilized(self, desired: int, replicas: int, now: float) -> int:
        up, down = self.behavior.up.stabilize_s, self.behavior.down.stabilize_s
        least = min([desired, *(one for moment, one in self._recommended if moment > now - up)])
        most = max([desired, *(one for moment, one in self._recommended if moment > now - down)])
        keep = max(up, down)
        while self._recommended and self._recommended[0][0] <= now - keep:
            self._recommended.popleft()
        self._recommended.append((now, desired))
        return min(max(replicas, least), most)

    def _limited(self, wish: int, replicas: int, now: float) -> int:
        policies = self.behavior.up if wish > replicas else self.behavior.down
        if wish == replicas or policies.select == "Disabled":
            return max(self.least, min(self.most, replicas))
        while self._changes and self._changes[0][0] <= now - max(
            self.behavior.up.period_s, self.behavior.down.period_s
        ):
            self._changes.popleft()
        start = replicas - sum(delta for moment, delta in self._changes if moment > now - policies.period_s)
        pick = max if policies.select == "Max" else min
        if wish > replicas:
            ends = [start + policies.pods] if policies.pods is not None else []
            ends += [math.ceil(start * (1 + policies.percent / 100) - 1e-9)] if policies.percent is not None else []
            return min(wish, self.most, max(replicas, pick(ends)) if ends else wish)
        ends = [start - policies.pods] if policies.pods is not None else []
        ends += [int(start * (1 - policies.percent / 100))] if policies.percent is not None else []
        # Of two limits on the way down, Max is the one that lets go of more.
        limit = (min(ends) if policies.select == "Max" else max(ends)) if ends else wish
        return max(wish, self.least, min(replicas, limit))


class Hpa:
    """HPA on requests in flight per pod, as a Pods metric."""

    def __init__(self, target: float, *, hold_s: float = 300.0, least: int = 1, most: int = 64) -> None:
        self._target = target
        # To none it only goes with an external metric.
        self._normalizer = Normalizer(Behavior(down=Policies(hold_s, None, 100)), max(1, least), most)
        self._value: float | None = None

    def decide(self, seen: Sight) -> int:
        second = round(seen.now)
        if second % SCRAPE_S == 0 and seen.metrics not in {"empty", "error", "stale"} and seen.ready:
            self._value = seen.in_flight / seen.ready
        if seen.metrics in {"empty", "error"}:
            # No sample: an invalid metric, and no change.
            return seen.asked
        if second % SYNC_S != 7 or self._value is None or not seen.ready:
            return seen.asked
        half = seen.ready // 2 if seen.metrics == "half" else 0
        wish = desired_of_pods(
            [self._value] * (seen.ready - half),
            self._target,
            seen.asked,
            unready=len(seen.loading),
            missing=half,
        )
        return self._normalizer.normalize(wish, seen.asked, seen.now)
