"""Whether the model of a revision is loaded, and if it is not, why."""

from dataclasses import dataclass

from slipway.api.conditions import Reason
from slipway.decide.ground import Ground
from slipway.decide.types import Observed


@dataclass(frozen=True, slots=True)
class State:
    """How the model of one revision does."""

    loaded: bool
    reason: Reason
    message: str
    faulty: bool = False
    terminal: bool = False


def model_state(ground: Ground, name: str, *, whole: bool = False) -> State:
    """`whole`: a fault of some pods counts although others are ready."""
    if ground.ready(name) > 0 and not whole:
        return State(loaded=True, reason=Reason.LOADED, message="the model is loaded")
    observed = ground.observed
    if {("Deployment", name), ("ControllerRevision", name)} & observed.foreign:
        return State(loaded=False, reason=Reason.CONFLICT, message=foreign(observed), faulty=True, terminal=True)
    if words := refused_pods(observed, name):
        return State(loaded=False, reason=Reason.INVALID_SPEC, message=words, faulty=True, terminal=True)
    loaded, fault = ground.ready(name) > 0, ground.fault(name)
    if fault is not None:
        return State(loaded=loaded, reason=fault.reason, message=fault.message, faulty=True, terminal=fault.terminal)
    if loaded:
        return State(loaded=True, reason=Reason.LOADED, message="the model is loaded")
    return _of_sleeper(ground, name) or State(loaded=False, reason=Reason.LOADING, message="the model is being loaded")


def _of_sleeper(ground: Ground, name: str) -> State | None:
    """Of a revision that has answered and was sent to sleep: it has been loaded, and will be again."""
    told = next((one for one in ground.status.scaling if one.revision == name and one.desired == 0), None)
    if told is None or ground.replicas_now(name):
        return None
    if told.reason == Reason.ACTIVATION_FAILED:
        return State(False, Reason.ACTIVATION_FAILED, told.message, faulty=True, terminal=True)
    return State(loaded=True, reason=Reason.SCALED_TO_ZERO, message="asleep; the model was loaded before")


def refused_pods(observed: Observed, name: str) -> str | None:
    """The API server's words about a revision that it does not let be made."""
    return observed.refused.get(("ControllerRevision", name)) or observed.refused.get(("Deployment", name))


def foreign(observed: Observed) -> str:
    names = ", ".join(f"{kind} {name}" for kind, name in sorted(observed.foreign))
    return f"{names}: belongs to somebody else and is left alone; remove it, or rename this InferenceService"
