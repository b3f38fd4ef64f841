"""Requests by how long they took, in the buckets that gateways count in (`release.EDGES_MS`)."""

from collections.abc import Sequence

from slipway.decide.release import EDGES_MS

RANKS = {"p50": 0.50, "p95": 0.95}
"""The quantiles that are reported."""


def bucket_of(counts: Sequence[int], rank: float) -> int:
    """The bucket that a quantile is in."""
    left = rank * sum(counts)
    for place, count in enumerate(counts):
        left -= count
        if left <= 0:
            return place
    return len(counts) - 1


def edge_of(counts: Sequence[int], rank: float) -> float:
    """The edge that the share of slower requests is nearest to 1 - rank at, of those that some are slower than."""
    place = bucket_of(counts, rank)
    sides = [EDGES_MS[side] for side in (place - 1, place) if 0 <= side < len(EDGES_MS)]
    wanted = (1 - rank) * sum(counts)
    return min(sides, key=lambda edge: (not slower(counts, edge), abs(slower(counts, edge) - wanted)))


def slower(latency: Sequence[int], edge_ms: float) -> int:
    return sum(latency[EDGES_MS.index(edge_ms) + 1 :]) if edge_ms in EDGES_MS else 0


def packed(latency: Sequence[int]) -> list[int]:
    """Without the empty buckets at both ends."""
    used = [place for place, count in enumerate(latency) if count]
    return [used[0], *latency[used[0] : used[-1] + 1]] if used else []


def unpacked(stored: Sequence[int]) -> list[int]:
    buckets = [0] * (len(EDGES_MS) + 1)
    if stored and 0 <= stored[0] < len(buckets):
        counts = stored[1 : 1 + len(buckets) - stored[0]]
        buckets[stored[0] : stored[0] + len(counts)] = counts
    return buckets
