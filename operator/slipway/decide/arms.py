"""Who answers for a service and for each of its variants: the revision that does, and the one that shall.

Every arm moves alike: the new revision stands beside the old one until it has all its replicas ready; then requests go
to it at once, and the old one leaves. One that sleeps has none; a single replica proves the new one then. The pointer
is status; should that be lost, the oldest revision with a ready pod is taken for the one that answers, so that nothing
is handed over that was not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slipway.api.conditions import Reason
from slipway.api.model import Model
from slipway.api.v1alpha1 import InferenceServiceSpec, Predictor
from slipway.decide import accounts, options, placement, resources, revision, runtimes
from slipway.decide.demand import Demand
from slipway.decide.ground import Ground
from slipway.decide.need import Need, needs, replicas
from slipway.decide.revision import Record
from slipway.decide.types import Config, Refusal


@dataclass(frozen=True, slots=True)
class Aim:
    """What a spec asks of one arm."""

    variant: str
    """Empty: the service itself."""
    predictor: Predictor
    """With the variant's own model."""
    need: Need


@dataclass(frozen=True, slots=True)
class Arm:
    variant: str
    target: Record
    """The revision that the spec asks for; with a refusal, the newest that has pods."""
    fresh: Record | None
    """How the target would be rendered today; None when that is not known."""
    stable: str | None
    """Revision that answers, or has and may again."""
    serving: str
    """Revision that requests shall go to; beside it a candidate may get a part of them."""
    pods: Mapping[str, int | None]
    """Revisions that shall have pods, and how many. None: as many as there are, for a refused spec changes nothing."""
    candidate: str | None = None
    """Revision that is being released; its part is the release's to say."""
    needed: int | None = None
    """Replicas for the whole traffic; 0: it sleeps. None: for a refused spec, as many as there are."""
    is_fixed: bool = True
    """No load changes how many there are."""
    may_wake: bool = True
    """A request may bring it back from none."""


def aims(spec: InferenceServiceSpec, demand: Mapping[str, Demand]) -> list[Aim]:
    """The service itself first, then its variants. `demand` is that of the arms that scale, as far as it is known."""
    predictors = {"": spec.predictor}
    predictors |= {variant.name: _with_model(spec.predictor, variant.model) for variant in spec.traffic.variants}
    return [Aim(name, predictors[name], need) for name, need in needs(spec, demand).items()]


def _with_model(predictor: Predictor, model: Model) -> Predictor:
    return predictor.model_copy(update={"model": model})


def render(ground: Ground, aim: Aim, config: Config) -> Record | Refusal:
    """The revision that this aim would make today."""
    made = _rendered(ground, aim, config)
    return _of_variant(aim.variant, made) if isinstance(made, Refusal) and aim.variant else made


def _of_variant(variant: str, refusal: Refusal) -> Refusal:
    """Says where in the spec: the rules know a model, and not whose it is."""
    path = f"spec.traffic.variants[{variant}]"
    words = refusal.message.removeprefix("spec.predictor.model")
    same = words == refusal.message
    return Refusal(refusal.reason, f"{path}: {words}" if same else f"{path}.model{words}")


def _rendered(ground: Ground, aim: Aim, config: Config) -> Record | Refusal:
    predictor, service = aim.predictor, ground.name
    runtime = runtimes.choose(predictor.model, ground.observed.runtimes)
    if isinstance(runtime, Refusal):
        return runtime
    if refusal := runtimes.forbidden(predictor.model, runtime):
        return refusal
    image = runtimes.image(runtime.spec.container, predictor.model.runtime_version)
    if isinstance(image, Refusal):
        return image
    placed = placement.place(predictor, runtime.spec.container.resources, config.placement)
    if flaw := options.check(predictor.model, runtime) or accounts.refusal(
        predictor, ground.namespace, config.service_accounts
    ):
        return flaw
    if isinstance(placed, Refusal):
        return placed
    template = resources.pod_template(
        service, placed, runtime.spec.container, image, config.fetcher_image, fetched=config.fetching
    )
    wanted = revision.digest(revision.choice(predictor, aim.variant))
    rendering, follow = revision.digest(template), predictor.runtime_updates == "Follow"
    return Record(
        name=revision.name(service, wanted, rendering, follow=follow),
        number=revision.next_number(ground.records.values()),
        choice=wanted,
        runtime=runtime.title,
        storage_uri=predictor.model.storage_uri,
        template=template,
        variant=aim.variant,
        runtime_reason=runtime.why,
    )


def target(ground: Ground, aim: Aim, fresh: Record | Refusal) -> Record | Refusal:
    """The recorded revision of this choice, or a new one."""
    wanted = revision.digest(revision.choice(aim.predictor, aim.variant))
    known = revision.recorded(ground.records.values(), wanted)
    if isinstance(fresh, Refusal):
        return known or fresh
    if known and (aim.predictor.runtime_updates == "Pinned" or known.rendering == fresh.rendering):
        return known
    return ground.records.get(fresh.name, fresh)


def held(ground: Ground) -> Mapping[str, Record]:
    """What a refused spec leaves running: of every arm the newest revision that has pods."""
    running = ground.deployments.keys() | {ground.status.stable}
    newest: dict[str, Record] = {}
    retired = {known.name for known in ground.status.revisions if known.role == "Previous"}
    for record in sorted(ground.records.values(), key=lambda record: record.number):
        if record.name in running - retired:
            newest[record.variant] = record
    return newest


def settle(ground: Ground, wanted: Record, fresh: Record | None, need: Need | None) -> Arm:
    """An arm whose revisions replace each other without steps. Without a need all stays as it is."""
    stable = pointer(ground, wanted)
    needed = None if need is None else replicas(ground, need, wanted.name, stable)
    known = any(one.variant == wanted.variant for one in ground.status.scaling)
    is_fixed = need.is_fixed if need is not None else not known
    serving = _serving(ground, wanted.name, stable, needed, is_fixed=is_fixed)
    # What has not answered yet is proven to load, whoever sleeps.
    proven = needed if needed is None or wanted.name == stable else max(1, needed)
    return Arm(
        variant=wanted.variant,
        target=wanted,
        fresh=fresh,
        stable=stable,
        serving=serving,
        pods={serving: needed, wanted.name: proven},
        candidate=wanted.name if wanted.name != serving else None,
        needed=needed,
        is_fixed=is_fixed,
        may_wake=need is None or need.may_wake,
    )


def _named(ground: Ground, variant: str) -> str | None:
    """The revision that status says answers for this arm."""
    named = ground.status.stable
    if variant:
        found = (known for known in ground.status.revisions if (known.role, known.variant) == ("Variant", variant))
        named = next((known.name for known in found), None)
    record = ground.records.get(named or "")
    return record.name if record is not None and record.variant == variant else None


def pointer(ground: Ground, wanted: Record) -> str | None:
    """The revision that has answered.

    It stays that whatever befalls its pods: they may come back, and nothing better is there before the target is. But
    pods that are beyond help do not hold the place (the one GPU) that the target's pods wait for.
    """
    named = _named(ground, wanted.variant)
    if named is None:
        records = [record for record in ground.records.values() if record.variant == wanted.variant]
        oldest = min((r for r in records if ground.ready(r.name)), key=lambda r: r.number, default=None)
        return oldest.name if oldest else None
    if ground.ready(named):
        return named
    fault, waiting = ground.fault(named), ground.fault(wanted.name)
    beyond_help = fault is not None and fault.terminal
    in_the_way = beyond_help and waiting is not None and waiting.reason is Reason.UNSCHEDULABLE
    return None if in_the_way else named


def _serving(ground: Ground, wanted: str, stable: str | None, needed: int | None, *, is_fixed: bool) -> str:
    """Promotion flips the pointer when the target has all its replicas ready; earlier only if nobody else answers.

    With a load that grows all is a mark that moves: as many as answer now are enough then.
    """
    enough = ground.replicas_now(wanted) if needed is None else needed
    if not is_fixed:
        enough = max(1, min(enough, ground.ready(stable)))
    if stable is None or ground.is_complete(wanted, enough):
        return wanted
    return wanted if ground.reachable(wanted) and not ground.reachable(stable) else stable
