"""Intervals that hold at every look at once: however often one looks, the truth leaves them with probability alpha.

`share` and `quantile` are exact for independent requests. `spread` says how much less than independent they are, and
the counts are divided by it. `reach` is for means over stretches of time, whatever the noise within one; it holds
asymptotically, and is not to be asked on fewer than BLOCKS_MIN stretches.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

BLOCKS_MIN = 20
_STEPS_MAX, _EXACT, _LOGIT_MAX = 50, 1e-6, 700.0
_TUNED_BLOCKS = 8.0
"""Makes `reach` narrowest at about eight times as many stretches: after an hour of minutes."""


def share(hits: float, total: float, alpha: float) -> tuple[float, float]:
    """Interval of a share of which `hits` of `total` were seen. Counts that were divided by a spread are no integers.

    All p for which the likelihood of the data, mixed over Beta(1/2, 1/2), is less than 1 / alpha times that under p:
    by Ville's inequality the true p is ever outside with probability alpha at most.
    Source: Robbins 1970, "Statistical methods related to the law of the iterated logarithm"; Ville 1939.

    Example:
        share(10, 100, 0.05) -> (0.036, 0.208)
    """
    if total <= 0:
        return 0.0, 1.0
    floor = _mixed(hits, total) + math.log(alpha)
    low = _low(hits, total, floor) if hits > 0 else 0.0
    high = 1 - _low(total - hits, total, floor) if hits < total else 1.0
    return low, high


def quantile(
    counts: Sequence[int], edges: Sequence[float], rank: float, alpha: float, *, spread: float = 1.0
) -> tuple[float, float, float]:
    """Value and interval of the `rank` quantile of what was counted in buckets; one more count than there are edges.

    The quantile lies in a bucket unless too few requests are below its upper edge, or too many below its lower one:
    two shares, of alpha / 2 each, at whichever bucket is the true one. The ends are edges; nothing is known beyond the
    last.
    """
    total, below = sum(counts) / spread, [0.0, *(count / spread for count in accumulate(counts))]
    bounds, limit = [0.0, *edges, edges[-1]], -math.log(alpha / 2)
    fits = [
        not (
            _is_unlikely(upper, total, rank, limit, above=False) or _is_unlikely(lower, total, rank, limit, above=True)
        )
        for lower, upper in pairwise(below)
    ]
    first, last = fits.index(True), len(fits) - 1 - fits[::-1].index(True)
    return _interpolated(below, bounds, rank), bounds[first], bounds[last + 1]


def spread(squares: float, hits: float, total: float, blocks: int) -> float:
    """How many times more a share varies from stretch to stretch than by chance alone; at least 1.

    Rather too much than too little: an estimate from n stretches is uncertain by a factor of 1 + sqrt(2 / (n - 1)).
    `squares` is the sum of x * x / n over stretches with x of n requests. Source: Pearson's dispersion of a binomial.
    """
    if not 0 < hits < total:
        return 1.0
    rate = hits / total
    return unlike((squares - hits * rate) / (rate * (1 - rate)), blocks)


def unlike(squares: float, blocks: int) -> float:
    """The same, of squares that would be 1 each by chance; of `blocks` stretches all but one count."""
    degrees = blocks - 1
    return max(1.0, squares / degrees * (1 + math.sqrt(2 / degrees))) if degrees > 0 else 1.0


def reach(blocks: float, alpha: float) -> float:
    """Half the width of the interval of a mean, in standard errors of that mean.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, "Time-uniform central limit theory and asymptotic
    confidence sequences"; the normal mixture is Robbins'.

    Example:
        reach(60, 0.05) -> 3.0, where one single look would have 1.96
    """
    grown = (blocks + _TUNED_BLOCKS) / _TUNED_BLOCKS
    return math.sqrt((blocks + _TUNED_BLOCKS) / blocks * (math.log(grown) - 2 * math.log(alpha)))


def odds(blocks: float, deviation: float) -> float:
    """E-value against a true mean of 0, `deviation` standard errors away; `reach(n, alpha)` away it is 1 / alpha."""
    grown = blocks + _TUNED_BLOCKS
    return math.exp(min(700.0, deviation**2 / 2 * blocks / grown)) * math.sqrt(_TUNED_BLOCKS / grown)


def _mixed(hits: float, total: float) -> float:
    """Log of the likelihood, mixed over Beta(1/2, 1/2)."""
    return math.lgamma(hits + 0.5) + math.lgamma(total - hits + 0.5) - math.lgamma(total + 1) - math.log(math.pi)


def _under(hits: float, total: float, p: float) -> float:
    """Log of the likelihood under p, which is strictly between 0 and 1."""
    return hits * math.log(p) + (total - hits) * math.log1p(-p)


def _is_unlikely(below: float, total: float, rank: float, limit: float, *, above: bool) -> bool:
    """Whether `below` of `total` are too many (`above`) or too few for an edge that a share of `rank` is below."""
    far = below > rank * total if above else below < rank * total
    return far and _mixed(below, total) - _under(below, total, rank) > limit


def _low(hits: float, total: float, floor: float) -> float:
    """The lower of the two p under which the likelihood's log is `floor`.

    In log odds it is concave and below hits times them: Newton's steps from there come nearer, and never too far.
    """
    logit, p = floor / hits, 0.0
    for _ in range(_STEPS_MAX):
        p = 1 / (1 + math.exp(-logit)) if logit > -_LOGIT_MAX else 0.0
        gap = floor - hits * logit + total * math.log1p(math.exp(logit))
        if gap < _EXACT or not p:
            return p
        logit += gap / (hits - total * p)
    return p


def _interpolated(below: Sequence[float], bounds: Sequence[float], rank: float) -> float:
    wanted = rank * below[-1]
    for index, (lower, upper) in enumerate(pairwise(below)):
        if upper >= wanted and upper > lower:
            return bounds[index] + (bounds[index + 1] - bounds[index]) * max(0.0, wanted - lower) / (upper - lower)
    return bounds[-1]
