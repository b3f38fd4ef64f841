"""Verdicts on a candidate: worked examples. The tests below it are in test_judge_evidence.py."""

import json

import pytest

from slipway.api.progress import Verdict
from slipway.api.rollout import Analysis, ErrorRate, Latency, Metric
from slipway.decide.findings import interval
from slipway.decide.judge import fold, overall, verdicts
from slipway.decide.memory import Evidence
from slipway.decide.release import EDGES_MS, Reading, Sample, Window

STABLE, CANDIDATE = "resnet-abc", "resnet-def"
ERRORS_ONLY = Analysis(latency=Latency())


def latency(fast: int, slow: int = 0) -> tuple[int, ...]:
    """`fast` requests of 15 to 20 ms, `slow` ones of 160 to 220 ms."""
    buckets = [0] * (len(EDGES_MS) + 1)
    buckets[8], buckets[15] = fast, slow
    return tuple(buckets)


def window(n: int, x: int, m: int, y: int, *, slow: int = 0, seconds: float = 5.0) -> Window:
    """x of the candidate's n requests failed, y of stable's m; `slow` of the candidate's were."""
    samples = {STABLE: Sample(m, y, latency(m))} | ({CANDIDATE: Sample(n, x, latency(n - slow, slow))} if n else {})
    return Window(seconds=seconds, age_s=1, samples=samples)


def judged(policy: Analysis, *windows: Window, readings: dict[str, Reading] | None = None) -> Evidence:
    """After five quiet minutes of stable alone, these windows."""
    evidence = fold(None, window(0, 0, 28_500, 57, seconds=300), STABLE, CANDIDATE, policy, mirrored=False)
    for each in windows:
        evidence = fold(evidence, each, STABLE, CANDIDATE, policy, mirrored=False, readings=readings)
        assert json.loads(json.dumps(evidence)) == evidence
    return evidence


def verdict(policy: Analysis, evidence: Evidence | None, metric: str = "errorRate", **readings: Reading) -> Verdict:
    return next(each for each in verdicts(evidence, policy, readings) if each.metric == metric)


GOOD, BROKEN, WORSE = window(25, 0, 475, 1), window(25, 25, 475, 1), window(25, 5, 475, 1)


def test_a_candidate_that_fails_every_request_from_the_first_is_found_in_two_windows() -> None:
    assert verdict(ERRORS_ONLY, judged(ERRORS_ONLY, BROKEN)).verdict == "Inconclusive"
    failed = verdict(ERRORS_ONLY, judged(ERRORS_ONLY, BROKEN, BROKEN))
    assert failed.verdict == "Fail"
    assert failed.message == (
        "errorRate: 50 of 50 requests failed (100 %, 95 % interval 92.9 to 100)"
        " against 2 of 950 (0.211 %) of resnet-abc; odds against chance 10^12"
    )


def test_a_cold_start_fails_nobody() -> None:
    cold = judged(ERRORS_ONLY, WORSE, WORSE, WORSE, *[GOOD] * 5)
    assert verdict(ERRORS_ONLY, cold).verdict == "Pass"


def test_one_request_in_five_failing_is_found_in_seconds_after_the_cold_start() -> None:
    assert verdict(ERRORS_ONLY, judged(ERRORS_ONLY, *[GOOD] * 4, WORSE, WORSE)).verdict == "Fail"


def test_too_few_requests_are_no_data() -> None:
    few = verdict(ERRORS_ONLY, judged(ERRORS_ONLY, GOOD))
    assert (few.verdict, few.message) == ("NoData", "errorRate: 25 of 100 requests so far")
    assert overall(verdicts(None, ERRORS_ONLY, {})) == "NoData"
    assert overall(()) == "NoData"


def test_a_good_candidate_passes_on_its_requests() -> None:
    good = verdict(ERRORS_ONLY, judged(ERRORS_ONLY, *[GOOD] * 4))
    assert (good.verdict, good.message) == (
        "Pass",
        "errorRate: 0 of 100 requests failed (0 %, 95 % interval 0 to 3.7) against 4 of 1,900 (0.211 %) of resnet-abc",
    )


@pytest.mark.parametrize(
    ("errors", "requests", "words"),
    [(1, 10, "1.79 to 40.4"), (0, 1, "0 to 79.3"), (10, 10, "72.2 to 100"), (1, 1_000_000, "1.77e-05 to 0.000566")],
)
def test_a_share_of_errors_comes_with_what_it_may_be_by_chance(errors: int, requests: int, words: str) -> None:
    """Wilson's interval, as tables have it."""
    assert interval(errors, requests) == words


def test_an_outage_of_both_neither_fails_nor_passes() -> None:
    outage = [window(25, 12, 475, 228)] * 36
    both = verdict(ERRORS_ONLY, judged(ERRORS_ONLY, *[GOOD] * 5, *outage))
    assert both.verdict == "Inconclusive"
    assert "both fail unusually often" in both.message
    assert verdict(ERRORS_ONLY, judged(ERRORS_ONLY, *[GOOD] * 5, *outage, *[GOOD] * 12)).verdict == "Pass"


def test_a_slow_candidate_fails_by_its_quantile() -> None:
    policy = Analysis()
    slow = verdict(policy, judged(policy, *[GOOD] * 4, *[window(25, 0, 475, 1, slow=25)] * 3), "p95")
    assert slow.verdict == "Fail"
    assert slow.message.startswith(
        "p95: 75 of 175 requests took more than 40 ms (42.9 %) against 0 of 3,325 above 20 ms"
    )


@pytest.mark.parametrize(
    ("value", "age_s", "expected"),
    [(0.1, 5, "Pass"), (0.3, 5, "Fail"), (0.3, 300, "Error"), (None, 5, "NoData"), (float("nan"), 5, "NoData")],
)
def test_a_metric_speaks_only_by_a_number_of_now(value: float | None, age_s: float, expected: str) -> None:
    policy = Analysis(latency=Latency(), metrics=[Metric(name="drift", promql="x", max=0.2)])
    readings = {"drift": Reading(value=value, age_s=age_s)}
    evidence = judged(policy, *[GOOD] * 6, readings=readings)
    assert verdict(policy, evidence, "drift", **readings).verdict == expected


def test_an_absolute_limit_needs_no_stable() -> None:
    policy = Analysis(error_rate=ErrorRate(max_ratio_to_stable=None, max="1%"), latency=Latency())
    alone = [window(25, 5, 0, 0)] * 6
    assert verdict(policy, judged(policy, *alone)).verdict == "Fail"
    assert verdict(policy, judged(policy, *[window(25, 0, 0, 0)] * 6)).verdict == "Pass"


def test_a_cold_start_gives_no_credit_either() -> None:
    cold = [window(300, 60, 1200, 0)] * 3
    assert verdict(ERRORS_ONLY, judged(ERRORS_ONLY, cold[0])).verdict == "Inconclusive"
    begun = verdict(ERRORS_ONLY, judged(ERRORS_ONLY, *cold))
    assert (begun.verdict, begun.message) == ("NoData", "errorRate: 0 of 100 requests so far")


def test_a_gross_fault_is_found_without_any_record_of_stable() -> None:
    evidence = None
    for _ in range(4):
        evidence = fold(evidence, window(75, 12, 225, 0), STABLE, CANDIDATE, ERRORS_ONLY, mirrored=False)
    assert verdict(ERRORS_ONLY, evidence).verdict == "Fail"


def test_a_fault_after_two_good_hours_is_found_as_fast_as_an_early_one() -> None:
    evidence = judged(ERRORS_ONLY, *[GOOD] * 1440)
    for _ in range(3):
        evidence = fold(evidence, WORSE, STABLE, CANDIDATE, ERRORS_ONLY, mirrored=False)
    assert verdict(ERRORS_ONLY, evidence).verdict == "Fail"


def test_at_all_the_traffic_a_candidate_is_held_against_the_record_of_stable() -> None:
    good, bad = window(500, 1, 0, 0), window(500, 100, 0, 0)
    assert verdict(ERRORS_ONLY, judged(ERRORS_ONLY, *[good] * 5)).verdict == "Pass"
    assert verdict(ERRORS_ONLY, judged(ERRORS_ONLY, *[good] * 5, bad, bad)).verdict == "Fail"


def test_without_stable_and_its_record_nothing_is_said() -> None:
    evidence = None
    for _ in range(6):
        evidence = fold(evidence, window(500, 100, 0, 0), STABLE, CANDIDATE, ERRORS_ONLY, mirrored=False)
    said = verdict(ERRORS_ONLY, evidence)
    assert (said.verdict, said.message) == ("NoData", "errorRate: nothing of resnet-abc to compare with yet")


def test_copies_are_judged_when_there_is_a_mirror_and_only_then() -> None:
    policy = ERRORS_ONLY
    both = Window(5, 1, {STABLE: Sample(475, 1), CANDIDATE: Sample(25, 0)}, copies={CANDIDATE: Sample(25, 25)})
    by_copies = by_requests = judged(policy)
    for _ in range(5):
        by_copies = fold(by_copies, both, STABLE, CANDIDATE, policy, mirrored=True)
        by_requests = fold(by_requests, both, STABLE, CANDIDATE, policy, mirrored=False)
    assert verdict(policy, by_copies).verdict == "Fail"
    assert verdict(policy, by_requests).verdict == "Pass"


def test_the_gravest_verdict_comes_first_and_decides() -> None:
    policy = Analysis(latency=Latency(), metrics=[Metric(name="drift", promql="x", max=0.2)])
    said = verdicts(judged(policy, *[GOOD] * 5), policy, {"drift": Reading(value=None, failed=True, words="timeout")})
    assert [(each.metric, each.verdict) for each in said] == [
        ("drift", "Error"),
        ("errorRate", "Pass"),
        ("rejected", "Pass"),
    ]
    assert said[0].message == "drift: could not be measured: timeout"
    assert overall(said) == "Error"


def test_a_metric_is_beyond_its_limit_for_as_long_as_it_was_looked_at() -> None:
    policy = Analysis(latency=Latency(), metrics=[Metric(name="drift", promql="x", max=0.2)])
    high, gone = {"drift": Reading(value=0.3, age_s=1)}, {"drift": Reading(value=None, age_s=1)}
    evidence = judged(policy, *[GOOD] * 4, readings=high)
    assert verdict(policy, evidence, "drift", **high).message == (
        "drift: 0.3, may be at most 0.2, for 20 s of the 30 s that are a fault"
    )
    for readings in (gone, gone, gone, high, high):
        evidence = fold(evidence, GOOD, STABLE, CANDIDATE, policy, mirrored=False, readings=readings)
    assert verdict(policy, evidence, "drift", **high).verdict == "Fail"
    evidence = fold(evidence, GOOD, STABLE, CANDIDATE, policy, mirrored=False, readings={"drift": Reading(0.1, "", 1)})
    assert evidence["beyond"] == {}


def test_one_bad_number_does_not_become_a_fault_by_getting_old() -> None:
    """Prometheus went away after it: what it said last is kept for a while, and counts no longer than it is fresh."""
    policy = Analysis(metrics=[Metric(name="drift", promql="drift", max=0.2)])
    evidence = None
    for age_s in range(1, 60, 5):
        kept = {"drift": Reading(value=0.3, age_s=age_s)}
        evidence = fold(evidence, GOOD, STABLE, CANDIDATE, policy, mirrored=False, readings=kept)
        said = verdicts(evidence, policy, kept)
        assert next(verdict for verdict in said if verdict.metric == "drift").verdict == "Inconclusive"


def test_a_policy_without_limits_counts_requests_only() -> None:
    nothing = Analysis(error_rate=ErrorRate(max_ratio_to_stable=None), latency=Latency())
    assert overall(verdicts(judged(nothing, *[GOOD] * 3), nothing, {})) == "NoData"
    assert overall(verdicts(judged(nothing, *[WORSE] * 4), nothing, {})) == "Pass"


def test_a_slow_start_does_not_fail_by_latency() -> None:
    policy = Analysis()
    slow = window(25, 0, 475, 1, slow=25)
    assert verdict(policy, judged(policy, slow, slow), "p95").verdict == "Inconclusive"
    assert verdict(policy, judged(policy, slow, slow, slow, *[GOOD] * 4), "p95").verdict == "Pass"


def test_a_night_without_requests_changes_nothing() -> None:
    evidence = judged(ERRORS_ONLY, *[GOOD] * 5)
    assert fold(evidence, Window(5, 1), STABLE, CANDIDATE, ERRORS_ONLY, mirrored=False) == evidence


def test_twice_stable_s_quantile_is_the_nearest_edge_not_the_next_one() -> None:
    """Stable's p95 is 94 ms: 188 is nearer to 160 ms than to 220, which no request of the candidate passes."""

    def spread(n: int, *times: float) -> Sample:
        buckets = [0] * (len(EDGES_MS) + 1)
        for time, part in zip(times, (0.9, 0.1), strict=True):
            buckets[EDGES_MS.index(time)] = int(n * part)
        return Sample(n, 0, tuple(buckets))

    policy, evidence = Analysis(), None
    alone = Window(300, 1, {STABLE: spread(12_000, 80, 110)})
    evidence = fold(evidence, alone, STABLE, CANDIDATE, policy, mirrored=False)
    for _ in range(8):
        both = Window(5, 1, {STABLE: spread(200, 80, 110), CANDIDATE: spread(100, 220, 220)})
        evidence = fold(evidence, both, STABLE, CANDIDATE, policy, mirrored=False)
    assert verdict(policy, evidence, "p95").verdict == "Fail"
