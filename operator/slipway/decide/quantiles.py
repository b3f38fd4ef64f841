"""Limits of quantiles as questions about counts: beyond which bucket edges is a request slow, and how many were.

A quantile is never computed from another quantile, nor averaged: p95 within its limit means that at most 5 % are beyond
it, and what is beyond an edge was counted. So limits are as fine as the buckets. An absolute one is the next edge that
is not below: up to 1.4 times what was asked for. A ratio's is the nearest: a sixth more or less.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from slipway.decide.release import EDGES_MS

_NEAR = 0.95
"""An edge so near below a limit is taken for it: twice 28 ms is 56 ms, and quantiles are not known better than that."""


_NEAREST = 1 / math.sqrt(1.4)
"""Half of the way down to the next edge."""


def edge_of(limit_ms: float) -> int | None:
    """Index of the edge that stands for a limit; None: beyond the last one, nothing that is longer is told apart."""
    return _edge_from(limit_ms * _NEAR)


def nearest_edge(time_ms: float) -> int | None:
    """Index of the edge that is nearest to a time; None: beyond the last one."""
    return _edge_from(time_ms * _NEAREST)


def _edge_from(least_ms: float) -> int | None:
    index = bisect_left(EDGES_MS, least_ms)
    return index if index < len(EDGES_MS) else None


def edge_below(time_ms: float) -> int | None:
    """Index of the highest edge that is not above; None: there is none."""
    index = bisect_right(EDGES_MS, time_ms / _NEAR) - 1
    return index if index >= 0 else None


def quantile(counts: Sequence[float], beyond: float) -> float | None:
    """The time in ms that surely at most the part `beyond` of the requests takes; None: too few to say.

    Surely: one standard deviation higher than counted, as these are a sample. Within a bucket times are taken as spread
    evenly in their logarithm.

    Example:
        of 1,000 requests 46 took more than 40 ms, 20 more than 56: 41.6 ms
    """
    allowed, above = beyond * sum(counts), 0.0
    if allowed < 1:
        return None
    allowed -= math.sqrt(allowed) if allowed > 4 else allowed / 2
    for index in range(len(counts) - 1, 0, -1):
        if above + counts[index] > allowed:
            if index == len(EDGES_MS):
                return None
            part = (allowed - above) / counts[index]
            return float(EDGES_MS[index] * (EDGES_MS[index - 1] / EDGES_MS[index]) ** part)
        above += counts[index]
    return EDGES_MS[0]


def beyond(counts: Sequence[float], edge: int) -> float:
    """Requests that took longer than an edge."""
    return sum(counts[edge + 1 :])
