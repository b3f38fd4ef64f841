"""What a release does next: `step`, from the stored state and what is seen now to the state to be stored.

    Healthy ──> Provisioning ──> Shadowing / Progressing ──> Promoting ──> Draining ──> Healthy
                     │                  │    ^                   │             │
                     │                  │    └── steps ──┐       │             │ rollback
                     └──────────────────┴────────────────┴───────┴──> RollingBack ──> RolledBack

    in a step:  Scaling (its pods) ──> Verifying (its weight, by every gateway) ──> Soaking (hold, requests, verdicts)

Each phase is one function. State and routing are one write, and gateways act on it: what is decided here is intent
until they have acknowledged it, and only then comes what follows. Hence a turn goes on through phases until it meets
something that must be stored first; a restart at any instant finds the same decision again, or its result.
Strategy None and the first revision of a service know no steps and are judged by nobody.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from slipway.api.conditions import Phase, Reason
from slipway.api.progress import RolloutStatus, Verdict
from slipway.api.schema import seconds
from slipway.api.traffic import WHOLE
from slipway.decide import capacity, commands, course, failures, forecast, judge, soak
from slipway.decide.release import Decision, Judge, Scene
from slipway.decide.stops import ALL_COMMANDED, digest, nearest, percent, stops
from slipway.decide.turn import ROUTED, UNDER_WAY, Turn, stamp

ABORTED_PODS_S = 30.0
"""How long the pods of a revision that went back are kept, for whoever wants to look at them."""
_TURNS_MAX = 12
"""More than there are phases and steps that could follow each other without a write between."""
_VOLUNTARY = frozenset({Reason.SUPERSEDED, Reason.REVERTED})
"""Nothing is wrong with the candidate; it is only not wanted any more."""


def step(state: RolloutStatus | None, scene: Scene, now: datetime, judge: Judge = judge) -> Decision:
    """The next decision; the same one again on the state that it made, as long as nothing else is seen.

    `state` is the stored one, and `scene.served` speaks of the routing stored with it. `judge` is for tests.
    """
    before = state or RolloutStatus(phase=Phase.HEALTHY, since=stamp(now))
    turn = Turn(
        scene=scene,
        now=now,
        judge=judge,
        stops=stops(scene.policy),
        state=before,
        serving=scene.stable.name if scene.stable is not None else scene.target,
    )
    if before.phase is not Phase.HEALTHY and not before.candidate:
        turn = course.rest(turn)  # written by a Slipway that knew of no releases
    if before.phase in UNDER_WAY and scene.stable is not None and before.candidate == scene.stable.name:
        turn = course.rest(turn)  # somebody else made it stable; it has nothing left to be compared with
    is_heard = scene.is_observed or before.phase not in UNDER_WAY
    turn = commands.obey(turn) if is_heard or commands.is_aborted(turn) else turn
    for _ in range(_TURNS_MAX):
        after = turn if turn.has_flipped else _phase(turn)(turn)
        if after.state == turn.state and after.closes_window == turn.closes_window:
            break
        turn = after
    return forecast.decision(turn)


def _phase(turn: Turn) -> Callable[[Turn], Turn]:
    state = turn.state
    if turn.scene.stable is None:
        return _first
    if turn.policy.strategy == "None" and not state.weight and state.phase in (Phase.HEALTHY, Phase.PROVISIONING):
        return _replace
    return _PHASES[state.phase]


def _first(turn: Turn) -> Turn:
    """Nobody has answered yet: whoever is ready first does, without steps."""
    target = turn.scene.target
    if turn.state.phase is not Phase.PROVISIONING or turn.state.candidate != target:
        turn = turn.go(Phase.PROVISIONING, candidate=target, stage="", weight=0, mirror=0, pause=None, until=None)
    return course.promote(turn) if turn.side(target).ready else turn


def _replace(turn: Turn) -> Turn:
    """Strategy None: the target answers when it has enough replicas ready; earlier only if nobody else answers."""
    scene, stable = turn.scene, turn.scene.stable
    if stable is None or scene.target == stable.name:
        return turn if turn.state.phase is Phase.HEALTHY else course.rest(turn)
    if turn.state.phase is Phase.HEALTHY or turn.state.candidate != scene.target:
        turn = replace(course.start(turn), news=turn.news).go(stage="", steps_hash="")
    side = turn.candidate
    is_complete = side.is_settled and side.ready >= capacity.enough(scene)
    return course.promote(turn) if is_complete or (side.ready and not stable.ready) else turn


def _healthy(turn: Turn) -> Turn:
    if turn.scene.stable is None or turn.scene.target == turn.scene.stable.name:
        return turn
    return course.start(turn)


def _draining(turn: Turn) -> Turn:
    """The previous revision keeps its pods, to go back to, until the delay is over or its place is needed."""
    scene, stable, previous = turn.scene, turn.scene.stable, turn.side(turn.scene.previous)
    if stable is None or stable.name != turn.state.candidate:
        return course.rest(turn)
    is_warm = turn.state.stage == "Soaking" and previous.ready > 0
    if scene.target == previous.name and is_warm and turn.policy.strategy != "None":
        return course.go_back(turn, Reason.REVERTED, "the spec asks for it again")
    if scene.target != stable.name:
        return course.rest(turn)
    is_in_the_way = bool(stable.lacks) and stable.ready < scene.replicas
    if turn.state.stage == "Soaking" and (is_in_the_way or turn.passed(turn.state.until) or not previous.replicas):
        turn = turn.go(stage="", until=None)
    return turn if previous.replicas else course.rest(turn)


def _advance(turn: Turn) -> Turn:
    """Provisioning, Shadowing, Progressing: towards the next stop, or at one."""
    if left := _left(turn):
        return left
    if not turn.scene.is_observed and turn.state.phase in ROUTED:
        return _unheard(turn)
    turn = _judged(_noted(turn))
    return turn if turn.state.phase is Phase.ROLLING_BACK else _onward(_limited(_edited(turn)))


def _onward(turn: Turn) -> Turn:
    is_short = not capacity.is_enough(turn.stop, turn.scene, turn.candidate)
    if fault := failures.found(turn, is_short=is_short):
        return _failed(turn, *fault)
    if turn.scene.is_asleep and turn.candidate.ready and not _is_gated(turn):
        return course.promote(turn)
    if forward := _forwarded(turn):
        return forward
    match turn.state.stage:
        case "Verifying":
            return _verifying(turn)
        case "Soaking":
            return soak.soaked(turn)
        case _:
            return _scaling(turn) if is_short else _ready(turn)


def _is_gated(turn: Turn) -> bool:
    """Whether somebody wants to be asked first: nothing else stands between a loaded model and a service asleep."""
    return turn.is_held or any(stop.is_gate for stop in turn.stops[turn.state.step :])


def _left(turn: Turn) -> Turn | None:
    """Given up for what the spec asks for now."""
    scene, name = turn.scene, turn.state.candidate
    if scene.stable is None or scene.target == name:
        return None
    reverted = scene.target == scene.stable.name
    reason = Reason.REVERTED if reverted else Reason.SUPERSEDED
    words = f"the spec asks for revision {scene.target}{' again' if reverted else ''}"
    turn = turn.tell(Reason.ROLLOUT_SUPERSEDED, f"revision {name} is left at {percent(turn.state.weight)}: {words}")
    if turn.state.phase not in ROUTED:
        return course.rest(turn)
    return replace(turn.abort(reason, words), news=turn.news)


def _noted(turn: Turn) -> Turn:
    """With the most replicas that were ready at once, and restarts of late. Time without room does not count."""
    turn = failures.recounted(turn)
    state, side = turn.state, turn.candidate
    is_roomy = turn.is_paused("CapacityBlocked") and not side.lacks
    if is_roomy and not capacity.is_enough(turn.stop, turn.scene, side):
        turn = turn.resume().go(best_ready_at=stamp(turn.now))
    if side.ready <= state.best_ready:
        return turn
    lead_s = state.lead_seconds if state.best_ready else round(turn.since_s(state.started))
    return turn.go(best_ready=side.ready, best_ready_at=stamp(turn.now), lead_seconds=lead_s)


def _judged(turn: Turn) -> Turn:
    """One interval of evidence per turn, at most."""
    return turn if turn.closes_window or not turn.scene.is_observed else soak.judged(turn)


def _edited(turn: Turn) -> Turn:
    """On from the nearest lower step when steps were edited. Evidence is kept: it is about the same revision."""
    state = turn.state
    if state.steps_hash == ALL_COMMANDED:
        return turn if state.step >= len(turn.stops) else turn.go(step=len(turn.stops))
    if state.steps_hash == digest(turn.stops):
        return turn
    index = nearest(turn.stops, state) if state.phase in ROUTED else 0
    turn = turn.resume().go(steps_hash=digest(turn.stops), step=index, stage="Scaling")
    stop = turn.stop
    if state.soaking_since is not None and (stop.weight, stop.mirror) == (state.weight, state.mirror):
        return turn.go(stage="Soaking", until=stamp(turn.after(stop.hold_s, state.soaking_since)))
    return turn


def _limited(turn: Turn) -> Turn:
    """With no more weight than the candidate's ready replicas carry.

    The clock of the deadline stands still while nothing was missing, and begins anew when that was so for as long.
    """
    state, side, scene = turn.state, turn.candidate, turn.scene
    if state.stage in ("Verifying", "Soaking") and not capacity.is_enough(turn.stop, scene, side):
        well_s = turn.since_s(state.soaking_since)
        is_new = well_s >= seconds(turn.policy.progress_deadline) or state.best_ready_at is None
        clock = turn.now if is_new else min(turn.now, turn.after(well_s, state.best_ready_at))
        turn = turn.resume().go(stage="Scaling", until=None, best_ready_at=stamp(clock))
    weight, mirror = capacity.limit(state.weight, scene, side), state.mirror if side.ready else 0
    if (weight, mirror) == (state.weight, state.mirror):
        return turn
    return turn.move(weight, mirror, stage="Scaling").go(until=None)


def _forwarded(turn: Turn) -> Turn | None:
    """The candidate gets everything that stable cannot answer, whatever step it is at."""
    stable, side = turn.scene.stable, turn.candidate
    if stable is None or stable.ready or not side.ready or turn.scene.is_asleep:
        return None
    words = f"{percent(WHOLE)} of the requests go to revision {side.name}: stable {stable.name} has no ready pod"
    return turn.move(WHOLE, 0).go(Phase.PROMOTING).resume().tell(Reason.ROLLOUT_STEPPED, words, warning=True)


def _scaling(turn: Turn) -> Turn:
    """Pods first: the next weight is given when the replicas for it are ready."""
    side = turn.candidate
    if not side.lacks:
        return turn.resume()
    turn = turn.wait("CapacityBlocked", capacity.blocked(turn.scene, side, turn.stop))
    return _borrowing(turn) if turn.scene.is_observed and not turn.is_held else turn


def _borrowing(turn: Turn) -> Turn:
    """As much weight ahead of the step as the candidate carries, so that stable can lend what it needs no more."""
    scene, state, stop = turn.scene, turn.state, turn.stop
    if not capacity.may_borrow(scene):
        return turn
    weight = max(state.weight, capacity.limit(stop.weight, scene, turn.candidate))
    if weight == state.weight:
        return turn
    return turn.move(weight, 0, stage="Shifting").go(Phase.PROGRESSING, until=None)


def _ready(turn: Turn) -> Turn:
    """The weight of the stop, as far as stable can carry the rest."""
    turn = turn if turn.is_paused("CapacityBlocked") else turn.resume()
    if turn.is_held or not turn.scene.is_observed:
        return turn
    state, stop, side = turn.state, turn.stop, turn.candidate
    if state.step >= len(turn.stops):
        turn = turn.resume().move(WHOLE, 0).go(Phase.PROMOTING)
        return turn.tell(Reason.ROLLOUT_STEPPED, f"all requests go to revision {side.name}")
    weight = max(stop.weight, min(state.weight, capacity.floor(turn.scene, side, paced=True)))
    phase = Phase.SHADOWING if stop.mirror else Phase.PROGRESSING
    if weight > stop.weight:
        turn = turn if weight == state.weight else turn.move(weight, 0, stage="Shifting").go(phase, until=None)
        return turn.wait(
            "CapacityBlocked", f"stable has not the replicas ready for more than {percent(WHOLE - weight)}"
        )
    turn = turn.resume().tell(Reason.ROLLOUT_STEPPED, _title(turn))
    if state.soaking_since is not None and (weight, stop.mirror) == (state.weight, state.mirror):
        return _soaking(turn.go(phase))
    return turn.move(weight, stop.mirror).go(phase)


def _title(turn: Turn) -> str:
    stop, name = turn.stop, turn.state.candidate
    place = f"step {turn.state.step + 1} of {len(turn.stops)}"
    if stop.is_preview:
        return f"{place}: the preview address leads to revision {name}"
    what = f"copies of {percent(stop.mirror)}" if stop.mirror else percent(stop.weight)
    return f"{place}: {what} of the requests go to revision {name}"


def _soaking(turn: Turn) -> Turn:
    until = stamp(turn.after(turn.stop.hold_s))
    return turn.go(stage="Soaking", soaking_since=stamp(turn.now), until=until, requests=0)


def _verifying(turn: Turn) -> Turn:
    """The hold begins when no gateway serves anything else."""
    return _soaking(turn.resume()) if turn.is_acknowledged else _late(turn)


def _late(turn: Turn) -> Turn:
    if turn.has_moved or not turn.passed(turn.state.until):
        return turn
    names = ", ".join(turn.scene.waiting_for) or "not known"
    return turn.wait("GatewayNotVerified", f"gateways that do not serve the newest weights yet: {names}")


def _unheard(turn: Turn) -> Turn:
    """Nothing is judged before every gateway has said something to this process; should that last, it is told.

    What no gateway need be asked for acts all the same: pods that are broken, whatever the step needs.
    """
    if fault := failures.found(turn, is_short=False):
        return _failed(turn, *fault)
    return _unheard_of(turn)


def _unheard_of(turn: Turn) -> Turn:
    window = turn.scene.window
    if window is None or window.seconds <= soak.STALE_S:
        return turn
    names = ", ".join(turn.scene.waiting_for) or "not known"
    return turn.wait("GatewayNotVerified", f"gateways that the operator has not heard since it leads: {names}")


def _promoting(turn: Turn) -> Turn:
    """The candidate has everything; the pointer flips when every gateway says so. Another spec waits for that."""
    scene, stable = turn.scene, turn.scene.stable
    if not scene.is_observed or stable is None:
        return _unheard(turn)
    turn = _judged(_noted(turn))
    if turn.state.phase is Phase.ROLLING_BACK:
        return turn
    if fault := failures.found(turn, is_short=False):
        return _failed(turn, *fault)
    weight = capacity.limit(WHOLE, scene, turn.candidate)
    if weight < WHOLE or (turn.is_forwarded and stable.ready):
        turn = turn.move(weight, 0, stage="Scaling") if weight < WHOLE else turn.go(stage="Scaling")
        return turn.resume().go(Phase.PROGRESSING, until=None, best_ready_at=stamp(turn.now))
    if not turn.is_acknowledged:
        return _late(turn)
    return course.promote(turn) if _may_flip(turn) else turn


def _may_flip(turn: Turn) -> bool:
    """Whether nobody said to wait, and stable, if that is why, has been dead for long enough."""
    stable = turn.scene.stable
    is_dead = stable is not None and stable.fault is not None and stable.is_terminal
    is_early = turn.is_forwarded and not is_dead and turn.since_s(turn.state.since) < forecast.forward_after_s(turn)
    return not (turn.is_held or is_early)


def _failed(turn: Turn, reason: str, words: str) -> Turn:
    verdict = Verdict(metric="restarts", verdict="Fail", message=words[:512], evidence=100)
    crashed = [verdict, *turn.state.verdicts][:16] if reason == Reason.CRASHED else turn.state.verdicts
    return turn.go(verdicts=crashed).abort(reason, f"revision {turn.state.candidate}: {words}")


def _rolling_back(turn: Turn) -> Turn:
    """Weight to stable as fast as it can carry it; then, when every gateway has left them, the candidate's pods."""
    scene, state, stable = turn.scene, turn.state, turn.scene.stable
    if stable is None:
        return turn
    paced = _is_voluntary(turn) or capacity.has_lent(scene) or state.stage == "Shifting"
    weight = min(state.weight, capacity.floor(scene, turn.candidate, paced=paced))
    if weight < state.weight or state.mirror:
        return turn.move(weight, 0, stage="Shifting" if weight else "Verifying")
    if not scene.is_observed:  # the way back needs no counts; what follows needs every gateway's word
        return _unheard_of(turn)
    if weight and _is_only_one(turn):
        return course.promote(turn)
    if weight:
        turn = turn.go(stage="Shifting") if paced else turn
        words = f"stable {stable.name} has {stable.ready} of {scene.replicas} replicas ready"
        return turn.wait("CapacityBlocked", words) if turn.passed(state.until) else turn
    return _left_by_all(turn) if turn.is_acknowledged else _late(turn)


def _is_only_one(turn: Turn) -> bool:
    """Whether nobody but the candidate can answer, while the spec asks for a third revision that is to mend it."""
    stable, state = turn.scene.stable, turn.state
    is_dead = stable is not None and not stable.ready and turn.scene.target not in (state.candidate, stable.name)
    return is_dead and turn.since_s(state.since) >= forecast.FORWARD_AFTER_S


def _left_by_all(turn: Turn) -> Turn:
    """No gateway leads to the candidate any more. Its pods stay for a while where there is room and any use in them."""
    scene, state, stable = turn.scene, turn.state, turn.scene.stable
    if _is_voluntary(turn) or scene.target != state.candidate:
        return course.rest(turn)
    is_in_the_way = stable is None or stable.ready < scene.replicas
    until = None if is_in_the_way or not turn.candidate.ready else stamp(turn.after(ABORTED_PODS_S))
    words = f"revision {turn.serving} answers alone; {state.candidate} is tried again by the command retry"
    turn = turn.resume().go(Phase.ROLLED_BACK, stage="", until=until)
    return turn.tell(Reason.ROLLED_BACK, words, warning=True)


def _is_voluntary(turn: Turn) -> bool:
    return turn.state.abort is not None and turn.state.abort.reason in _VOLUNTARY


def _rolled_back(turn: Turn) -> Turn:
    """The same spec is not tried again by itself."""
    if turn.scene.target != turn.state.candidate:
        return course.rest(turn)
    return turn.go(until=None) if turn.passed(turn.state.until) else turn


_PHASES: dict[Phase, Callable[[Turn], Turn]] = {
    Phase.HEALTHY: _healthy,
    Phase.PROVISIONING: _advance,
    Phase.SHADOWING: _advance,
    Phase.PROGRESSING: _advance,
    Phase.PROMOTING: _promoting,
    Phase.DRAINING: _draining,
    Phase.ROLLING_BACK: _rolling_back,
    Phase.ROLLED_BACK: _rolled_back,
}
