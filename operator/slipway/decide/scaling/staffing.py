"""How many replicas a load needs: enough that few requests wait, and that a queue is gone in time.

Square-root staffing: with an offered load of rho requests at once, rho + beta sqrt(rho) slots let a share of them wait
that depends on beta only (Halfin and Whitt 1981: beta 0.5: 50 %, 1: 22 %, 1.5: 8.5 %, 2: 2.7 %).
"""

import math
from collections.abc import Sequence

from slipway.decide.scaling.capacity import Carries

DRAIN_LEADS, DRAIN_MIN_S = 1 / 6, 2.0
"""A queue is to be gone within what the objective leaves for waiting, or a share of the lead time."""


def for_rate(rate: float, carries: Carries, beta: float) -> int:
    """Replicas that carry `rate` requests per second.

    >>> for_rate(10.0, Carries(slots=4.0, service_s=0.8, spare_s=0.0), 1.0)
    3
    """
    offered = rate * carries.service_s
    return _ceil((offered + beta * math.sqrt(offered)) / carries.slots) if offered > 0 else 0


def for_backlog(queued: float, rate: float, carries: Carries, *, ready: int, etas: Sequence[float], lead: float) -> int:
    """Replicas that have the queue gone soon after they are ready.

    What will be left of it by then counts: capacity that comes after the queue has gone is not bought.
    """
    if queued <= 0 or carries.rate <= 0:
        return 0
    supply = carries.rate * (ready * lead + sum(max(0.0, lead - eta) for eta in etas))
    left = min(queued, max(0.0, queued + rate * lead - supply))
    drain_s = max(DRAIN_MIN_S, carries.spare_s, DRAIN_LEADS * lead)
    return _ceil((rate + left / drain_s) / carries.rate) if left > 0 else 0


def for_target(value: float, target: float, have: int, tolerance: float) -> int:
    """Replicas so that each has its target of `value`; within the tolerance as many as there are."""
    if have > 0 and abs(value / (target * have) - 1.0) <= tolerance:
        return have
    return _ceil(value / target)


def _ceil(number: float) -> int:
    """Upwards, but not for the noise of floating point."""
    return math.ceil(number - 1e-9)
