"""How many replicas a load will take that is not there yet: requests that weights are about to lead to another arm.

The objective is the arm's own; what a replica of it carries is what it has learnt, or, before it has answered anything,
what those have learnt that answer the requests now.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

from slipway.api.scaled import ScalingState
from slipway.api.traffic import WHOLE
from slipway.decide.scaling import staffing
from slipway.decide.scaling.capacity import Carries, carries
from slipway.decide.scaling.decision import UNKNOWN_USE
from slipway.decide.scaling.forecast import LONG_S, STEP_S, mean_rate
from slipway.decide.scaling.types import Wanted

WINDOWS_S = (3 * STEP_S, LONG_S)
LOOKS = (3, 8)
"""Of a load that has just come, the mean of a minute tells too little. Arms are added up over the same time: what one
has lost meanwhile another has.
"""


@dataclass(frozen=True, slots=True)
class Load:
    rates: tuple[float, ...] = (0.0,) * len(WINDOWS_S)
    """Requests per second, over each of these."""
    at_once: tuple[float, ...] = (0.0,) * len(LOOKS)
    """Requests in flight, over each of these."""

    @property
    def rate(self) -> float:
        return max(self.rates)

    @property
    def in_flight(self) -> float:
        return max(self.at_once)

    @property
    def is_none(self) -> bool:
        return not (self.rate or self.in_flight)

    def part(self, share: int, of: int = WHOLE) -> "Load":
        return _each(lambda mine, _: mine * share / of, self, self)


def added(one: Load, other: Load) -> Load:
    return _each(operator.add, one, other)


def least(one: Load, other: Load) -> Load:
    return _each(min, one, other)


def beyond(one: Load, other: Load) -> Load:
    """What one has more."""
    return _each(lambda mine, theirs: max(0.0, mine - theirs), one, other)


def _each(what: Callable[[float, float], float], one: Load, other: Load) -> Load:
    return Load(tuple(map(what, one.rates, other.rates)), tuple(map(what, one.at_once, other.at_once)))


def seen(state: ScalingState) -> Load | None:
    """What an arm has now; None until gateways that were lost have been heard for a while: unheard is not none."""
    heard = state.trust.gateway
    if heard < 0 or 0 < heard > state.clock - WINDOWS_S[0]:
        return None
    rates = tuple(mean_rate(state.forecast, state.clock, window_s) for window_s in WINDOWS_S)
    looks = tuple(state.in_flight[-number:] or [0.0] for number in LOOKS)
    return Load(rates, tuple(sum(each) / len(each) for each in looks))


def replicas(load: Load, wanted: Wanted, own: ScalingState, other: ScalingState, decided: float = 0.0) -> int:
    """For a load of the arm whose state is `own`; `other` is of one that has requests. 0 without any.

    For a number of Prometheus, which is of all requests, as many as were `decided` on for so large a part of them.

    >>> replicas(Load(at_once=(12.0, 9.0)), Wanted(concurrency=5.0), ScalingState(), ScalingState())
    3
    """
    if load.is_none:
        return 0
    needs = [1]
    if wanted.promql_target is not None:
        needs.append(math.ceil(decided - 1e-9))
    if wanted.is_timed:
        needs.append(_for_time(load, wanted, own, other))
    if wanted.concurrency is not None:
        needs.append(staffing.for_target(load.in_flight, wanted.concurrency, 0, 0.0))
    if wanted.requests_per_second is not None:
        needs.append(staffing.for_target(load.rate, wanted.requests_per_second, 0, 0.0))
    return max(needs)


def _for_time(load: Load, wanted: Wanted, own: ScalingState, other: ScalingState) -> int:
    learnt: Carries = carries(own.capacity, wanted, None)
    if not learnt.service_s:
        learnt = carries(other.capacity, wanted, None)
    if not learnt.service_s:
        return math.ceil(load.in_flight / (learnt.slots * UNKNOWN_USE))
    beta = max(own.beta, other.beta)
    # What is in flight now is there at once, whatever the rate has been on average.
    return max(staffing.for_rate(load.rate, learnt, beta), math.ceil(load.in_flight / learnt.slots - 1e-9))
