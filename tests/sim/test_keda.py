"""KEDA's own cases (prometheus_scaler_test.go, fallback_test.go, scale_scaledobjects_test.go), by their numbers."""

import math

import pytest

from slipway.sim.keda import Loop, ScalerError, fallback, value_of


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="no result"),
        pytest.param([], id="no value"),
        pytest.param([math.inf], id="+Inf"),
        pytest.param([-math.inf], id="-Inf"),
        pytest.param([math.nan], id="NaN"),
    ],
)
def test_no_value_counts_as_zero_unless_that_is_switched_off(answer: list[float] | None) -> None:
    assert value_of(answer) == 0.0
    with pytest.raises(ScalerError):
        value_of(answer, ignore_null=False)


def test_a_value_is_taken_as_it_is() -> None:
    assert value_of([2.0]) == 2.0


def test_several_series_are_an_error() -> None:
    with pytest.raises(ScalerError):
        value_of([1.0, 2.0])


@pytest.mark.parametrize(("failures", "expected"), [(1, None), (3, None), (4, 100.0)])
def test_beyond_the_threshold_the_metric_says_the_fallback(failures: int, expected: float | None) -> None:
    assert fallback(failures, threshold=3, replicas=10, target=10.0) == expected


def test_from_none_to_one_when_there_is_work() -> None:
    assert Loop().replicas(1.0, 0, 0.0) == 1
    assert Loop(least=2).replicas(1.0, 0, 0.0) == 2


def test_with_work_the_rest_is_the_hpas() -> None:
    assert Loop().replicas(100.0, 3, 0.0) == 3


def test_what_is_below_the_activation_value_is_no_work() -> None:
    assert Loop().replicas(5.0, 0, 0.0, activation=5.0) == 0
    assert Loop().replicas(5.1, 0, 0.0, activation=5.0) == 1


def test_without_work_it_stays_for_the_cooldown_and_then_goes_from_any_number_to_none() -> None:
    one = Loop()
    assert one.replicas(1.0, 10, 0.0) == 10
    assert one.replicas(0.0, 10, 300.0) == 10
    assert one.replicas(0.0, 10, 301.0) == 0


def test_one_that_was_never_active_goes_to_none_at_once() -> None:
    assert Loop().replicas(0.0, 4, 0.0) == 0


def test_below_its_least_it_comes_up_without_work() -> None:
    assert Loop(least=5).replicas(0.0, 1, 0.0) == 5
    assert Loop(least=5).replicas(0.0, 7, 1000.0) == 7
