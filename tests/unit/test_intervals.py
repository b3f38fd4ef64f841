"""Intervals that hold at every look: against exact values, and by looking again and again."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.decide.intervals import odds, quantile, reach, share, spread
from slipway.decide.means import Mean
from slipway.decide.release import EDGES_MS

RUNS = 200
LOOKS = [10, 20, 30, 50, 80, 130, 210, 340, 550, 890, 1440, 2330]


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(1, 100))
def test_a_share_lies_in_its_interval(hits: int, misses: int, wide: float) -> None:
    total = hits + misses
    low, high = share(hits / wide, total / wide, 0.05)
    assert 0 <= low <= high <= 1
    assert total == 0 or low <= hits / total <= high


def test_a_share_of_ten_in_a_hundred() -> None:
    """Where the mixed likelihood is 20 times that of p; one single look would allow 0.055 to 0.174."""
    low, high = share(10, 100, 0.05)
    assert (round(low, 3), round(high, 3)) == (0.029, 0.228)
    assert share(0, 0, 0.05) == (0, 1)


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.5])
def test_a_share_keeps_the_truth_however_often_one_looks(rate: float) -> None:
    random = np.random.default_rng(6)
    missed = 0
    for _ in range(RUNS):
        hits = np.cumsum(random.random(LOOKS[-1]) < rate)
        ends = [share(int(hits[n - 1]), n, 0.05) for n in LOOKS]
        missed += not all(low <= rate <= high for low, high in ends)
    assert missed <= 0.05 * RUNS


@pytest.mark.parametrize("rank", [0.5, 0.95])
def test_a_quantile_keeps_the_truth_however_often_one_looks(rank: float) -> None:
    """Times of a lognormal whose quantiles are known."""
    random = np.random.default_rng(7)
    truth = 30 * math.exp(0.8 * {0.5: 0.0, 0.95: 1.644854}[rank])
    missed = 0
    for _ in range(RUNS):
        places = np.searchsorted(EDGES_MS, random.lognormal(math.log(30), 0.8, LOOKS[-1]))
        for n in LOOKS:
            counts = np.bincount(places[:n], minlength=len(EDGES_MS) + 1).tolist()
            _, low, high = quantile(counts, EDGES_MS, rank, 0.05)
            if not low <= truth <= high:
                missed += 1
                break
    assert missed <= 0.05 * RUNS


def test_a_quantile_ends_at_edges_and_is_told_better_by_more_requests() -> None:
    few, many = [0] * 33, [0] * 33
    few[10:14], many[10:14] = [50, 40, 9, 1], [50_000, 40_000, 9_000, 1_000]
    assert quantile(few, EDGES_MS, 0.5, 0.05) == (40, 28, 56)
    assert quantile(many, EDGES_MS, 0.95, 0.05)[1:] == (56, 80)
    assert quantile(few, EDGES_MS, 0.95, 0.05)[1:] == (40, 300_000), "nothing says that 1 in 20 is not slower"


@given(st.lists(st.integers(0, 1000), min_size=33, max_size=33).filter(any), st.sampled_from([0.5, 0.95]))
def test_a_quantile_lies_in_its_interval(counts: list[int], rank: float) -> None:
    value, low, high = quantile(counts, EDGES_MS, rank, 0.05)
    assert 0 <= low <= value <= high <= EDGES_MS[-1]


def test_a_share_that_varies_by_chance_has_no_spread_and_one_of_bursts_has() -> None:
    random = np.random.default_rng(8)
    calm = random.binomial(1000, 0.01, 100)
    bursts = random.binomial(1000, 0.01 * random.gamma(1, 1, 100))
    wide = [spread(float(np.sum(each**2 / 1000)), int(each.sum()), 100_000, 100) for each in (calm, bursts)]
    assert 1 <= wide[0] < 1.5
    assert 8 < wide[1] < 20, "1 + 1000 * 0.01, and a seventh more to be safe"
    assert spread(5, 0, 100, 10) == spread(5, 100, 100, 10) == 1


def test_the_odds_at_the_end_of_an_interval_are_one_in_alpha() -> None:
    for blocks in (20, 60, 1000):
        assert odds(blocks, reach(blocks, 0.01)) == pytest.approx(100)
    assert round(reach(60, 0.05), 1) == 3.0


@pytest.mark.parametrize("correlation", [0.0, 0.5], ids=["independent", "each like the one before"])
def test_a_mean_keeps_the_truth_however_often_one_looks(correlation: float) -> None:
    random = np.random.default_rng(9)
    missed = 0
    for _ in range(RUNS):
        mean, value = Mean(), random.standard_normal()
        for _ in range(120):
            value = correlation * value + math.sqrt(1 - correlation**2) * random.standard_normal()
            mean = mean.plus(3 + value, 1)
            if (found := mean.interval(0.05)) and not found[1] <= 3 <= found[2]:
                missed += 1
                break
    assert missed <= 0.05 * RUNS


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.1, 1e6)), min_size=2, max_size=60))
def test_a_mean_stays_finite_and_survives_being_stored(values: list[tuple[float, float]]) -> None:
    mean = Mean()
    for value, weight in values:
        mean = Mean.of(mean.plus(value, weight).listed())
    assert all(map(math.isfinite, mean.listed()))
    assert mean.error() >= 0


def test_what_is_no_stored_mean_counts_as_nothing_seen() -> None:
    assert Mean.of([]) == Mean.of([1, 2]) == Mean.of([math.nan] * 9) == Mean()


def test_one_heavy_stretch_does_not_outweigh_all_others() -> None:
    mean = Mean()
    for _ in range(20):
        mean = mean.plus(0, 1)
    assert mean.plus(24, 1000).mean == pytest.approx(4)
