"""KEDA with its Prometheus scaler: the HPA on a total, and zero by its own loop.

What makes it dangerous is in `value_of`: an answer without a value counts as zero unless `ignoreNullValues` is off.
"""

import math

from slipway.sim.hpa import SCRAPE_S, SYNC_S, Behavior, Normalizer, Policies, desired_of_total
from slipway.sim.policy import Sight

POLL_S, COOLDOWN_S = 30.0, 300.0


class ScalerError(Exception):
    """The query failed, or what came back is no number."""


def value_of(answer: list[float] | None, *, ignore_null: bool = True) -> float:
    """The value of a query's answer, one float per series; None: no series has a value.

    Raises:
        ScalerError: several series; no value, or an infinite one, and it is not to be ignored.
    """
    if answer is not None and len(answer) > 1:
        raise ScalerError("the query gave more than one series")
    if not answer or math.isinf(answer[0]) or math.isnan(answer[0]):
        if ignore_null:
            return 0.0
        raise ScalerError("the query gave no value")
    return answer[0]


def fallback(failures: int, threshold: int, replicas: int, target: float) -> float | None:
    """What is told in place of a metric that failed more often than the threshold; None: the error is passed on."""
    return target * replicas if failures > threshold else None


class Loop:
    """KEDA's own part: between none and the least that its HPA may have. Each poll, whatever the HPA does."""

    def __init__(self, least: int = 0, cooldown_s: float = COOLDOWN_S) -> None:
        self._least, self._cooldown_s = least, cooldown_s
        self._active_at = -math.inf

    def replicas(self, value: float, replicas: int, now: float, activation: float = 0.0) -> int:
        """From none to one (or `least`) when the value is above `activation`; to `least` after the cooldown without."""
        if value > activation:
            self._active_at = now
            return max(self._least, 1) if replicas == 0 else replicas
        if replicas < self._least:
            return self._least
        # From however many there are, past every limit of the HPA.
        return 0 if self._least == 0 and replicas and now > self._active_at + self._cooldown_s else replicas


class Keda:
    """Requests in flight over all pods, AverageValue."""

    def __init__(self, target: float, *, hold_s: float = 300.0, least: int = 1, most: int = 64) -> None:
        self._target = target
        self._normalizer = Normalizer(Behavior(down=Policies(hold_s, None, 100)), max(1, least), most)
        self._loop = Loop(least)
        self._value: float | None = None

    def decide(self, seen: Sight) -> int:
        second = round(seen.now)
        if seen.metrics == "empty":
            self._value = value_of(None)
        elif second % SCRAPE_S == 0 and seen.metrics not in {"error", "stale"}:
            self._value = value_of([float(seen.in_flight) * (0.5 if seen.metrics == "half" else 1.0)])
        if self._value is None or seen.metrics == "error":
            return seen.asked
        asked = self._loop.replicas(self._value, seen.asked, seen.now) if second % POLL_S == 0 else seen.asked
        if second % SYNC_S != 7 or asked == 0:
            return asked
        wish = desired_of_total(self._value, self._target, max(1, asked))
        return self._normalizer.normalize(wish, asked, seen.now)
