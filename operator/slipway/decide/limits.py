"""The limits of a policy that are questions about counted requests, one by one; and what a request must be to count.

Each limit becomes the same question: of n requests, are more *bad* than may be? Bad is a failed request, a rejected
one, or one that took longer than a bucket edge (`quantiles`).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from slipway.api.rollout import Analysis
from slipway.api.schema import seconds
from slipway.api.traffic import WHOLE, weight
from slipway.decide.evidence import Ground, Tally
from slipway.decide.quantiles import beyond, edge_below, edge_of, nearest_edge, quantile
from slipway.decide.release import EDGES_MS, Sample

ERRORS, REJECTED = "errorRate", "rejected"
_QUANTILES = {"p50": 0.5, "p90": 0.1, "p95": 0.05, "p99": 0.01}
"""Quantile -> the part of requests that may be beyond it."""
_ALONE = 100
"""Stable with fewer than one request in so many of the candidate's is nothing to compare with."""
_FROM_RECORD = 4.0
"""Held against the past, a candidate may fail so many times more: what hits both at the same time does not cancel."""
_RECORD_MIN = 100
_PART_OF_REJECTED = 0.03
"""Of the odds that limits share, in times of another limit's part. Who rejects what stable takes does so often, which
shows soon at any odds, and errors shall not be found later for it: with an equal part, errors x20 at 100 requests/s
took 65 s in place of 55 (median of 200 releases)."""
_CAME_ALONG_MOST = 0.5
"""However few requests a candidate has: nobody's users make one of which more are bad than not."""


class Limit(NamedTuple):
    metric: str
    """errorRate, rejected, or the name of a quantile."""
    key: str
    """Name of its evidence."""
    mark: str
    """What evidence is gathered for: an edited limit begins anew."""
    ratio: float | None = None
    """To stable at the same time; None: an absolute limit."""
    most: float = 0.0
    """The absolute one: a rate, or milliseconds."""
    beyond: float = 0.0
    """Of a quantile: the part of requests that may be slower."""
    of: float = 1.0
    """As one of how many limits it is judged: all of them together fail a good candidate as rarely as one may."""


class Record(NamedTuple):
    """Stable's own past, fading: what it is expected to go on doing."""

    requests: float = 0
    errors: float = 0
    minutes: float = 0
    latency: tuple[int, ...] = ()
    """Requests by bucket of EDGES_MS."""
    rejected: float = 0

    def bad(self, metric: str) -> float:
        return self.rejected if metric == REJECTED else self.errors

    def rate(self, metric: str) -> float:
        """Of bad requests, one more than were seen; 0 < rate <= 0.5."""
        return min(0.5, (self.bad(metric) + 1) / (self.requests + 2))


def limits(policy: Analysis) -> tuple[Limit, ...]:
    """All that a policy sets on counted requests, in the order of the spec."""
    errors, rejected, latency = policy.error_rate, policy.rejected, policy.latency
    asked = [
        (name, limit.max_ratio_to_stable, limit.max)
        for name, limit in (("p50", latency.p50), ("p90", latency.p90), ("p95", latency.p95), ("p99", latency.p99))
        if limit is not None
    ]
    counted = (
        (ERRORS, errors.max_ratio_to_stable, errors.max),
        (REJECTED, rejected.max_ratio_to_stable or None, rejected.max),
    )
    return _limits(counted, tuple(asked))


@lru_cache(maxsize=1024)
def _limits(
    counted: tuple[tuple[str, float | None, int | str | None], ...],
    quantiles: tuple[tuple[str, float | None, str | None], ...],
) -> tuple[Limit, ...]:
    found: list[Limit] = []
    for metric, ratio, most in counted:
        # Nothing fails quite never: a limit of 0 is taken as one in 10 000.
        found += _of(metric, ratio, None if most is None else min(max(weight(most), 1) / WHOLE, 0.999))
    for name, times, longest in quantiles:
        found += _of(name, times, 1000 * seconds(longest) if longest else None, _QUANTILES[name])
    parts = [_PART_OF_REJECTED if limit.metric == REJECTED else 1.0 for limit in found]
    return tuple(limit._replace(of=sum(parts) / part) for limit, part in zip(found, parts, strict=True))


def _of(metric: str, ratio: float | None, most: float | None, beyond: float = 0.0) -> Iterator[Limit]:
    if ratio is not None:
        yield Limit(metric, metric, f"{ratio:g}", ratio, beyond=beyond)
    if most is not None:
        yield Limit(metric, f"{metric}.max", f"{most:g}", most=most, beyond=beyond)


def is_alone(counts: Tally) -> bool:
    """Whether stable had too few requests at the time to be compared with."""
    return counts.m * _ALONE < counts.n


def ground(limit: Limit, record: Record, block: Tally, usual: Record | None = None) -> Ground | None:
    """What a candidate within the limit may do, in a block of time; None: there is nothing to hold it against.

    `usual` is stable's record of before the release, where users are kept to a revision: see `_came_along`.
    """
    if limit.ratio is None:
        rate = limit.beyond or limit.most
        return Ground(floor=rate, fixed=rate)
    alone = is_alone(block)
    rate = limit.beyond or record.rate(limit.metric)
    floor = rate if usual is None else max(rate, _came_along(limit, usual, block))
    if limit.beyond:
        return Ground(floor=floor, fixed=limit.beyond if alone else None)
    if not alone:
        return Ground(floor=floor, margin=limit.ratio)
    if record.requests < _RECORD_MIN:
        return None
    return Ground(floor=floor, fixed=min(0.5, _FROM_RECORD * limit.ratio * floor))


def _came_along(limit: Limit, usual: Record, block: Tally) -> float:
    """The candidate's rate if all the bad requests that stable had before are now its own.

    A user whose every request is bad takes them along to the revision that it is kept to. Then there are no more of
    both together than there were before, and that is all that counts can tell: nobody counts by user.

    Example:
        Stable failed 0.2 %. A candidate with 5 % of the requests may fail 4 %, one with half of them 0.4 %.
    """
    rate = limit.beyond or usual.rate(limit.metric)
    return min(_CAME_ALONG_MOST, rate * (block.n + block.m) / block.n) if block.n else rate


def edges(limit: Limit, record: Record) -> tuple[int, int] | None:
    """Bucket edges beyond which a request of the candidate, and one of stable, is slow; None: not to be told yet.

    A candidate `ratio` times slower on every request has no more beyond its edge than stable has beyond its own.
    """
    if limit.ratio is None:
        edge = edge_of(limit.most)
        return None if edge is None else (edge, edge)
    return _edges(limit.ratio, limit.beyond, record.latency)


@lru_cache(maxsize=256)
def _edges(ratio: float, part: float, latency: tuple[int, ...]) -> tuple[int, int] | None:
    usual = quantile(latency, part)
    edge = None if usual is None else nearest_edge(usual * ratio)
    beside = None if edge is None else edge_below(EDGES_MS[edge] / ratio)
    return None if edge is None or beside is None else (edge, beside)


def counts(limit: Limit, record: Record, mine: Sample, theirs: Sample) -> Tally | None:
    """Bad ones of all requests of both in one interval; None: it cannot be told which are bad."""
    if limit.metric == REJECTED:
        return Tally(mine.requests, mine.rejected, theirs.requests, theirs.rejected)
    if not limit.beyond:
        return Tally(mine.requests, mine.errors, theirs.requests, theirs.errors)
    slow = edges(limit, record)
    if slow is None or not mine.latency:
        return None
    return Tally(sum(mine.latency), _slow(mine.latency, slow[0]), sum(theirs.latency), _slow(theirs.latency, slow[1]))


def _slow(latency: Sequence[int], edge: int) -> float:
    return beyond(latency, edge) if latency else 0
