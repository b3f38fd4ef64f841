"""How many requests per second there will be when a replica that is launched now is ready.

Three forecasts run beside each other: it stays as it is; it goes on as of late (Holt's damped trend); it goes as it
usually does at this time of the day (season.py). Who has been off the least is believed. On top a margin without any
assumption on distributions: the quantile of how far earlier forecasts fell short (split conformal prediction).
Sources: Gardner and McKenzie 1985; Vovk et al. 2005.
"""

import math
from typing import NamedTuple

from slipway.api.scaled import Forecast
from slipway.decide.scaling import season
from slipway.decide.scaling.lead import quantile

STEP_S = 5.0
STEPS = 14
ALPHA = 0.5
TREND_LEADS, TREND_MIN_S = 0.25, 60.0
"""Over how long a trend is looked for: what is to be continued for a lead time has to have been there for a while."""
DAMP_MIN_S = 60.0
HIGHS, HIGH_S = 6, 300.0
"""The margin does not reach beyond the highest rate of the last half hour, save for what most forecasts lacked."""
RESIDUALS = 24
FEW_RESIDUALS = 8
CHECKS_PER_LEAD = 6
"""Forecasts kept for comparison per lead time: neighbours say the same."""
LONG_S = 60.0
BURST_LEADS, BURST_MOST_S = 0.15, 60.0
TRIAL_S, TRIAL_EVERY_S = 60.0, 15.0
"""The kinds of forecast are compared over so long at most: who is off over a minute is no better over ten, and after
ten it would be too late to know."""
CHANCE = 2.0
"""Standard deviations of independent arrivals: of a steady load one look in forty sees more."""
CLIMB_CHANCE = 3.0
"""The same for a climb: it is looked for where the peak is high already, so that chance alone makes more of them."""
MISS_RATE = 0.08
BETTER = 0.9


class Outlook(NamedTuple):
    now: float
    """Requests per second, averaged over a minute."""
    peak: float
    """The same over a short while, and on as it climbs, where that is more than chance makes of `ahead`."""
    ahead: float
    """At the lead time, as likely more as less."""
    safe: float
    """The same with the margin."""


def count(known: Forecast, arrived: float, clock: float, dt: float) -> Forecast:
    """Add what arrived in the last `dt` seconds, evenly; a step that is over is closed first."""
    step = int(clock // STEP_S)
    if step == known.step and known.recent:
        return known.changed(recent=[*known.recent[:-1], known.recent[-1] + arrived])
    passed = min(step - known.step, STEPS) if known.recent else 1
    # Some of it came before the new step began: counted in the new one it would look like a burst.
    earlier = max(0.0, 1.0 - (clock - step * STEP_S) / dt) * arrived if passed == 1 and known.recent and dt > 0 else 0.0
    closed = [*known.recent[:-1], known.recent[-1] + earlier] if known.recent else []
    return known.changed(recent=[*closed, *([0.0] * (passed - 1)), arrived - earlier][-STEPS:], step=step)


def mean_rate(known: Forecast, clock: float, window_s: float) -> float:
    """Of the last `window_s`, or of what there is; the growing step counts by its age."""
    if not known.recent:
        return 0.0
    whole = max(1, min(len(known.recent) - 1, round(window_s / STEP_S)))
    into = clock - known.step * STEP_S
    recent = known.recent[-whole - 1 :]
    return sum(recent) / max(into + (len(recent) - 1) * STEP_S, STEP_S)


def short_s(service_s: float, lead: float) -> float:
    """Over which a burst is measured.

    Requests overlap for a service time, so less says little; and what has lasted for a moment is no ground to buy what
    comes in minutes: things last about as long again as they have lasted.
    """
    return min(BURST_MOST_S, max(STEP_S, 2.0 * service_s, BURST_LEADS * lead))


def forward(known: Forecast, *, clock: float, lead: float, now: float, is_new_step: bool) -> Forecast:
    """One step of the smoothing, and the comparison of what falls due. Nothing within a step."""
    if not is_new_step:
        return known
    rate = mean_rate(known, clock, LONG_S)
    if known.level < 0:
        level, trend = rate, 0.0
    else:
        phi, beta = _damping(lead), STEP_S / max(TREND_MIN_S, TREND_LEADS * lead)
        level = ALPHA * rate + (1 - ALPHA) * (known.level + phi * known.trend)
        trend = beta * (level - known.level) + (1 - beta) * phi * known.trend
    kept = _compared(season.count(known, rate, now), rate, clock, lead).changed(level=level, trend=trend)
    trials, pending = kept.trials, kept.pending
    trial_s = min(TRIAL_S, lead)
    if not trials or clock + trial_s - trials[-1][0] >= TRIAL_EVERY_S:
        trials = [*trials, [round(clock + trial_s, 1), *_candidates(kept, trial_s)]]
    if not pending or clock + lead - pending[-1][0] >= _check_every_s(lead):
        usual = season.ahead(kept, max(0.0, level), now, lead)
        pending = [*pending, [round(clock + lead, 1), _best(kept, lead, usual), max(0.0, level), usual]]
    highs, high_end = known.highs or [0.0], known.high_end
    if clock >= high_end:
        highs, high_end = [*highs, 0.0][-HIGHS:], clock + HIGH_S
    return kept.changed(trials=trials, pending=pending, highs=[*highs[:-1], max(highs[-1], rate)], high_end=high_end)


def _compared(known: Forecast, rate: float, clock: float, lead: float) -> Forecast:
    """Take in how far what was forecast for now is off."""
    tried = [one for one in known.trials if one[0] <= clock]
    due = [one for one in known.pending if one[0] <= clock]
    if not tried and not due:
        return known
    misses = list(known.misses or (-1.0, -1.0))
    for _, *candidates in tried:
        for index, candidate in enumerate(candidates):
            miss = abs(rate - candidate)
            misses[index] = miss if misses[index] < 0 else misses[index] + MISS_RATE * (miss - misses[index])
    kept = known.changed(
        trials=known.trials[len(tried) :],
        pending=known.pending[len(due) :],
        residuals=[*known.residuals, *(rate - best for _, best, _, _ in due)][-RESIDUALS:],
        misses=misses,
    )
    for _, _, stays, usual in due:
        share = _check_every_s(lead) / season.HALF_DAY_S
        kept = kept.changed(season_misses=season.compared(kept, rate, stays, usual, share))
    return kept


def _check_every_s(lead: float) -> float:
    return max(2 * STEP_S, lead / CHECKS_PER_LEAD)


def _candidates(known: Forecast, lead: float) -> tuple[float, float]:
    """It stays as it is, it goes on as of late."""
    level = max(0.0, known.level)
    return level, _trend_ahead(level, known.trend, lead)


def _best(known: Forecast, lead: float, usual: float) -> float:
    """The forecast that has been off the least of late, and no less than usual where the usual day has proved right."""
    stays, goes_on = _candidates(known, lead)
    misses = known.misses
    best = goes_on if misses and 0 <= misses[1] < BETTER * misses[0] else stays
    return max(best, usual) if season.is_better(known) else best


def outlook(
    known: Forecast, *, clock: float, lead: float, service_s: float, now: float, share: float, headroom: float
) -> Outlook:
    """`share`: of the earlier forecasts, how many the margin would have covered; before there are any, `headroom`."""
    rate = mean_rate(known, clock, LONG_S)
    best = _best(known, lead, season.ahead(known, max(0.0, known.level), now, lead))
    if len(known.residuals) >= FEW_RESIDUALS:
        residuals = sorted(known.residuals)
        margin, lacking = quantile(residuals, share), max(0.0, quantile(residuals, 0.5))
    else:
        margin, lacking = (headroom - 1.0) * best, 0.0
    ahead = max(rate, best + lacking)
    highest = max(known.highs, default=best + margin)
    short = short_s(service_s, lead)
    peak = mean_rate(known, clock, short)
    is_chance = peak - ahead < CHANCE * math.sqrt(ahead / short)
    climbed = ahead if is_chance else peak + _climb(known, clock, peak, short_s=short, lead=lead)
    return Outlook(rate, climbed, ahead, max(ahead, min(best + margin, highest)))


def _climb(known: Forecast, clock: float, peak: float, *, short_s: float, lead: float) -> float:
    """How much more than `peak`, the mean of the last short while, there will be at the lead time if it climbs on.

    A mean is of the middle of its window: what is added makes up for that, and goes on for as long as the climb has
    been seen at most. At most twice the peak; 0 where chance may have made the difference, and for windows of which two
    are not kept: over these it is the trend that counts.
    """
    whole = max(1, round(short_s / STEP_S))
    window_s, into = whole * STEP_S, clock - known.step * STEP_S
    earlier = known.recent[-2 * whole - 1 : -whole - 1]
    before = sum(earlier) / window_s
    rise = peak - before
    if len(earlier) < whole or rise < CLIMB_CHANCE * math.sqrt((peak + before) / window_s):
        return 0.0
    per_s = rise / (window_s + into / 2)
    return min(peak, per_s * ((window_s + into) / 2 + min(lead, window_s)))


def _trend_ahead(level: float, trend: float, lead: float) -> float:
    phi = _damping(lead)
    return max(0.0, level + trend * phi * (1 - math.pow(phi, lead / STEP_S)) / (1 - phi))


def _damping(lead: float) -> float:
    """Per step, so that a trend is believed to last about a lead time."""
    return 1 - STEP_S / max(DAMP_MIN_S, lead)
