"""Which of the signals may be believed: fresh, stale, lost, or never there.

Fresh signals decide both ways, stale ones only upwards, lost ones not at all. A number that no sensor could give (NaN,
infinite, negative, beyond reason) makes its signal lost. Absent is never zero.
"""

from enum import IntEnum

from slipway.api.scaled import Trust
from slipway.decide.scaling.types import Gateway, Metric, Observation, Pods

FRESH_S = {"gateway": 10.0, "pods": 35.0, "promql": 60.0}
"""Two intervals of each and a bit: reports come each second, pods are asked each 15 s, PromQL each 15 to 30 s."""
STALE_S = 120.0
HALF = 0.5
RETURN_S = 60.0
"""A signal that comes back is believed downwards only after this long."""
MOST, AT_ONCE_MOST = 1e12, 1e7
"""Of a counter; of requests at one moment, of which no fleet of gateways holds so many."""


class Level(IntEnum):
    ABSENT = 0
    LOST = 1
    STALE = 2
    FRESH = 3


def is_sane(*numbers: float | None) -> bool:
    return min(given := [number for number in numbers if number is not None], default=0.0) >= 0.0 and (
        sum(given) <= MOST  # False with NaN too
    )


def of_gateway(seen: Gateway | None) -> Level:
    if seen is None or not is_sane(seen.age_s, seen.arrived, seen.in_flight, seen.queued, seen.judged, seen.late):
        return Level.LOST
    if seen.in_flight + seen.queued > AT_ONCE_MOST:
        return Level.LOST
    return _by_age(seen.age_s, FRESH_S["gateway"])


def of_pods(seen: Pods | None, known: Trust) -> Level:
    """Servers that say nothing of themselves are no fault; ones that did and stopped are."""
    if seen is None:
        return Level.LOST if known.knows_pods else Level.ABSENT
    numbers = (seen.age_s, seen.coverage, seen.answered, seen.busy_s, seen.running, seen.queued, seen.slots)
    if not is_sane(*numbers) or (seen.running or 0.0) + (seen.queued or 0.0) > AT_ONCE_MOST:
        return Level.LOST
    level = _by_age(seen.age_s, pods_fresh_s(seen.period_s))
    return min(level, Level.STALE) if seen.coverage < HALF else level


def of_promql(seen: Metric | None, target: float | None) -> Level:
    if target is None:
        return Level.ABSENT
    if seen is None or seen.value is None or not is_sane(seen.age_s, seen.value):
        return Level.LOST
    return _by_age(seen.age_s, FRESH_S["promql"])


class Levels:
    """Of all signals that this service is decided by."""

    __slots__ = ("gateway", "is_partial", "pods", "promql")

    def __init__(self, seen: Observation, known: Trust) -> None:
        self.gateway = of_gateway(seen.gateway)
        self.is_partial = seen.gateway is not None and not seen.gateway.is_whole
        self.pods = of_pods(seen.pods, known)
        self.promql = of_promql(seen.promql, seen.wanted.promql_target)

    @property
    def is_whole(self) -> bool:
        """Every signal is fresh, or was never there."""
        return not self.is_partial and all(
            level in {Level.FRESH, Level.ABSENT} for level in (self.gateway, self.pods, self.promql)
        )

    def missing(self) -> str:
        """Names of those that are not, for a sentence."""
        names = (("gateway", self.gateway), ("pods", self.pods), ("promql", self.promql))
        found = [f"{name} {level.name.lower()}" for name, level in names if level in {1, 2}]
        return ", ".join([*found, *(["a gateway silent"] if self.is_partial else [])])


def after(known: Trust, levels: Levels, clock: float) -> Trust:
    """Since when each is whole; -1 while it is not."""

    def since(before: float, level: Level) -> float:
        if level in {Level.LOST, Level.STALE}:
            return -1.0
        return before if before >= 0 else clock

    every = since(known.every, Level.STALE if levels.is_partial else Level.FRESH)
    gateway, pods = since(known.gateway, levels.gateway), since(known.pods, levels.pods)
    promql = since(known.promql, levels.promql)
    knows = known.knows_pods or levels.pods is Level.FRESH
    if (gateway, every, pods, promql, knows) == (
        known.gateway,
        known.every,
        known.pods,
        known.promql,
        known.knows_pods,
    ):
        return known
    return Trust(gateway=gateway, every=every, pods=pods, promql=promql, knows_pods=knows)


def may_go_down(known: Trust, clock: float, window_s: float) -> bool:
    """Whether all has been whole for long enough to believe that less is needed."""
    return all(
        since >= 0 and clock - since >= min(window_s, RETURN_S)
        for since in (known.gateway, known.every, known.pods, known.promql)
    )


def pods_fresh_s(period_s: float) -> float:
    """How old pods' words may be: the more pods there are the more seldom each is asked."""
    return max(FRESH_S["pods"], 2 * period_s + 5.0)


def _by_age(age_s: float, fresh_s: float) -> Level:
    if age_s <= fresh_s:
        return Level.FRESH
    return Level.STALE if age_s <= max(STALE_S, 2 * fresh_s) else Level.LOST
