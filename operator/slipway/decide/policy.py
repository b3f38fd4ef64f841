"""What of `spec.rollout` cannot be honoured, in a sentence. What a schema can tell has been told before."""

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter

from pydantic.alias_generators import to_camel

from slipway.api.rollout import Analysis, LatencyLimit, Metric, Rollout, Step
from slipway.api.schema import seconds
from slipway.api.traffic import weight
from slipway.decide import promql

BUILT_IN = ("p50", "p90", "p95", "p99", "rejected", "restarts")
"""Names in verdicts that no metric of a spec may have."""

_IDLE = {
    "Canary": ("preview",),
    "BlueGreen": ("steps", "analysis.on_no_data", "analysis.no_data_after"),
    "None": ("steps", "preview", "analysis", "progress_deadline", "capacity"),
}
"""Strategy -> what it does not look at."""
_DEFAULTS = Rollout()
_HOW = {
    "steps": "take them out, or choose strategy: Canary",
    "preview": "take it out, or choose strategy: BlueGreen",
    "analysis": "nothing is judged then; take it out, or choose strategy: Canary",
    "progress_deadline": "a revision waits as long as it takes; take it out, or choose strategy: Canary",
    "capacity": "take it out, or choose strategy: Canary",
    "analysis.on_no_data": "a preview waits for no requests; take it out, or choose strategy: Canary",
    "analysis.no_data_after": "a preview waits for no requests; take it out, or choose strategy: Canary",
}
"""What to do about it."""


def flaw(rollout: Rollout, namespace: str, *, copies: bool) -> str:
    """`copies`: whether `spec.traffic` copies requests already."""
    try:
        return next(filter(None, _flaws(rollout, namespace, copies=copies)), "")
    except ValueError as error:
        return str(error)


def _flaws(rollout: Rollout, namespace: str, *, copies: bool) -> Iterator[str]:
    """Raises ValueError where a share or a duration is none."""
    if rollout.strategy == "Canary":
        yield _steps_flaw(rollout.steps, copies=copies)
    yield _idle_flaw(rollout)
    for text in (rollout.preview.hold, rollout.scale_down_delay, rollout.analysis.no_data_after):
        seconds(text)
    if seconds(rollout.progress_deadline) <= 0:
        yield "progressDeadline must be longer than 0s, or every candidate would go at once"
    yield from _analysis_flaws(rollout.analysis, namespace)


def _idle_flaw(rollout: Rollout) -> str:
    """Somebody counts on a field that does nothing. Defaults are no sign of that: every stored object has them."""
    for path in _IDLE[rollout.strategy]:
        value = attrgetter(path)(rollout)
        if value != attrgetter(path)(_DEFAULTS) and value != []:
            field = ".".join(to_camel(name) for name in path.split("."))
            return f"{field} has no effect with strategy: {rollout.strategy}; {_HOW[path]}"
    return ""


def _steps_flaw(steps: Sequence[Step], *, copies: bool) -> str:
    if not steps:
        return "a Canary needs a step at least; strategy: None replaces a revision at once when the new one is ready"
    largest = 0
    for number, step in enumerate(steps):
        seconds(step.hold)
        name = "weight" if step.weight is not None else "mirror"
        amount = weight(step.weight if step.weight is not None else step.mirror or 0)
        if not amount:
            return f"steps[{number}].{name} is 0%, so there would be nothing to judge; take the step out"
        if name == "mirror" and largest:
            return f"steps[{number}].mirror: copies come before the first weight; put this step first"
        if name == "mirror" and copies:
            return f"steps[{number}].mirror: spec.traffic.mirror copies requests already; take one of the two out"
        if name == "weight" and amount < largest:
            return f"steps[{number}].weight is {amount / 100:g}%, less than the {largest / 100:g}% of the step before"
        largest = amount if name == "weight" else 0
    return ""


def _analysis_flaws(analysis: Analysis, namespace: str) -> Iterator[str]:
    for limit in (analysis.error_rate, analysis.rejected):
        if limit.max is not None:
            weight(limit.max)
    if 0 < analysis.rejected.max_ratio_to_stable < 1:
        yield "analysis.rejected.maxRatioToStable must be 0, which compares nothing, or at least 1"
    for name in ("p50", "p90", "p95", "p99"):
        slow: LatencyLimit | None = getattr(analysis.latency, name)
        if slow is not None and slow.max is not None and seconds(slow.max) <= 0:
            yield f"analysis.latency.{name}.max must be longer than 0s"
    names = Counter(metric.name for metric in analysis.metrics)
    if twice := [name for name, count in names.items() if count > 1]:
        yield f"analysis.metrics: {twice[0]} is there twice"
    for metric in analysis.metrics:
        yield _metric_flaw(metric, namespace)


def _metric_flaw(metric: Metric, namespace: str) -> str:
    seconds(metric.for_)
    if metric.name in BUILT_IN:
        return f"analysis.metrics: {metric.name} is the name of something that is always measured; choose another"
    if metric.min is not None and metric.max is not None and metric.min > metric.max:
        return f"analysis.metrics: {metric.name} can never pass: its min is {metric.min:g} and its max {metric.max:g}"
    words = promql.flaw(metric.promql, namespace)
    return f"analysis.metrics: promql of {metric.name}: {words}" if words else ""
