"""What a candidate's pods say against it: facts, not statistics. They count only while a release is under way."""

from slipway.api.conditions import Reason
from slipway.api.schema import seconds
from slipway.decide.pods import FETCH_REASONS
from slipway.decide.release import Side
from slipway.decide.turn import Turn, stamp

RESTARTS_MAX = 3
"""One restart may be a node's fault, and a second one its consequence."""
_TOGETHER_S = 3600.0
"""Restarts further apart are no crash loop, whose pauses are five minutes at most."""
_TIMES_STABLE = 2
"""More often than stable, per replica, at the same time: else it is not the candidate that is to blame."""
PULL_PATIENCE_S = 60.0
"""A registry may hiccup; the kubelet has tried five times in this."""
_PATIENT = {Reason.IMAGE_PULL_FAILED, Reason.CONTAINER_CONFIG}
_AGAIN = {Reason.CRASHED, Reason.FETCH_FAILED} | {reason for reason, certain in FETCH_REASONS.items() if not certain}
"""What a restart may cure: counted, or left to the deadline."""


def found(turn: Turn, *, is_short: bool) -> tuple[str, str] | None:
    """Why the release cannot go on, as reason and sentence. `is_short`: the candidate lacks replicas that it needs."""
    side, state = turn.candidate, turn.state
    restarts = side.restarts - state.restarts
    if restarts >= RESTARTS_MAX and not _is_shared(turn, restarts):
        return Reason.CRASHED, _with_cause(f"its containers restarted {restarts} times", side)
    if side.fault is not None:
        reason, words = side.fault
        is_certain = side.is_terminal and reason not in _AGAIN
        is_lasting = reason in _PATIENT and is_short and turn.since_s(state.best_ready_at) >= PULL_PATIENCE_S
        if is_certain or is_lasting:
            return reason, words
    if is_short and not side.lacks and turn.since_s(state.best_ready_at) >= seconds(turn.policy.progress_deadline):
        text = f"no more than {side.ready} of its replicas became ready in {turn.policy.progress_deadline}"
        return Reason.PROGRESS_DEADLINE_EXCEEDED, _with_cause(text, side)
    return None


def counted(turn: Turn) -> Turn:
    """Restarts count from now on."""
    stable = turn.scene.stable
    return turn.go(
        restarts=turn.candidate.restarts,
        restarts_of_stable=stable.restarts if stable is not None else 0,
        restarts_at=stamp(turn.now),
    )


def recounted(turn: Turn) -> Turn:
    """Restarts count from now on when that is due; pods that went took theirs with them."""
    state, stable = turn.state, turn.scene.stable
    if state.restarts_at is None or turn.since_s(state.restarts_at) >= _TOGETHER_S:
        restarts = turn.candidate.restarts - state.restarts
        return counted(turn) if restarts < RESTARTS_MAX or _is_shared(turn, restarts) else turn
    mine, theirs = turn.candidate.restarts, stable.restarts if stable is not None else 0
    if mine >= state.restarts and theirs >= state.restarts_of_stable:
        return turn
    return turn.go(restarts=min(mine, state.restarts), restarts_of_stable=min(theirs, state.restarts_of_stable))


def _is_shared(turn: Turn, restarts: int) -> bool:
    """Whether stable restarts about as often."""
    stable = turn.scene.stable
    if stable is None:
        return False
    theirs = stable.restarts - turn.state.restarts_of_stable
    return restarts * max(1, stable.replicas) <= _TIMES_STABLE * theirs * max(1, turn.candidate.replicas)


def _with_cause(text: str, side: Side) -> str:
    return f"{text}; the last: {side.fault[1]}" if side.fault is not None else text
