"""Verdicts on requests that a candidate will not have, and on users who take their bad requests along."""

from random import Random

import pytest

from slipway.api.rollout import Analysis, ErrorRate, Latency, LatencyLimit, Rejected
from slipway.decide.judge import fold, verdicts
from slipway.decide.limits import limits
from slipway.decide.memory import Evidence
from slipway.decide.release import EDGES_MS, Sample, Window

STABLE, CANDIDATE = "resnet-abc", "resnet-def"
POLICY = Analysis(latency=Latency())


def window(n: int, x: int, m: int, y: int, *, failed: tuple[int, int] = (0, 0), seconds: float = 5.0) -> Window:
    """x of the candidate's n requests were rejected, y of stable's m; `failed` of both."""
    samples = {STABLE: Sample(m, failed[1], rejected=y)}
    return Window(seconds, 1, samples | ({CANDIDATE: Sample(n, failed[0], rejected=x)} if n else {}))


def said(evidence: Evidence | None, metric: str = "rejected", policy: Analysis = POLICY) -> tuple[str, str]:
    found = next(each for each in verdicts(evidence, policy, {}) if each.metric == metric)
    return found.verdict, found.message


def judged(*windows: Window, before: Window, policy: Analysis = POLICY, kept: bool = False) -> Evidence:
    evidence = fold(None, before, STABLE, CANDIDATE, policy, mirrored=False, kept=kept)
    for each in windows:
        evidence = fold(evidence, each, STABLE, CANDIDATE, policy, mirrored=False, kept=kept)
    return evidence


QUIET = window(0, 0, 28_500, 0, seconds=300)


def test_a_candidate_that_rejects_every_request_is_found_in_two_windows() -> None:
    outcome, message = said(judged(*[window(25, 25, 475, 0)] * 2, before=QUIET))
    assert outcome == "Fail"
    assert message.startswith("rejected: 50 of 50 requests were rejected (100 %) against 0 of 950 (0 %) of")


def test_one_caller_in_five_that_only_the_candidate_rejects_is_found_in_a_minute() -> None:
    assert said(judged(*[window(25, 5, 475, 0)] * 12, before=QUIET))[0] == "Fail"


def test_callers_who_are_wrong_with_both_speak_against_nobody() -> None:
    """However many of them there are, and however suddenly they come."""
    shared = window(25, 15, 475, 285)
    for before in (QUIET, window(0, 0, 28_500, 17_100, seconds=300)):
        evidence = judged(*[window(25, 0, 475, 0)] * 4, *[shared] * 36, before=before)
        assert [each.verdict for each in verdicts(evidence, POLICY, {})] == ["Pass", "Pass"]


def test_rejections_are_not_errors_and_errors_no_rejections() -> None:
    rejected = judged(*[window(25, 25, 475, 0)] * 2, before=QUIET)
    failed = judged(*[window(25, 0, 475, 0, failed=(25, 0))] * 2, before=QUIET)
    assert said(rejected, "errorRate")[0] != "Fail"
    assert said(failed, "rejected")[0] != "Fail"
    assert said(failed, "errorRate")[0] == "Fail"


def test_an_absolute_limit_of_rejections_needs_no_stable() -> None:
    policy = Analysis(latency=Latency(), rejected=Rejected(max_ratio_to_stable=0, max="1%"))
    for share, expected in ((5, "Fail"), (0, "Pass")):
        evidence = judged(*[window(25, share, 0, 0)] * 8, before=window(0, 0, 0, 0), policy=policy)
        assert said(evidence, policy=policy)[0] == expected


def test_a_version_that_is_meant_to_take_less_is_not_compared() -> None:
    policy = Analysis(latency=Latency(), rejected=Rejected(max_ratio_to_stable=0))
    assert {limit.metric for limit in limits(policy)} == {"errorRate"}
    assert {limit.key for limit in limits(Analysis())} == {"errorRate", "rejected", "p95"}


def test_evidence_of_a_slipway_that_counted_no_rejections_goes_on() -> None:
    evidence = judged(*[window(25, 0, 475, 0)] * 4, before=QUIET)
    older = evidence | {"record": evidence["record"][:3]}
    assert fold(older, window(25, 0, 475, 0), STABLE, CANDIDATE, POLICY, mirrored=False)["n"] == [125, 0]


def test_as_long_as_nobody_rejects_anything_few_words_are_made_of_it() -> None:
    evidence = judged(*[window(25, 0, 475, 0)] * 4, before=QUIET)
    assert said(evidence) == ("Pass", "rejected: none of 100 requests, and none of 1,900 of resnet-abc")


def test_rejections_after_a_quiet_hour_are_found_as_soon_and_told_of_all_requests() -> None:
    quiet = [window(25, 0, 475, 0)] * 720
    assert "rejected" not in judged(*quiet, before=QUIET)["trials"], "there was nothing to bet on"
    assert said(judged(*quiet, window(25, 1, 475, 0), before=QUIET))[0] == "Pass", "one wrong request is nothing"
    outcome, message = said(judged(*quiet, *[window(25, 25, 475, 0)] * 2, before=QUIET))
    assert outcome == "Fail"
    assert message.startswith("rejected: 50 of 18,050 requests were rejected (0.277 %) against 0 of 342,950")


def test_an_absolute_limit_counts_from_the_first_request() -> None:
    policy = Analysis(latency=Latency(), rejected=Rejected(max_ratio_to_stable=0, max="1%"))
    evidence = judged(*[window(25, 0, 475, 0)] * 4, before=QUIET, policy=policy)
    assert evidence["trials"]["rejected.max"][1] == 100


def test_rejections_beyond_what_was_counted_are_cut() -> None:
    """Counters that were read while requests went on."""
    evidence = judged(window(25, 40, 475, -3), before=QUIET)
    assert "25 of 25 requests were rejected" in said(evidence)[1]


def run(random: Random, *, bad: float, worse: float, kept: bool) -> str:
    """Six minutes at 5 and 25 %, 20 requests/s in bursts of a caller who is wrong; the verdict on rejections."""
    evidence = judged(before=window(0, 0, 6_000, round(6_000 * bad), seconds=300))
    for tick in range(72):
        share = 0.05 if tick < 36 else 0.25
        rate = bad * random.expovariate(1)
        mine = [random.random() < min(1, rate * worse) for _ in range(100) if random.random() < share]
        theirs = [random.random() < min(1, rate) for _ in range(100 - len(mine))]
        now = window(len(mine), sum(mine), len(theirs), sum(theirs))
        evidence = fold(evidence, now, STABLE, CANDIDATE, POLICY, mirrored=False, kept=kept)
        if said(evidence)[0] == "Fail":
            return "Fail"
    return said(evidence)[0]


@pytest.mark.parametrize("bad", [0.001, 0.02, 0.3])
def test_bursts_of_wrong_requests_to_both_abort_no_good_release(bad: float) -> None:
    assert all(run(Random(seed), bad=bad, worse=1, kept=False) != "Fail" for seed in range(30))  # noqa: S311


# Users who are kept to a revision

BEFORE = window(0, 0, 28_500, 570, failed=(0, 570), seconds=300)
"""One user in fifty whose every request is bad."""
ALONG = window(25, 10, 475, 0, failed=(10, 0))
"""That user is with the candidate now."""


@pytest.mark.parametrize("metric", ["errorRate", "rejected"])
def test_a_user_who_always_fails_and_is_kept_to_the_candidate_does_not_take_it_back(metric: str) -> None:
    """There are no more bad requests than before, only elsewhere."""
    good = [window(25, 0, 475, 10, failed=(0, 10))] * 6
    late = [window(125, 10, 375, 0, failed=(10, 0))] * 60
    evidence = judged(*good, *[ALONG] * 24, *late, before=BEFORE, kept=True)
    assert said(evidence, metric)[0] == "Pass"
    assert said(judged(*good, *[ALONG] * 24, before=BEFORE), metric)[0] == "Fail", "nobody is kept"


@pytest.mark.parametrize("metric", ["errorRate", "rejected"])
def test_a_candidate_that_fails_users_who_were_well_before_is_found_though_they_are_kept(metric: str) -> None:
    bad = [window(25, 5, 475, 1, failed=(5, 1))] * 24
    evidence = judged(*bad, before=window(0, 0, 28_500, 57, failed=(0, 57), seconds=300), kept=True)
    assert said(evidence, metric)[0] == "Fail"
    all_bad = [window(25, 25, 475, 10, failed=(25, 10))] * 6
    assert said(judged(*all_bad, before=BEFORE, kept=True), metric)[0] == "Fail", "whatever came along"


def test_one_user_of_large_requests_who_is_kept_to_the_candidate_does_not_make_it_slow() -> None:
    policy = Analysis(error_rate=ErrorRate(), latency=Latency(p95=LatencyLimit(max_ratio_to_stable=2)))

    def times(fast: int, slow: int) -> tuple[int, ...]:
        buckets = [0] * (len(EDGES_MS) + 1)
        buckets[8], buckets[15] = fast, slow
        return tuple(buckets)

    def at(slow: int) -> Window:
        return Window(5, 1, {STABLE: Sample(475, 0, times(475, 0)), CANDIDATE: Sample(25, 0, times(25 - slow, slow))})

    before = Window(300, 1, {STABLE: Sample(28_500, 0, times(27_930, 570))})
    for slow, kept, expected in ((10, True, "Pass"), (10, False, "Fail"), (25, True, "Fail")):
        evidence = judged(*[at(slow)] * 24, before=before, policy=policy, kept=kept)
        assert said(evidence, "p95", policy)[0] == expected


def test_what_was_usual_is_remembered_only_while_users_are_kept() -> None:
    evidence = judged(ALONG, before=BEFORE, kept=True)
    assert evidence["usual"] == [27_075, 541.5, 4.75, 541.5]
    again = fold(evidence, ALONG, STABLE, CANDIDATE, POLICY, mirrored=False, kept=True)
    assert again["usual"] == evidence["usual"]
    assert "usual" not in fold(again, ALONG, STABLE, CANDIDATE, POLICY, mirrored=False)
