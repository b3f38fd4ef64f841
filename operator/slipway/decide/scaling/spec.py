"""What a service's spec says of scaling, arm by arm: the service itself, then each of its variants."""

from typing import Any

from slipway.api.scaling import Scaling
from slipway.api.schema import seconds
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide import promql
from slipway.decide.scaling import settings
from slipway.decide.scaling.types import Wanted

PERIOD_MAX_S = 3600.0


def each(spec: InferenceServiceSpec) -> dict[str, Scaling]:
    """Variant (empty: the service itself) -> its scaling: the service's, but for bounds of its own.

    Of a maximum of its own that is less than the service's minimum, it has as many. Schedules are for the service
    itself: how many replicas a share of the requests would need at those times nobody has said.
    """
    shared = spec.scaling
    found = {"": shared}
    for variant in spec.traffic.variants:
        most = variant.max_replicas if variant.max_replicas is not None else shared.max_replicas
        usual = shared.min_replicas if variant.max_replicas is None else min(shared.min_replicas, variant.max_replicas)
        least = variant.min_replicas if variant.min_replicas is not None else usual
        first = min(shared.activation_replicas, most if most is not None else max(least, 1))
        own: dict[str, Any] = {
            "min_replicas": least,
            "max_replicas": most,
            "activation_replicas": first,
            "schedules": [],
        }
        found[variant.name] = shared.model_copy(update=own)
    return found


def wanted(spec: InferenceServiceSpec) -> dict[str, Wanted]:
    """Variant -> what its decision reads, of those whose replicas are not fixed.

    Raises:
        ValueError: as `settings.wanted`.
    """
    deadline_s = seconds(spec.rollout.progress_deadline)
    return {
        variant: settings.wanted(scaling, slots=spec.predictor.container_concurrency, progress_deadline_s=deadline_s)
        for variant, scaling in each(spec).items()
        if not is_fixed(scaling)
    }


def is_fixed(scaling: Scaling) -> bool:
    """Whether nothing is there to be decided: no load and no hour of the day changes the number of replicas."""
    least, most = scaling.min_replicas, scaling.max_replicas
    return least > 0 and (most is None or most == least)


def flaw(spec: InferenceServiceSpec, namespace: str) -> str:
    """What of it cannot be honoured, in a sentence; what a schema can tell has been told before."""
    try:
        for variant, scaling in each(spec).items():
            of = f"variant {variant}: " if variant else ""
            if words := _bounds_flaw(scaling):
                return of + words
        wanted(spec)
    except ValueError as error:
        return str(error).removeprefix("scaling: ")
    asked = spec.scaling.objective.promql
    words = _promql_flaw(asked.query, namespace) if asked is not None else ""
    return f"objective.promql: {words}" if words else ""


def _promql_flaw(query: str, namespace: str) -> str:
    """As of an experiment's metrics, none of the placeholders for revisions but $stable has a meaning here."""
    names = promql.Names(namespace, "service", "stable", "")
    try:
        promql.rewrite(query, names)
    except promql.Unfit as error:
        return str(error)
    return ""


def _bounds_flaw(scaling: Scaling) -> str:
    """Bounds that contradict each other."""
    least, most = scaling.min_replicas, scaling.max_replicas
    if most is not None and least > most:
        return f"minReplicas {least} is more than maxReplicas {most}"
    for way, pace in (("up", scaling.behavior.up), ("down", scaling.behavior.down)):
        if seconds(pace.period) > PERIOD_MAX_S:
            return f"behavior.{way}.period is {pace.period}, must be at most 1h"
    reach = most if most is not None else max(least, 1)
    bound = "maxReplicas" if most is not None else "the replicas there may be without maxReplicas,"
    if scaling.activation_replicas > reach:
        return f"activationReplicas {scaling.activation_replicas} is more than {bound} {reach}"
    for schedule in scaling.schedules:
        if schedule.min_replicas > reach:
            return f"schedule {schedule.name} keeps {schedule.min_replicas} replicas, more than {bound} {reach}"
    return ""
