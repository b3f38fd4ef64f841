"""Sleep and waking: when the last replica goes, when the first comes back, and when waking is given up.

How long an idle replica is kept follows from what its return costs (ski rental: keep it as long as a cold start costs,
and never pay more than twice what the best in hindsight would); where enough pauses were seen, from how long they last
(Shahrad et al., ATC '20). Pauses that always last alike have the replica back before the next request.
"""

from collections.abc import Sequence

from slipway.api.scaled import Zero
from slipway.decide.scaling.types import Wanted

PENALTY_S = 240.0
"""What a request that has to wait for a cold start is worth, in seconds of a replica."""
FIRST_GAP_S, GAP_RATIO, GAP_BINS = 15.0, 1.5, 20
GAPS_ENOUGH = 10
GAPS_MOST = 200
KEPT_MOST_S = 3600.0
ALIKE_BINS = 2
RETRY_S, RETRY_MOST_S = 60.0, 3600.0
GRACE_S = 30.0
ROOMLESS = 1 / 6
"""Of its time to become ready, how fast it runs while the cluster has no room: nodes take a quarter of an hour to come,
and one that is taken away meanwhile begins to wait anew."""


def idle_limit_s(known: Zero, wanted: Wanted, lead: float) -> float:
    """How long without requests until the last replica goes."""
    if wanted.idle_after_s is not None:
        return wanted.idle_after_s
    rental = lead + PENALTY_S
    if sum(known.gaps) < GAPS_ENOUGH:
        return rental
    usual = _gap_s(known.gaps, 0.99)
    # Pauses longer than it pays to wait through are slept through.
    return max(60.0, min(usual, KEPT_MOST_S)) if usual <= 4 * rental else rental


def returns_in_s(known: Zero) -> tuple[float, float] | None:
    """Between which ages a pause has always ended, where they are alike."""
    if sum(known.gaps) < GAPS_ENOUGH:
        return None
    soon, late = _bin(known.gaps, 0.05), _bin(known.gaps, 0.95)
    return (_upper(soon - 1), _upper(late)) if late - soon < ALIKE_BINS else None


def pass_time(known: Zero, *, dt: float, is_busy: bool, is_believed: bool) -> Zero:
    """Idleness counts only while the gateway says so itself; a request ends it."""
    if is_busy:
        if known.idle_s < FIRST_GAP_S:
            return known if known.idle_s == 0 else known.changed(idle_s=0.0)
        return known.changed(idle_s=0.0, gaps=_with_gap(known.gaps, known.idle_s))
    if not is_believed or dt <= 0:
        return known
    return known.changed(idle_s=known.idle_s + dt)


def wake(known: Zero, *, dt: float, is_waking: bool, is_ready: bool, wanted: Wanted) -> Zero:
    """Count how long it has tried; after the deadline it is barred for a while, longer each time."""
    barred = max(0.0, known.barred_s - dt)
    if is_ready:
        if known.failed or known.waking_s or known.barred_s:
            return known.changed(failed=0, waking_s=0.0, barred_s=0.0)
        return known
    waking = known.waking_s + dt if is_waking else 0.0
    if waking > wanted.progress_deadline_s + GRACE_S:
        failed = min(known.failed + 1, 20)
        barred, waking = min(RETRY_MOST_S, RETRY_S * 2.0 ** (failed - 1)), 0.0
        return known.changed(failed=failed, waking_s=waking, barred_s=barred)
    if (waking, barred) == (known.waking_s, known.barred_s):
        return known
    return known.changed(waking_s=waking, barred_s=barred)


def _with_gap(gaps: Sequence[int], gap_s: float) -> list[int]:
    index, edge = 0, FIRST_GAP_S * GAP_RATIO
    while edge < gap_s and index < GAP_BINS - 1:
        index, edge = index + 1, edge * GAP_RATIO
    new = [*gaps, *([0] * (GAP_BINS - len(gaps)))]
    new[index] += 1
    return [number // 2 for number in new] if sum(new) > GAPS_MOST else new


def _bin(gaps: Sequence[int], share: float) -> int:
    left = share * sum(gaps)
    for index, number in enumerate(gaps):
        left -= number
        if left <= 0:
            return index
    return len(gaps) - 1


def _upper(index: int) -> float:
    return FIRST_GAP_S * GAP_RATIO ** (index + 1)


def _gap_s(gaps: Sequence[int], share: float) -> float:
    return _upper(_bin(gaps, share))
