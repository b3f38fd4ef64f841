"""How long a replica takes from launch until it is ready, learnt per revision, and when those that load will be."""

from collections.abc import Iterable, Sequence

from slipway.api.scaled import Lead
from slipway.decide.scaling.types import Launch

REMEMBERED = 12
QUANTILE = 0.8
"""Late is dearer than early."""
PRIOR_S = 60.0
"""Before any launch was seen."""
PART_RATE = 0.3
LOST = 3.0
"""Lead times after which a replica that is still loading is no longer counted on."""
OVERDUE = 0.25
"""Of a lead time: how soon one that is late is expected from now."""


def learn(known: Lead, launches: Iterable[Launch]) -> Lead:
    """Take in the launches that ended since; what was counted before is known by its time."""
    news = sorted(launch for launch in launches if launch.ready_at > known.seen and _is_sane(launch))
    if not news:
        return known
    parts = list(known.parts)
    for launch in news:
        fresh = list(launch[1:])
        parts = [old + PART_RATE * (new - old) for old, new in zip(parts, fresh, strict=True)] if parts else fresh
    lasted = [*known.launches, *(sum(launch[1:]) for launch in news)][-REMEMBERED:]
    return Lead(launches=lasted, parts=parts, seen=news[-1].ready_at)


def lead_s(known: Lead, prior_s: float = PRIOR_S) -> float:
    """The 0.8-quantile of the last launches; with few of them the prior counts as one more."""
    launches = sorted(known.launches if len(known.launches) >= 3 else [*known.launches, prior_s])
    return max(1.0, quantile(launches, QUANTILE))


def etas(loading: Sequence[float], lead: float) -> list[float]:
    """In how many seconds each that loads will be ready, judged by its age; the lost are left out."""
    return [max(lead - age, OVERDUE * lead) for age in loading if age <= LOST * lead]


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, linear in between."""
    at = (len(values) - 1) * share
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def _is_sane(launch: Launch) -> bool:
    return all(0.0 <= part <= 86_400.0 for part in launch[1:])
