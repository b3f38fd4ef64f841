"""What a service tells about itself: conditions, revisions, history; and the Events that go with a change.

Written when something changed that a person or a pipeline would act on; measured numbers alone wait for a checkpoint.
"""

from dataclasses import dataclass

from slipway.api.conditions import Phase, Reason, Type
from slipway.api.manifest import Manifest
from slipway.api.names import API_VERSION
from slipway.api.schema import timestamp
from slipway.api.status import (
    HISTORY_MAX,
    HistoryEntry,
    InferenceServiceStatus,
    RevisionStatus,
    RolloutStatus,
)
from slipway.decide.health import conditions, model_state, obstacle
from slipway.decide.situation import Situation
from slipway.decide.types import Action, Config, Create, Event, SetStatus


@dataclass(frozen=True, slots=True)
class Update:
    actions: tuple[Action, ...]
    events: tuple[Event, ...]
    requeue_after_s: float | None = None


def update(seen: Situation, config: Config, children: list[Action]) -> Update:
    """The status write that is due, if any, and the Events for what is new in it."""
    entries = _news(seen, children)
    new = _build(seen, entries)
    if new == seen.status:
        return Update((), ())
    if _without_measures(new) == _without_measures(seen.status):
        left = config.checkpoint_s - seen.observed.status_age_s
        if left > 0:
            return Update((), (), requeue_after_s=left)
    return Update((SetStatus(_body(seen, new)),), tuple(entries))


def drift_event(body: Manifest) -> Event:
    note = f"{body['kind']} {body['metadata']['name']} was edited by somebody else; put right"
    return Event(Reason.DRIFT_REPAIRED, note)


def _news(seen: Situation, children: list[Action]) -> list[Event]:
    """What happened in this very plan, and faults that status does not name yet."""
    events = [
        Event(Reason.REVISION_CREATED, f"revision {action.body['metadata']['name']} for generation {seen.generation}")
        for action in children
        if isinstance(action, Create) and action.body["kind"] == "Deployment"
    ]
    stable = _stable_now(seen)
    if stable is not None and stable != seen.status.stable:
        gone = f", in place of {seen.status.stable}" if seen.status.stable else ""
        events.append(
            Event(Reason.REVISION_PROMOTED, f"revision {stable} has all replicas ready and answers now{gone}")
        )
    if seen.target is not None:
        state = model_state(seen, seen.target.name)
        known = next((r for r in seen.status.revisions if r.name == seen.target.name), None)
        if state.faulty and (known is None or known.reason != state.reason):
            events.append(Event(state.reason, f"revision {seen.target.name}: {state.message}", warning=True))
    if (stuck := obstacle(seen)) and not _is_known(seen, Type.STALLED, stuck[0]):
        events.append(Event(*stuck, warning=True))
    if seen.refusal is not None and not _is_known(seen, Type.ACCEPTED, seen.refusal.reason):
        events.append(Event(seen.refusal.reason, seen.refusal.message, warning=True))
    return events


def _is_known(seen: Situation, kind: Type, reason: Reason) -> bool:
    """Whether the last status told so already."""
    condition = seen.conditions.get(kind)
    return condition is not None and condition.reason == reason


def _stable_now(seen: Situation) -> str | None:
    """Stable in status: the serving revision, from the moment it first answers."""
    if seen.serving is not None and (seen.serving == seen.stable or seen.ready(seen.serving) > 0):
        return seen.serving
    return None


def _build(seen: Situation, entries: list[Event]) -> InferenceServiceStatus:
    stable = _stable_now(seen)
    candidate = seen.target.name if seen.target and seen.target.name != stable else None
    has_address = not seen.observed.is_blocked("Service", seen.name)
    when = timestamp(seen.now)
    history = [HistoryEntry(time=when, reason=entry.reason, message=entry.note[:2048]) for entry in entries]
    return InferenceServiceStatus(
        observed_generation=seen.generation,
        conditions=conditions(seen),
        url=f"http://{seen.name}.{seen.observed.service['metadata']['namespace']}"
        if seen.serving and has_address
        else None,
        runtime=seen.target.runtime if seen.target else None,
        stable=stable,
        candidate=candidate,
        previous=seen.previous or (seen.status.previous if seen.status.previous != stable else None),
        revisions=[_revision(seen, name) for name in sorted(seen.kept)],
        rollout=_rollout(seen, candidate),
        history=[*history, *seen.status.history][:HISTORY_MAX],
    )


def _revision(seen: Situation, name: str) -> RevisionStatus:
    state = model_state(seen, name)
    record = seen.records.get(name)
    return RevisionStatus(
        name=name,
        role="Stable" if name == _stable_now(seen) else "Previous" if name == seen.previous else "Candidate",
        storage_uri=record.storage_uri if record else "",
        replicas=seen.replicas(name),
        ready=seen.ready(name),
        failed=seen.failed(name),
        reason=state.reason,
        message=state.message[:2048],
    )


def _rollout(seen: Situation, candidate: str | None) -> RolloutStatus:
    phase = Phase.DRAINING if seen.previous else Phase.PROVISIONING if candidate else Phase.HEALTHY
    before = seen.status.rollout
    since = before.since if before and before.phase is phase else timestamp(seen.now)
    return RolloutStatus(phase=phase, since=since, until=timestamp(seen.drain_until) if seen.drain_until else None)


def _without_measures(status: InferenceServiceStatus) -> InferenceServiceStatus:
    """Status without the numbers that move by themselves."""
    return status.model_copy(
        update={
            "revisions": [r.model_copy(update={"ready": 0, "failed": 0}) for r in status.revisions],
            "conditions": [
                c.model_copy(update={"message": ""} if c.type == Type.PREDICTOR_READY else {})
                for c in status.conditions
            ],
        }
    )


def _body(seen: Situation, new: InferenceServiceStatus) -> Manifest:
    """The status write. A status apply ignores uid; only the resourceVersion ties it to the object it is about."""
    meta = seen.observed.service["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": {key: meta[key] for key in ("name", "namespace", "resourceVersion")},
        "status": new.model_dump(by_alias=True, exclude_none=True, mode="json"),
    }
