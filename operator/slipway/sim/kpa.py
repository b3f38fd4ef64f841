"""Knative's pod autoscaler (serving, pkg/autoscaler/scaling): stable and panic window, ready pods only.

Simplified: every pod is scraped each second, none fails; no activator capacity, no excess burst capacity.
"""

import math
from collections import deque
from dataclasses import dataclass

from slipway.sim.policy import Sight


@dataclass(frozen=True, slots=True)
class KpaSettings:
    target: float
    """Concurrency per pod, target utilisation already in it."""
    stable_s: float = 60.0
    panic_s: float = 6.0
    panic_threshold: float = 2.0
    up_rate: float = 1000.0
    down_rate: float = 2.0
    delay_s: float = 0.0
    """`scale-down-delay`."""
    activation: int = 1
    reachable: bool = True


class Scaler:
    """One tick at a time; what the windows say comes from outside, as in the project's own tests."""

    def __init__(self, settings: KpaSettings, ready: int, now: float) -> None:
        self.settings = settings
        # Started at N pods it begins in panic, so that a restart does not drop them.
        self.panic_at: float | None = now if ready > 1 else None
        self.panic_most = ready
        self._wishes: deque[tuple[float, int]] = deque()

    def scale(self, stable: float | None, panic: float | None, ready: int, now: float) -> int | None:
        """Desired pods; None: no data, nothing is decided."""
        settings = self.settings
        if stable is None or panic is None:
            return None
        pods = max(1, ready)
        most = math.ceil(settings.up_rate * pods)
        least = math.floor(pods / settings.down_rate) if settings.reachable else 0
        by_stable, by_panic = math.ceil(stable / settings.target), math.ceil(panic / settings.target)
        is_over = by_panic / pods >= settings.panic_threshold
        wish, urgent = (min(max(number, least), most) for number in (by_stable, by_panic))
        if settings.activation > 1:
            wish = max(wish, settings.activation) if by_stable > 0 else wish
            urgent = max(urgent, settings.activation) if by_panic > 0 else urgent
        if is_over:
            self.panic_at = now
        elif self.panic_at is not None and self.panic_at + settings.stable_s < now:
            self.panic_at, self.panic_most = None, 0
        if self.panic_at is not None:
            self.panic_most = max(self.panic_most, wish, urgent)
            wish = self.panic_most
        return self._delayed(wish, now)

    def _delayed(self, wish: int, now: float) -> int:
        if not self.settings.delay_s or not self.settings.reachable:
            return wish
        self._wishes.append((now, wish))
        while self._wishes and self._wishes[0][0] <= now - self.settings.delay_s:
            self._wishes.popleft()
        return max(number for _, number in self._wishes)


class LastPod:
    """How the last pod goes: once active for a stable window, and wanted by nobody for the grace period."""

    def __init__(self, stable_s: float, grace_s: float = 30.0) -> None:
        self._stable_s, self._grace_s = stable_s, grace_s
        self._active_at: float | None = None
        self._idle_at: float | None = None

    def replicas(self, wish: int, replicas: int, now: float) -> int:
        """`wish`, but for one pod as long as the last one may not go."""
        if replicas == 0 or self._active_at is None:
            self._active_at = now
        if wish or replicas == 0:
            self._idle_at = None
            return wish
        if self._idle_at is None:
            self._idle_at = now
        may_go = now - self._active_at >= self._stable_s and now - self._idle_at >= self._grace_s
        return 0 if may_go else 1


class Kpa:
    """Knative in the simulator: means of one-second samples, a tick every two seconds."""

    def __init__(self, settings: KpaSettings) -> None:
        self._settings = settings
        self._scaler: Scaler | None = None
        self._last = LastPod(settings.stable_s)
        self._samples: deque[float] = deque(maxlen=round(settings.stable_s))
        self._area = 0.0

    def decide(self, seen: Sight) -> int:
        if self._scaler is None:
            self._scaler = Scaler(self._settings, seen.ready, seen.now)
        mean, self._area = seen.area - self._area, seen.area
        if seen.metrics not in {"empty", "error"}:
            self._samples.append(mean)
        is_first = seen.asked == 0 and seen.in_flight > 0
        if round(seen.now) % 2 and not is_first:
            return seen.asked
        stable, panic = _mean(self._samples, None), _mean(self._samples, round(self._settings.panic_s))
        wish = self._scaler.scale(stable, panic, seen.ready, seen.now)
        return seen.asked if wish is None else self._last.replicas(wish, seen.asked, seen.now)


def _mean(samples: deque[float], last: int | None) -> float | None:
    if not samples:
        return None
    taken = list(samples)[-last:] if last else samples
    return sum(taken) / len(taken)
