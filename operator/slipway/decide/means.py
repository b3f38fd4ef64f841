"""The mean of a number that is seen once in a while, with an interval that holds at every look: what a list of nine
numbers remembers of any length of time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from slipway.decide.intervals import BLOCKS_MIN, reach

_HEAVY = 4.0
"""No stretch counts for more than four mean ones: noise that hits a whole stretch does not shrink with its requests."""
_CORRELATED_MAX = 0.95
_BATCH, _BATCHES_MIN = 4, 4


@dataclass(frozen=True, slots=True)
class Mean:
    blocks: int = 0
    """Stretches of time that were counted."""
    weight: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of weight * (value - mean)^2."""
    products: float = 0.0
    """The same of each value with the one before it."""
    last: float = 0.0
    """Deviation of the last value from the mean at that time, times the root of its weight."""
    batch: float = 0.0
    """Weight of the stretches that are no whole batch of four yet."""
    batch_mean: float = 0.0
    batch_squares: float = 0.0
    """`squares` of whole batches."""

    @classmethod
    def of(cls, stored: Sequence[float]) -> Self:
        """From `listed`; what is no such list counts as nothing seen."""
        if len(stored) != len(fields(cls)) or not all(map(math.isfinite, stored)):
            return cls()
        return cls(int(stored[0]), *stored[1:])

    def listed(self) -> list[float]:
        return [rounded(getattr(self, field.name), 5) for field in fields(self)]

    def plus(self, value: float, weight: float) -> "Mean":
        if self.blocks >= BLOCKS_MIN:
            weight = min(weight, _HEAVY * self.weight / self.blocks)
        total, batch = self.weight + weight, self.batch + weight
        mean = self.mean + (value - self.mean) * weight / total
        batch_mean = self.batch_mean + (value - self.batch_mean) * weight / batch
        is_whole = (self.blocks + 1) % _BATCH == 0
        here = math.sqrt(weight) * (value - mean)
        return Mean(
            blocks=self.blocks + 1,
            weight=total,
            mean=mean,
            squares=self.squares + weight * (value - self.mean) * (value - mean),
            products=self.products + self.last * here if self.blocks else 0.0,
            last=here,
            batch=0.0 if is_whole else batch,
            batch_mean=0.0 if is_whole else batch_mean,
            batch_squares=self.batch_squares + (batch * (batch_mean - mean) ** 2 if is_whole else 0.0),
        )

    def error(self, least: float = 0.0) -> float:
        """Standard error of the mean. `least`: variance of a value of weight 1 that chance alone makes.

        Values that follow each other are rarely independent; their mean is then known less well: by the factor of a
        first-order autoregression, or as batches of four tell, whichever is more. The autocorrelation of so few is too
        low by about (1 + 4 r) / n, and uncertain by 1 / sqrt(n): the one is made good, of the other half.
        """
        if self.blocks < 2:
            return math.inf
        squares = max(self.squares, least * (self.blocks - 1))
        correlation = max(0.0, self.products / squares) if squares else 0.0
        correlation += (1 + 4 * correlation) / self.blocks + 0.5 / math.sqrt(self.blocks)
        correlation = min(_CORRELATED_MAX, correlation)
        variance = squares / (self.blocks - 1) * (1 + correlation) / (1 - correlation)
        batches = self.blocks // _BATCH
        coarse = self.batch_squares / (batches - 1) if batches >= _BATCHES_MIN else 0.0
        return math.sqrt(max(variance, coarse) / self.weight)

    def interval(self, alpha: float, least: float = 0.0) -> tuple[float, float, float] | None:
        """Value, low and high; None as long as too little was seen to say."""
        if self.blocks < BLOCKS_MIN or not (self.squares or least):
            return None
        half = reach(self.blocks, alpha) * self.error(least)
        return self.mean, self.mean - half, self.mean + half


def rounded(number: float, digits: int) -> float:
    """To significant digits."""
    return float(f"{number:.{digits}g}")
