"""What a state means for pods and routing, what happens next in a sentence, and when time alone changes anything."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from slipway.api.conditions import Phase, Reason
from slipway.api.schema import seconds
from slipway.decide import capacity, failures, soak
from slipway.decide.release import Decision
from slipway.decide.turn import ROUTED, UNDER_WAY, Turn

FORWARD_AFTER_S = 30.0
"""How long a stable that fails must be without a ready pod until the candidate takes its place."""
_AWAY = frozenset({Reason.UNSCHEDULABLE, Reason.PODS_REFUSED})
"""Nothing is wrong with a revision whose pods only have no place at the moment."""
GOES_ON = {
    "Manual": "waits for the command resume",
    "StepGate": "waits for the command promote",
    "Inconclusive": "goes on when the metrics are clear, or by the command promote",
    "LowTraffic": "goes on with enough requests to the candidate, or by the command promote",
    "MetricsUnavailable": "goes on when the numbers are there again, or by the command promote",
    "CapacityBlocked": "goes on when there is room",
    "GatewayNotVerified": "goes on when every gateway serves the newest weights",
}
"""What ends a pause; what it is about stands there."""
_LEAST_S = 0.1
"""A moment that has come while this was decided is looked at again, but not in a busy loop."""


def forward_after_s(turn: Turn) -> float:
    """How long the candidate has everything until it becomes stable, because that has no ready pod.

    Pods that were evicted come back, and a large model takes minutes to load: only who fails is given up soon.
    """
    stable = turn.scene.stable
    fails = stable is not None and stable.fault is not None and stable.fault[0] not in _AWAY
    return FORWARD_AFTER_S if fails else max(FORWARD_AFTER_S, seconds(turn.policy.progress_deadline))


def decision(turn: Turn) -> Decision:
    """Everything that follows from a state and what is seen; nothing of it is remembered elsewhere."""
    turn = turn.go(next=upcoming(turn))
    state, name = turn.state, turn.state.candidate
    is_routed = turn.scene.stable is not None and (state.phase in ROUTED or state.weight > 0)
    has_preview = turn.policy.strategy == "BlueGreen" and state.phase in (Phase.PROGRESSING, Phase.PROMOTING)
    return Decision(
        state=state,
        serving=turn.serving,
        candidate=name if is_routed else None,
        weight=state.weight if is_routed else 0,
        mirror=state.mirror if is_routed else 0,
        replicas=_replicas(turn),
        preview=name if has_preview and turn.candidate.ready else None,
        is_judged=is_routed and state.phase in ROUTED,
        closes_window=turn.closes_window,
        events=turn.news,
        requeue_after_s=_due_s(turn),
    )


def _replicas(turn: Turn) -> dict[str, int]:
    scene, state = turn.scene, turn.state
    is_asleep = scene.is_asleep and not turn.has_flipped
    found = {turn.serving: 0 if is_asleep else scene.replicas}
    if scene.stable is None:
        return found
    if state.phase is Phase.DRAINING and state.stage == "Soaking":
        left = turn.side(scene.stable.name if turn.has_flipped else scene.previous)
        return found | ({left.name: left.replicas} if left.name and left.replicas else {})
    is_over = state.phase is not Phase.ROLLED_BACK or state.until is None
    if state.phase not in UNDER_WAY | {Phase.ROLLING_BACK} and is_over:
        return found
    if turn.has_moved:
        scene = replace(scene, served="")  # nobody serves yet what was just decided
    stop, candidate = turn.stop, turn.candidate
    if turn.policy.strategy != "None":
        found[turn.serving] = capacity.of_stable(scene, state, stop, candidate)
    replicas = capacity.of_candidate(scene, state, stop, candidate, soak.ahead(turn))
    return found | ({candidate.name: replicas} if replicas else {})


def upcoming(turn: Turn) -> str:
    """What happens next, and when; changes only with what it tells."""
    state = turn.state
    if turn.scene.stable is None:
        return f"revision {state.candidate} answers as soon as its model is loaded" if state.candidate else ""
    if state.pause is not None:
        return GOES_ON.get(state.pause.reason, "")
    if state.phase in UNDER_WAY - {Phase.PROMOTING}:
        return _on_the_way(turn)
    return _at_the_end(turn)


def _at_the_end(turn: Turn) -> str:
    state, name = turn.state, turn.state.candidate
    match state.phase:
        case Phase.PROMOTING:
            return f"revision {name} becomes stable when every gateway serves it alone"
        case Phase.DRAINING:
            when = f"at {_clock(state.until)}" if state.stage and state.until else "when their requests are done"
            return f"the pods of the revision before go {when}"
        case Phase.ROLLING_BACK if state.weight:
            return "weight goes back as the replicas of stable become ready"
        case Phase.ROLLING_BACK:
            return f"revision {name} has gone back when no gateway leads there"
        case Phase.ROLLED_BACK:
            return f"nothing until the command retry or another spec than that of revision {name}"
        case _:
            return ""


def _on_the_way(turn: Turn) -> str:
    state, scene = turn.state, turn.scene
    if turn.policy.strategy == "None" and not state.weight:
        return f"revision {state.candidate} answers when all its replicas are ready"
    if state.stage == "Verifying":
        return f"step {state.step + 1} ({turn.stop}) begins when every gateway serves it"
    if state.stage == "Soaking":
        after = turn.stops[state.step + 1] if state.step + 1 < len(turn.stops) else "100%"
        return f"{after} at {_clock(state.until)}{_provided(turn)}"
    ready, wanted = turn.candidate.ready, capacity.wanted(turn.stop, scene.replicas)
    limited = "limited by capacity: " if state.stage == "Scaling" and state.phase in ROUTED else ""
    return f"{limited}{turn.stop} when {wanted} of its replicas are ready ({ready} are)"


def _provided(turn: Turn) -> str:
    if turn.state.skip_analysis:
        return ", whatever the analysis would say"
    if turn.stop.is_gate:
        return " at the earliest, by the command promote"
    least = turn.policy.analysis.min_requests
    return " if no fault is found" if turn.stop.is_preview else f" if at least {least} requests and no fault"


def _clock(moment: str | None) -> str:
    return f"{datetime.fromisoformat(moment):%H:%M:%S} UTC" if moment else "once"


def _due_s(turn: Turn) -> float | None:
    left = [(moment - turn.now).total_seconds() for moment in _moments(turn)]
    due = [max(_LEAST_S, one) for one in left if one > -_LEAST_S]
    scene, window = turn.scene, turn.scene.window
    is_judged = scene.stable is not None and turn.state.phase in UNDER_WAY and turn.policy.strategy != "None"
    if is_judged and window is not None:
        left_s = soak.INTERVAL_S - window.seconds
        # A full window that was not closed waits for a gateway: there is no use in looking each moment.
        due.append(max(_LEAST_S, left_s) if left_s > 0 and not turn.closes_window else soak.INTERVAL_S)
    return min(due, default=None)


def _moments(turn: Turn) -> Iterator[datetime]:
    """When something is due that nothing else would bring."""
    state, policy = turn.state, turn.policy
    if turn.scene.stable is None:
        return
    if state.until is not None:
        yield datetime.fromisoformat(state.until)
    if state.phase in UNDER_WAY and policy.strategy != "None" and state.stage in ("Scaling", "Shifting"):
        yield turn.after(seconds(policy.progress_deadline), state.best_ready_at)
        if turn.candidate.fault is not None:
            yield turn.after(failures.PULL_PATIENCE_S, state.best_ready_at)
    if state.stage == "Soaking" and state.until is not None:
        yield turn.after(soak.PATIENCE_S, state.until)
        yield soak.ahead_at(turn)
    if state.stage == "Soaking" and state.soaking_since is not None:
        yield turn.after(turn.stop.hold_s + seconds(policy.analysis.no_data_after), state.soaking_since)
    if turn.is_forwarded:
        yield turn.after(forward_after_s(turn), state.since)
    if state.phase is Phase.ROLLING_BACK:
        yield turn.after(FORWARD_AFTER_S, state.since)
