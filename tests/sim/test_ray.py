"""Ray Serve's own cases for its default policy (serve/tests/unit/test_autoscaling_policy.py), by their numbers."""

import pytest

from slipway.sim.ray import RaySettings, Scaler

INTERVAL = 0.1


def scaler(target: float = 1.0, **more: float | None) -> Scaler:
    defaults: dict[str, float | None] = {"least": 0, "most": 200, "interval_s": INTERVAL}
    return Scaler(RaySettings(target, **(defaults | more)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "expected"), [(10.0, 10), (0.5, 1)])
def test_from_zero_it_starts_with_the_factor(factor: float, expected: int) -> None:
    assert scaler(up_factor=factor).scale(1, 0, 0) == expected


def test_a_large_factor_down_stops_at_one_before_zero() -> None:
    one = scaler(up_delay_s=0, down_delay_s=0, down_factor=10)
    assert one.scale(0, 5, 5) == 1
    assert one.scale(0, 1, 1) == 0


def test_a_small_factor_down_reaches_zero_all_the_same() -> None:
    one, replicas = scaler(up_delay_s=0, down_delay_s=0, down_factor=0.2), 5
    for _ in range(5):
        replicas = one.scale(0, replicas, replicas)
    assert replicas == 0


@pytest.mark.parametrize("to_zero_s", [None, 300.0])
def test_both_delays_are_waited_for_and_begin_anew_after_an_interruption(to_zero_s: float | None) -> None:
    one = scaler(up_delay_s=30.0, down_delay_s=600.0, to_zero_delay_s=to_zero_s, most=2)
    up, down, zero = 300, 6000, 6000 if to_zero_s is None else 3000
    assert one.scale(1, 0, 0) == 1
    assert {one.scale(2, 1, 1) for _ in range(up)} == {1}
    assert one.scale(2, 1, 1) == 2
    assert {one.scale(0, 2, 2) for _ in range(down)} == {2}
    assert one.scale(0, 2, 2) == 1
    assert {one.scale(0, 1, 1) for _ in range(zero)} == {1}
    assert one.scale(0, 1, 1) == 0
    assert {one.scale(2, 1, 1) for _ in range(up // 2)} == {1}
    one.scale(0, 1, 1)
    assert {one.scale(2, 1, 1) for _ in range(up)} == {1}
    assert one.scale(2, 1, 1) == 2


def test_replicas_that_start_slowly_do_not_multiply_the_target() -> None:
    one = scaler(up_delay_s=0, down_delay_s=100_000, least=1)
    assert one.scale(100, 1, 1) == 100
    assert one.scale(100, 1, 100) == 100
    assert one.scale(123, 3, 100) == 123
    assert one.scale(10, 4, 123) == 123


@pytest.mark.parametrize(("delay", "up", "down"), [(30.0, 1, 2), (0.0, 2, 1)])
def test_a_load_that_changes_each_tick_is_damped_by_the_delay(delay: float, up: int, down: int) -> None:
    one = scaler(50, up_delay_s=delay, down_delay_s=delay, least=1, most=10)
    for _ in range(500):
        assert one.scale(100, 1, 1) == up
        assert one.scale(40, 2, 2) == down


@pytest.mark.parametrize(("requests", "expected"), [(20, 4), (100, 20), (10, 2)])
def test_one_replica_may_have_all_requests(requests: int, expected: int) -> None:
    assert scaler(5, up_delay_s=0, down_delay_s=0, least=1, most=50).scale(requests, 4, 4) == expected
