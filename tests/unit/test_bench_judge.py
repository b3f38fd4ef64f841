"""The simulator of releases: what is drawn, how the rules of others judge it, and what is told of it."""

import numpy as np
import pytest

from e2e.bench.judge.__main__ import CEILINGS, FAULTS, KEYS, Cell, bad_table, cells, figures, good_table, judge
from e2e.bench.judge.rules import RULES, End, argo, argo_2, flagger, kayenta, ours
from e2e.bench.judge.world import CANDIDATE, MINUTE, NOISES, STABLE, Fault, Setting, Side, Traffic, draw
from slipway.decide.release import Window


def drawn(**other: object) -> Traffic:
    setting: dict[str, object] = {"rps": 100, "noise": "bernoulli", "fault": Fault(), "minutes": 6} | other
    return draw(np.random.default_rng(7), Setting(**setting))  # type: ignore[arg-type]


def minutes(*errors: int, requests: int = 300) -> Traffic:
    """So many errors of the candidate in each minute, whatever its weight; stable has one in each."""

    def side(bad: tuple[int, ...]) -> Side:
        none = np.zeros((3, len(bad) * MINUTE), dtype=np.int64)
        counts, failed = none.copy(), none.copy()
        counts[:, ::MINUTE], failed[:, ::MINUTE] = requests, bad
        return Side(counts, failed, none[..., None], none, none[0])

    return Traffic(Window(300, 1), side(errors), side((1,) * len(errors)))


@pytest.mark.parametrize("noise", NOISES)
def test_every_request_is_drawn_once(noise: str) -> None:
    traffic = drawn(noise=noise)
    for step in range(3):
        for tick in (0, 3, 71):
            for name, sample in traffic.window(step, tick).samples.items():
                assert name in {STABLE, CANDIDATE}
                assert sum(sample.latency) == sample.requests >= sample.errors


def test_a_fault_is_the_candidate_s_alone() -> None:
    traffic = drawn(fault=Fault(rate=0.2))
    assert sum(traffic.candidate.minute(2, minute)[1] for minute in range(6)) > 3000
    assert sum(traffic.stable.minute(2, minute)[1] for minute in range(6)) < 100


def test_argo_aborts_at_its_first_failed_measurement_or_beyond_its_limit() -> None:
    assert argo(minutes(0, 0, 4, 0, 0, 0), 6) == End("aborted", 3, 4)
    assert argo(minutes(3, 3, 3, 3, 3, 3), 6).what == "promoted"
    assert argo_2(minutes(4, 0, 4, 0, 0, 0), 6).what == "promoted"
    assert argo_2(minutes(4, 0, 4, 0, 0, 4), 6) == End("aborted", 6, 12)
    assert argo(minutes(0, 0, 0, 0, 0, 0, requests=0), 6).what == "aborted"


def test_flagger_counts_failed_checks_over_the_whole_release_and_does_not_move_on() -> None:
    assert flagger(minutes(4, 0, 4, 0, 0, 0, 0, 0), 8) == End("promoted", 8, 8)
    assert flagger(minutes(4, 0, 4, 0, 4, 0, 4, 0, 4), 9) == End("aborted", 9, 20)


def test_kayenta_needs_several_points_that_all_are_higher() -> None:
    assert kayenta(minutes(1, 1, 1, 1, 1, 1), 6).what == "promoted"
    assert kayenta(minutes(30, 31, 32, 33, 34, 35), 6).what == "aborted"


def test_ours_promotes_a_good_release_after_its_holds_and_aborts_a_bad_one() -> None:
    assert ours(drawn(), 6) == End("promoted", 6.0, ours(drawn(), 6).user_errors)
    bad = ours(drawn(fault=Fault(rate=1.0)), 6)
    assert bad.what == "aborted"
    assert bad.minutes == pytest.approx(10 / 60)


def test_the_tables_and_the_result_tell_of_every_cell() -> None:
    found = {cell: {name: [End("promoted", 6.0), End("aborted", 3.0, 4)] for name in RULES} for cell in cells()}
    assert good_table(found).count("50.0 (9.5 to 90.5)") == len(NOISES) * 4 * len(RULES)
    assert bad_table(found).count("50; 3.0, 3.0; 4; promoted 50") == len(FAULTS) * 5 * len(RULES)
    measured = figures(found)
    assert set(measured) == set(KEYS) >= set(CEILINGS)
    assert measured["missed_bad_pct"] == 50


def test_a_cell_is_drawn_the_same_again() -> None:
    cell = Cell("errors x20", "bernoulli", 1000)
    assert judge(cell, 3, 1) == judge(cell, 3, 1)
