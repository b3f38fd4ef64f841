"""What a shift of weights is decided from, gathered from what is there: shares, load, replicas. Decides nothing.

The load of the arms together is known from those that have requests by weight; a match or a mirror that leads to an
arm is its own, and stays with it. Of arms with fixed replicas nobody knows the load: they are taken for busy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce

from slipway.api.rollout import Rollout
from slipway.api.routing import Routing
from slipway.api.scaled import ScalingState
from slipway.api.schema import seconds
from slipway.api.traffic import WHOLE
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide import acks, arms
from slipway.decide.arms import Arm
from slipway.decide.ground import Ground
from slipway.decide.scaling import expected, spec
from slipway.decide.scaling.expected import Load
from slipway.decide.scaling.types import Wanted
from slipway.decide.shift import Party, Shift, Terms, step
from slipway.decide.traffic import Wish

_NEW = ScalingState()


def shift(ground: Ground, settled: Sequence[Arm], wish: Wish, found: InferenceServiceSpec | None) -> Shift:
    """What of the weights may be in force now. `found` is the spec, None where it is refused."""
    routing = ground.status.routing
    is_alone = len(settled) == 1 and ground.status.shift is None
    if is_alone or routing is None or not routing.targets:
        return Shift({"": wish.stable, **wish.weights})  # nothing is in force that could be kept, or shared out
    policy = found.rollout if found is not None else Rollout()
    terms = Terms(
        now=ground.now,
        deadline_s=seconds(policy.progress_deadline),
        deadline=policy.progress_deadline,
        is_new=found is not None and ground.status.observed_generation != ground.generation,
        is_served=acks.count(ground.observed, routing.version, written=True).is_complete,
    )
    return step(ground.status.shift, gather(ground, settled, wish, found, routing), terms)


def lingering(ground: Ground, found: InferenceServiceSpec) -> list[Arm]:
    """Variants that the spec has no more, and that answer requests by weight: until others can take these."""
    known = {variant.name for variant in found.traffic.variants}
    targets = ground.status.routing.targets if ground.status.routing is not None else []
    return [
        arms.settle(ground, ground.records[target.revision], None, None)
        for target in targets
        if target.variant
        and target.weight
        and target.variant not in known
        and target.revision in ground.records
        and ground.reachable(target.revision)
    ]


def gather(
    ground: Ground, settled: Sequence[Arm], wish: Wish, found: InferenceServiceSpec | None, routing: Routing
) -> list[Party]:
    """One for each arm; what an arm had that is not there any more is the service's own."""
    shares = _in_force(settled, routing)
    wanted = {"": wish.stable, **wish.weights}
    last = {arm.variant for arm in ground.status.shift.arms} if ground.status.shift is not None else set[str]()
    concerned = {name for name in shares if wanted.get(name, 0) > shares[name]} | last
    bounds = spec.wanted(found) if found is not None and concerned else {}
    whole = _whole(ground, settled, routing, shares) if concerned else None
    return [
        Party(
            variant=arm.variant,
            share=shares[arm.variant],
            wanted=wanted.get(arm.variant, 0),
            ready=_ready(ground, arm, routing),
            needs=partial(_replicas, ground, arm, whole, bounds.get(arm.variant)),
            most=bounds[arm.variant].max_replicas if arm.variant in bounds else None,
            is_fixed=arm.is_fixed or _is_others(ground, arm),
            lacks=ground.lacks(arm.serving),
            fault=fault.message if (fault := ground.fault(arm.serving)) is not None else "",
        )
        for arm in settled
    ]


def _in_force(settled: Sequence[Arm], routing: Routing) -> dict[str, int]:
    found = {arm.variant: 0 for arm in settled}
    for target in routing.targets:
        found[target.variant if target.variant in found else ""] += target.weight
    return found


def _ready(ground: Ground, arm: Arm, routing: Routing) -> int:
    """Replicas that answer. Of two revisions that share out an arm, as many as the shorter one's part allows."""
    own = {target.revision: target.weight for target in routing.targets if target.variant == arm.variant}
    whole = sum(own.values())
    parts = {name: weight for name, weight in own.items() if weight} if whole else {}
    if len(parts) < 2:
        return _answering(ground, arm.serving)
    return min(_answering(ground, name) * whole // weight for name, weight in parts.items())


def _answering(ground: Ground, name: str) -> int:
    return min(ground.ready(name), ground.reachable(name))


@dataclass(frozen=True, slots=True)
class _Whole:
    """The load of all arms together."""

    by_weight: Load | None
    """Requests that weights share out; None: not known."""
    own: Mapping[str, Load]
    """Variant -> what a match or a mirror leads to it besides."""
    fixed: int
    """Replicas for all requests, where those who have them are fixed; 0: not known."""
    decided: float
    """The same by what scaling decided for arms that get no more."""
    answering: ScalingState
    """Of an arm that has learnt what a replica carries."""

    def load(self, variant: str, share: int) -> Load | None:
        """Of an arm, with a share of what weights lead."""
        return expected.added(self.by_weight.part(share), self.own.get(variant, Load())) if self.by_weight else None


def _whole(ground: Ground, settled: Sequence[Arm], routing: Routing, shares: Mapping[str, int]) -> _Whole:
    demand = ground.observed.demand
    loads = {arm.variant: load for arm in settled if (load := _load(ground, arm)) is not None}
    led = {rule.revision for rule in routing.rules} | ({routing.mirror.revision} if routing.mirror else set())
    apart = {target.variant for target in routing.targets if target.revision in led}
    having = {name: load for name, load in loads.items() if shares[name]}
    by_weight = _mean(loads, shares)
    if (free := _mean({name: load for name, load in having.items() if name not in apart}, shares)) and by_weight:
        # What is led to some arms on top makes the first one too large, few requests or a change of shares the second.
        by_weight = expected.least(by_weight, free)
    own = {
        name: expected.beyond(load, by_weight.part(shares[name]))
        for name, load in loads.items()
        if name in apart and by_weight
    }
    fixed = [arm for arm in settled if (arm.is_fixed or _is_others(ground, arm)) and shares[arm.variant]]
    kept = sum(_kept(ground, arm) for arm in fixed)
    carried = sum(shares[arm.variant] for arm in fixed)
    gaining = {one.variant for one in ground.status.shift.arms} if ground.status.shift is not None else set[str]()
    given = [name for name in having if name not in gaining]
    states = [demand[name].state for name in sorted(loads, key=lambda name: -shares[name])]
    return _Whole(
        by_weight=by_weight,
        own=own,
        decided=sum(demand[name].replicas for name in given) * WHOLE / max(1, sum(shares[name] for name in given)),
        fixed=math.ceil(kept * WHOLE / carried) if carried and not having else 0,
        answering=next((state for state in states if state.capacity.windows >= 1), _NEW),
    )


def _load(ground: Ground, arm: Arm) -> Load | None:
    demand = ground.observed.demand.get(arm.variant)
    is_blind = arm.is_fixed or demand is None or _is_others(ground, arm)
    return None if is_blind or demand is None else expected.seen(demand.state)


def _mean(loads: Mapping[str, Load], shares: Mapping[str, int]) -> Load | None:
    """Of all requests, from those of some arms."""
    share = sum(shares[name] for name in loads)
    return reduce(expected.added, loads.values()).part(WHOLE, of=share) if share else None


def _kept(ground: Ground, arm: Arm) -> int:
    return ground.replicas_now(arm.serving) if arm.needed is None or _is_others(ground, arm) else arm.needed


def _is_others(ground: Ground, arm: Arm) -> bool:
    """Whether another autoscaler has it, so that nothing is decided here."""
    return arm.serving in ground.observed.autoscalers


def _replicas(ground: Ground, arm: Arm, whole: _Whole | None, wanted: Wanted | None, share: int) -> int | None:
    """Replicas of an arm that a share takes; 0: nobody asks for it. None: the load is not known."""
    load = whole.load(arm.variant, share) if whole is not None and share else Load()
    if whole is None or (load is not None and load.is_none):
        return 0
    if _is_others(ground, arm):
        return 1  # another autoscaler adds replicas when requests are there, and not before
    if arm.is_fixed or (load is not None and wanted is None):
        return max(1, _kept(ground, arm))  # of a spec that is refused: what was asked for before, and no more
    if load is None or wanted is None:
        return max(1, math.ceil(share * whole.fixed / WHOLE)) if whole.fixed else None
    demand = ground.observed.demand.get(arm.variant)
    own = demand.state if demand is not None else _NEW
    return expected.replicas(load, wanted, own, whole.answering, whole.decided * share / WHOLE)
