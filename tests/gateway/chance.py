"""What chance allows, so that a test of shares fails by chance once in a million runs."""

from math import exp, lgamma, log

ODDS = 1e-6


def likely(draws: int, share: float) -> range:
    """The numbers of hits of independent draws, but for so many at both ends as come up with less than ODDS.

    By the binomial distribution itself: where few hits are expected, the normal one is wrong by far.
    """
    log_odds = [
        lgamma(draws + 1)
        - lgamma(hits + 1)
        - lgamma(draws - hits + 1)
        + hits * log(share)
        + (draws - hits) * log(1 - share)
        for hits in range(draws + 1)
    ]
    return range(_rest(log_odds), draws + 1 - _rest(log_odds[::-1]))


def _rest(log_odds: list[float]) -> int:
    """How many from the beginning have less than half of ODDS together."""
    total, count = 0.0, 0
    while (total := total + exp(log_odds[count])) < ODDS / 2:
        count += 1
    return count
