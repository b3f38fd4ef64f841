"""`spec.scaling` compiled into what a decision reads. Called once per generation of the object."""

from collections.abc import Mapping

from slipway.api.scaling import Pace, Percentiles, Scaling
from slipway.api.schema import seconds
from slipway.decide.scaling.schedules import compiled
from slipway.decide.scaling.types import Pacing, Wanted

SHARES: Mapping[str, float] = {"p99": 0.99, "p95": 0.95, "p90": 0.9, "p50": 0.5}


def wanted(scaling: Scaling, *, slots: int = 0, progress_deadline_s: float = 600.0) -> Wanted:
    """Raises ValueError with a sentence for the user: a bad duration, time zone or cron field, or min above max."""
    objective = scaling.objective
    least = scaling.min_replicas
    most = scaling.max_replicas if scaling.max_replicas is not None else max(least, 1)
    if least > most:
        raise ValueError(f"scaling: minReplicas {least} is more than maxReplicas {most}")
    # The strictest percentile named is the one that replicas are counted for.
    latency, queue = _strictest(objective.latency), _strictest(objective.queue_time)
    return Wanted(
        min_replicas=least,
        max_replicas=most,
        share_in_time=max((share for share, _ in filter(None, (latency, queue))), default=0.99),
        latency_s=latency[1] if latency else None,
        queue_s=queue[1] if queue else None,
        concurrency=objective.concurrency,
        requests_per_second=objective.requests_per_second,
        promql_target=objective.promql.target if objective.promql else None,
        slots=slots,
        idle_after_s=None if scaling.idle_after is None else seconds(scaling.idle_after),
        activation_replicas=min(scaling.activation_replicas, most),
        windows=tuple(map(compiled, scaling.schedules)),
        up=_pacing(scaling.behavior.up),
        down=_pacing(scaling.behavior.down),
        holds_up=scaling.paused in {"Up", "Both"},
        holds_down=scaling.paused in {"Down", "Both"},
        progress_deadline_s=progress_deadline_s,
    )


def _strictest(percentiles: Percentiles | None) -> tuple[float, float] | None:
    if percentiles is None:
        return None
    for name, share in SHARES.items():
        if (value := getattr(percentiles, name)) is not None:
            return share, seconds(value)
    return None


def _pacing(pace: Pace) -> Pacing:
    step = pace.replicas
    percent = int(step.removesuffix("%")) if isinstance(step, str) else None
    return Pacing(
        replicas=step if isinstance(step, int) else None,
        percent=percent,
        period_s=seconds(pace.period),
        delay_s=seconds(pace.delay),
    )
