"""What stands between what is needed and what is done: bounds, pace, capacity that is not there, launches that fail."""

import math

from slipway.api.scaled import Limits
from slipway.decide.scaling.types import Code, Pacing, Reason, Replicas

KEPT = 24
"""Entries of each list in status: beyond that neighbours are merged, to the safe side."""
RETRY_S, RETRY_MOST_S = 30.0, 600.0
REGRET_S, HOLD_MOST_S, FORGIVEN_S = 600.0, 600.0, 3600.0
"""Who comes back within so long had gone too soon, and waits twice as long the next time, until an hour has passed."""
CRASHES = 2
"""Failed launches in a row after which no more are tried."""


def peak_in(known: Limits, need: int, clock: float, window_s: float) -> tuple[list[list[float]], int]:
    """The window's needs that could still be its maximum, and the maximum: a sliding maximum."""
    kept = [one for one in known.peaks if one[0] > clock - window_s and one[1] > need]
    kept.append([clock, need])
    if len(kept) > KEPT:
        # The higher of two neighbours lives as long as the later one.
        kept = [*kept[:-3], [kept[-2][0], kept[-3][1]], kept[-1]]
    return kept, int(kept[0][1])


def lasting(known: Limits, need: int, clock: float, delay_s: float) -> tuple[list[list[float]], int]:
    """The least that was needed all through the delay: a sliding minimum."""
    if delay_s <= 0:
        return [], need
    kept = [one for one in known.needs if one[0] > clock - delay_s and one[1] < need]
    kept.append([clock, need])
    if len(kept) > KEPT:
        kept = [*kept[:-3], [kept[-2][0], kept[-3][1]], kept[-1]]
    return kept, int(kept[0][1])


def paced(known: Limits, have: int, want: int, pacing: Pacing, clock: float) -> int:
    """As far towards `want` as the period still allows: at least one replica, so that nothing is ever stuck.

    Both kinds of change in the period count, as in Kubernetes' HPA: who came is no base to grow from anew.
    """
    if want == have or not pacing.is_limited:
        return want
    within = [delta for moment, delta in known.changes if moment > clock - pacing.period_s]
    start = have - int(sum(within))
    share = start * (pacing.percent or 0) / 100
    step = max(pacing.replicas or 0, math.ceil(share - 1e-9) if want > have else math.floor(share))
    step = max(1, step)
    if want > have:
        return min(want, max(have, start + step))
    return max(want, min(have, start - step))


def with_change(known: Limits, delta: int, clock: float, keep_s: float) -> list[list[float]]:
    kept = [one for one in known.changes if one[0] > clock - keep_s]
    if delta == 0:
        return known.changes if len(kept) == len(known.changes) else kept
    kept = [*kept, [clock, float(delta)]]
    if len(kept) > KEPT:
        kept = [[kept[1][0], kept[0][1] + kept[1][1]], *kept[2:]]
    return kept


def growth(known: Limits, replicas: Replicas, want: int, dt: float) -> tuple[Limits, int, Reason | None]:
    """No growth while the cluster has no room, save one try now and then; none at all while launches crash."""
    have = replicas.asked
    if replicas.failed >= CRASHES and want > have:
        note = f"{replicas.failed} launches in a row failed: no more are tried until one succeeds"
        return known, have, Reason(Code.LAUNCH_FAILED, note)
    if not replicas.missing:
        if known.retry_s or known.blocked_s:
            known = known.changed(retry_s=0.0, blocked_s=0.0)
        return known, want, None
    if want <= have:
        note = f"the cluster has no {replicas.missing} left: {replicas.ready} of {want} replicas run"
        return known, want, Reason(Code.CAPACITY_LIMITED, note) if replicas.ready < want else None
    note = f"the cluster has no {replicas.missing} left: {want} replicas are needed"
    if known.retry_s == 0:
        retry, blocked = RETRY_S, 0.0
    else:
        retry, blocked = known.retry_s, known.blocked_s + dt
        if blocked >= retry:
            retry, blocked, have = min(RETRY_MOST_S, 2 * retry), 0.0, have + 1
    known = known.changed(retry_s=retry, blocked_s=blocked)
    return known, have, Reason(Code.CAPACITY_LIMITED, note)


def learn_hold(known: Limits, have: int, will: int, clock: float, window_s: float) -> Limits:
    """How long less has to be enough before anything goes: what comes back again and again makes replicas stay."""
    if will == have:
        return known
    since = clock - known.fell if known.fell >= 0 else math.inf
    if will < have:
        return known.changed(fell=clock, hold_s=0.0 if since > FORGIVEN_S else known.hold_s)
    if have == 0 or since > REGRET_S:
        return known
    # Told once for each time that it went down.
    return known.changed(hold_s=min(HOLD_MOST_S, 2 * max(window_s, known.hold_s)), fell=clock - REGRET_S)
