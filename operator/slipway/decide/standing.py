"""The report of an A/B experiment, made from its memory: intervals, gains, and whether one of the arms leads.

An arm leads when it is better than every other by more than `minEffect`: a variant when its gain's interval lies above
that and above the others', stable when all variants' lie below. Who has led leads on until another does: with alpha the
numbers never allow a wrong one at any time, so what they allowed once they allowed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from slipway.api.experiment import CONTROL, Experiment
from slipway.api.standing import ArmMemory, ExperimentArm, ExperimentStatus, Memory
from slipway.api.traffic import weight
from slipway.decide.buckets import RANKS, slower, unpacked
from slipway.decide.intervals import BLOCKS_MIN, odds, quantile, reach, share, spread, unlike
from slipway.decide.means import Mean, rounded
from slipway.decide.release import EDGES_MS, Sample

ALPHA, _SHOWN_ALPHA = 0.01, 0.05
TOO_EARLY = "no leader yet: numbers come with the first stretches of time"
_SHOWN_BLOCKS = 5
"""On fewer stretches it is not known how much more than by chance they vary."""
_EVIDENCE_MAX, _NEEDED_MAX = 1e9, 10**12
_TOLD = 3
"""Variants in a message, the best first."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better than stable one variant is."""

    name: str
    mean: Mean
    least: float
    """Variance that chance alone makes."""
    value: float
    low: float
    high: float

    scale: float = 1.0
    """From share to points, in words."""

    def __str__(self) -> str:
        value, low, high = (f"{self.scale * number:.3g}" for number in (self.value, self.low, self.high))
        return f"{self.name} {value} ({low} to {high})"

    @property
    def deviation(self) -> float:
        """In standard errors; 0 where there is no error."""
        error = self.mean.error(self.least)
        return abs(self.value) / error if error else 0.0


def report(
    last: ExperimentStatus, policy: Experiment, memory: Memory, samples: Mapping[str, Sample]
) -> ExperimentStatus:
    """`samples` are the requests of the stretch that is new in `memory`, by revision."""
    arms = [
        _arm(arm, own, samples.get(arm.revision, Sample())) for arm, own in zip(last.arms, memory.arms, strict=True)
    ]
    gains = _gains(policy, memory, arms)
    margin = weight(policy.min_effect) / 10_000 * abs(_level(policy, memory, arms[0], memory.arms[0]))
    leader = _leader(gains, margin, variants=len(arms) - 1) or last.leader
    is_same = not leader and len(gains) == len(arms) - 1 and all(-margin < g.low and g.high < margin for g in gains)
    needed = None if leader or is_same else _needed(gains, margin, sum(arm.requests for arm in arms), len(arms) - 1)
    bands = {gain.name: [rounded(number, 3) for number in (gain.value, gain.low, gain.high)] for gain in gains}
    return ExperimentStatus(
        since=last.since,
        objective=last.objective,
        outcome="Leader" if leader else "NoDifference" if is_same else "Undecided",
        leader=leader,
        evidence=_evidence(gains),
        needed_requests=needed,
        message=_message(policy, memory, gains, leader, needed, is_same=is_same),
        arms=[arm.model_copy(update={"gain": bands.get(arm.name)}) for arm in arms],
        memory=memory,
    )


def _arm(before: ExperimentArm, own: ArmMemory, sample: Sample) -> ExperimentArm:
    requests, errors = before.requests + sample.requests, before.errors + sample.errors
    metrics = {name: Mean.of(stored).interval(_SHOWN_ALPHA) for name, stored in (own.metrics or {}).items()}
    return ExperimentArm(
        name=before.name,
        revision=before.revision,
        requests=requests,
        errors=errors,
        metrics={name: _rounded(found) for name, found in metrics.items() if found is not None} or None,
        **(_shares(own, errors, requests) if own.blocks >= _SHOWN_BLOCKS else {}),
    )


def _shares(own: ArmMemory, errors: int, requests: int) -> dict[str, list[float]]:
    squares, *beyond = own.spread
    wide, counts = spread(squares, errors, requests, own.blocks), unpacked(own.latency)
    found = {"error_rate": _rounded((errors / requests, *share(errors / wide, requests / wide, _SHOWN_ALPHA)))}
    for (name, rank), sum_ in zip(RANKS.items(), beyond, strict=True):
        if any(counts):
            found[name] = _rounded(quantile(counts, EDGES_MS, rank, _SHOWN_ALPHA, spread=unlike(sum_, own.blocks)))
    return found


def _rounded(numbers: tuple[float, float, float]) -> list[float]:
    return [rounded(number, 3) for number in numbers]


def _gains(policy: Experiment, memory: Memory, arms: list[ExperimentArm]) -> list[Gain]:
    """Of the variants of which enough is known."""
    found: list[Gain] = []
    alpha = ALPHA / max(1, len(arms) - 1)
    scale = 1 if any(metric.name == policy.objective for metric in policy.metrics) else 100
    for arm, own in zip(arms[1:], memory.arms[1:], strict=True):
        mean, least = Mean.of(own.gain or []), _least(policy, memory, (arm, own), (arms[0], memory.arms[0]))
        if band := mean.interval(alpha, least):
            found.append(Gain(arm.name, mean, least, *band, scale=scale))
    return found


def _least(
    policy: Experiment, memory: Memory, one: tuple[ExperimentArm, ArmMemory], other: tuple[ExperimentArm, ArmMemory]
) -> float:
    """Variance of a share by chance: before anything has failed, half a failure."""
    if any(metric.name == policy.objective for metric in policy.metrics):
        return 0.0
    (hits, total), (other_hits, other_total) = (_bad(policy, memory, *arm) for arm in (one, other))
    rate = (hits + other_hits + 0.5) / (total + other_total + 1)
    return rate * (1 - rate)


def _bad(policy: Experiment, memory: Memory, arm: ExperimentArm, own: ArmMemory) -> tuple[int, int]:
    """What the objective counts against an arm, and of how many requests."""
    if policy.objective not in RANKS:
        return arm.errors, arm.requests
    counts = unpacked(own.latency)
    return slower(counts, memory.edge_ms), sum(counts)


def _level(policy: Experiment, memory: Memory, stable: ExperimentArm, own: ArmMemory) -> float:
    """Stable's own value of what gains are differences of."""
    if any(metric.name == policy.objective for metric in policy.metrics):
        return Mean.of((own.metrics or {}).get(policy.objective, [])).mean
    hits, total = _bad(policy, memory, stable, own)
    return hits / total if total else 0.0


def _leader(gains: list[Gain], margin: float, *, variants: int) -> str:
    """Empty: nobody is known to be better than all others, of which something must be known of each."""
    if not gains or len(gains) < variants:
        return ""
    best = max(gains, key=lambda gain: gain.low)
    if best.low > margin and all(best.low > other.high for other in gains if other is not best):
        return best.name
    return CONTROL if all(gain.high < -margin for gain in gains) else ""


def _evidence(gains: list[Gain]) -> float:
    return rounded(min(_EVIDENCE_MAX, max((odds(g.mean.blocks, g.deviation) for g in gains), default=1.0)), 3)


def _needed(gains: list[Gain], margin: float, requests: int, variants: int) -> int | None:
    """Requests until the two best arms would be apart, were their difference to stay. Stable is 0, without an error."""
    if len(gains) < variants:
        return None
    arms = sorted([(0.0, 0.0), *((gain.value, gain.mean.error(gain.least)) for gain in gains)])
    (second, one), (best, other) = arms[-2:]
    blocks = now = min(gain.mean.blocks for gain in gains)
    distance = best - second - margin
    if distance <= 0:
        return None
    while reach(blocks, ALPHA / variants) * (one + other) * math.sqrt(now / blocks) >= distance:
        blocks += max(1, blocks // 50)
        if requests * blocks > _NEEDED_MAX * now:
            return None
    return int(rounded(requests * (blocks / now - 1), 2))


def _message(
    policy: Experiment, memory: Memory, gains: list[Gain], leader: str, needed: int | None, *, is_same: bool
) -> str:
    if not gains and not leader:
        counted = max((Mean.of(own.gain or []).blocks for own in memory.arms), default=0)
        return f"no leader yet: {counted} of at least {BLOCKS_MIN} stretches of time are counted"
    best = sorted(gains, key=lambda gain: -gain.value)[:_TOLD]
    told = f"{_unit(policy, memory)} over stable: {', '.join(map(str, best))}"
    if leader:
        return f"{leader} leads; {told}"
    if is_same:
        return f"no variant is further than {policy.min_effect} from stable; {told}"
    more = f"about {needed:,} more requests would decide" if needed else "no telling how many requests would decide"
    return f"no leader yet; {told}; {more}"


def _unit(policy: Experiment, memory: Memory) -> str:
    """What a gain is of; a point is a hundredth of all requests."""
    if policy.objective in RANKS:
        return f"points more answered within {memory.edge_ms:g} ms"
    metric = next((metric for metric in policy.metrics if metric.name == policy.objective), None)
    if metric is None:
        return "points less failed"
    return f"{'more' if metric.goal == 'Higher' else 'less'} {metric.name}"
