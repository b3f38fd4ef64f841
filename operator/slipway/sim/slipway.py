"""Ours behind the interface: the operator's decision, fed from what is seen. Nothing is decided here."""

from typing import TYPE_CHECKING

from slipway.decide.scaling import decide
from slipway.decide.scaling.types import Gateway, Observation, Pods, Reason, Replicas, Wanted
from slipway.sim.policy import Sight

if TYPE_CHECKING:
    from slipway.api.scaled import ScalingState
    from slipway.sim.models import ServiceModel
    from slipway.sim.world import Terms

EVERY_S = 2
EPOCH = 1.7e9
"""Wall time at which traces begin."""


def wanted(model: "ServiceModel", terms: "Terms") -> Wanted:
    """What a user would write: the objective, the bounds, and the slots of the server. No knob."""
    return Wanted(
        min_replicas=terms.least,
        max_replicas=terms.most,
        latency_s=model.latency_s,
        queue_s=model.wait_s,
        slots=model.slots,
    )


class Slipway:
    """Every two seconds; in between it stays."""

    def __init__(self, model: "ServiceModel", terms: "Terms") -> None:
        self._wanted = wanted(model, terms)
        self.state: ScalingState | None = None
        self.reasons: tuple[Reason, ...] = ()
        self._number = 0

    def decide(self, seen: Sight) -> int:
        self._number += 1
        if self._number % EVERY_S:
            return seen.asked
        self.state, replicas, self.reasons = decide(self.state, self.observed(seen), EPOCH + seen.now)
        return replicas

    def observed(self, seen: Sight) -> Observation:
        """What the operator would see."""
        gateway = Gateway(
            age_s=1.0,
            arrived=seen.arrived,
            in_flight=seen.in_flight,
            queued=seen.queued,
            judged=seen.judged,
            late=seen.late,
        )
        return Observation(
            wanted=self._wanted,
            replicas=Replicas(
                asked=seen.asked,
                ready=seen.ready,
                loading=seen.loading,
                failed=seen.failed,
                missing=seen.missing,
                launches=tuple(one._replace(ready_at=one.ready_at + EPOCH) for one in seen.launches),
            ),
            gateway=gateway,
            pods=_pods(seen),
        )


def _pods(seen: Sight) -> Pods | None:
    if seen.metrics in {"empty", "error"}:
        return None
    return Pods(
        age_s=60.0 if seen.metrics == "stale" else 1.0,
        coverage=0.4 if seen.metrics == "half" else 1.0,
        answered=seen.answered,
        busy_s=seen.busy_s,
        running=seen.running,
        queued=0.0,
        tail=seen.tail,
    )
