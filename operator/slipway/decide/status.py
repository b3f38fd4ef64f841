"""What a service tells about itself: conditions, revisions, history; and the Events that go with a change.

Written when something changed that a person or a pipeline would act on; measured numbers alone wait for a checkpoint.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from slipway.api.conditions import UNDER_WAY, Phase, Reason, Type
from slipway.api.experiment import CONTROL
from slipway.api.manifest import Manifest
from slipway.api.names import API_VERSION
from slipway.api.progress import RolloutStatus
from slipway.api.schema import timestamp
from slipway.api.standing import ExperimentStatus
from slipway.api.status import (
    HISTORY_MAX,
    Acknowledged,
    Condition,
    Download,
    HistoryEntry,
    InferenceServiceStatus,
    Measured,
    RevisionStatus,
)
from slipway.decide import downloads, experiment, hosts, rescaled, shares, traffic
from slipway.decide.arms import Arm
from slipway.decide.health import conditions, obstacle, outside_conflict, rival
from slipway.decide.loading import model_state
from slipway.decide.release import Window
from slipway.decide.situation import Situation
from slipway.decide.types import Action, Config, Create, Event, SetStatus

_NOTE_MAX = 2048
_REASONS = frozenset(map(str, Reason))
_RETOLD_S = 60.0
"""A process that was killed is followed by another within this; Kubernetes keeps Events for an hour."""


@dataclass(frozen=True, slots=True)
class Update:
    actions: tuple[Action, ...]
    events: tuple[Event, ...]
    requeue_after_s: float | None = None
    used_up: Window | None = None
    """The window had no news in it: it ends without a write."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What becomes of an experiment."""

    status: ExperimentStatus | None = None
    stretch: Window | None = None
    """What is new in it."""
    look_s: float | None = None


def update(seen: Situation, config: Config, children: list[Action]) -> Update:
    """The status write that is due, if any, and the Events for what is new in it."""
    trial = _experiment(seen)
    entries = [*_news(seen, children), *_findings(seen, trial)]
    new = _build(seen, config, entries).model_copy(update={"experiment": trial.status})
    used_up = seen.observed.window if seen.decision and seen.decision.closes_window else None
    if new == seen.status:
        return Update((), (), requeue_after_s=trial.look_s, used_up=used_up)
    if _without_measures(new) == _without_measures(seen.status):
        is_calm = new.rollout is None or new.rollout.phase in (Phase.HEALTHY, Phase.ROLLED_BACK)
        is_slow = is_calm or _without_downloads(new) == _without_downloads(seen.status)
        period_s = config.checkpoint_s if is_slow else config.rollout_checkpoint_s
        left = period_s - seen.observed.status_age_s
        if left > 0:
            return Update((), (), requeue_after_s=min(left, trial.look_s or left))
    when = timestamp(seen.now)
    return Update(
        (SetStatus(_body(seen, new), used_up, trial.stretch),),
        tuple(replace(entry, note=entry.note[:_NOTE_MAX], at=when) for entry in entries),
        requeue_after_s=trial.look_s,
    )


def retold(service: Manifest, now: datetime) -> Iterator[Event]:
    """What was decided a moment ago, perhaps by a process that ended before it could tell."""
    for entry in reversed((service.get("status") or {}).get("history") or ()):
        if entry["reason"] in _REASONS and (now - datetime.fromisoformat(entry["time"])).total_seconds() < _RETOLD_S:
            yield Event(
                Reason(entry["reason"]), entry.get("message", ""), warning=entry.get("warning", False), at=entry["time"]
            )


def drift_event(body: Manifest) -> Event:
    # The rules of a policy are the installation's, which may have changed.
    cause = (
        "has other rules than the installation" if body["kind"] == "NetworkPolicy" else "was edited by somebody else"
    )
    note = f"{body['kind']} {body['metadata']['name']} {cause}; put right"
    return Event(Reason.DRIFT_REPAIRED, note)


def _news(seen: Situation, children: list[Action]) -> list[Event]:
    """What happened in this very plan, and faults that status does not name yet."""
    events = [
        Event(Reason.REVISION_CREATED, f"revision {action.body['metadata']['name']} for generation {seen.generation}")
        for action in children
        if isinstance(action, Create) and action.body["kind"] == "Deployment"
    ]
    events += [Event(*told) for told in (*(seen.decision.events if seen.decision else ()), *seen.shift.events)]
    for arm in seen.arms:
        events += _news_of(seen, arm)
    events += rescaled.news(seen.scaling, seen.status.scaling)
    if (other := rival(seen)) and not _is_known(seen, Type.SCALING_ACTIVE, Reason.AUTOSCALER_CONFLICT):
        events.append(Event(Reason.AUTOSCALER_CONFLICT, other, warning=True))
    if (stuck := obstacle(seen)) and not _is_known(seen, Type.STALLED, stuck[0]):
        events.append(Event(*stuck, warning=True))
    if seen.refusal is not None and not _is_known(seen, Type.ACCEPTED, seen.refusal.reason):
        events.append(Event(seen.refusal.reason, seen.refusal.message, warning=True))
    return events


def _news_of(seen: Situation, arm: Arm) -> Iterator[Event]:
    """A promotion, and a fault of the newest revision. What the service's own release does it tells itself."""
    of = f" for variant {arm.variant}" if arm.variant else ""
    answers, before = seen.answers(arm), _answered(seen, arm)
    if arm.variant and answers is not None and answers != before:
        gone = f", in place of {before}" if before else ""
        yield Event(Reason.REVISION_PROMOTED, f"revision {answers} has all replicas ready and answers now{of}{gone}")
    state = model_state(seen, arm.target.name)
    known = next((r for r in seen.status.revisions if r.name == arm.target.name), None)
    if state.faulty and (known is None or known.reason != state.reason):
        yield Event(state.reason, f"revision {arm.target.name}{of}: {state.message}", warning=True)


def _answered(seen: Situation, arm: Arm) -> str | None:
    """What status has as the revision that answers for an arm."""
    if not arm.variant:
        return seen.status.stable
    found = (known for known in seen.status.revisions if (known.role, known.variant) == ("Variant", arm.variant))
    return next((known.name for known in found), None)


def _experiment(seen: Situation) -> Trial:
    """How the variants do. A spec that is refused changes nothing, nor does one of which nobody answers yet."""
    policy, last = seen.wish.experiment if seen.wish else None, seen.status.experiment
    wanted = seen.wish.weights if seen.wish else {}
    answering = {
        arm.variant or CONTROL: seen.answers(arm) for arm in seen.arms if not arm.variant or arm.variant in wanted
    }
    arms = {name: revision for name, revision in answering.items() if revision}
    if seen.refusal is not None or (policy is not None and (CONTROL not in arms or len(arms) < 2)):
        return Trial(last)
    if policy is None:
        return Trial()
    stretch = seen.observed.stretch
    found = experiment.advance(last, policy, arms, stretch, readings=seen.observed.each, now=seen.now)
    return Trial(found.status, stretch if found.is_folded else None, found.look_s)


def _findings(seen: Situation, trial: Trial) -> Iterator[Event]:
    found, before = trial.status, seen.status.experiment
    if found is None or found.outcome == "Undecided":
        return
    if before is None or (found.outcome, found.leader) != (before.outcome, before.leader):
        yield Event(Reason.EXPERIMENT_DECIDED, found.message)


def _is_known(seen: Situation, kind: Type, reason: Reason) -> bool:
    """Whether the last status told so already."""
    condition = seen.conditions.get(kind)
    return condition is not None and condition.reason == reason


def _build(seen: Situation, config: Config, entries: list[Event]) -> InferenceServiceStatus:
    stable = seen.answers(seen.main) if seen.main else None
    candidate = seen.main.candidate if seen.main else None
    has_address = seen.serving is not None and not seen.observed.is_blocked("Service", seen.name)
    when = timestamp(seen.now)
    history = [
        HistoryEntry(time=when, reason=entry.reason, message=entry.note[:_NOTE_MAX], warning=entry.warning)
        for entry in entries
    ]
    return InferenceServiceStatus(
        observed_generation=seen.generation,
        conditions=conditions(seen, config),
        url=f"http://{seen.name}.{seen.namespace}" if has_address else None,
        external_url=_external_url(seen, config) if seen.serving else None,
        runtime=seen.target.runtime if seen.target else None,
        runtime_reason=(seen.target.runtime_reason or None) if seen.target else None,
        stable=stable,
        candidate=candidate,
        previous=_previous(seen, stable),
        release=_release(seen.decision.state) if seen.decision else None,
        revisions=_revisions(seen),
        routing=seen.routing,
        rollout=_rollout(seen),
        scaling=list(seen.scaling),
        shift=seen.shift.status,
        history=rescaled.folded([*history, *seen.status.history])[:HISTORY_MAX],
    )


def _release(state: RolloutStatus) -> str:
    """Where a release stands, for a column: `25% Soaking`, `5% Paused: StepGate`, `Healthy`."""
    share = f"{state.weight / 100:g}% " if state.weight and state.phase in UNDER_WAY else ""
    stage = state.stage if state.phase in UNDER_WAY else ""
    return share + (f"Paused: {state.pause.reason}" if state.pause else stage or state.phase)


def _external_url(seen: Situation, config: Config) -> str | None:
    host = hosts.outside(seen.namespace, seen.name, config.entrance.domains)
    if not host or outside_conflict(seen, config):
        return None
    return f"http{'s' if config.entrance.tls else ''}://{host}"


def _previous(seen: Situation, stable: str | None) -> str | None:
    """The revision that answered before this one did."""
    last = seen.status.stable if seen.status.stable != stable and stable is not None else seen.status.previous
    return last if last != stable else None


def _revisions(seen: Situation) -> list[RevisionStatus]:
    shares_now = _shares(seen)
    arms = {name: arm for arm in seen.arms for name in sorted(arm.pods)}
    leaving = {left.name: left for left in seen.leaving}
    targets = {target.revision for target in seen.routing.targets} if seen.routing else set[str]()
    found: list[RevisionStatus] = []
    for name in sorted(seen.kept):
        state, record, left, arm = model_state(seen, name), seen.records.get(name), leaving.get(name), arms.get(name)
        serves = arm is not None and seen.routing is not None and name in targets
        found.append(
            RevisionStatus(
                name=name,
                role=_role(seen, arm, name),
                variant=record.variant if record else "",
                storage_uri=record.storage_uri if record else "",
                replicas=seen.replicas(name),
                ready=seen.ready(name),
                failed=seen.failed(name),
                reason=state.reason,
                message=state.message[:2048],
                download=downloads.furthest(seen, name),
                weight=_wanted_weight(seen, arm, name) if arm is not None and serves else 0,
                acknowledged=_acknowledged(seen) if serves else None,
                measured=shares_now.get(name),
                drain_until=timestamp(left.until) if left is not None and left.until is not None else None,
            )
        )
    return found


def _role(seen: Situation, arm: Arm | None, name: str) -> Literal["Stable", "Candidate", "Variant", "Previous"]:
    if arm is None:
        return "Previous"
    if name == seen.answers(arm):
        return "Variant" if arm.variant else "Stable"
    return "Candidate" if name in (arm.candidate, arm.target.name) else "Previous"


def _wanted_weight(seen: Situation, arm: Arm, name: str) -> int:
    if seen.wish is None:
        return 0
    if arm.variant:
        return seen.wish.weights.get(arm.variant, 0)
    part = traffic.part(seen.wish.stable, seen.decision.weight if seen.decision else 0)
    return seen.wish.stable - part if name == arm.serving else part


def _acknowledged(seen: Situation) -> Acknowledged | None:
    return Acknowledged(gateways=len(seen.acks.taken), of=seen.acks.of) if seen.acks.known else None


def _shares(seen: Situation) -> Mapping[str, Measured]:
    """Measured shares to show: the last ones as long as they still hold, none once another routing is served."""
    last, table = seen.status.routing, seen.routing
    if table is None:
        return {}
    targets = [target.revision for target in table.targets]
    known = {r.name: r.measured for r in seen.status.revisions if r.measured is not None}
    old = known if last is not None and last.version == table.version else {}
    new = shares.measure({name: seen.observed.counts.get(name, 0) for name in targets}) if seen.acks.is_complete else {}
    if any(shares.is_news(old.get(name), share) for name, share in new.items()):
        return new
    return {name: share for name, share in old.items() if name in targets}


def _rollout(seen: Situation) -> RolloutStatus | None:
    """As decided; when the pods of the revision before leave is known once no gateway leads there."""
    if seen.decision is None:
        return seen.status.rollout
    state, ends = seen.decision.state, [left.until for left in seen.leaving if left.until is not None]
    if state.phase is not Phase.DRAINING or state.stage:
        return state
    is_certain = ends and len(ends) == len(seen.leaving)
    return state.model_copy(update={"until": timestamp(max(ends)) if is_certain else None})


def _without_measures(status: InferenceServiceStatus) -> InferenceServiceStatus:
    """Status without the numbers that move by themselves."""
    return status.model_copy(
        update={
            "revisions": [_without_numbers(r) for r in status.revisions],
            "rollout": _without_evidence(status.rollout),
            "scaling": [one.model_copy(update=_MOVING | {"loading": min(1, one.loading)}) for one in status.scaling],
            "conditions": [c.model_copy(update={"message": ""} if _is_counting(c) else {}) for c in status.conditions],
        }
    )


def _without_downloads(status: InferenceServiceStatus) -> InferenceServiceStatus:
    """Status without the numbers that move most, and that a release does not wait for."""
    return status.model_copy(
        update={
            "revisions": [r.model_copy(update={"download": None}) for r in status.revisions],
            "conditions": [
                c.model_copy(update={"message": ""} if c.type == Type.MODEL_LOADED and _is_counting(c) else {})
                for c in status.conditions
            ],
        }
    )


_MOVING: dict[str, Any] = {"ready": 0, "ready_at": None, "lead_time": None}
"""Of what is told of replicas: the kubelet moves it. That none is on its way any more is told at once."""


def _is_counting(condition: Condition) -> bool:
    """Whether its message counts what moves by itself."""
    if condition.type in (Type.ROLLOUT_HEALTHY, Type.RECONCILING):
        return condition.reason in (Reason.PROGRESSING, Reason.PAUSED)
    if condition.type == Type.MODEL_LOADED:
        return condition.reason == Reason.LOADING
    return condition.type == Type.PREDICTOR_READY or (condition.type, condition.status) == (Type.ROUTES_READY, "True")


def _without_evidence(release: RolloutStatus | None) -> RolloutStatus | None:
    """A release without what grows with every request."""
    if release is None:
        return None
    outcomes = [verdict.model_copy(update={"message": "", "evidence": 1.0}) for verdict in release.verdicts]
    pause = release.pause and release.pause.model_copy(update={"message": ""})
    growing = {"evidence": None, "requests": 0, "next": "", "verdicts": outcomes, "pause": pause}
    return release.model_copy(update=growing)


_SOME = Download(mib_per_second=0)


def _without_numbers(revision: RevisionStatus) -> RevisionStatus:
    """How many gateways there are moves by itself; whether all follow does not, nor whether a model is fetched."""
    acks = revision.acknowledged
    complete = Acknowledged(gateways=0, of=0) if acks is not None and acks.gateways == acks.of else acks
    moving = {"ready": 0, "failed": 0, "acknowledged": complete, "download": revision.download and _SOME}
    return revision.model_copy(update=moving | {"measured": None})


def _body(seen: Situation, new: InferenceServiceStatus) -> Manifest:
    """The status write. A status apply ignores uid; only the resourceVersion ties it to the object it is about."""
    meta = seen.observed.service["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": {key: meta[key] for key in ("name", "namespace", "resourceVersion")},
        "status": new.model_dump(by_alias=True, exclude_none=True, mode="json"),
    }
