"""How each tool judges a release, on the same traffic: what became of it, and after how many minutes.

Ours runs the operator's own `judge`. The others are written after their code (argo-rollouts 9f8d111, flagger 15bd6ad,
kayenta a69573b), each with the settings that its documentation shows, the same weights and the same holds:

    argo      AnalysisRun beside the steps, one measurement a minute of the last minute: errors / requests <= 1 %;
              failureLimit 0 (its default): the first failed measurement aborts. NaN satisfies no condition: failed
    argo_2    the same with failureLimit 2
    flagger   request-success-rate of at least 99 %, each minute; a failed check does not move on and is counted, and
              the fifth one of the whole release rolls back (threshold 5). No requests: a failed check
    kayenta   NetflixACAJudge on per-minute series of error rates at the end of each step: Mann-Whitney interval of
              98 %, beyond a quarter of the estimated shift, mean ratio at least 1, as Orca does with a step's lifetime
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

from e2e.bench.judge.world import CANDIDATE, MINUTE, STABLE, TICK_S, WEIGHTS, Traffic
from slipway.api.rollout import Analysis
from slipway.decide.judge import fold, overall, verdicts

HOLD_MIN = 2
_POLICY = Analysis()


@dataclass(frozen=True, slots=True)
class End:
    what: str
    """promoted, aborted, or held: neither within the run."""
    minutes: float
    user_errors: int = 0
    """Requests that the candidate failed until then."""
    metric: str = ""
    """That it was aborted for."""


Rule = Callable[[Traffic, int], End]
"""Traffic, minutes of the run -> what the rule makes of it."""


def ours(traffic: Traffic, minutes: int) -> End:
    """As the operator: a window each five seconds; a step is left after its hold, with enough requests and a Pass."""
    evidence = fold(None, traffic.record, STABLE, CANDIDATE, _POLICY, mirrored=False)
    step, since, requests, errors = 0, 0, 0, 0
    for tick in range(minutes * MINUTE):
        window = traffic.window(step, tick)
        mine = window.samples[CANDIDATE]
        requests, errors = requests + mine.requests, errors + mine.errors
        evidence = fold(evidence, window, STABLE, CANDIDATE, _POLICY, mirrored=False)
        found = verdicts(evidence, _POLICY, {})
        outcome, now = overall(found), (tick + 1) * TICK_S / 60
        if outcome == "Fail":
            return End("aborted", now, errors, found[0].metric)
        is_held = tick + 1 - since >= HOLD_MIN * MINUTE
        if is_held and requests >= _POLICY.min_requests and outcome == "Pass":
            step, since, requests = step + 1, tick + 1, 0
            if step == len(WEIGHTS):
                return End("promoted", now, errors)
    return End("held", minutes, errors)


def argo(traffic: Traffic, minutes: int, failure_limit: int = 0) -> End:
    failed = errors = 0
    for minute in range(HOLD_MIN * len(WEIGHTS)):
        n, x = traffic.candidate.minute(minute // HOLD_MIN, minute)
        errors += x
        failed += not n or x / n > 0.01
        if failed > failure_limit:
            return End("aborted", minute + 1, errors)
    return End("promoted", HOLD_MIN * len(WEIGHTS), errors)


def argo_2(traffic: Traffic, minutes: int) -> End:
    return argo(traffic, minutes, failure_limit=2)


def flagger(traffic: Traffic, minutes: int) -> End:
    failed = errors = passed = 0
    for minute in range(minutes):
        n, x = traffic.candidate.minute(passed // HOLD_MIN, minute)
        errors += x
        is_good = n > 0 and 100 * (n - x) / n >= 99
        passed, failed = passed + is_good, failed + (not is_good)
        if failed >= 5:
            return End("aborted", minute + 1, errors)
        if passed == HOLD_MIN * len(WEIGHTS):
            return End("promoted", minute + 1, errors)
    return End("held", minutes, errors)


def kayenta(traffic: Traffic, minutes: int) -> End:
    mine: list[float] = []
    theirs: list[float] = []
    errors = 0
    for minute in range(HOLD_MIN * len(WEIGHTS)):
        (n, x), (m, y) = (side.minute(minute // HOLD_MIN, minute) for side in (traffic.candidate, traffic.stable))
        errors += x
        mine, theirs = [*mine, x / n] if n else mine, [*theirs, y / m] if m else theirs
        if (minute + 1) % HOLD_MIN == 0 and _is_high(mine, theirs):
            return End("aborted", minute + 1, errors)
    return End("promoted", HOLD_MIN * len(WEIGHTS), errors)


def _is_high(experiment: list[float], control: list[float]) -> bool:
    """Kayenta's MannWhitneyClassifier: whether the lower end of the shift's interval is beyond its tolerance."""
    if not experiment or not control or sorted(experiment) == sorted(control):
        return False
    if len({*experiment, *control}) == 1:
        return False
    lower, estimate = (_shift(experiment, control, quantile) for quantile in (NormalDist().inv_cdf(0.99), 0.0))
    ratio = fmean(experiment) / fmean(control) if fmean(control) else math.nan
    return lower > 0.25 * abs(estimate) and (math.isnan(ratio) or ratio >= 1)


def _shift(experiment: list[float], control: list[float], quantile: float) -> float:
    """The shift at which the corrected rank-sum statistic is at a normal quantile, by bisection."""
    low, high = min(experiment) - max(control), max(experiment) - min(control)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _statistic(experiment, control, middle) > quantile else (low, middle)
    return (low + high) / 2


def _statistic(experiment: list[float], control: list[float], shift: float) -> float:
    moved, n, m = np.array(experiment) - shift, len(experiment), len(control)
    both = np.concatenate([moved, control])
    _, inverse, ties = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[inverse]
    distance = float(ranks[:n].sum()) - n * (n + 1) / 2 - n * m / 2
    spread = math.sqrt(n * m / 12 * ((n + m + 1) - float((ties**3 - ties).sum()) / ((n + m) * (n + m - 1))))
    if not spread:
        return 0.0
    return (distance - math.copysign(0.5, distance) * (distance != 0)) / spread


RULES: dict[str, Rule] = {"slipway": ours, "argo": argo, "argo_2": argo_2, "flagger": flagger, "kayenta": kayenta}
