"""The day as it usually goes: mean requests per second per half hour, by the wall clock in UTC.

Used only after the half hours in question were seen on two days, and only while it has been the better forecast. A day
without its usual load costs nothing: the measured rate is never undercut.
"""

from slipway.api.scaled import Forecast

SLOT_S = 1800.0
SLOTS = 48
BETTER = 0.9
HALF_DAY_S = 43_200.0
RISE_MOST = 4.0
"""No more than so many times the load of now is got ready for because of the time of the day."""
OLD = 0.6
"""Share of a half hour's value that stays when another day is added."""


def count(known: Forecast, rate: float, now: float) -> Forecast:
    """Add a rate to the half hour that runs; one that is over goes into the profile."""
    slot = int(now // SLOT_S) % SLOTS
    if slot == known.slot:
        return known.changed(slot_sum=known.slot_sum + rate, slot_n=known.slot_n + 1)
    # Less than half of a half hour was seen: a start, or a clock that jumped.
    if known.slot < 0 or known.slot_n < SLOT_S / 5.0 / 2:
        return known.changed(slot=slot, slot_sum=rate, slot_n=1)
    profile, (once, twice) = list(known.season or [-1.0] * SLOTS), known.days or (0, 0)
    at, bit = known.slot, 1 << known.slot
    mean = known.slot_sum / known.slot_n
    profile[at] = OLD * profile[at] + (1 - OLD) * mean if once & bit else mean
    return known.changed(season=profile, days=[once | bit, twice | (once & bit)], slot=slot, slot_sum=rate, slot_n=1)


def ahead(known: Forecast, level: float, now: float, lead: float) -> float:
    """The rate at `now + lead`, by how the day usually goes on from here; -1: not known."""
    if not known.season:
        return -1.0
    here, there = int(now // SLOT_S) % SLOTS, int((now + lead) // SLOT_S) % SLOTS
    if not (known.days[1] >> here) & (known.days[1] >> there) & 1:
        return -1.0
    # As a ratio, so that a busier day is taken for a busier day; nearly nothing says nothing about a ratio.
    usual, later = max(known.season[here], 1e-3), known.season[there]
    return level * min(RISE_MOST, later / usual) if usual > 0.05 * later else min(later, RISE_MOST * max(1.0, level))


def compared(known: Forecast, rate: float, stays: float, usual: float, share: float) -> list[float]:
    """Mean errors over half a day of both: it stays as it is, it goes as usual."""
    if usual < 0:
        return known.season_misses
    before = known.season_misses or (0.0, 0.0)
    return [old + share * (abs(rate - told) - old) for old, told in zip(before, (stays, usual), strict=True)]


def is_better(known: Forecast) -> bool:
    """Whether the usual day has been the better forecast, over hours: within minutes it could not show."""
    return bool(known.season_misses) and known.season_misses[1] < BETTER * known.season_misses[0]
