"""Ray Serve's autoscaling (serve/autoscaling_policy.py): mean of ongoing requests, and a delay in each direction.

Simplified: a tick each second in place of ten, no loss of handle metrics.
"""

import math
from collections import deque
from dataclasses import dataclass

from slipway.sim.policy import Sight


@dataclass(frozen=True, slots=True)
class RaySettings:
    target: float
    """`target_ongoing_requests`."""
    up_delay_s: float = 30.0
    down_delay_s: float = 600.0
    to_zero_delay_s: float | None = None
    look_back_s: float = 30.0
    up_factor: float = 1.0
    down_factor: float = 1.0
    least: int = 1
    most: int = 64
    interval_s: float = 1.0
    """Of the control loop: a delay is so many ticks in a row."""


class Scaler:
    """One tick at a time, as in the project's own tests."""

    def __init__(self, settings: RaySettings) -> None:
        self.settings = settings
        self._count = 0

    def scale(self, requests: float, running: int, target: int) -> int:
        """`target`: what was asked for before."""
        settings = self.settings
        if running == 0:
            if requests > 0:
                return max(math.ceil(settings.up_factor), target)
            return target
        return self._delayed(target, self.wish(requests, running))

    def wish(self, requests: float, running: int) -> int:
        """By the ratio of load to target, smoothed by the factors, within the bounds."""
        settings = self.settings
        desired = requests / settings.target
        factor = settings.up_factor if desired > running else settings.down_factor
        smoothed = math.ceil(running + factor * (desired - running) - 1e-9)
        if math.ceil(desired) < running and smoothed == running:
            # A factor below one could otherwise never take the last step.
            smoothed -= 1
        return max(settings.least, min(settings.most, smoothed))

    def _delayed(self, target: int, wish: int) -> int:
        settings = self.settings
        if wish > target:
            self._count = max(self._count, 0) + 1
            if self._count > settings.up_delay_s / settings.interval_s:
                self._count = 0
                return wish
        elif wish < target:
            self._count = min(self._count, 0) - 1
            delay = settings.down_delay_s
            is_last = target == 1
            if is_last and settings.to_zero_delay_s is not None:
                delay = settings.to_zero_delay_s
            if -self._count > delay / settings.interval_s:
                self._count = 0
                # To zero only ever from one.
                return wish if is_last else max(1, wish)
        else:
            self._count = 0
        return target


class Ray:
    """Ray Serve in the simulator."""

    def __init__(self, settings: RaySettings) -> None:
        self._scaler = Scaler(settings)
        self._samples: deque[float] = deque(maxlen=round(settings.look_back_s))
        self._area = 0.0

    def decide(self, seen: Sight) -> int:
        mean, self._area = seen.area - self._area, seen.area
        if seen.metrics not in {"empty", "error"}:
            self._samples.append(mean)
        if not self._samples:
            return seen.asked
        return self._scaler.scale(sum(self._samples) / len(self._samples), seen.ready, seen.asked)
