"""What scaling asks of one arm of a service: the answer of `decide.scaling.decide`, as the plan reads it."""

from dataclasses import dataclass

from slipway.api.scaled import ScalingState
from slipway.decide.scaling.types import Code, Reason


@dataclass(frozen=True, slots=True)
class Demand:
    """Replicas that the whole traffic of an arm needs; a release shares them out by `decide.capacity`."""

    revision: str
    """The serving revision that it was decided for."""
    replicas: int
    reasons: tuple[Reason, ...]
    """Why, the weightiest first; `reasons[0].note` is the sentence for people."""
    state: ScalingState
    loading: tuple[float, ...] = ()
    """Seconds until each replica on its way is ready, as far as is known, the soonest first."""

    @property
    def code(self) -> Code:
        return self.reasons[0].code

    @property
    def is_barred(self) -> bool:
        """Asleep, and no further try to wake it for a while: requests are not held."""
        return self.code is Code.ACTIVATION_FAILED
