"""Where a release stops on its way: the steps of a Canary, the look of a BlueGreen; and where when they change."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from slipway.api.progress import RolloutStatus
from slipway.api.rollout import Rollout
from slipway.api.schema import seconds
from slipway.api.traffic import WHOLE, weight

ALL_COMMANDED = "promote-all"
"""In place of the hash of the steps: somebody said to pass them all, however they are edited."""


@dataclass(frozen=True, slots=True)
class Stop:
    weight: int
    """The candidate's share, out of 10 000, of what stable would get."""
    mirror: int = 0
    hold_s: float = 0
    is_gate: bool = False
    is_preview: bool = False
    """The candidate answers at an address of its own, and needs the pods for everything that comes next."""

    def __str__(self) -> str:
        if self.is_preview:
            return "preview"
        return f"mirror {percent(self.mirror)}" if self.mirror else percent(self.weight)


LAST = Stop(WHOLE)
"""Behind all steps."""


def stops(policy: Rollout) -> tuple[Stop, ...]:
    match policy.strategy:
        case "None":
            return ()
        case "BlueGreen":
            return (Stop(0, 0, seconds(policy.preview.hold), policy.preview.gate, is_preview=True),)
        case "Canary":
            return tuple(
                Stop(weight(step.weight or 0), weight(step.mirror or 0), seconds(step.hold), step.gate)
                for step in policy.steps
            )


@lru_cache(maxsize=256)
def digest(way: tuple[Stop, ...]) -> str:
    """Tells that steps were edited."""
    text = json.dumps([asdict(stop) for stop in way], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def nearest(way: Sequence[Stop], state: RolloutStatus) -> int:
    """Where a release goes on when steps were edited: the largest one that gives the candidate no more than it has.

    Example:
        At 25 %, edited to 10, 30, 60 %: on with the step of 10 %.
    """
    here = (state.weight, state.mirror)
    same = [index for index, stop in enumerate(way) if (stop.weight, stop.mirror) == here]
    if same:
        return state.step if state.step in same else same[0]
    below = [(stop.weight, -index) for index, stop in enumerate(way) if stop.weight <= state.weight]
    return -max(below)[1] if below else 0


def percent(share: int) -> str:
    """`500` -> `5%`, `3333` -> `33.33%`."""
    return f"{share / 100:g}%"
