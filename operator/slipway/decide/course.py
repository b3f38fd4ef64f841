"""How a release begins, and the three ways it ends: promoted, gone back, or given up for another."""

from dataclasses import replace

from slipway.api.conditions import Phase, Reason
from slipway.api.progress import Abort, RolloutStatus
from slipway.api.schema import seconds
from slipway.decide import capacity, failures
from slipway.decide.stops import digest
from slipway.decide.turn import ACK_PATIENCE_S, Turn, stamp


def rest(turn: Turn) -> Turn:
    """No release: the state has nothing in it but the commands that still stand."""
    state = RolloutStatus(phase=Phase.HEALTHY, since=stamp(turn.now), obeyed=turn.state.obeyed)
    return replace(turn, state=state)


def start(turn: Turn, attempt: int = 1) -> Turn:
    """A release of the spec's revision. Whatever was known of it counts no more: evidence is of one attempt."""
    side = turn.side(turn.scene.target)
    state = RolloutStatus(
        phase=Phase.PROVISIONING,
        stage="Scaling",
        since=stamp(turn.now),
        candidate=side.name,
        attempt=attempt,
        steps_hash=digest(turn.stops),
        started=stamp(turn.now),
        best_ready=side.ready,
        best_ready_at=stamp(turn.now),
        obeyed=turn.state.obeyed,
    )
    way = ", ".join([*map(str, turn.stops), "100%"])
    again = f", attempt {attempt}" if attempt > 1 else ""
    return failures.counted(replace(turn, state=state)).tell(
        Reason.ROLLOUT_STARTED, f"revision {side.name} is to take the place of {turn.serving}: {way}{again}"
    )


def promote(turn: Turn) -> Turn:
    """The candidate becomes stable: a pointer flips, the pods that were judged are the pods that serve."""
    name, old = turn.state.candidate, turn.scene.stable
    has_pods, delay_s = old is not None and old.replicas > 0, seconds(turn.policy.scale_down_delay)
    is_kept = has_pods and delay_s > 0
    state = RolloutStatus(
        phase=Phase.DRAINING if has_pods else Phase.HEALTHY,
        stage="Soaking" if is_kept else "",
        since=stamp(turn.now),
        until=stamp(turn.after(delay_s)) if is_kept else None,
        candidate=name if has_pods else "",
        started=turn.state.started if has_pods else None,
        obeyed=turn.state.obeyed,
    )
    is_partial = old is not None and turn.policy.strategy != "None" and turn.candidate.ready < turn.scene.replicas
    how = "" if is_partial else "has all replicas ready and "
    gone = f", in place of {old.name}" if old is not None else ""
    turned = replace(turn, state=state, serving=name, has_moved=True, has_flipped=True)
    return turned.tell(Reason.REVISION_PROMOTED, f"revision {name} {how}answers now{gone}")


def go_back(turn: Turn, reason: Reason, words: str) -> Turn:
    """The previous revision, whose pods are still there, answers again: as much as they carry at once."""
    stable, previous = turn.scene.stable, turn.side(turn.scene.previous)
    name = stable.name if stable is not None else turn.state.candidate
    scene = replace(turn.scene, stable=previous)
    weight = capacity.floor(scene, turn.side(name), paced=True)
    state = RolloutStatus(
        phase=Phase.ROLLING_BACK,
        stage="Shifting" if weight else "Verifying",
        since=stamp(turn.now),
        until=stamp(turn.after(ACK_PATIENCE_S)),
        candidate=name,
        attempt=turn.state.attempt,
        weight=weight,
        abort=Abort(reason=reason, message=words, at=stamp(turn.now)),
        obeyed=turn.state.obeyed,
    )
    turned = replace(turn, scene=scene, state=state, serving=previous.name, has_moved=True, has_flipped=True)
    told = Reason.ROLLOUT_SUPERSEDED if reason is Reason.REVERTED else Reason.ROLLOUT_ABORTED
    text = f"revision {previous.name} answers again in place of {name}: {words}"
    return turned.tell(told, text, warning=told is Reason.ROLLOUT_ABORTED)
