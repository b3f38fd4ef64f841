"""Conditions: what is true of a service, with a reason from the fixed vocabulary and a sentence.

Ready      = a gateway leads to a revision of which at least one pod passed the model's own check, or holds requests for
             one that sleeps
Stalled    = nothing will move before somebody changes something   } kstatus: at most one of them,
Reconciling = something is under way                               } neither when all is as wanted
"""

from slipway.api.conditions import UNDER_WAY, UNWANTED, Phase, Reason, Type
from slipway.api.names import COMMAND, PREVIEW
from slipway.api.progress import RolloutStatus
from slipway.api.routing import Routing
from slipway.api.schema import ConditionStatus, timestamp
from slipway.api.status import Condition, ScalingStatus
from slipway.decide import downloads, hosts
from slipway.decide.acks import Acks
from slipway.decide.arms import Arm
from slipway.decide.hosts import Claim
from slipway.decide.loading import foreign, model_state
from slipway.decide.scaled import ASLEEP, TROUBLE
from slipway.decide.situation import Situation
from slipway.decide.types import Config


def conditions(seen: Situation, config: Config) -> list[Condition]:
    """All conditions of a service, in the order people read them."""
    routes = _routes_ready(seen, config)
    found = [
        _ready(seen, routes),
        _accepted(seen),
        _predictor_ready(seen),
        routes,
        _model_loaded(seen),
        _rollout_healthy(seen),
        _scaling_active(seen),
        _update_available(seen),
    ]
    progress = _stalled(seen, config) or _reconciling(seen)
    return [*found, *([progress] if progress else [])]


def _condition(seen: Situation, kind: Type, value: bool | None, reason: Reason, message: str) -> Condition:
    """A condition whose transition time moves only when its status does. None: it is not known."""
    status: ConditionStatus = "Unknown" if value is None else "True" if value else "False"
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


def _ready(seen: Situation, routes: Condition) -> Condition:
    if without := _without_address(seen):
        return _condition(seen, Type.READY, False, *without)
    if answering := _answering(seen):
        if not _is_served(seen):
            return _condition(seen, Type.READY, False, Reason(routes.reason), routes.message)
        return _condition(seen, Type.READY, True, *answering)
    if seen.target is None and seen.refusal is not None:
        return _condition(seen, Type.READY, False, seen.refusal.reason, seen.refusal.message)
    if seen.main is not None and (told := seen.scaled(seen.main)) is not None and told.desired == 0:
        return _condition(seen, Type.READY, False, Reason(told.reason), f"revision {seen.serving}: {told.message}")
    name = seen.serving or (seen.target.name if seen.target else "")
    state = model_state(seen, name)
    reason = state.reason if state.faulty else Reason.NOT_YET_SERVING
    words = f"{state.message}, but gateways do not know of its pods yet" if state.loaded else state.message
    return _condition(seen, Type.READY, False, reason, f"revision {name}: {words}")


def _answering(seen: Situation) -> tuple[Reason, str] | None:
    """How requests are answered, as far as pods go: at once, or by a replica that they wake."""
    if seen.serving is not None and seen.reachable(seen.serving) > 0:
        failing = _failing(seen)
        return Reason.SERVING, f"revision {seen.serving} answers" + (f"; {failing}" if failing else "")
    asleep = _asleep(seen)
    return (Reason(asleep.reason), f"revision {asleep.revision}: {asleep.message}") if asleep else None


def _asleep(seen: Situation) -> ScalingStatus | None:
    """Where the service itself sleeps, or wakes without trouble, and gateways hold its requests meanwhile."""
    if seen.main is None or not is_awaited(seen, seen.main) or model_state(seen, seen.main.serving).faulty:
        return None
    return seen.scaled(seen.main)


def is_awaited(seen: Situation, arm: Arm) -> bool:
    """Whether the serving revision of an arm is without replicas because nobody asked, and gateways know."""
    told = seen.scaled(arm)
    targets = seen.routing.targets if seen.routing is not None else []
    is_held = any(target.revision == arm.serving and target.hold_ms for target in targets)
    return told is not None and told.reason in ASLEEP and is_held


def _accepted(seen: Situation) -> Condition:
    if seen.refusal is None:
        return _condition(seen, Type.ACCEPTED, True, Reason.ACCEPTED, "the spec can be honoured")
    still = f"; revision {seen.stable} is still served" if seen.stable else ""
    return _condition(seen, Type.ACCEPTED, False, seen.refusal.reason, seen.refusal.message + still)


def _predictor_ready(seen: Situation) -> Condition:
    if seen.serving is None:
        return _condition(seen, Type.PREDICTOR_READY, False, Reason.REPLICAS_MISSING, "no revision yet")
    ready, wanted = seen.ready(seen.serving), seen.replicas(seen.serving)
    is_well = ready >= wanted or (seen.main is not None and is_growing(seen, seen.main))
    reason = Reason.REPLICAS_READY if is_well else Reason.REPLICAS_MISSING
    message = f"{ready} of {wanted} replicas of revision {seen.serving} are ready"
    return _condition(seen, Type.PREDICTOR_READY, is_well, reason, message)


def is_growing(seen: Situation, arm: Arm) -> bool:
    """Whether an arm that answers lacks replicas only because its load asks for more: that is nothing to wait for."""
    told = seen.scaled(arm)
    is_troubled = told is None or told.reason in TROUBLE or seen.failed(arm.serving) > 0
    return arm.stable == arm.serving and not is_troubled and seen.ready(arm.serving) > 0


def _is_served(seen: Situation) -> bool:
    """Whether a gateway leads requests here. As long as nobody knows, it is as it was."""
    if seen.acks.known:
        return seen.acks.serving > 0
    before = seen.conditions.get(Type.READY)
    return before is not None and before.status == "True"


_NOTES_MAX = 512
"""Characters of what gateways say, in a message that people read in a terminal."""


def _routes_ready(seen: Situation, config: Config) -> Condition:
    reason, message = _not_routed(seen) or (
        Reason.ROUTED,
        f"the gateways ({seen.acks.of}) lead to {_destinations(seen)}",
    )
    if reason is Reason.ROUTED and (conflict := outside_conflict(seen, config)):
        reason, message = Reason.CONFLICT, conflict
    if seen.acks.notes and reason in (Reason.ROUTED, Reason.GATEWAY_NOT_ACKNOWLEDGED):
        message = f"{message}; gateways say: {'; '.join(seen.acks.notes)[:_NOTES_MAX]}"
    if seen.routing is not None and seen.routing.preview and seen.observed.is_preview_taken:
        message += f"; there is no preview, for {seen.name}{PREVIEW} is another InferenceService"
    value = None if seen.routing is not None and not seen.acks.known else reason is Reason.ROUTED
    return _condition(seen, Type.ROUTES_READY, value, reason, message)


def _not_routed(seen: Situation) -> tuple[Reason, str] | None:
    """Why gateways do not all serve the newest routing."""
    if without := _without_address(seen):
        return without
    if seen.routing is None:
        return Reason.NOT_ROUTED, "there is no revision to lead to"
    return _not_acknowledged(seen.routing, seen.acks)


def _not_acknowledged(routing: Routing, acks: Acks) -> tuple[Reason, str] | None:
    if not acks.known:
        return Reason.NO_GATEWAY, "it is not known yet which gateways there are"
    if acks.refusals:
        name, words = acks.refusals[0]
        return (
            Reason.GATEWAY_REFUSED,
            f"gateway {name} refuses routing {routing.version} and goes on with the one before: {words}",
        )
    if acks.of == 0:
        return Reason.NO_GATEWAY, "no gateway takes traffic; see the pods behind the gateway Service"
    if acks.missing:
        names = ", ".join(acks.missing)
        return (
            Reason.GATEWAY_NOT_ACKNOWLEDGED,
            f"{len(acks.taken)} of {acks.of} gateways serve routing {routing.version}; not yet: {names}",
        )
    return None


def _destinations(seen: Situation) -> str:
    """What the gateways lead to, in words."""
    if seen.routing is None:
        return ""
    parts = (
        f"revision {target.revision}" + (f" ({target.weight / 100:g}%)" if len(seen.routing.targets) > 1 else "")
        for target in seen.routing.targets
    )
    return ", ".join(parts)


def outside_conflict(seen: Situation, config: Config) -> str | None:
    """Who has this service's host outside in its place; None when it has it itself, or there is none."""
    domains = config.entrance.domains
    host = hosts.outside(seen.namespace, seen.name, domains)
    created = seen.observed.service["metadata"].get("creationTimestamp", "")
    own = Claim(created, seen.namespace, seen.name)
    if not host or not seen.observed.rivals:
        return None
    winner = hosts.winner((own, *seen.observed.rivals))
    if winner == own.key:
        return None
    return (
        f"host {host} belongs to InferenceService {'/'.join(winner)}, which is older; "
        f"this one answers at {seen.name}.{seen.namespace} only, until one of the two is renamed"
    )


def _model_loaded(seen: Situation) -> Condition:
    if seen.target is None:
        return _condition(seen, Type.MODEL_LOADED, False, Reason.NOT_YET_SERVING, "no revision yet")
    if seen.main is not None and seen.target.name not in seen.main.pods and seen.decision is not None:
        return _condition(seen, Type.MODEL_LOADED, False, Reason.ROLLED_BACK, _went_back(seen.decision.state))
    state, download = model_state(seen, seen.target.name), downloads.furthest(seen, seen.target.name)
    far = downloads.words(download) if download is not None and state.reason is Reason.LOADING else ""
    words = f"revision {seen.target.name}: {state.message}{far}"
    return _condition(seen, Type.MODEL_LOADED, state.loaded, state.reason, words)


def _rollout_healthy(seen: Situation) -> Condition:
    state = seen.decision.state if seen.decision else None
    if state is not None and state.abort is not None and state.abort.reason not in UNWANTED:
        return _condition(seen, Type.ROLLOUT_HEALTHY, False, Reason.ROLLED_BACK, _went_back(state))
    is_paused = state is not None and state.pause is not None
    if not is_paused and (failing := _failing(seen)):
        return _condition(seen, Type.ROLLOUT_HEALTHY, False, Reason.REVISION_FAILED, failing)
    if not is_paused and seen.shift.is_stopped and seen.shift.status is not None:
        words = Reason.PROGRESS_DEADLINE_EXCEEDED, seen.shift.status.message
        return _condition(seen, Type.ROLLOUT_HEALTHY, False, *words)
    if under_way := _under_way(seen):
        # Not known yet: who waits for the condition, as `kubectl wait` does, would else be let go at the first step.
        return _condition(seen, Type.ROLLOUT_HEALTHY, None, *under_way)
    return _condition(seen, Type.ROLLOUT_HEALTHY, True, Reason.HEALTHY, "no release is under way")


def _under_way(seen: Situation) -> tuple[Reason, str] | None:
    """What moves, or waits for somebody: the service's own release before those of its variants."""
    if seen.decision is not None and seen.decision.state.phase in (*UNDER_WAY, Phase.ROLLING_BACK):
        state = seen.decision.state
        if state.pause is not None:
            return Reason.PAUSED, f"{title(state)} ({state.pause.reason}): {state.pause.message}"
        return Reason.PROGRESSING, f"{title(state)}: {state.next}" if state.next else title(state)
    if seen.shift.is_waiting and seen.shift.status is not None:
        return Reason.PROGRESSING, seen.shift.status.message
    for arm in seen.arms[1:]:
        if arm.candidate or not (seen.reachable(arm.serving) or is_awaited(seen, arm)):
            return Reason.PROGRESSING, f"{_title(arm)} is being started"
    return None


def title(state: RolloutStatus) -> str:
    """A release in a few words: `revision hello-1 at 25%, Soaking`."""
    share = f" at {state.weight / 100:g}%" if state.weight else ""
    share += f", {state.mirror / 100:g}% copied" if state.mirror else ""
    stand = "Paused" if state.pause else (state.stage if state.phase in UNDER_WAY else "") or state.phase
    return f"revision {state.candidate}{share}, {stand}"


def _went_back(state: RolloutStatus) -> str:
    if state.abort is None:
        return ""
    return (
        f"revision {state.candidate} was taken back ({state.abort.reason}): {state.abort.message}; change "
        f"spec.predictor, or try it again by the annotation {COMMAND}: retry ID"
    )


def _scaling_active(seen: Situation) -> Condition:
    """Of the service itself, or of the first variant with which something is wrong."""
    if other := rival(seen):
        return _condition(seen, Type.SCALING_ACTIVE, False, Reason.AUTOSCALER_CONFLICT, other)
    if not seen.scaling:
        wanted = seen.replicas(seen.serving) if seen.serving else 0
        return _condition(seen, Type.SCALING_ACTIVE, True, Reason.FIXED_REPLICAS, f"replicas kept: {wanted}")
    told = next((one for one in seen.scaling if one.reason in TROUBLE), seen.scaling[0])
    of = f"variant {told.variant}: " if told.variant else ""
    value = None if told.reason == Reason.NO_SIGNAL else told.reason not in {*TROUBLE, Reason.METRICS_DEGRADED}
    message = f"{of}{told.desired} {'replica' if told.desired == 1 else 'replicas'}: {told.message}"
    return _condition(seen, Type.SCALING_ACTIVE, value, Reason(told.reason), message)


def rival(seen: Situation) -> str | None:
    """Which other autoscaler has a Deployment of this service, and what to do."""
    found = ((name, other) for name, other in sorted(seen.observed.autoscalers.items()) if name in seen.kept)
    name, other = next(found, ("", ""))
    if not name:
        return None
    return f"{other} scales Deployment {name} too, whose replicas are left to it: remove one of the two"


def _update_available(seen: Situation) -> Condition:
    changed = next((arm for arm in seen.arms if arm.fresh and arm.fresh.rendering != arm.target.rendering), None)
    if changed is None or changed.fresh is None:
        return _condition(
            seen, Type.UPDATE_AVAILABLE, False, Reason.UP_TO_DATE, "a new revision would run the same pods"
        )
    text = (
        f"{changed.fresh.runtime} or Slipway changed since {_title(changed)} was made; "
        "spec.predictor.runtimeUpdates: Follow takes the change over"
    )
    return _condition(seen, Type.UPDATE_AVAILABLE, True, Reason.RUNTIME_CHANGED, text)


def _stalled(seen: Situation, config: Config) -> Condition | None:
    found = _stuck(seen)
    if found is None and seen.acks.refusals:
        found = _not_routed(seen)
    if found is None and (conflict := outside_conflict(seen, config)):
        found = Reason.CONFLICT, conflict
    return _condition(seen, Type.STALLED, True, *found) if found else None


def _stuck(seen: Situation) -> tuple[Reason, str] | None:
    """What nobody but its owner can mend: the spec, an object that is in the way, a model."""
    if seen.refusal is not None:
        return seen.refusal.reason, seen.refusal.message
    if stuck := obstacle(seen):
        return stuck
    release = seen.decision.state if seen.decision else None
    if release is not None and release.phase is Phase.ROLLED_BACK:
        return Reason.ROLLED_BACK, _went_back(release)
    for arm in seen.arms:
        state = model_state(seen, arm.target.name)
        if state.terminal and arm.target.name in arm.pods:
            return state.reason, f"{_title(arm)}: {state.message}"
    if seen.shift.is_stopped and seen.shift.status is not None:
        return Reason.PROGRESS_DEADLINE_EXCEEDED, seen.shift.status.message
    return None


def _title(arm: Arm) -> str:
    return f"revision {arm.target.name}" + (f" of variant {arm.variant}" if arm.variant else "")


def _reconciling(seen: Situation) -> Condition | None:
    """A previous revision that only keeps its pods for a while is nothing that anybody would wait for."""
    if under_way := _under_way(seen):
        return _condition(seen, Type.RECONCILING, True, *under_way)
    for arm in seen.arms:
        is_short = seen.ready(arm.serving) < seen.replicas(arm.serving)
        if is_short and not is_growing(seen, arm) and not is_awaited(seen, arm):
            words = f"revision {arm.serving} is being started"
            return _condition(seen, Type.RECONCILING, True, Reason.REPLICAS_MISSING, words)
    if seen.leaving:
        return _condition(
            seen, Type.RECONCILING, True, Reason.PROGRESSING, f"revision {seen.leaving[0].name} is being drained"
        )
    if seen.routing is not None and (missing := _not_routed(seen)):
        return _condition(seen, Type.RECONCILING, True, *missing)
    return None


def _failing(seen: Situation) -> str | None:
    """The fault of a newest revision, in a sentence."""
    for arm in seen.arms:
        state = model_state(seen, arm.target.name)
        if state.faulty and arm.target.name in arm.pods:
            return f"{_title(arm)} failed: {state.message}"
    return None


def _without_address(seen: Situation) -> tuple[Reason, str] | None:
    return obstacle(seen) if seen.observed.is_blocked("Service", seen.name) else None


def obstacle(seen: Situation) -> tuple[Reason, str] | None:
    """What keeps an object of this service from being made."""
    if seen.observed.foreign:
        return Reason.CONFLICT, foreign(seen.observed)
    if seen.observed.refused:
        words = (f"{kind} {name}: {text}" for (kind, name), text in sorted(seen.observed.refused.items()))
        return Reason.OBJECT_REFUSED, f"the API server refuses {'; '.join(words)}"
    return None
