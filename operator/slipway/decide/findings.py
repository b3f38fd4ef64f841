"""The sentences of verdicts: what was counted of whom, and what it means."""

from slipway.api.rollout import Metric
from slipway.decide.evidence import Tally
from slipway.decide.limits import ERRORS, REJECTED, Limit
from slipway.decide.release import EDGES_MS
from slipway.decide.shares import wilson


def counted(limit: Limit, seen: Tally, edges: tuple[int, int] | None, stable: str) -> str:
    """What was counted for one limit.

    Example:
        errorRate: 41 of 200 requests failed (20.5 %, 95 % interval 15.5 to 26.6) against 7 of 3,800 (0.184 %) of abc
    """
    if limit.metric == REJECTED and limit.ratio is not None and not seen.x and not seen.y:
        return f"{REJECTED}: none of {seen.n:,.0f} requests, and none of {seen.m:,.0f} of {stable}"
    slow, usual = [f"{EDGES_MS[edge]:g} ms" for edge in edges] if edges else ["the limit", "its quantile"]
    failed = "were rejected" if limit.metric == REJECTED else "failed"
    did, theirs = (f"took more than {slow}", f" above {usual}") if limit.beyond else (failed, "")
    within = f", 95 % interval {interval(seen.x, seen.n)}" if limit.metric == ERRORS and seen.n else ""
    mine = f"{limit.metric}: {seen.x:,.0f} of {seen.n:,.0f} requests {did} ({_percent(seen.x, seen.n)}{within})"
    if limit.ratio is None:
        return f"{mine}, {100 * (limit.beyond or limit.most):g} % may"
    if not seen.m:
        return f"{mine} against the record of {stable}"
    return f"{mine} against {seen.y:,.0f} of {seen.m:,.0f}{theirs} ({_percent(seen.y, seen.m)}) of {stable}"


def few(limit: Limit, requests: int, wanted: int) -> str:
    return f"{limit.metric}: {requests:,} of {wanted:,} requests so far"


def nothing(limit: Limit, stable: str) -> str:
    return f"{limit.metric}: nothing of {stable or 'a stable revision'} to compare with yet"


def odds(evidence: float) -> str:
    """Evidence in words; large figures only as powers of ten, nobody needs their digits."""
    return (
        f"odds against chance {evidence:.0f}"
        if evidence < 1e4
        else f"odds against chance 10^{len(f'{evidence:.0f}') - 1}"
    )


def metric(limits: Metric, value: float) -> str:
    """A reading and what it may be."""
    bounds = [
        f"{word} {bound:g}" for word, bound in (("at most", limits.max), ("at least", limits.min)) if bound is not None
    ]
    return f"{limits.name}: {value:.4g}, may be {' and '.join(bounds)}"


def interval(bad: float, of: float) -> str:
    """Where a share lies with 95 %, in percent: a help to read it, and no part of the verdict, which holds at any look.

    Example:
        interval(41, 200) -> "15.5 to 26.6"
    """
    low, high = wilson(bad, of)
    return f"{100 * low:.3g} to {100 * high:.3g}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "none"
