"""Conditions: what is true of a service, with a reason from the fixed vocabulary and a sentence.

Ready      = the address leads to a revision of which at least one pod passed the model's own check
Stalled    = nothing will move before somebody changes something   } kstatus: at most one of them,
Reconciling = something is under way                               } neither when all is as wanted
"""

from dataclasses import dataclass

from slipway.api.conditions import Reason, Type
from slipway.api.schema import ConditionStatus, timestamp
from slipway.api.status import Condition
from slipway.decide.situation import Situation, refused_pods


@dataclass(frozen=True, slots=True)
class State:
    """How the model of one revision does."""

    loaded: bool
    reason: Reason
    message: str
    faulty: bool = False
    terminal: bool = False


def model_state(seen: Situation, name: str) -> State:
    if seen.ready(name) > 0:
        return State(loaded=True, reason=Reason.LOADED, message="the model is loaded")
    if {("Deployment", name), ("ControllerRevision", name)} & seen.observed.foreign:
        return State(loaded=False, reason=Reason.CONFLICT, message=_foreign(seen), faulty=True, terminal=True)
    if words := refused_pods(seen.observed, name):
        return State(loaded=False, reason=Reason.INVALID_SPEC, message=words, faulty=True, terminal=True)
    fault = seen.fault(name)
    if fault is None:
        return State(loaded=False, reason=Reason.LOADING, message="the model is being loaded")
    return State(loaded=False, reason=fault.reason, message=fault.message, faulty=True, terminal=fault.terminal)


def conditions(seen: Situation) -> list[Condition]:
    """All conditions of a service, in the order people read them."""
    found = [
        _ready(seen),
        _accepted(seen),
        _predictor_ready(seen),
        _routes_ready(seen),
        _model_loaded(seen),
        _rollout_healthy(seen),
        _scaling_active(seen),
        _update_available(seen),
    ]
    progress = _stalled(seen) or _reconciling(seen)
    return [*found, *([progress] if progress else [])]


def _condition(seen: Situation, kind: Type, value: bool, reason: Reason, message: str) -> Condition:
    """A condition whose transition time moves only when its status does."""
    status: ConditionStatus = "True" if value else "False"
    before = seen.conditions.get(kind)
    same = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:2048],
        observed_generation=seen.generation,
        last_transition_time=before.last_transition_time if before and same else timestamp(seen.now),
    )


def _ready(seen: Situation) -> Condition:
    failing = _failing(seen)
    if without := _without_address(seen):
        return _condition(seen, Type.READY, False, *without)
    if seen.serving is not None and seen.ready(seen.serving) > 0:
        aside = f"; {failing}" if failing else ""
        return _condition(seen, Type.READY, True, Reason.SERVING, f"revision {seen.serving} answers{aside}")
    if seen.target is None and seen.refusal is not None:
        return _condition(seen, Type.READY, False, seen.refusal.reason, seen.refusal.message)
    name = seen.serving or (seen.target.name if seen.target else "")
    state = model_state(seen, name)
    reason = state.reason if state.faulty else Reason.NOT_YET_SERVING
    return _condition(seen, Type.READY, False, reason, f"revision {name}: {state.message}")


def _accepted(seen: Situation) -> Condition:
    if seen.refusal is None:
        return _condition(seen, Type.ACCEPTED, True, Reason.ACCEPTED, "the spec can be honoured")
    still = f"; revision {seen.stable} is still served" if seen.stable else ""
    return _condition(seen, Type.ACCEPTED, False, seen.refusal.reason, seen.refusal.message + still)


def _predictor_ready(seen: Situation) -> Condition:
    if seen.serving is None:
        return _condition(seen, Type.PREDICTOR_READY, False, Reason.REPLICAS_MISSING, "no revision yet")
    ready, wanted = seen.ready(seen.serving), seen.replicas(seen.serving)
    reason = Reason.REPLICAS_READY if ready >= wanted else Reason.REPLICAS_MISSING
    message = f"{ready} of {wanted} replicas of revision {seen.serving} are ready"
    return _condition(seen, Type.PREDICTOR_READY, ready >= wanted, reason, message)


def _routes_ready(seen: Situation) -> Condition:
    if without := _without_address(seen):
        return _condition(seen, Type.ROUTES_READY, False, *without)
    if seen.serving is None:
        return _condition(seen, Type.ROUTES_READY, False, Reason.NOT_ROUTED, "there is no revision to lead to")
    return _condition(seen, Type.ROUTES_READY, True, Reason.ROUTED, f"the address leads to revision {seen.serving}")


def _model_loaded(seen: Situation) -> Condition:
    if seen.target is None:
        return _condition(seen, Type.MODEL_LOADED, False, Reason.NOT_YET_SERVING, "no revision yet")
    state = model_state(seen, seen.target.name)
    return _condition(
        seen, Type.MODEL_LOADED, state.loaded, state.reason, f"revision {seen.target.name}: {state.message}"
    )


def _rollout_healthy(seen: Situation) -> Condition:
    if failing := _failing(seen):
        return _condition(seen, Type.ROLLOUT_HEALTHY, False, Reason.REVISION_FAILED, failing)
    if seen.target is not None and (seen.target.name != seen.serving or seen.ready(seen.serving) == 0):
        return _condition(
            seen, Type.ROLLOUT_HEALTHY, True, Reason.PROGRESSING, f"revision {seen.target.name} is being started"
        )
    return _condition(seen, Type.ROLLOUT_HEALTHY, True, Reason.HEALTHY, "no release is under way")


def _scaling_active(seen: Situation) -> Condition:
    wanted = seen.replicas(seen.serving) if seen.serving else 0
    return _condition(seen, Type.SCALING_ACTIVE, True, Reason.FIXED_REPLICAS, f"replicas kept: {wanted}")


def _update_available(seen: Situation) -> Condition:
    if seen.target is None or seen.fresh is None or seen.fresh.rendering == seen.target.rendering:
        return _condition(
            seen, Type.UPDATE_AVAILABLE, False, Reason.UP_TO_DATE, "a new revision would run the same pods"
        )
    text = (
        f"{seen.fresh.runtime} or Slipway changed since revision {seen.target.name} was made; "
        "spec.predictor.runtimeUpdates: Follow takes the change over"
    )
    return _condition(seen, Type.UPDATE_AVAILABLE, True, Reason.RUNTIME_CHANGED, text)


def _stalled(seen: Situation) -> Condition | None:
    if seen.refusal is not None:
        return _condition(seen, Type.STALLED, True, seen.refusal.reason, seen.refusal.message)
    if stuck := obstacle(seen):
        return _condition(seen, Type.STALLED, True, *stuck)
    if seen.target is not None:
        state = model_state(seen, seen.target.name)
        if state.terminal:
            return _condition(seen, Type.STALLED, True, state.reason, f"revision {seen.target.name}: {state.message}")
    return None


def _reconciling(seen: Situation) -> Condition | None:
    if seen.target is not None and seen.target.name != seen.serving:
        return _condition(
            seen, Type.RECONCILING, True, Reason.PROGRESSING, f"revision {seen.target.name} is being started"
        )
    if seen.serving is not None and seen.ready(seen.serving) < seen.replicas(seen.serving):
        return _condition(
            seen, Type.RECONCILING, True, Reason.REPLICAS_MISSING, f"revision {seen.serving} is being started"
        )
    if seen.previous is not None:
        return _condition(
            seen, Type.RECONCILING, True, Reason.PROGRESSING, f"revision {seen.previous} is being drained"
        )
    return None


def _failing(seen: Situation) -> str | None:
    """The newest revision's fault, in a sentence."""
    if seen.target is None:
        return None
    state = model_state(seen, seen.target.name)
    return f"revision {seen.target.name} failed: {state.message}" if state.faulty else None


def _without_address(seen: Situation) -> tuple[Reason, str] | None:
    return obstacle(seen) if seen.observed.is_blocked("Service", seen.name) else None


def obstacle(seen: Situation) -> tuple[Reason, str] | None:
    """What keeps an object of this service from being made."""
    if seen.observed.foreign:
        return Reason.CONFLICT, _foreign(seen)
    if seen.observed.refused:
        words = (f"{kind} {name}: {text}" for (kind, name), text in sorted(seen.observed.refused.items()))
        return Reason.OBJECT_REFUSED, f"the API server refuses {'; '.join(words)}"
    return None


def _foreign(seen: Situation) -> str:
    names = ", ".join(f"{kind} {name}" for kind, name in sorted(seen.observed.foreign))
    return f"{names}: belongs to somebody else and is left alone; remove it, or rename this InferenceService"
