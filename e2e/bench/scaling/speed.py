"""How long one decision takes: the very ones that a replay made, again, on one core."""

import statistics
import time
from dataclasses import dataclass

from slipway.api.scaled import ScalingState, size_bytes
from slipway.decide.scaling import decide
from slipway.decide.scaling.types import Observation
from slipway.sim import slipway as ours
from slipway.sim import traces
from slipway.sim.policy import Sight
from slipway.sim.world import Terms, replay

ROUNDS = 7
EVERY = 5


@dataclass(slots=True)
class _Recorded:
    """Ours, and what it was asked."""

    inner: ours.Slipway
    asked: list[tuple[ScalingState | None, Observation, float]]

    def decide(self, seen: Sight) -> int:
        before = self.inner.state
        replicas = self.inner.decide(seen)
        if self.inner.state is not before:
            self.asked.append((before, self.inner.observed(seen), ours.EPOCH + seen.now))
        return replicas


def measure() -> dict[str, float | None]:
    """Microseconds per decision, best of some rounds: what else runs on the machine only ever adds."""
    trace, terms = traces.on_off(0), Terms(lead_s=45.0)
    recorded = _Recorded(ours.Slipway(trace.model, terms), [])
    replay(trace, recorded, terms)
    asked = recorded.asked[::EVERY]
    rounds: list[float] = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for state, seen, now in asked:
            decide(state, seen, now)
        rounds.append((time.process_time() - begin) / len(asked))
    once = min(rounds)
    return {
        "decide_us": once * 1e6,
        "decisions_per_s": 1 / once,
        "decide_median_us": statistics.median(rounds) * 1e6,
        "state_bytes": float(max(size_bytes(state) for state, _, _ in asked if state)),
    }
