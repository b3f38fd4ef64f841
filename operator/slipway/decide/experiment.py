"""What an A/B experiment has found out, from one look to the next. Reports; never changes a weight.

    window of all arms ── fold ──> memory ── report ──> intervals, gains, leader ──> status.experiment

Time is cut into stretches. A stretch ends when it is long enough and every arm had requests in it; status is written
then, and only then: memory, report and what a restart goes on from are one write.

Who leads is decided by differences from stable within the same stretches, so that a bad hour that all arms share, or
weights that change with the time of day, favour nobody. `gain` is that difference, better is more: of the share of
failed requests, of the share of requests slower than stable's quantile was at first, or of a metric. Its intervals hold
for all variants together at every look (alpha 1 %), whatever the noise within a stretch. Shares and quantiles of one
arm have intervals of 95 %, widened by how much more they vary from stretch to stretch than chance would have them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from slipway.api.experiment import BUILT_IN, CONTROL, Experiment
from slipway.api.schema import timestamp
from slipway.api.standing import ArmMemory, ExperimentArm, ExperimentStatus, Memory
from slipway.api.traffic import Traffic, weight
from slipway.decide import promql, standing
from slipway.decide.buckets import RANKS, bucket_of, edge_of, packed, slower, unpacked
from slipway.decide.means import Mean, rounded
from slipway.decide.release import Reading, Sample, Window

BLOCK_S = 60.0
_AGE_PER_BLOCK, _BLOCK_MAX_S = 30.0, 3600.0
"""A stretch lasts a sixtieth of the experiment's age: numbers are that fresh, and a day of them is 250 writes."""
_READING_S = 60.0
"""An older number of a metric is not this stretch's."""
_LOOK_S = 30.0
"""Metrics are asked for as long as somebody looks this often."""
_ENOUGH, _PATIENCE = 5, 10.0
"""A stretch waits for so many requests of every arm, so many times its length at most."""

Readings = Mapping[tuple[str, str], Reading]
"""Metric and revision -> what Prometheus last gave."""


@dataclass(frozen=True, slots=True)
class Next:
    status: ExperimentStatus
    """The one before, if there is nothing to write."""
    is_folded: bool
    """Whether the window is in it, and is to be closed when it is written."""
    look_s: float
    """When to look again."""


def flaw(traffic: Traffic, namespace: str) -> str:
    """Why an experiment cannot be honoured, in a sentence."""
    return next(_flaws(traffic, traffic.experiment, namespace), "") if traffic.experiment else ""


def _flaws(traffic: Traffic, policy: Experiment, namespace: str) -> Iterator[str]:
    names = [metric.name for metric in policy.metrics]
    if not traffic.variants:
        yield "an experiment needs variants to compare"
    if any(variant.name == CONTROL for variant in traffic.variants):
        yield f"an experiment calls what it compares with {CONTROL}; give the variant of that name another"
    for taken in sorted({*names} & {*BUILT_IN}):
        yield f"experiment.metrics: {taken} is measured anyway; choose another name"
    if len({*names}) < len(names):
        yield "experiment.metrics: a name is there twice"
    if policy.objective not in (*BUILT_IN, *names):
        yield f"experiment.objective {policy.objective} is none of {', '.join((*BUILT_IN, *names))}"
    try:
        weight(policy.min_effect)
    except ValueError as error:
        yield f"experiment.minEffect {error}"
    for metric in policy.metrics:
        if words := promql.flaw(metric.promql, namespace, of_each=True):
            yield f"experiment.metrics: {metric.name}: {words}"


def advance(
    last: ExperimentStatus | None,
    policy: Experiment,
    arms: Mapping[str, str],
    window: Window | None,
    *,
    readings: Readings,
    now: datetime,
) -> Next:
    """`arms`: stable and the variants -> the revisions that answer for them."""
    ordered = {name: arms[name] for name in sorted(arms, key=lambda name: (name != CONTROL, name))}
    if last is None or not _is_of(last, policy, ordered):
        return Next(_begun(policy, ordered, now), window is not None, BLOCK_S)
    age_s = (now - datetime.fromisoformat(last.since)).total_seconds()
    length_s = min(_BLOCK_MAX_S, max(BLOCK_S, age_s / _AGE_PER_BLOCK))
    if window is None or not _is_complete(window, ordered, length_s):
        left_s = length_s - window.seconds if window else length_s
        wait_s = left_s if left_s > 0 else BLOCK_S
        return Next(last, False, min(wait_s, _LOOK_S) if policy.metrics else wait_s)
    memory = fold(last, policy, window, readings)
    return Next(standing.report(last, policy, memory, window.samples), True, _LOOK_S if policy.metrics else length_s)


def _is_of(last: ExperimentStatus, policy: Experiment, arms: Mapping[str, str]) -> bool:
    """Whether what is known is about these revisions; what cannot be read is about none."""
    known = {arm.name: arm.revision for arm in last.arms}
    return (
        list(known.items()) == list(arms.items())
        and len(last.memory.arms) == len(last.arms)
        and last.objective == policy.objective
    )


def _begun(policy: Experiment, arms: Mapping[str, str], now: datetime) -> ExperimentStatus:
    return ExperimentStatus(
        since=timestamp(now),
        objective=policy.objective,
        message=standing.TOO_EARLY,
        arms=[ExperimentArm(name=name, revision=revision) for name, revision in arms.items()],
        memory=Memory(arms=[ArmMemory() for _ in arms]),
    )


def _is_complete(window: Window, arms: Mapping[str, str], length_s: float) -> bool:
    had = [window.samples.get(revision, Sample()).requests for revision in arms.values()]
    is_patient = window.seconds < _PATIENCE * length_s
    return window.seconds >= length_s and any(had) and (min(had) >= _ENOUGH or not is_patient)


def fold(last: ExperimentStatus, policy: Experiment, window: Window, readings: Readings) -> Memory:
    """Memory with one more stretch of time in it."""
    samples = [window.samples.get(arm.revision, Sample()) for arm in last.arms]
    edge_ms = last.memory.edge_ms or _edge(policy, samples[0])
    values = [_values(arm.revision, policy, readings) for arm in last.arms]
    return Memory(
        edge_ms=edge_ms,
        arms=[
            ArmMemory(
                blocks=before.blocks + (sample.requests > 0),
                latency=packed(_sum(unpacked(before.latency), sample.latency)),
                spread=_spread(before, sample),
                gain=_gain(before, policy, edge_ms, (sample, samples[0]), (own, values[0])) if place else None,
                metrics=_metrics(before.metrics or {}, own) or None,
            )
            for place, (before, sample, own) in enumerate(zip(last.memory.arms, samples, values, strict=True))
        ],
    )


def _edge(policy: Experiment, stable: Sample) -> float:
    """The edge nearest to stable's quantile; 0: not known yet, or not needed."""
    rank = RANKS.get(policy.objective)
    if rank is None or not any(stable.latency):
        return 0
    return edge_of(stable.latency, rank)


def _values(revision: str, policy: Experiment, readings: Readings) -> dict[str, float]:
    found = ((metric.name, readings.get((metric.name, revision), Reading(None))) for metric in policy.metrics)
    return {name: each.value for name, each in found if each.value is not None and each.age_s <= _READING_S}


def _metrics(before: Mapping[str, list[float]], own: Mapping[str, float]) -> dict[str, list[float]]:
    new = {name: Mean.of(before.get(name, [])).plus(value, 1).listed() for name, value in own.items()}
    return {**before, **new}


def _spread(before: ArmMemory, sample: Sample) -> list[float]:
    """Sums of squares: of errors, and of those beyond the quantiles as they were known before this stretch."""
    errors, *beyond = before.spread or [0.0] * (1 + len(RANKS))
    if sample.requests:
        errors += sample.errors**2 / sample.requests
    known, here = unpacked(before.latency), sum(sample.latency)
    if any(known) and here:
        for place, rank in enumerate(RANKS.values()):
            bucket = bucket_of(known, rank)
            share = (sum(known[bucket + 1 :]) + 0.5) / (sum(known) + 1)
            variance = here * share * (1 - share) * (1 + here / sum(known))
            beyond[place] += (sum(sample.latency[bucket + 1 :]) - here * share) ** 2 / variance
    return [rounded(number, 5) for number in (errors, *beyond)]


def _gain(
    before: ArmMemory,
    policy: Experiment,
    edge_ms: float,
    samples: tuple[Sample, Sample],
    values: tuple[Mapping[str, float], Mapping[str, float]],
) -> list[float]:
    """Of a variant over stable, the second of each pair, in one more stretch."""
    known = Mean.of(before.gain or [])
    metric = next((metric for metric in policy.metrics if metric.name == policy.objective), None)
    if metric is not None:
        own, other = (value.get(metric.name) for value in values)
        if own is None or other is None:
            return known.listed()
        return known.plus(own - other if metric.goal == "Higher" else other - own, 1).listed()
    (hits, total), (other_hits, other_total) = (_bad(policy, edge_ms, sample) for sample in samples)
    if not total or not other_total:
        return known.listed()
    return known.plus(other_hits / other_total - hits / total, 1 / (1 / total + 1 / other_total)).listed()


def _bad(policy: Experiment, edge_ms: float, sample: Sample) -> tuple[int, int]:
    """How many requests the objective counts against a revision, and of how many."""
    if policy.objective not in RANKS:
        return sample.errors, sample.requests
    return slower(sample.latency, edge_ms), sum(sample.latency) if edge_ms else 0


def _sum(known: Sequence[int], new: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(known, new, strict=True)] if new else list(known)
