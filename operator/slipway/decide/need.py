"""How many replicas the whole traffic of one arm needs: what scaling decided, within the bounds of the spec.

A release shares them out (`capacity.py`), so that the total never follows from the number of revisions. As long as
nothing is decided replicas stay as they are: an operator that has just started takes nothing away.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slipway.api.scaling import Scaling
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide.demand import Demand
from slipway.decide.ground import Ground
from slipway.decide.scaling import spec as scaling
from slipway.decide.scaling.types import Code

_ANY = 2**31 - 1
"""As many replicas as a Deployment may have at all."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is known of it before anybody looks at pods."""

    variant: str
    """Empty: the service itself."""
    least: int
    most: int
    decided: int | None = None
    """Within these bounds; None: nothing is decided yet, or it is not for us to decide."""
    decided_for: str = ""
    """The serving revision at that time."""
    is_fixed: bool = False
    """Nothing but the spec changes it."""
    is_barred: bool = False
    """It failed to become ready, and is not tried for a while."""
    may_wake: bool = True
    """A request may bring it back; not while its owner says that nothing is to grow."""


def needs(spec: InferenceServiceSpec, demand: Mapping[str, Demand]) -> dict[str, Need]:
    """Variant -> its need; the service itself first."""
    return {name: _need(name, own, demand.get(name)) for name, own in scaling.each(spec).items()}


def as_decided(variant: str, demand: Demand | None) -> Need | None:
    """The same for a spec that is refused, whose bounds count for nothing; None: replicas are left as they are."""
    if demand is None or demand.code is Code.CONFLICT:
        return None
    return Need(variant, 0, _ANY, demand.replicas, demand.revision)


def _need(variant: str, own: Scaling, demand: Demand | None) -> Need:
    least = own.min_replicas
    most = max(own.max_replicas if own.max_replicas is not None else least, 1)
    if scaling.is_fixed(own):
        return Need(variant, least, most, least, is_fixed=True)
    may_wake = own.paused not in {"Up", "Both"}
    if demand is None:
        return Need(variant, least, most, may_wake=may_wake)
    if demand.code is Code.CONFLICT:  # whatever the other autoscaler says goes
        return Need(variant, 0, _ANY)
    decided = max(least, min(most, demand.replicas))
    return Need(variant, least, most, decided, demand.revision, is_barred=demand.is_barred, may_wake=may_wake)


def replicas(ground: Ground, need: Need, wanted: str, stable: str | None) -> int:
    """Replicas for all of it; 0: it sleeps. `wanted` is the revision the spec asks for, `stable` the one that answers.

    What was decided for another revision takes none of this one's away: one that has just become the serving one is
    looked at first.
    """
    if need.is_fixed and need.decided is not None:
        return need.decided
    if stable is None:  # proven to load before it may sleep, unless it has failed to
        return max(0 if need.is_barred else 1, need.least, need.decided or 0)
    now = max(need.least, min(need.most, ground.replicas_now(stable)))
    if need.decided is not None:
        return need.decided if need.decided_for == stable else max(need.decided, now)
    if wanted == stable:
        return now
    # A release may have borrowed some of them, and gives them back.
    last = next((one.desired for one in ground.status.scaling if one.variant == need.variant), 0)
    return max(now, min(need.most, last))
