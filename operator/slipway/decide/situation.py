"""Where a service stands: which revisions answer, which are wanted, what gateways serve, and which pods must stay.

The pointer is status: `stable`, the variants' revisions and the routing are written in one request, so they can never
disagree. A lost status changes no outcome that matters: see `arms.py` for what is then taken for the pointer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import ValidationError

from slipway.api.conditions import UNDER_WAY, Reason
from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_VARIANT, PREVIEW
from slipway.api.progress import RolloutStatus
from slipway.api.rollout import Rollout, Step
from slipway.api.routing import Routing
from slipway.api.status import InferenceServiceStatus, ScalingStatus
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide import acks, arms, parties, policy, resources, revision, rollout, scaled, traffic
from slipway.decide.acks import Acks
from slipway.decide.arms import Arm
from slipway.decide.ground import Ground
from slipway.decide.loading import refused_pods
from slipway.decide.need import as_decided
from slipway.decide.release import Decision
from slipway.decide.revision import Record
from slipway.decide.scaling.spec import flaw as scaling_flaw
from slipway.decide.scene import scene
from slipway.decide.shift import Shift
from slipway.decide.types import Config, Observed, Refusal


@dataclass(frozen=True, slots=True)
class Leaving:
    """A revision that nobody asks for any more, and that gateways may still lead to."""

    name: str
    until: datetime | None
    """Its pods leave then; None as long as a gateway has not acknowledged a routing without it."""


@dataclass(frozen=True, slots=True)
class Situation(Ground):
    refusal: Refusal | None
    arms: tuple[Arm, ...]
    """The service itself, then its variants by name, those that leave as well; none when nothing can be served yet."""
    wish: traffic.Wish | None
    routing: Routing | None
    """What gateways shall serve."""
    acks: Acks
    """Of that routing."""
    leaving: tuple[Leaving, ...]
    decision: Decision | None
    """Of the release of the service itself; None when nothing can be served yet."""
    scaling: tuple[ScalingStatus, ...]
    """Of the arms that scale, as status shall have it."""
    shift: Shift
    """How far the weights that the wish has may be in force."""

    @property
    def main(self) -> Arm | None:
        return self.arms[0] if self.arms else None

    @property
    def target(self) -> Record | None:
        return self.main.target if self.main else None

    @property
    def stable(self) -> str | None:
        return self.main.stable if self.main else None

    @property
    def serving(self) -> str | None:
        return self.main.serving if self.main else None

    @property
    def kept(self) -> frozenset[str]:
        """Revisions that have pods."""
        return _kept(self.arms) | {leaving.name for leaving in self.leaving}

    @property
    def preview_address(self) -> str:
        """Name of the Service that leads to the candidate alone; empty: there is none now."""
        has_preview = self.routing is not None and self.routing.preview and not self.observed.is_preview_taken
        return self.name + PREVIEW if has_preview else ""

    def is_drained(self, name: str) -> bool:
        """Whether the stored status says until when its pods may go, which it does once no gateway leads to them."""
        return (
            any(known.name == name and known.drain_until for known in self.status.revisions) and name not in self.kept
        )

    def replicas(self, name: str) -> int:
        """Replicas that a revision shall have. One that leaves, or that somebody else scales, keeps those it has."""
        if name in self.observed.autoscalers and name in self.deployments:
            return self.replicas_now(name)
        asked = next((arm.pods[name] for arm in self.arms if name in arm.pods), None)
        return self.replicas_now(name) if asked is None else asked

    def scaled(self, arm: Arm) -> ScalingStatus | None:
        """What is told of an arm's replicas; None: they are fixed, or nothing is decided yet."""
        return next((told for told in self.scaling if told.variant == arm.variant), None)

    def may_be_emptied(self, name: str) -> bool:
        """Whether its last replicas may go: every gateway holds its requests from then on, or none leads there.

        Without pods that answer there is nothing to be lost.
        """
        targets = self.routing.targets if self.routing is not None else []
        is_held = all(target.hold_ms for target in targets if target.revision == name)
        return not self.reachable(name) or (is_held and self.acks.is_complete)

    def keeps_replicas(self, name: str) -> bool:
        """Whether a revision loses none now: others start for its share, or gateways may still lead that there."""
        if not self.reachable(name) or self.routing is None:
            return False
        last = self.status.routing.targets if self.status.routing is not None else []
        had = sum(target.weight for target in last if target.revision == name)
        has = sum(target.weight for target in self.routing.targets if target.revision == name)
        return self.shift.is_moving or has < had or not self.acks.is_complete

    def answers(self, arm: Arm) -> str | None:
        """The revision that answers for an arm: the serving one, from the moment it first does.

        For the service itself that is by the same count as a release is decided by: the pointer is its decision.
        """
        is_ready = self.reachable(arm.serving) and (arm.variant or self.ready(arm.serving))
        return arm.serving if arm.serving == arm.stable or is_ready else None


def assess(observed: Observed, config: Config, now: datetime) -> Situation:
    """Everything that the plan is made from, derived once."""
    spec, refusal = _parse(observed.service)
    ground = _ground(observed, spec, now)
    found = _arms(ground, spec, config) if spec is not None else refusal
    if isinstance(found, tuple):
        settled, wish = found, traffic.wish(spec) if spec else None
    else:
        refusal = found
        settled, wish = _as_it_was(ground), traffic.wish_of_last(ground.status)
    if settled and (words := refused_pods(observed, settled[0].target.name)):
        refusal = Refusal(Reason.INVALID_SPEC, f"the API server refuses the pods of this spec: {words}")
    decision: Decision | None = None
    shift, granted, wanted = Shift(), wish, settled
    if settled and wish:
        taken = spec if isinstance(found, tuple) else None
        left = parties.lingering(ground, taken) if taken is not None else []
        shift = parties.shift(ground, (*settled, *left), wish, taken)
        granted = replace(wish, weights={name: share for name, share in shift.shares.items() if name})
        decision = _released(ground, settled[0], spec, granted)
        wanted = (_led(settled[0], decision), *settled[1:])
        gone = [arm for arm in left if shift.shares[arm.variant]]
        settled = (wanted[0], *sorted([*wanted[1:], *gone], key=lambda arm: arm.variant))
    told = scaled.entries(ground, wanted)
    table = _route(ground, settled, granted, decision, {one.variant: one for one in told})
    written = ground.status.routing is not None and table is not None and ground.status.routing == table
    seen = acks.count(observed, table.version if table else "", written=written)
    asked = {arm.target.name: arm.target for arm in settled}
    return Situation(
        observed=observed,
        now=now,
        status=ground.status,
        conditions=ground.conditions,
        records={**asked, **ground.records},
        deployments=ground.deployments,
        refusal=refusal,
        arms=settled,
        wish=wish,
        routing=table,
        acks=seen,
        leaving=tuple(_leaving(ground, _kept(settled), config, left=written and seen.is_complete)),
        decision=decision,
        scaling=told,
        shift=shift,
    )


def _kept(settled: tuple[Arm, ...]) -> frozenset[str]:
    return frozenset(name for arm in settled for name in arm.pods)


def _as_it_was(ground: Ground) -> tuple[Arm, ...]:
    """What a refused spec leaves running. A release under way goes on, one that failed stays so."""
    held = dict(arms.held(ground))
    state = ground.status.rollout
    named = state.candidate if state and (state.abort or state.phase in UNDER_WAY) else ground.status.stable
    if (record := ground.records.get(named or "")) and not record.variant:
        held[""] = record
    demand = ground.observed.demand
    settled = tuple(
        arms.settle(ground, record, None, as_decided(name, demand.get(name))) for name, record in sorted(held.items())
    )
    return settled if settled and not settled[0].variant else ()


def _released(ground: Ground, main: Arm, spec: InferenceServiceSpec | None, wish: traffic.Wish) -> Decision:
    """The step of the release of the service itself."""
    state = ground.status.rollout
    wanted = spec.rollout if spec is not None else None
    if wanted is None or policy.flaw(wanted, ground.namespace, copies=False):
        wanted = _standing(state)
    # Without a status whoever is ready may be taken for stable; the target itself is then what comes first.
    stable = main.stable if ground.status.stable or main.stable != main.target.name else None
    is_sticky = wish.sticky is not None
    seen = scene(ground, wanted, main, stable, share=wish.stable, sticky=is_sticky)
    return rollout.step(state, seen, ground.now)


def _standing(state: RolloutStatus | None) -> Rollout:
    """For a policy that cannot be honoured: what is under way keeps what it has, judged, and gets no more."""
    if state is None or not state.steps_hash:
        return Rollout(strategy="None")  # nothing that goes by steps
    if state.mirror:
        return Rollout(steps=[Step(mirror=f"{state.mirror / 100:g}%", gate=True)])
    return Rollout(steps=[Step(weight=f"{state.weight / 100:g}%", gate=True)])


def _led(main: Arm, decision: Decision) -> Arm:
    """The service itself, as its release has it."""
    state = decision.state
    released = state.candidate if state.phase in UNDER_WAY and state.candidate != decision.serving else None
    return replace(main, serving=decision.serving, pods=decision.replicas, candidate=released)


def _route(
    ground: Ground,
    settled: tuple[Arm, ...],
    wish: traffic.Wish | None,
    decision: Decision | None,
    told: Mapping[str, ScalingStatus],
) -> Routing | None:
    if wish is None or decision is None:
        return None
    places = [_held(ground, arm, wish, told.get(arm.variant)) for arm in settled]
    places[0] = replace(places[0], is_judged=decision.is_judged)
    if decision.candidate is not None:
        beside = _place(ground, settled[0], decision.candidate)
        places.append(
            replace(
                beside,
                is_candidate=True,
                part=decision.weight,
                copies=decision.mirror,
                is_judged=decision.is_judged,
            )
        )
    return traffic.route(wish, places, decision.preview or "")


def _leaving(ground: Ground, kept: frozenset[str], config: Config, *, left: bool) -> Iterator[Leaving]:
    """Revisions with pods that requests may be on their way to.

    What has no ready pod has no requests, and goes at once: a broken revision holds no GPU back.
    """
    known = {revision.name: revision for revision in ground.status.revisions}
    for name, deployment in sorted(ground.deployments.items()):
        if name in kept or deployment["metadata"].get("deletionTimestamp") or not ground.answering(name):
            continue
        before = known.get(name)
        if before is not None and before.role == "Previous" and before.drain_until:
            until = datetime.fromisoformat(before.drain_until)
            if ground.now < until:
                yield Leaving(name, until)
        else:
            yield Leaving(name, ground.now + timedelta(seconds=config.drain_s) if left else None)


def _place(ground: Ground, arm: Arm, name: str) -> traffic.Place:
    record = ground.records.get(name, arm.target)
    slots, idle_ms = resources.slots(record.template), resources.idle_timeout_ms(record.template)
    return traffic.Place(name, arm.variant, ready=ground.reachable(name), slots=slots, idle_timeout_ms=idle_ms)


def _held(ground: Ground, arm: Arm, wish: traffic.Wish, told: ScalingStatus | None) -> traffic.Place:
    """The serving revision, and whether its requests wait while it has no endpoint.

    They do where it may sleep, has answered before, and somebody sees to it that it wakes; not between two tries of one
    that does not come up. Nor is a variant led to that fails to wake: its requests go to stable.
    """
    place = _place(ground, arm, arm.serving)
    may_sleep = arm.variant in wish.sleepers and arm.stable is not None and arm.may_wake
    is_others = arm.serving in ground.observed.autoscalers
    if told is None or not may_sleep or is_others or scaled.is_barred(ground, told):
        return place
    return replace(place, hold_ms=wish.timeout_ms, is_awaited=scaled.is_awaited(ground, told))


def _ground(observed: Observed, spec: InferenceServiceSpec | None, now: datetime) -> Ground:
    deployments = {child["metadata"]["name"]: child for child in observed.deployments}
    records = {record.name: record for record in map(revision.read, observed.records)}
    for name in sorted(deployments.keys() - records.keys()):
        records[name] = _from_pods(observed, spec, deployments[name], records)
    status = _status(observed.service)
    return Ground(
        observed=observed,
        now=now,
        status=status,
        conditions={condition.type: condition for condition in status.conditions},
        records=records,
        deployments=deployments,
    )


def _arms(ground: Ground, spec: InferenceServiceSpec, config: Config) -> tuple[Arm, ...] | Refusal:
    """All arms of a spec, or the first reason why it is not taken at all: no half of a spec is ever served."""
    if flaw := traffic.check(spec, ground.namespace):
        return flaw
    if words := scaling_flaw(spec, ground.namespace):
        return Refusal(Reason.INVALID_SCALING, f"spec.scaling: {words}")
    found: list[Arm] = []
    for aim in arms.aims(spec, ground.observed.demand):
        fresh = arms.render(ground, aim, config)
        wanted = arms.target(ground, aim, fresh)
        if isinstance(wanted, Refusal):
            return wanted
        found.append(arms.settle(ground, wanted, fresh if isinstance(fresh, Record) else None, aim.need))
    return (found[0], *sorted(found[1:], key=lambda arm: arm.variant))


def _parse(service: Manifest) -> tuple[InferenceServiceSpec | None, Refusal | None]:
    try:
        return InferenceServiceSpec.model_validate(service.get("spec") or {}), None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("spec", *first["loc"])))
        return None, Refusal(Reason.INVALID_SPEC, f"{where}: {first['msg']}")


def _status(service: Manifest) -> InferenceServiceStatus:
    """The last status; an unreadable one counts as none, for nothing depends on it alone."""
    try:
        return InferenceServiceStatus.model_validate(service.get("status") or {})
    except ValidationError:
        return InferenceServiceStatus()


def _from_pods(
    observed: Observed, spec: InferenceServiceSpec | None, live: Manifest, records: Mapping[str, Record]
) -> Record:
    """A revision whose record is gone, as its pods still have it: it must not become what it would be today."""
    name, status = live["metadata"]["name"], _status(observed.service)
    template = {"spec": live["spec"]["template"]["spec"]}
    choice, variant = name.rpartition("-")[2], live["metadata"]["labels"].get(LABEL_VARIANT, "")
    service = observed.service["metadata"]["name"]
    for aim in arms.aims(spec, {}) if spec is not None else ():
        wanted = revision.digest(revision.choice(aim.predictor, aim.variant))
        if name in (f"{service}-{wanted}", revision.name(service, wanted, revision.digest(template), follow=True)):
            choice = wanted
    storage_uri = next((known.storage_uri for known in status.revisions if known.name == name), "")
    return Record(
        name=name,
        number=revision.next_number(records.values()),
        choice=choice,
        runtime=status.runtime or "",
        storage_uri=storage_uri,
        template=template,
        variant=variant,
        runtime_reason=status.runtime_reason or "",
    )
