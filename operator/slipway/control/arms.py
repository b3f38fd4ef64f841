"""What is remembered of one arm that scales, between looks at it, and what of a new decision is news. No I/O."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from slipway.api.conditions import Type
from slipway.api.manifest import Manifest
from slipway.api.scaled import ScalingState, restored
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.control.workqueue import Lane
from slipway.decide.demand import Demand
from slipway.decide.scaling import capacity, seen, spec
from slipway.decide.scaling.look import GAP_S
from slipway.decide.scaling.types import Code, Launch, Wanted

_ATTAINED_S, _ATTAINED_PART_S = 300.0, 30.0
_USUAL = frozenset(
    {Code.OBJECTIVE, Code.BACKLOG, Code.RECURRENCE, Code.HELD, Code.STEADY, Code.FEWER, Code.BOUND, Code.PACED}
)
"""Among these there is no news but in the number."""
_NEW = ScalingState()


@dataclass(slots=True)
class Scaled:
    """One arm, as it was last looked at."""

    variant: str
    wanted: Wanted
    revision: str = ""
    state: ScalingState | None = None
    demand: Demand | None = None
    desired: int = 0
    """As status had it when this process began."""
    ready: int = 0
    loading: int = 0
    ages: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Pod -> when it was first seen, and its age then: a clock that is set anew makes none older."""
    aged: float | None = None
    """When that was looked at last."""
    launched: dict[str, Launch | None] = field(default_factory=dict)
    """Pods that have been ready."""
    is_at_rest: bool = False
    origin: str | None = None
    """Epoch of the sum that counting began from."""
    arrived: float = 0.0
    grown: Mapping[str, float] = field(default_factory=dict)
    """What of it was counted by this process, as of the last look."""
    pods: tuple[str, str] | None = None
    """Revision whose pods are asked."""
    attained: list[tuple[float, float, float]] = field(default_factory=list)
    """When, judged and late until then, of the last minutes."""

    @property
    def carries(self) -> capacity.Carries:
        return capacity.carries((self.state or _NEW).capacity, self.wanted, None)

    def share_in_time(self) -> float | None:
        """Of the requests judged in the last minutes; None: none was."""
        if not self.attained:
            return None
        judged = self.attained[-1][1] - self.attained[0][1]
        return 1 - (self.attained[-1][2] - self.attained[0][2]) / judged if judged > 0 else None


def remembered(status: Manifest, variant: str, wanted: Wanted) -> Scaled:
    """As status has it of the process before. Nothing goes down until this one has seen enough by itself."""
    entries: list[Manifest] = status.get("scaling") or []
    entry: Manifest = next((one for one in entries if one.get("variant", "") == variant), {})
    state = restored(entry.get("state"))
    if state is not None:
        # What gateways have not told this process yet looks like no load; at most so much later it takes over.
        state = state.changed(whole_since=state.clock + GAP_S)
    return Scaled(
        variant,
        wanted,
        revision=entry.get("revision", ""),
        state=state,
        desired=int(entry.get("desired", 0)),
    )


def accepted(service: Manifest) -> tuple[int, bool] | None:
    """The generation that status is about, and whether it was accepted; None while it is not the present one."""
    status, generation = service.get("status") or {}, int(service["metadata"]["generation"])
    conditions: list[Manifest] = status.get("conditions") or []
    found = next((one for one in conditions if one["type"] == Type.ACCEPTED), None)
    if found is None or status.get("observedGeneration") != generation:
        return None
    return generation, found["status"] == "True"


def wanted(service: Manifest) -> tuple[Mapping[str, Wanted], str] | None:
    """What an accepted spec asks for and its PromQL; None where it cannot be read."""
    try:
        found = InferenceServiceSpec.model_validate(service.get("spec") or {})
        objective = found.scaling.objective.promql
        return spec.wanted(found), objective.query if objective else ""
    except (ValidationError, ValueError):
        return None


def fallback(service: Manifest) -> Mapping[str, Wanted]:
    """Where a spec is refused and nobody knows what was wanted before: what is asleep can be woken, and no more."""
    entries: list[Manifest] = (service.get("status") or {}).get("scaling") or []
    return {
        entry.get("variant", ""): Wanted(
            min_replicas=0, max_replicas=max(1, int(entry.get("desired", 0))), queue_s=1.0, holds_down=True
        )
        for entry in entries
    }


def follow(scaled: Scaled, serving: str) -> None:
    """Another revision may answer now: it begins with what the one before has learnt, less some."""
    if scaled.revision == serving:
        return
    if scaled.revision and scaled.state is not None:
        # Whether its server tells of itself is not known: that the other did is no ground to wait for its word.
        scaled.state = scaled.state.changed(
            capacity=capacity.handed_down(scaled.state.capacity), trust=scaled.state.trust.changed(knows_pods=False)
        )
    scaled.revision, scaled.ages, scaled.aged, scaled.launched = serving, {}, None, {}


def count(scaled: Scaled, load: seen.Load) -> seen.Load:
    """The arrivals as this process goes on to count them, from where it found the sum of all that gateways have."""
    if load.age_s == math.inf:
        return load
    if scaled.origin is None:
        scaled.origin, scaled.arrived = load.epoch, load.arrived
    else:
        scaled.arrived += sum(max(0.0, now - scaled.grown.get(name, 0.0)) for name, now in load.grown.items())
    scaled.grown = load.grown
    return replace(load, epoch=scaled.origin, arrived=scaled.arrived)


def asked(scaled: Scaled, arm: seen.Arm, deployed: int, *, is_foreign: bool) -> int:
    """What was asked for last: the Deployment may be behind, or somebody's hand may have been on it."""
    if is_foreign or not is_proven(scaled):  # before it ever answered the plan has a replica try, whatever is decided
        return deployed
    if scaled.demand is not None and scaled.demand.code is not Code.CONFLICT:
        return scaled.demand.replicas
    return max(deployed, scaled.desired) if arm.is_shifting else deployed


def launched(scaled: Scaled) -> Mapping[str, Launch | None]:
    """Pods that have been ready. One that took longer than it may fell and came back: that is no launch."""
    longest = scaled.wanted.progress_deadline_s
    return {uid: one if one is not None and sum(one[1:]) <= longest else None for uid, one in scaled.launched.items()}


def is_proven(scaled: Scaled) -> bool:
    """Whether its model was ever seen to load: before that it does not go to sleep."""
    return bool(scaled.launched) or (scaled.state is not None and bool(scaled.state.lead.launches))


def is_quiet(scaled: Scaled, load: seen.Load | None) -> bool:
    """Whether nothing comes, no sleep is near, and nothing but requests can change that."""
    before, wanted = scaled.state, scaled.wanted
    if before is None or load is None or wanted.promql_target is not None or (scaled.ready and not wanted.min_replicas):
        return False
    return load.active == 0 and load.held == 0 and load.arrived == before.counted.arrived


def limit_ms(scaled: Scaled) -> float | None:
    """From when on an answer is late; None while that cannot be said."""
    wanted, carries = scaled.wanted, scaled.carries
    limits = [] if wanted.latency_s is None else [wanted.latency_s]
    if wanted.queue_s is not None and carries.service_s > 0:
        known = (scaled.state or _NEW).capacity
        limits.append(wanted.queue_s + (known.tail or capacity.TAIL_PRIOR) * carries.service_s)
    return 1000 * min(limits) if limits else None


def attain(scaled: Scaled, load: seen.Load | None, now: float) -> None:
    """Note how many were judged, and late, for the share of the last minutes."""
    if load is None:
        return
    kept = [one for one in scaled.attained if now - one[0] <= _ATTAINED_S]
    if len(kept) > 1 and now - kept[-2][0] < _ATTAINED_PART_S:
        kept.pop()
    scaled.attained = [*kept, (now, load.judged, load.late)]


def lane(before: Demand | None, now: Demand | None) -> Lane | None:
    """Whether what was decided is news, and who waits for it."""
    if now is None or (before is not None and _kind(before) == _kind(now)):
        return None
    grew = now.replicas > (before.replicas if before is not None else now.replicas)
    return Lane.CHANGE if grew or now.code is Code.WAKING else Lane.NEWS


def _kind(demand: Demand) -> tuple[str, int, str]:
    return demand.revision, demand.replicas, "" if demand.code in _USUAL else demand.code
