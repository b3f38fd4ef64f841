"""Rivals at many settings, and who dominates whom: more of the requests in time for less.

A rival's best setting is looked for anew for every trace and lead time; ours has one for all.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from slipway.sim.hpa import Hpa
from slipway.sim.keda import Keda
from slipway.sim.kpa import Kpa, KpaSettings
from slipway.sim.models import ServiceModel
from slipway.sim.policy import Policy
from slipway.sim.ray import Ray, RaySettings
from slipway.sim.slipway import Slipway
from slipway.sim.world import Terms

USES = (0.2, 0.35, 0.5, 0.6, 0.7, 0.85)
"""Target utilisations that are tried."""
CLOSE = 0.5
"""Points of attainment that are no difference."""
OURS = "slipway"

Make = Callable[[ServiceModel, Terms], Policy]


@dataclass(frozen=True, slots=True)
class Setting:
    policy: str
    words: str
    make: Make


@dataclass(frozen=True, slots=True)
class Point:
    """Of one setting in one cell: medians over the seeds."""

    policy: str
    words: str
    attainment_pct: float
    gpu_hours: float
    events: float

    def is_dominated_by(self, other: "Point") -> bool:
        """Whether the other has clearly more in time, for less."""
        return other.attainment_pct > self.attainment_pct + CLOSE and other.gpu_hours < self.gpu_hours


def ours() -> Setting:
    return Setting(OURS, "default", Slipway)


def rivals(uses: Sequence[float] = USES) -> list[Setting]:
    """Each at every target, and with a short and a long hold where the project has a field for that."""
    found: list[Setting] = []
    for use in uses:
        for hold in (300.0, 900.0):
            found += [
                Setting("keda", f"target {use:g}, hold {hold:g} s", _keda(use, hold)),
                Setting("hpa", f"target {use:g}, hold {hold:g} s", _hpa(use, hold)),
                Setting("ray", f"target {use:g}, delay {2 * hold:g} s", _ray(use, 2 * hold)),
            ]
        found += [Setting("kpa", f"target {use:g}, delay {delay:g} s", _kpa(use, delay)) for delay in (0.0, 600.0)]
    return found


def _keda(use: float, hold: float) -> Make:
    return lambda model, terms: Keda(use * model.slots, hold_s=hold, least=terms.least, most=terms.most)


def _hpa(use: float, hold: float) -> Make:
    return lambda model, terms: Hpa(use * model.slots, hold_s=hold, least=terms.least, most=terms.most)


def _ray(use: float, delay: float) -> Make:
    return lambda model, terms: Ray(
        RaySettings(use * model.slots, down_delay_s=delay, least=terms.least, most=terms.most)
    )


def _kpa(use: float, delay: float) -> Make:
    return lambda model, _terms: Kpa(KpaSettings(use * model.slots, delay_s=delay))


def best(points: Iterable[Point]) -> Point:
    """The most in time; of those as good as that, the cheapest."""
    every = list(points)
    most = max(point.attainment_pct for point in every)
    return min(
        (point for point in every if point.attainment_pct >= most - CLOSE),
        key=lambda point: (point.gpu_hours, -point.attainment_pct),
    )


def bests(points: Iterable[Point]) -> Mapping[str, Point]:
    """The best setting of each policy but ours."""
    by_policy: dict[str, list[Point]] = {}
    for point in points:
        if point.policy != OURS:
            by_policy.setdefault(point.policy, []).append(point)
    return {policy: best(found) for policy, found in by_policy.items()}


def dominators(mine: Point, points: Iterable[Point]) -> list[Point]:
    return [point for point in points if point.policy != OURS and mine.is_dominated_by(point)]


def dominates(mine: Point, points: Iterable[Point]) -> bool:
    """Whether we are as good as each rival at its best (`CLOSE`), for no more, and nobody dominates us."""
    every = list(points)
    return not dominators(mine, every) and all(
        mine.attainment_pct >= point.attainment_pct - CLOSE and mine.gpu_hours <= point.gpu_hours
        for point in bests(every).values()
    )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the interval that has it with 95 % (order statistics, no distribution assumed).

    >>> interval([1.0, 2.0, 3.0])
    (2.0, 1.0, 3.0)
    """
    ordered = sorted(values)
    n = len(ordered)
    # Normal approximation of the binomial: ranks n/2 -+ 0.98 sqrt(n).
    reach = 0.98 * n**0.5
    low = max(0, int(n / 2 - reach))
    high = min(n - 1, n - 1 - low)
    return statistics.median(ordered), ordered[low], ordered[high]
