"""The statistics of the judge: promises of its two questions, checked by enumeration and by properties."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.rollout import Analysis, ErrorRate, Latency, LatencyLimit, Metric, Rejected
from slipway.decide.evidence import BETS, Ground, Tally, Trial, bet, beta_cdf, close_block, e_value, surprise
from slipway.decide.judge import fold, verdicts
from slipway.decide.limits import Limit, Record, edges
from slipway.decide.memory import Memory, recall, write
from slipway.decide.quantiles import edge_below, edge_of, quantile
from slipway.decide.release import EDGES_MS, Reading, Sample, Window

START = Trial("2")
BESIDE = Ground(floor=0.002, margin=2.0)


def chances(n: int, m: int, k: int, odds: float) -> dict[int, float]:
    """Of x bad requests among n, given k among n + m, if odds differ by `odds`: exact, noncentral hypergeometric."""
    weights = {x: math.comb(n, x) * math.comb(m, k - x) * odds**x for x in range(max(0, k - m), min(n, k) + 1)}
    return {x: weight / sum(weights.values()) for x, weight in weights.items()}


def growth(counts: Tally, ground: Ground) -> list[float]:
    """What each bet is multiplied by."""
    after = bet(START, counts, ground)
    return [math.exp(new - old) for old, new in zip(START.bets, after.bets, strict=True)]


@given(
    n=st.integers(1, 40), m=st.integers(1, 40), part=st.floats(0, 1), margin=st.floats(1, 20), within=st.floats(0, 1)
)
def test_no_bet_gains_on_average_against_a_candidate_within_its_limit(
    n: int, m: int, part: float, margin: float, within: float
) -> None:
    k = round(part * (n + m))
    odds = margin**within
    for index in range(len(BETS)):
        mean = sum(
            chance * growth(Tally(n, x, m, k - x), Ground(floor=0.01, margin=margin))[index]
            for x, chance in chances(n, m, k, odds).items()
        )
        assert mean <= 1 + 1e-9


@given(n=st.integers(1, 9), rate=st.floats(0.001, 0.9))
def test_no_bet_gains_on_average_against_a_fixed_rate(n: int, rate: float) -> None:
    ground = Ground(floor=rate, fixed=rate)
    means = [0.0] * len(BETS)
    for x in range(n + 1):
        chance = math.comb(n, x) * rate**x * (1 - rate) ** (n - x)
        means = [mean + chance * grown for mean, grown in zip(means, growth(Tally(n, x, 0, 0), ground), strict=True)]
    assert means == pytest.approx([1.0] * len(BETS))


def test_the_stake_of_later_bets_and_the_first_is_one_in_all() -> None:
    trial = START
    for number in range(1, 2000):
        trial = close_block(trial, BESIDE, number)
    assert 0.999 < e_value(trial) <= 1


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(Tally(), id="nothing at all"),
        pytest.param(Tally(100, 0, 900, 0), id="no errors"),
        pytest.param(Tally(0, 0, 900, 30), id="the candidate had no requests"),
        pytest.param(Tally(900, 30, 0, 0), id="stable had no requests"),
    ],
)
def test_an_interval_that_compares_nothing_moves_no_bet(counts: Tally) -> None:
    assert bet(START, counts, BESIDE).bets == START.bets


intervals = st.lists(
    st.tuples(st.integers(0, 500), st.floats(0, 1), st.integers(0, 5000), st.floats(0, 1)).map(
        lambda drawn: Tally(drawn[0], int(drawn[0] * drawn[1]), drawn[2], int(drawn[2] * drawn[3]))
    ),
    max_size=8,
)


@given(first=intervals)
def test_intervals_count_the_same_in_any_order_and_at_any_weight(first: list[Tally]) -> None:
    there, back = START, START
    for counts in first:
        there = bet(there, counts._replace(x=min(counts.x, 3), y=min(counts.y, 3)), BESIDE)
    for counts in reversed(first):
        back = bet(back, counts._replace(x=min(counts.x, 3), y=min(counts.y, 3)), BESIDE)
    assert there.bets == pytest.approx(back.bets, abs=1e-6)


@given(n=st.integers(1, 1000), m=st.integers(1, 1000), y=st.integers(0, 5))
def test_evidence_grows_with_the_candidate_s_errors_and_falls_with_stable_s(n: int, m: int, y: int) -> None:
    values = [e_value(bet(START, Tally(n, x, m, min(y, m)), BESIDE)) for x in range(min(n, 20) + 1)]
    assert all(less <= more for less, more in pairwise(values))
    if y < m:
        assert e_value(bet(START, Tally(n, 1, m, y + 1), BESIDE)) <= e_value(bet(START, Tally(n, 1, m, y), BESIDE))


def test_a_bet_worked_by_hand() -> None:
    """At 5 % of the requests and a margin of 2, odds of 7 times 2 make a share of 0.7 / 1.65 of the errors."""
    won = growth(Tally(50, 10, 950, 0), BESIDE)[BETS.index(7.0)]
    assert won == pytest.approx(((0.7 / 1.65) / (0.1 / 1.05)) ** 10)


@pytest.mark.parametrize(
    ("z", "a", "b", "expected"),
    [
        (0.3, 2, 3, 0.3483),
        (0.5, 500, 500, 0.5),
        (0.9, 1, 1, 0.9),
        (0.2, 1, 4, 1 - 0.8**4),
        (0.0, 2, 2, 0.0),
        (1.0, 2, 2, 1.0),
    ],
)
def test_the_incomplete_beta_function(z: float, a: float, b: float, expected: float) -> None:
    assert beta_cdf(z, a, b) == pytest.approx(expected, abs=1e-5)


SURE = 1e6


def test_a_bad_minute_worked_by_hand() -> None:
    ground = Ground(floor=0.002)
    few = surprise(Trial("", block=Tally(300, 12, 0, 0)), ground, SURE, SURE)
    assert few == pytest.approx((0.601 / 1.601) ** (12 * 300 / 288.5), rel=0.05)
    many = surprise(Trial("", block=Tally(30_000, 120, 0, 0)), Ground(floor=0.0002), SURE, SURE)
    assert many == pytest.approx((6 / 7) ** 120.5, rel=0.05)


def test_one_minute_is_one_draw_however_many_requests_it_had() -> None:
    ground = Ground(floor=0.002)
    one = surprise(Trial("", block=Tally(1e6, 6000, 0, 0)), ground, SURE, SURE)
    four = surprise(Trial("", past=(1e6, 6000, 2000, 4 * 500.0**2)), ground, SURE, SURE)
    assert one == pytest.approx(math.exp(-3), rel=0.05)
    assert four == pytest.approx(math.exp(-12) * sum(12**i / math.factorial(i) for i in range(4)), rel=0.1)


def test_a_short_record_of_stable_makes_a_bad_minute_likelier() -> None:
    trial, ground = Trial("", block=Tally(1500, 9, 0, 0)), Ground(floor=0.001)
    known = [surprise(trial, ground, minutes, 30 * minutes) for minutes in (1, 3, 10, 100)]
    assert all(more > less for more, less in pairwise(known))


@given(n=st.integers(1, 10**6), part=st.floats(0, 1), floor=st.floats(1e-6, 0.9), minutes=st.floats(0, 100))
def test_a_surprise_is_a_probability_and_falls_with_errors(n: int, part: float, floor: float, minutes: float) -> None:
    x = int(n * part)
    here, more = (
        surprise(Trial("", block=Tally(n, bad, 0, 0)), Ground(floor=floor), minutes, 5) for bad in (x, min(n, x + 1))
    )
    assert 0 <= more <= here + 1e-6 <= 1 + 2e-6


def test_a_fault_that_begins_after_two_good_hours_is_found_as_fast_as_an_early_one() -> None:
    trial = START
    for number in range(1, 121):
        trial = close_block(bet(trial, Tally(300, 1, 5700, 11), BESIDE), BESIDE, number)
    for _ in range(3):
        trial = bet(trial, Tally(25, 5, 475, 1), BESIDE)
    assert e_value(trial) > 200


samples = st.builds(
    lambda n, x, latency: Sample(n, x, tuple(latency)),
    st.integers(-5, 10**9),
    st.integers(-5, 10**9),
    st.one_of(st.just([]), st.lists(st.integers(0, 10**7), min_size=len(EDGES_MS) + 1, max_size=len(EDGES_MS) + 1)),
)
windows = st.builds(
    Window,
    seconds=st.floats(0, 5000),
    age_s=st.floats(0, 5000),
    samples=st.dictionaries(st.sampled_from(["s", "c", "other"]), samples),
    copies=st.dictionaries(st.sampled_from(["s", "c"]), samples),
)
EVERYTHING = Analysis(
    error_rate=ErrorRate(max_ratio_to_stable=2, max="1%"),
    rejected=Rejected(max_ratio_to_stable=2, max="1%"),
    latency=Latency(**dict.fromkeys(("p50", "p90", "p95", "p99"), LatencyLimit(max_ratio_to_stable=1.5, max="80ms"))),
    metrics=[Metric(name=f"metric-{i}", promql="x", max=1) for i in range(8)],
)


@given(seen=st.lists(windows, max_size=6), mirrored=st.booleans(), value=st.none() | st.floats())
def test_no_counts_make_evidence_that_is_not_a_number(seen: list[Window], mirrored: bool, value: float | None) -> None:
    evidence = None
    readings = {metric.name: Reading(value=value, age_s=1) for metric in EVERYTHING.metrics}
    for window in seen:
        evidence = fold(evidence, window, "s", "c", EVERYTHING, mirrored=mirrored, readings=readings)
        assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence
        for verdict in verdicts(evidence, EVERYTHING, readings):
            assert math.isfinite(verdict.evidence)


def test_all_evidence_of_a_policy_with_every_limit_is_two_kilobytes_and_usually_less_than_one() -> None:
    evidence = None
    latency = tuple([750] * (len(EDGES_MS) + 1))
    stable, candidate = "resnet-stable-6f9c", "resnet-next-77aa"
    busy = {stable: Sample(24_750, 900, latency, 900), candidate: Sample(24_750, 910, latency, 910)}
    readings = {metric.name: Reading(value=2.0, age_s=1) for metric in EVERYTHING.metrics}
    for _ in range(40):
        window = Window(5, 1, busy)
        evidence = fold(evidence, window, stable, candidate, EVERYTHING, mirrored=False, kept=True, readings=readings)
    assert len(json.dumps(evidence, separators=(",", ":"))) <= 2400
    usual = None
    for _ in range(40):
        usual = fold(usual, Window(5, 1, busy), stable, candidate, Analysis(), mirrored=False)
    assert len(json.dumps(usual, separators=(",", ":"))) <= 900


def test_what_a_bet_has_won_is_stored_to_the_ten_thousandth_and_no_loss_is_beyond_return() -> None:
    won = (-200.0, -3.14159, -0.00006, 0.0, 3.14151, 50.0)
    trial = Trial("2", won, Tally(9, 1, 90, 2), (8, 1, 0.5, 0.25), (0.1, 0.2), Tally(1, 0, 10, 0))
    memory = Memory("s", "c", trials={"errorRate": trial}, usual=Record(100, 2, 5, (), 1))
    again = recall(json.loads(json.dumps(write(memory))))
    assert again.trials["errorRate"] == trial._replace(bets=(-80.0, -3.1416, -0.0001, 0.0, 3.1415, 50.0))
    assert again == memory._replace(trials=again.trials)


def test_evidence_of_another_candidate_another_limit_or_another_version_begins_anew() -> None:
    window = Window(5, 1, {"s": Sample(900, 2), "c": Sample(100, 9), "d": Sample(100, 9)})
    policy, other = Analysis(), Analysis(error_rate=ErrorRate(max_ratio_to_stable=3))
    evidence = fold(None, window, "s", "c", policy, mirrored=False)
    fresh = fold(None, window, "s", "d", policy, mirrored=False)
    assert fold(evidence, window, "s", "d", policy, mirrored=False) == fresh
    again = recall(fold(evidence, window, "s", "c", other, mirrored=False))
    assert again.trials["errorRate"].seen == Tally(100, 9, 900, 2)
    assert fold({"of": 3}, window, "s", "c", policy, mirrored=False) == evidence


def test_limits_of_quantiles_are_edges_that_are_not_below() -> None:
    assert [EDGES_MS[edge] for limit in (28, 30, 57, 60, 250) if (edge := edge_of(limit)) is not None] == [
        *(28, 40, 56, 80, 320),
    ]
    assert edge_of(10**9) is None
    assert [edge_below(time) for time in (0.1, 0.5, 39, 41)] == [None, 0, EDGES_MS.index(40), EDGES_MS.index(40)]


def histogram(**buckets: int) -> list[int]:
    """Requests that took up to so many ms."""
    counts = [0] * (len(EDGES_MS) + 1)
    for name, count in buckets.items():
        counts[EDGES_MS.index(int(name.removeprefix("ms")))] = count
    return counts


def test_a_quantile_of_stable_is_taken_a_little_too_high() -> None:
    found = quantile(histogram(ms28=854, ms40=100, ms56=26, ms320=20), 0.05)
    assert found == pytest.approx(41.6, abs=0.1)
    assert quantile(histogram(ms28=19), 0.05) is None
    assert quantile(histogram(ms28=20), 0.05) == pytest.approx(28, rel=0.02)
    assert quantile([0] * len(EDGES_MS) + [100], 0.05) is None


@given(
    st.lists(st.integers(0, 1000), min_size=len(EDGES_MS) + 1, max_size=len(EDGES_MS) + 1),
    st.sampled_from([1.1, 1.5, 2, 3]),
)
def test_a_candidate_slower_by_less_than_its_limit_is_even_at_most(latency: list[int], ratio: float) -> None:
    """Each request takes the upper edge of its bucket, the candidate's just under `ratio` times that of stable."""
    found = edges(Limit("p95", "p95", "", ratio, beyond=0.05), Record(1, 0, 1, tuple(latency)))
    if found is not None:
        edge, beside = EDGES_MS[found[0]], EDGES_MS[found[1]]
        slow = sum(count for time, count in zip(EDGES_MS, latency, strict=False) if ratio * time * 0.94 > edge)
        assert slow <= sum(count for time, count in zip(EDGES_MS, latency, strict=False) if time > beside)


def test_stable_s_own_minutes_tell_how_much_a_bad_minute_explains() -> None:
    def after(*errors: int) -> float:
        trial = START
        for number, bad in enumerate(errors, 1):
            trial = close_block(bet(trial, Tally(0, 0, 6000, bad), BESIDE), BESIDE, number)
        return trial.unrest

    assert after() == after(12) == 1
    assert after(12, 13, 11, 12, 12, 10, 14, 12) < 0.4
    assert after(1, 40, 3, 30, 0, 2, 25, 9) == 1
