"""When the model is run on the loop's thread, and when a batch waits for more."""

import pytest

from slipway_runtime.engine.pace import INLINE_AGAIN_NS, INLINE_NS, TOO_LONG_NS, DelayRule, InlineRule, Line

QUICK, SLOW = INLINE_AGAIN_NS // 2, INLINE_NS * 2


def after(*took_ns: int, rule: InlineRule | None = None) -> InlineRule:
    rule = rule or InlineRule()
    for each in took_ns:
        rule.ran(each)
    return rule


def test_a_model_is_believed_to_be_quick_after_three_quick_runs_in_a_row() -> None:
    assert not after().inline
    assert not after(QUICK, QUICK).inline
    assert not after(QUICK, QUICK, SLOW, QUICK, QUICK).inline
    assert after(QUICK, QUICK, QUICK).inline


def test_one_that_is_not_quite_quick_is_not_taken() -> None:
    assert not after(*[INLINE_AGAIN_NS] * 100).inline


def test_one_slow_run_is_forgiven_one_that_is_far_too_long_is_not() -> None:
    rule = after(*[QUICK] * 20)
    assert after(2 * INLINE_NS, rule=rule).inline
    assert not after(TOO_LONG_NS + 1, rule=rule).inline


def test_one_that_gets_slow_goes_to_the_thread_and_is_tried_again_later_each_time() -> None:
    rule = after(QUICK, QUICK, QUICK)
    assert not after(*[SLOW] * 10, rule=rule).inline
    assert not after(*[QUICK] * 5, rule=rule).inline
    assert after(QUICK, rule=rule).inline
    after(*[SLOW] * 10, rule=rule)
    assert not after(*[QUICK] * 11, rule=rule).inline
    assert after(QUICK, rule=rule).inline


@pytest.mark.parametrize(("fixed", "each"), [(5.0, 2.0), (0.0, 1.0), (3.0, 0.0)])
def test_a_line_finds_what_a_run_costs_apart_from_its_rows(fixed: float, each: float) -> None:
    line = Line()
    for x in (1, 4, 8, 2, 16, 3):
        line.add(x, fixed + each * x)
    assert line.fixed == pytest.approx(fixed, abs=1e-6)


def test_of_one_size_alone_the_whole_counts_as_fixed() -> None:
    line = Line()
    assert line.fixed == 0
    line.add(4, 10)
    line.add(4, 20)
    assert 10 < line.fixed < 20


def test_the_fixed_cost_is_never_negative() -> None:
    line = Line()
    line.add(1, 0)
    line.add(2, 10)
    assert line.fixed == 0


def test_old_points_are_forgotten() -> None:
    line = Line()
    for _ in range(20):
        line.add(1, 100)
        line.add(2, 100)
    for _ in range(200):
        line.add(1, 5)
        line.add(2, 5)
    assert line.fixed == pytest.approx(5, rel=0.01)


def delayed(*, gap_s: float, fixed_s: float, most_s: float = 1.0, requests: int = 1, waited_s: float = 0.0) -> float:
    """What a rule says that has seen a request every `gap_s`, the last of which came just now."""
    rule = DelayRule(most_s)
    for n in range(1, 100):
        rule.arrived(n * gap_s)
        rule.ran(1 + n % 3, fixed_s)
    return rule.hold_s(requests, 99 * gap_s - waited_s, 99 * gap_s)


def test_waiting_pays_while_the_gap_of_all_who_wait_is_less_than_a_runs_fixed_cost() -> None:
    assert delayed(gap_s=0.01, fixed_s=0.05, requests=1) == pytest.approx(0.02)
    assert delayed(gap_s=0.01, fixed_s=0.05, requests=4) == pytest.approx(0.02)
    assert delayed(gap_s=0.01, fixed_s=0.05, requests=6) == 0


def test_nothing_waits_longer_than_its_delay() -> None:
    assert delayed(gap_s=0.01, fixed_s=1.0, waited_s=0.985) == pytest.approx(0.015)
    assert delayed(gap_s=0.01, fixed_s=1.0, waited_s=1.0) == 0


def test_nothing_waits_for_one_who_will_come_too_late() -> None:
    assert delayed(gap_s=0.01, fixed_s=1.0, waited_s=0.995) == 0
    assert delayed(gap_s=2.0, fixed_s=10.0) == 0


def test_who_has_not_come_in_two_gaps_is_not_waited_for() -> None:
    rule = DelayRule(10.0)
    for n in range(1, 100):
        rule.arrived(n * 0.01)
        rule.ran(1 + n % 3, 1.0)
    assert rule.hold_s(1, 0.99, 1.005) == pytest.approx(0.005)
    assert rule.hold_s(1, 0.99, 1.02) == 0


def test_the_first_request_of_all_does_not_wait() -> None:
    rule = DelayRule(1.0)
    rule.arrived(5.0)
    assert rule.hold_s(1, 5.0, 5.0) == 0
