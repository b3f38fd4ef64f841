"""Where the replicas of each arm stand, as status has it: how many, why, and what the next operator goes on from.

Told anew when the number changes, or the kind of reason; the figures in the sentence and what was learnt follow once a
minute at most, and only while there are requests to learn from. So a service at rest is never written.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from slipway.api.conditions import Reason
from slipway.api.scaled import ScalingState, stored
from slipway.api.schema import timestamp
from slipway.api.status import LeadTime, ScalingStatus
from slipway.decide.arms import Arm
from slipway.decide.demand import Demand
from slipway.decide.ground import Ground
from slipway.decide.scaling.lead import lead_s
from slipway.decide.scaling.types import Code

CHECKPOINT_S = 60.0
CALM_S = 30.0
"""Reasons that come and go with the signals are told at most this often."""
ASLEEP = frozenset({Reason.SCALED_TO_ZERO, Reason.WAKING})
"""Nobody answers yet, and requests wait."""
TROUBLE = frozenset(
    {Reason.CAPACITY_LIMITED, Reason.LAUNCH_FAILED, Reason.AUTOSCALER_CONFLICT, Reason.ACTIVATION_FAILED}
)
"""Somebody should look at it."""
_CALM = frozenset({Reason.SCALED, Reason.METRICS_DEGRADED, Reason.NO_SIGNAL, Reason.SCALING_PAUSED})
_STOPS = {Code.LAUNCH_FAILED: Reason.LAUNCH_FAILED, Code.CAPACITY_LIMITED: Reason.CAPACITY_LIMITED}
_DOUBTS = {
    Code.METRICS_DEGRADED: Reason.METRICS_DEGRADED,
    Code.NO_DATA: Reason.NO_SIGNAL,
    Code.PAUSED: Reason.SCALING_PAUSED,
}
_PARTS = ("schedule", "pull", "fetch", "load", "warm_up")


def entries(ground: Ground, arms: Sequence[Arm]) -> tuple[ScalingStatus, ...]:
    """One of each arm that scales and of which something is decided, or was before this operator came."""
    known = {one.variant: one for one in ground.status.scaling}
    found: list[ScalingStatus] = []
    for arm in arms:
        last, demand = known.get(arm.variant), ground.observed.demand.get(arm.variant)
        if arm.is_fixed:
            continue
        if demand is not None:
            found.append(_entry(ground, arm, demand, last))
        elif last is not None:
            found.append(_undecided(ground, arm, last))
    return tuple(found)


def _undecided(ground: Ground, arm: Arm, last: ScalingStatus) -> ScalingStatus:
    """As it was, unless the spec alone makes it another number."""
    desired = ground.replicas_now(arm.serving) if arm.needed is None else arm.needed
    if desired == last.desired:
        return last
    ready = ground.ready(arm.serving)
    changed = {"desired": desired, "ready": ready, "loading": max(0, desired - ready), "revision": arm.serving}
    words = {"reason": Reason.NO_SIGNAL, "message": "nothing is decided at present"}
    return last.model_copy(update=changed | words)


def is_barred(ground: Ground, told: ScalingStatus) -> bool:
    """Whether nobody tries to wake it for a while; as routing has it where nothing is decided yet."""
    demand = ground.observed.demand.get(told.variant)
    if demand is not None:
        return demand.is_barred
    targets = ground.status.routing.targets if ground.status.routing is not None else []
    return not any(target.hold_ms for target in targets if target.revision == told.revision)


def is_awaited(ground: Ground, told: ScalingStatus) -> bool:
    """Whether requests are led to it although nobody answers yet: it sleeps or wakes, and does not fail at it now."""
    is_empty = told.desired == 0 or told.reason in {Reason.WAKING, Reason.ACTIVATION_FAILED}
    return is_empty and not ground.reachable(told.revision) and ground.fault(told.revision) is None


def is_due(last: Mapping[str, Any] | None, state: ScalingState) -> bool:
    """Whether what was learnt since is worth a write. `last` is `status.scaling[].state` as it stands there."""
    return last is None or (_is_new(last, state) and abs(state.at - last.get("at", 0.0)) >= CHECKPOINT_S)


def due_in_s(ground: Ground, told: Sequence[ScalingStatus]) -> float | None:
    """When that will be so, of the first arm that has learnt something; None: of none."""
    left = [
        CHECKPOINT_S - abs(demand.state.at - one.state.get("at", 0.0))
        for one in told
        if one.state is not None
        and (demand := ground.observed.demand.get(one.variant))
        and _is_new(one.state, demand.state)
    ]
    return max(1.0, min(left)) if left else None


def _is_new(last: Mapping[str, Any], state: ScalingState) -> bool:
    """Whether there were requests, or a launch ended. Time that passes alone teaches nothing."""
    counted, lead = last.get("counted", {}), last.get("lead", {})
    before = counted.get("arrived", 0.0), counted.get("answered", 0.0), lead.get("seen", 0.0)
    now = state.counted.arrived, state.counted.answered, state.lead.seen
    return any(abs(one - other) > 0.5 for one, other in zip(before, now, strict=True))


def _entry(ground: Ground, arm: Arm, demand: Demand, last: ScalingStatus | None) -> ScalingStatus:
    ready = ground.ready(arm.serving)
    desired = demand.replicas if arm.needed is None else arm.needed
    known = ground.reachable(arm.serving)
    reason, message = _why(demand, last, desired=desired, ready=ready, known=known, may_wake=arm.may_wake)
    if ready < desired and (lacks := ground.lacks(arm.serving)) and reason not in TROUBLE - {Reason.ACTIVATION_FAILED}:
        reason, message = Reason.CAPACITY_LIMITED, f"no {lacks} is left for {desired - ready} of them; {message}"
    new = ScalingStatus(
        variant=arm.variant,
        revision=arm.serving,
        desired=desired,
        ready=ready,
        loading=max(0, desired - ready),
        ready_at=_ready_at(demand, last) if desired > ready else None,
        reason=reason,
        message=message[:2048],
        lead_time=_lead_time(demand.state),
    )
    if last is None or _is_news(new, last, demand.state) or is_due(last.state, demand.state):
        return new.model_copy(update={"state": stored(demand.state)})
    return new.model_copy(update={"reason": last.reason, "message": last.message, "state": last.state})


def _is_news(new: ScalingStatus, last: ScalingStatus, state: ScalingState) -> bool:
    if (new.revision, new.desired) != (last.revision, last.desired):
        return True
    if new.reason == last.reason:
        return False
    since_s = abs(state.at - (last.state or {}).get("at", 0.0))
    return since_s >= CALM_S or not {new.reason, last.reason} <= _CALM


def _why(
    demand: Demand, last: ScalingStatus | None, *, desired: int, ready: int, known: int, may_wake: bool = True
) -> tuple[Reason, str]:
    """The word that says most, and all that was said with the numbers.

    `known`: ready pods that gateways know of, where the Deployment may tell of a pod before. Until then requests wait.
    """
    words = "; ".join(reason.note for reason in demand.reasons)
    if demand.code is Code.CONFLICT:
        return Reason.AUTOSCALER_CONFLICT, words
    if demand.state.zero.failed and not ready:
        return Reason.ACTIVATION_FAILED, _failed(demand, desired)
    if desired == 0:
        return _asleep(words, may_wake=may_wake)
    if stopped := _first(demand, _STOPS):
        return stopped
    if last is not None and last.reason in ASLEEP and not known:
        return Reason.WAKING, f"the first replica is being started: {words}"
    return _first(demand, _DOUBTS) or (Reason.SCALED, words)


def _asleep(words: str, *, may_wake: bool) -> tuple[Reason, str]:
    if not may_wake:
        return Reason.SCALING_PAUSED, "asleep, and spec.scaling.paused keeps it so: requests are answered 503"
    return Reason.SCALED_TO_ZERO, f"asleep, the first request wakes it: {words}"


def _first(demand: Demand, words: Mapping[Code, Reason]) -> tuple[Reason, str] | None:
    """The first of these codes that the decision has, and its note before the others."""
    for code, reason in words.items():
        notes = sorted(demand.reasons, key=lambda one: one.code is not code)
        if notes[0].code is code:
            return reason, "; ".join(one.note for one in notes)
    return None


def _failed(demand: Demand, desired: int) -> str:
    """Until a replica is ready; with the time of the next try, for how long it is until then changes all the time."""
    known = demand.state.zero
    begun = f"no replica became ready, {known.failed} {'times' if known.failed > 1 else 'time'} in a row"
    if desired:
        return f"{begun}: it is being tried again, and requests wait"
    until = datetime.fromtimestamp(demand.state.at, UTC) + timedelta(seconds=known.barred_s)
    return f"{begun}: requests are answered 503 until {until:%H:%M:%S} UTC, after that it is tried again"


def _ready_at(demand: Demand, last: ScalingStatus | None) -> str | None:
    """When the next one is expected; as told before if that is about the same."""
    if not demand.loading:
        return None
    new = datetime.fromtimestamp(demand.state.at, UTC) + timedelta(seconds=demand.loading[0])
    told = last.ready_at if last is not None else None
    is_same = told is not None and abs((datetime.fromisoformat(told) - new).total_seconds()) < 5
    return told if is_same else timestamp(new)


def _lead_time(state: ScalingState) -> LeadTime | None:
    known = state.lead
    if not known.launches:
        return None
    parts = dict(zip(_PARTS, (round(part, 1) for part in known.parts), strict=False))
    return LeadTime(seconds=round(lead_s(known), 1), **parts)
