"""Whether a candidate is worse than the revision that answers beside it: evidence from counts, verdicts from evidence.

    fold      what gateways counted in a window, and what Prometheus said  ->  evidence, a small JSON object
    verdicts  evidence  ->  one word and one sentence per metric
    overall   the word that decides

Pass    The candidate has answered `minRequests`, and nothing speaks against it. That is no proof that it is as good:
        such a proof takes far more requests than most services have in a step. Which faults are found how soon is in
        docs/decisions/0004-judgement.md.
Fail    Evidence of 100: the odds of a sequential test, shared out over all limits, so that bad luck fails a good
        candidate in one release of a hundred at most; and no bad minute explains it either (`evidence`).
Inconclusive   Evidence of 5; or both fail as stable never did, so that nothing can be learnt.
NoData  Too few requests, or nothing to compare with. Absent, stale and NaN speak neither for nor against.
Error   A metric of the spec cannot be read.

While a candidate is new (WARM_UP_S from its first request) only what no cold start explains fails it: errors, more than
a quarter, in two windows. Where stable has next to no requests (a step of 100 %) it is held against stable's record,
four times as generously; without a record, absolute limits are all there is. Facts of pods are not judged here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from slipway.api.progress import Outcome, Verdict
from slipway.api.rollout import Analysis, Metric
from slipway.api.schema import seconds
from slipway.decide import findings
from slipway.decide.evidence import (
    BLOCK_S,
    NOTHING,
    Ground,
    Tally,
    Trial,
    bet,
    close_block,
    e_value,
    renewed,
    short,
    surprise,
)
from slipway.decide.limits import ERRORS, Limit, Record, counts, edges, ground, limits
from slipway.decide.memory import Evidence, Memory, faded, read, recall, recorded, write
from slipway.decide.release import EDGES_MS, Reading, Sample, Window

FAIL, LEAN = 100.0, 5.0
WARM_UP_S = 15.0
_COLD_RATE = 0.25
_CHANCE = 0.002
"""What `surprise` must be below, shared out over the limits; less and less as a release goes on."""
_CALM_MINUTES = 5.0
_EACH_MINUTE = 5.0
_SURE = 1000.0
"""As many bad requests, and minutes, are behind a rate that a limit sets."""
_EVIDENCE_MAX = 1e12
_SHARED_RATE, _SHARED_TIMES, _SHARED_ERRORS = 0.2, 5.0, 5.0
"""Stable fails unusually: one request in five, or so many times its record and so many at least of the last ones."""
_LOOKED_S = 30.0
"""Of a window, what counts at most for how long a metric is beyond its limit: nobody looked in between."""
AGE_MAX_S = 60.0
"""A reading older than that says nothing about now."""
FRESH_MAX_S = 20.0
"""A number counts so long for `for`: it is asked anew each 15 s, and may be some seconds old when it comes."""
_GRAVITY: tuple[Outcome, ...] = ("Fail", "Error", "Inconclusive", "NoData", "Cancelled", "Pass")
_NONE = Sample()


def fold(
    evidence: Evidence | None,
    window: Window,
    stable: str,
    candidate: str,
    policy: Analysis,
    *,
    mirrored: bool,
    kept: bool = False,
    readings: Mapping[str, Reading] | None = None,
) -> Evidence:
    """Evidence with one more window in it; what was gathered for another candidate or another limit begins anew.

    Windows are to be folded from the beginning of a release, also while the candidate has no traffic yet: stable's
    record is made of them, and the longer it is (ten minutes are plenty), the sooner a fault is told from a bad minute.
    With `mirrored` the candidate is judged by the copies that it got, else by its requests. `kept`: users keep to a
    revision, so that one of them alone can make a revision's requests bad; copies are of everybody's.
    """
    memory = read(evidence, stable, candidate)
    mine = _sound((window.copies if mirrored else window.samples).get(candidate))
    theirs = _sound(window.samples.get(stable))
    asked = limits(policy)
    beyond_s = _beyond(memory.beyond_s, policy.metrics, readings or {}, min(window.seconds, _LOOKED_S))
    if beyond_s != memory.beyond_s:
        memory = memory._replace(beyond_s=beyond_s)
    if not mine.requests and not theirs.requests:
        return write(memory)  # Time alone is no news: a night without requests changes nothing.
    if memory.requests or mine.requests:
        memory = _judged(_usual(memory, theirs, kept=kept and not mirrored), asked, mine, theirs, window.seconds)
    record = recorded(memory.record, theirs, window.seconds)
    memory = memory._replace(record=record, block_s=memory.block_s + window.seconds)
    return write(_closed(memory, asked) if memory.block_s >= BLOCK_S else memory)


def verdicts(evidence: Evidence | None, policy: Analysis, readings: Mapping[str, Reading]) -> tuple[Verdict, ...]:
    """What each metric says, the gravest first; never empty."""
    memory = recall(evidence)
    asked = limits(policy)
    found: dict[str, Verdict] = {}
    for limit in asked:
        verdict = _verdict(memory, limit, policy.min_requests)
        other = found.get(limit.metric)
        found[limit.metric] = verdict if other is None else min(other, verdict, key=_gravity)
    if not asked:
        found["requests"] = _counted_only(memory, policy.min_requests)
    found |= {metric.name: _read(metric, readings.get(metric.name), memory) for metric in policy.metrics}
    return tuple(sorted(found.values(), key=_gravity))


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """The gravest of all; nothing was judged where there is none."""
    return min(verdicts, key=_gravity).verdict if verdicts else "NoData"


def _gravity(verdict: Verdict) -> tuple[int, float]:
    return _GRAVITY.index(verdict.verdict), -verdict.evidence


def _sound(sample: Sample | None) -> Sample:
    """A sample that is one: counters that were reset can make nonsense, and nonsense is no evidence."""
    if sample is None or sample.requests <= 0 or not 0 <= sample.errors <= sample.requests:
        return _NONE
    rejected = min(max(sample.rejected, 0), sample.requests)
    if len(sample.latency) != len(EDGES_MS) + 1 or min(sample.latency) < 0:
        return Sample(sample.requests, sample.errors, rejected=rejected)
    return sample if rejected == sample.rejected else replace(sample, rejected=rejected)


# Evidence


def _judged(memory: Memory, asked: Sequence[Limit], mine: Sample, theirs: Sample, window_s: float) -> Memory:
    """One window in which the candidate could have had requests."""
    record = _known(memory.record, theirs)
    is_quiet = not (mine.rejected or theirs.rejected)
    trials = {
        limit.key: _asked(memory, limit, record, mine, theirs)
        for limit in asked
        if not (is_quiet and memory.is_quiet(limit))
    }
    requests, age_s = memory.requests + mine.requests, memory.seconds + window_s
    excused = memory.excused
    if memory.seconds < WARM_UP_S <= age_s and any(e_value(trial) > 1 for trial in trials.values()):
        # What a cold start spoilt speaks neither against the candidate nor for it.
        trials, excused = {key: renewed(trial) for key, trial in trials.items()}, requests
    return memory._replace(
        requests=requests,
        excused=excused,
        seconds=age_s,
        windows=memory.windows + bool(mine.requests),
        recent=memory.recent.faded(0.5).plus(Tally(mine.requests, mine.errors, theirs.requests, theirs.errors)),
        trials=trials,
    )


def _known(record: Record, theirs: Sample) -> Record:
    """Without a record the present is what is usual; but quantiles must be known before: bets may not follow counts."""
    return record if record.requests else recorded(record, theirs, 0)._replace(latency=())


def _usual(memory: Memory, theirs: Sample, *, kept: bool) -> Memory:
    """With what stable's users met before any of them met the candidate."""
    if not kept:
        return memory if memory.usual is None else memory._replace(usual=None)
    return memory if memory.usual else memory._replace(usual=_known(memory.record, theirs)._replace(latency=()))


def _asked(memory: Memory, limit: Limit, record: Record, mine: Sample, theirs: Sample) -> Trial:
    trial, new = memory.trial(limit), counts(limit, record, mine, theirs)
    within = ground(limit, record, trial.block.plus(new), memory.usual) if new else None
    return bet(trial, new, within) if new and within else trial


def _closed(memory: Memory, asked: Sequence[Limit]) -> Memory:
    """A minute is over."""
    number = memory.blocks + 1
    trials: dict[str, Trial] = {}
    for limit in asked:
        if limit.key not in memory.trials:
            continue
        trial = memory.trial(limit)
        within = ground(limit, memory.record, trial.block, memory.usual)
        trials[limit.key] = close_block(trial, within, number) if within else trial
    blocks = number if memory.requests else 0
    return memory._replace(trials=trials, blocks=blocks, block_s=0.0, record=faded(memory.record))


def _beyond(
    before: Mapping[str, float], metrics: Sequence[Metric], readings: Mapping[str, Reading], seconds_more: float
) -> dict[str, float]:
    """Metric -> for how long it has been beyond its limit; unchanged where it could not be read lately.

    One bad number that is the last for a while, as Prometheus is away, must not grow into a fault by its age.
    """
    after: dict[str, float] = {}
    for metric in metrics:
        reading, lasted = readings.get(metric.name), before.get(metric.name, 0.0)
        value = _value(reading)
        if value is None or _is_broken(metric, value):
            is_fresh = value is not None and reading is not None and reading.age_s <= FRESH_MAX_S
            after[metric.name] = short(lasted + seconds_more) if is_fresh else lasted
    return {name: lasted for name, lasted in after.items() if lasted}


# Verdicts


def _verdict(memory: Memory, limit: Limit, wanted: int) -> Verdict:
    strength = _strength(memory, limit, memory.trial(limit))
    outcome, message = _said(memory, limit, strength, wanted)
    return Verdict(metric=limit.metric, verdict=outcome, message=message[:512], evidence=strength)


def _said(memory: Memory, limit: Limit, strength: float, wanted: int) -> tuple[Outcome, str]:
    trial, credit = memory.trial(limit), memory.requests - memory.excused
    told = findings.counted(limit, trial.seen, edges(limit, memory.record) if limit.beyond else None, memory.stable)
    if strength >= FAIL:
        return "Fail", f"{told}; {findings.odds(strength)}"
    if strength >= LEAN:
        return "Inconclusive", f"{told}; {findings.odds(strength)}, a fault is {FAIL:.0f}"
    if limit.metric == ERRORS and _is_shared(memory):
        return "Inconclusive", f"{told}; both fail unusually often now, neither can be told from the other"
    if credit < wanted:
        return "NoData", findings.few(limit, credit, wanted)
    if not trial.seen.n and not memory.is_quiet(limit):
        return "NoData", findings.nothing(limit, memory.stable)
    return "Pass", told


def _strength(memory: Memory, limit: Limit, trial: Trial) -> float:
    """Evidence against the candidate on one limit: the weaker of what both questions of `evidence` give."""
    odds = min(e_value(trial) / limit.of, _EVIDENCE_MAX)
    within = ground(limit, memory.record, trial.block, memory.usual) if odds >= LEAN else None
    if within is None:
        return odds
    if memory.seconds >= WARM_UP_S:
        return min(odds, _calm(memory, limit, trial, within))
    cold = _calm(memory, limit, trial, within._replace(floor=max(within.floor, _COLD_RATE)))
    if not limit.beyond and memory.windows >= 2 and cold >= FAIL:
        return min(odds, cold)
    return min(odds, FAIL - 1)


def _calm(memory: Memory, limit: Limit, trial: Trial, within: Ground) -> float:
    """Evidence that no bad minute explains it; without end where none does."""
    record = memory.usual or memory.record
    compared = limit.ratio is not None and not limit.beyond
    known = (record.minutes, record.bad(limit.metric)) if compared else (_SURE, _SURE)
    allowed = _CHANCE / limit.of / (1 + memory.blocks / _CALM_MINUTES) ** 2
    chance = surprise(trial, within, *known)
    if chance > allowed and memory.blocks:
        # What has just begun is lost among the minutes before, and may yet be plain in this one. Asked each minute, so
        # it has to be plainer.
        chance = min(chance, _EACH_MINUTE * surprise(trial._replace(past=NOTHING), within, *known))
    return FAIL * allowed / chance if chance > allowed else _EVIDENCE_MAX


def _is_shared(memory: Memory) -> bool:
    """Whether stable fails as it never did and the candidate with it: equal, but nothing to be promoted on."""
    now = memory.recent
    if now.y < 1 or now.m <= 0:
        return False
    rate = now.y / now.m
    unusual = rate >= _SHARED_RATE or (now.y >= _SHARED_ERRORS and rate >= _SHARED_TIMES * memory.record.rate(ERRORS))
    return unusual and (now.n < 1 or now.x / now.n >= rate / 2)


def _counted_only(memory: Memory, wanted: int) -> Verdict:
    """Where the policy sets no limit at all."""
    message = f"requests: {memory.requests:,} of {wanted:,}, nothing is judged"
    return Verdict(metric="requests", verdict="Pass" if memory.requests >= wanted else "NoData", message=message)


def _value(reading: Reading | None) -> float | None:
    """The number, if there is one and it is of now."""
    if reading is None or reading.value is None or reading.age_s > AGE_MAX_S:
        return None
    return reading.value if math.isfinite(reading.value) else None


def _is_broken(metric: Metric, value: float) -> bool:
    return (metric.max is not None and value > metric.max) or (metric.min is not None and value < metric.min)


def _read(metric: Metric, reading: Reading | None, memory: Memory) -> Verdict:
    value = _value(reading)
    if value is None:
        outcome, message = _unread(metric, reading)
        return Verdict(metric=metric.name, verdict=outcome, message=message[:512])
    told, wanted = findings.metric(metric, value), seconds(metric.for_)
    if not _is_broken(metric, value):
        return Verdict(metric=metric.name, verdict="Pass", message=told)
    lasted = memory.beyond_s.get(metric.name, 0.0)
    if lasted >= wanted and lasted > 0:
        return Verdict(metric=metric.name, verdict="Fail", message=f"{told}, for {lasted:.0f} s", evidence=FAIL)
    message = f"{told}, for {lasted:.0f} s of the {wanted:.0f} s that are a fault"
    return Verdict(metric=metric.name, verdict="Inconclusive", message=message)


def _unread(metric: Metric, reading: Reading | None) -> tuple[Outcome, str]:
    """Why a metric says nothing: there is nothing to measure, or it could not be asked."""
    if reading is None:
        return "NoData", f"{metric.name}: not asked yet"
    words = f": {reading.words}" if reading.words else ""
    if reading.failed:
        return "Error", f"{metric.name}: could not be measured{words}"
    if reading.age_s > AGE_MAX_S:
        return "Error", f"{metric.name}: no number for more than {AGE_MAX_S:.0f} s{words}"
    return "NoData", f"{metric.name}: no number{words}"
