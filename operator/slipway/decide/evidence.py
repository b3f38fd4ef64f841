"""How strongly counts speak against a candidate: two questions of one trial, both to be answered before anything fails.

1. *Is it chance?* `bet` and `e_value`: a sequential test that stays valid however often one looks. Its promise holds
   for requests that fail independently of each other.
2. *Is it a bad minute?* `surprise`: failures come in bursts, so what was seen in T minutes is worth at most T
   independent draws, however many requests there were.

The first alone aborts one good release in five when failures come in bursts; the second alone knows no limit of how
often it may be asked. This module knows nothing of revisions, policies or sentences: `judge` does.
"""

import math
from functools import lru_cache
from typing import NamedTuple

BLOCK_S = 60.0
"""Bursts shorter than this average out within a block, longer ones are what `surprise` allows for."""
_MEMORY = 0.9
"""Of a block, what still counts one block later: ten minutes are remembered, so that what begins late shows soon."""
BETS = (1.4, 2.0, 3.5, 7.0, 20.0, 100.0)
"""How many times more than the limit allows each bet takes the candidate to fail."""
_LOGS_AND_BETS = tuple((math.log(times), times) for times in BETS)
_FIRST = 0.75
"""Of the stake, what is bet from the beginning; the rest is for faults that begin later."""
_USUAL_MOST = 0.01
"""However little is known of stable, it is not taken to fail more often than this without having shown it."""
_UNREST_WEIGHT, _UNREST_MEMORY = 3.0, 0.95
"""For so many minutes stable is believed to be as uneven as can be; of what it was, twenty minutes are remembered."""
NOTHING = (0, 0, 0, 0)
"""No closed block yet."""
_LOG_MAX = 50.0
"""Evidence is not told apart beyond this; keeps numbers finite whatever the counts."""


class Tally(NamedTuple):
    """Bad ones of all requests, of the candidate and of stable at the same time."""

    n: float = 0
    x: float = 0
    m: float = 0
    y: float = 0

    def plus(self, other: "Tally") -> "Tally":
        return Tally(self.n + other.n, self.x + other.x, self.m + other.m, self.y + other.y)

    def faded(self, rest: float) -> "Tally":
        return Tally(self.n * rest, self.x * rest, self.m * rest, self.y * rest)


class Ground(NamedTuple):
    """What a candidate within its limit may do, during one interval. Fixed before the interval's counts are seen."""

    floor: float
    """Rate of bad requests that surprises nobody, whatever stable does at the time; 0 < floor < 1."""
    margin: float = 1.0
    """Odds of a bad request, in times of those of stable at the same time."""
    fixed: float | None = None
    """Allowed rate by itself; None: the candidate is compared with stable."""


class Trial(NamedTuple):
    """What one limit has seen. All that is kept of the past; `limit` tells what it was gathered for."""

    limit: str
    bets: tuple[float, ...] = (math.log(_FIRST),) * len(BETS)
    """Logarithm of what each bet has won."""
    seen: Tally = Tally()
    """All counts, for the sentence."""
    past: tuple[float, float, float, float] = NOTHING
    """Of closed blocks, fading: requests, bad ones, expected bad ones, squares of these."""
    bursts: tuple[float, float] = (0, 0)
    """How unevenly stable was bad in closed blocks: sums of variances, in times of the squared mean, and of weights."""
    block: Tally = Tally()
    """The open one."""

    @property
    def unrest(self) -> float:
        """Variance of a rate from minute to minute in times of its square; 1 until stable is seen to be calmer."""
        total, weight = self.bursts
        return min(1.0, (_UNREST_WEIGHT + max(0.0, total)) / (_UNREST_WEIGHT + weight))


def bet(trial: Trial, counts: Tally, ground: Ground) -> Trial:
    """The trial after one more interval; an interval without bad requests of either side moves no comparison.

    Of k bad requests of both sides, x are the candidate's. Given k, a candidate with `odds` times stable's odds has at
    most a share p = s*odds / (1 - s + s*odds) of them, with s its share of the requests, and x spreads no wider than
    binomially (it is a sum of unequal independent draws: noncentral hypergeometric). Each bet multiplies by
    P(x | odds above the limit) / P(x | at the limit), which grows in x and is convex: its mean is at most 1 for every
    candidate within the limit (Hoeffding 1956), and so by Ville's inequality a good one ever reaches 1/a with
    probability a at most. Not a word of how often stable fails, of traffic, or of weights, which may change each time:
    what hits both cancels out.

    With a fixed rate, the k are all requests of the candidate, and s is that rate.

    Source: Ville 1939; Lindon and Malek, NeurIPS 2022, arXiv:2011.03567; Turner and Gruenwald, arXiv:2302.11401.

    Example:
        10 bad of 50, none of stable's 950, margin 2: the bet on 7 times more wins (0.424 / 0.095)**10, 3 million.
    """
    if ground.fixed is None:
        total = counts.n + counts.m
        k, share = counts.x + counts.y, counts.n / total if total else 0.0
    else:
        k, share = counts.n, ground.fixed
    bets = trial.bets
    if k and 0 < share < 1:
        rest, at_limit = 1 - share, share * ground.margin
        even, x = rest + at_limit, counts.x
        log = math.log
        rest, at_limit = rest / even, at_limit / even
        won = [
            before + x * more - k * log(rest + at_limit * times)
            for before, (more, times) in zip(bets, _LOGS_AND_BETS, strict=True)
        ]
        bets = tuple(won if max(won) <= _LOG_MAX else [min(each, _LOG_MAX) for each in won])
    return Trial(trial.limit, bets, trial.seen.plus(counts), trial.past, trial.bursts, trial.block.plus(counts))


def close_block(trial: Trial, ground: Ground, number: int) -> Trial:
    """The trial when its open block, the `number`-th from 1, is over.

    New bets are made with a part of the stake that is left, 1/(4 t (t+1)): a fault that begins after hours is found
    without winning back first what was lost on the good hours. The parts sum to the whole, so the test stays valid.
    """
    n, x, expected, squares = trial.past
    new = _expected(trial.block, ground)
    fresh = (1 - _FIRST) / (number * (number + 1))
    return Trial(
        trial.limit,
        tuple([min(_log_sum(won, fresh), _LOG_MAX) for won in trial.bets]),
        trial.seen,
        (
            short(n * _MEMORY + trial.block.n),
            short(x * _MEMORY + trial.block.x),
            short(expected * _MEMORY + new),
            short(squares * _MEMORY * _MEMORY + new * new),
        ),
        _uneven(trial),
    )


def _uneven(trial: Trial) -> tuple[float, float]:
    """With the open block: how far stable was from its mean of the other blocks, more than chance has it.

    A block tells the more, the more bad requests it should have had: with few, chance is all there is.
    """
    total, weight = (_UNREST_MEMORY * value for value in trial.bursts)
    block, seen = trial.block, trial.seen
    others = seen.m - block.m
    mean = block.m * (seen.y - block.y) / others if others > 0 else 0.0
    if mean <= 0:
        return short(total), short(weight)
    worth = mean * mean / (mean * mean + 2)
    return short(total + worth * ((block.y - mean) ** 2 - mean) / (mean * mean)), short(weight + worth)


def short(value: float) -> float:
    """Four digits, in as few characters as may be."""
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def renewed(trial: Trial) -> Trial:
    """The same question with nothing won or lost yet; what was seen stays, for the sentence."""
    return Trial(trial.limit, seen=trial.seen, bursts=trial.bursts)


def _log_sum(log: float, other: float) -> float:
    return math.log(math.exp(log) + other) if log > -700 else math.log(other)


def e_value(trial: Trial) -> float:
    """Odds against a candidate within its limit; finite, at least 0."""
    return sum(map(math.exp, trial.bets)) / len(trial.bets)


def _expected(block: Tally, ground: Ground) -> float:
    """Bad requests of the candidate that surprise nobody: at stable's rate of that minute, at least at the floor."""
    beside = block.y / block.m if block.m and ground.fixed is None else 0.0
    return block.n * max(beside, ground.floor)


def surprise(trial: Trial, ground: Ground, minutes: float, known: float) -> float:
    """Probability of so many bad requests if every minute draws its rates anew, as unevenly as stable's may be.

    The candidate's rate, relative to what is expected of it, is then a gamma variable of mean 1 whose shape is the
    number of its minutes over `unrest`, and a count a Poisson one around it: negative binomial. What is expected is
    uncertain too: stable's rate is known from `minutes` of its record, with `known` bad requests; the result is the
    mean over that. Minutes count by what is expected in them: one with ten times the requests of all others is one.

    Example:
        12 bad of 300 in one minute where 0.6 are expected for sure: about (0.6 / 1.6)**12, a few in a million. 120 of
        30,000 where 6 are expected: (6 / 7)**120, one in 10**8. Twice as many as expected of 6,000: one in seven.
    """
    n, x, expected, squares = trial.past
    new = _expected(trial.block, ground)
    n, x, expected, squares = n + trial.block.n, x + trial.block.x, expected + new, squares + new * new
    if x < 1 or expected <= 0:
        return 1.0
    calm = 1 / trial.unrest
    draws = calm * max(1.0, expected * expected / squares) if squares else calm
    # Odds, not rates, so that certain failure is infinitely worse than any rate: half of all expected, all seen.
    expected = min(expected, 0.999 * n)
    bad, expected = x * n / (n - x + 0.5), expected * n / (n - expected)
    shape = 1 / (1 / (known + 1) + 1 / (calm * max(1.0, minutes)))
    most = max(expected, n * _USUAL_MOST)
    return sum(
        [part * _at_least(bad, min(expected / rate, most), draws) for rate, part in _gamma_nodes(round(shape, 1))]
    )


def _at_least(count: float, mean: float, shape: float) -> float:
    """Probability that a negative binomial variable is `count` or more."""
    share = mean / (mean + shape)
    return share**count if shape == 1 else beta_cdf(share, count, shape)


@lru_cache(maxsize=64)
def _gamma_nodes(shape: float) -> tuple[tuple[float, float], ...]:
    """Values of a gamma variable of mean 1 and their weights, even in its logarithm."""
    spread = 1 / math.sqrt(shape)
    logs = [spread * (step / 2 - 4.5) for step in range(14)]
    weights = [math.exp(shape * (log - math.exp(log) + 1)) for log in logs]
    total = sum(weights)
    return tuple((math.exp(log), weight / total) for log, weight in zip(logs, weights, strict=True))


def beta_cdf(z: float, a: float, b: float) -> float:
    """Regularised incomplete beta function; 0 <= z <= 1, a and b > 0, to six digits.

    Source: continued fraction of DLMF 8.17.22, evaluated by Lentz' method.
    """
    if z <= 0 or z >= 1:
        return 0.0 if z <= 0 else 1.0
    if z > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - z, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(z) + b * math.log1p(-z)) / a
    return min(1.0, front * _fraction(z, a, b))


def _fraction(z: float, a: float, b: float) -> float:
    tiny = 1e-30
    c, d = 1.0, 1 / ((1 - (a + b) * z / (a + 1)) or tiny)
    value = d
    for i in range(1, 200):
        for term in (
            i * (b - i) * z / ((a + 2 * i - 1) * (a + 2 * i)),
            -(a + i) * (a + b + i) * z / ((a + 2 * i) * (a + 2 * i + 1)),
        ):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-7:
            break
    return value
