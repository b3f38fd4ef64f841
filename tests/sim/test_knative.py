"""Knative's own cases for its autoscaler (serving, pkg/autoscaler/scaling/autoscaler_test.go), by their numbers."""

import pytest

from slipway.sim.kpa import KpaSettings, LastPod, Scaler

TESTED = {"up_rate": 10.0, "down_rate": 10.0}
"""The rates that the project's tests use in place of its defaults."""


def scaler(target: float, ready: int = 1, **more: float) -> Scaler:
    return Scaler(KpaSettings(target, **(TESTED | more)), ready=ready, now=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "stable", "panic", "ready", "expected", "more"),
    [
        pytest.param(10, 0, 0, 1, 0, {}, id="no load, no pods"),
        pytest.param(10, 50, 49, 1, 5, {}, id="stable mode"),
        pytest.param(10, 50, 50, 5, 5, {}, id="already there"),
        pytest.param(1, 3, 3.1, 2, 3, {"up_rate": 1.1}, id="a small rate up still gives one"),
        pytest.param(10, 1, 1, 100, 90, {"down_rate": 1.1}, id="a small rate down"),
        pytest.param(10, 50, 100, 1, 10, {}, id="panic wins when it is larger"),
        pytest.param(10, 1000, 888, 0, 10, {}, id="no pod ready counts as one"),
        pytest.param(181, 21, 26, 1, 1, {}, id="a large target"),
    ],
)
def test_one_tick(  # noqa: PLR0917 - a table
    target: float, stable: float, panic: float, ready: int, expected: int, more: dict[str, float]
) -> None:
    # The table's autoscalers are made for one pod, so none of them begins in panic.
    assert scaler(target, 1, **more).scale(stable, panic, ready, 0.0) == expected


def test_no_data_is_no_decision() -> None:
    assert scaler(10).scale(None, None, 1, 0.0) is None


def test_stable_mode_follows_the_load() -> None:
    one = scaler(10)
    assert one.scale(50, 10, 1, 0.0) == 5
    assert one.scale(100, 10, 1, 0.0) == 10


@pytest.mark.parametrize(("stable", "panic", "expected"), [(50, 30, 50), (20, 30, 30)])
def test_in_panic_the_larger_of_both_windows_counts(stable: float, panic: float, expected: int) -> None:
    one = scaler(1, ready=5)
    one.panic_at, one.panic_most = -5.0, 5
    assert one.scale(stable, panic, 5, 0.0) == expected


def test_panic_holds_the_pods_for_a_stable_window_and_then_lets_go() -> None:
    one = scaler(10)
    assert one.scale(100, 100, 1, 0.0) == 10
    assert one.scale(100, 1000, 10, 0.0) == 100
    assert one.scale(1, 1, 10, 30.0) == 100
    assert one.scale(1, 1, 10, 61.0) == 1


def test_slow_growth_does_not_extend_panic() -> None:
    one = scaler(1)
    assert one.scale(11, 25, 10, 0.0) == 25
    assert one.panic_at == 0.0
    assert one.scale(30, 41, 40, 30.0) == 41
    assert one.panic_at == 0.0
    assert one.scale(50, 56, 55, 62.0) == 50
    assert one.panic_at is None


def test_a_renewed_surge_extends_panic() -> None:
    one = scaler(1)
    assert one.scale(11, 25, 10, 0.0) == 25
    assert one.scale(30, 80, 40, 30.0) == 80
    assert one.panic_at == 30.0


def test_exponential_growth_is_followed() -> None:
    one = scaler(1)
    ready = 1
    for load in (6, 36, 216, 1296):
        assert one.scale(load, load, ready, 0.0) == load
        ready = load


def test_rate_limits_in_both_directions() -> None:
    up, down = scaler(10), scaler(10)
    assert up.scale(1000, 1001, 1, 0.0) == 10
    assert up.scale(1000, 1001, 10, 0.0) == 100
    assert down.scale(1, 1, 100, 0.0) == 10
    assert down.scale(1, 1, 10, 0.0) == 1


def test_it_begins_in_panic_where_it_finds_more_than_one_pod() -> None:
    assert [scaler(100, ready=ready).panic_at for ready in (0, 1, 2)] == [None, None, 0.0]
    assert scaler(100, ready=2).panic_most == 2


def test_scaling_down_waits_for_the_delay_and_forgets_step_by_step() -> None:
    one = scaler(10, delay_s=300.0, panic_threshold=100.0)
    minute = 60.0
    assert one.scale(40, 40, 1, 2.0) == 4
    assert one.scale(0, 0, 1, 5 * minute) == 4
    assert one.scale(0, 0, 1, 5 * minute + 2) == 0
    assert one.scale(40, 40, 1, 9 * minute) == 4
    assert one.scale(30, 30, 1, 10 * minute) == 4
    assert one.scale(0, 0, 1, 11 * minute) == 4
    assert one.scale(0, 0, 1, 14 * minute) == 3
    assert one.scale(0, 0, 1, 15 * minute) == 0


def test_an_unreachable_revision_ignores_the_delay_and_the_rate() -> None:
    one = Scaler(KpaSettings(10, delay_s=300.0, down_rate=1.1, reachable=False), ready=1, now=0.0)
    assert one.scale(1, 1, 100, 2.0) == 1


def test_activation_scale_counts_only_with_load() -> None:
    one = scaler(10, activation=2)
    assert one.scale(0, 0, 1, 0.0) == 0
    assert one.scale(1, 0, 1, 0.0) == 2


@pytest.mark.parametrize(
    ("active_s", "idle_s", "expected"),
    [
        pytest.param(30.0, 29.0, 1, id="active for less than a stable window"),
        pytest.param(60.0, 0.0, 1, id="idle only now"),
        pytest.param(60.0, 29.0, 1, id="within the grace period"),
        pytest.param(60.0, 30.0, 0, id="the grace period is over"),
    ],
)
def test_the_last_pod_goes_after_the_stable_window_and_the_grace_period(
    active_s: float, idle_s: float, expected: int
) -> None:
    """pkg/reconciler/autoscaling/kpa/scaler_test.go, by its periods: 60 s, 30 s."""
    one = LastPod(60.0)
    one.replicas(1, 0, 0.0)
    one.replicas(1, 1, 2.0)
    one.replicas(0, 1, active_s)
    assert one.replicas(0, 1, active_s + idle_s) == expected


def test_a_request_in_between_begins_the_grace_period_anew() -> None:
    one = LastPod(60.0)
    one.replicas(1, 0, 0.0)
    one.replicas(0, 1, 100.0)
    assert one.replicas(2, 1, 120.0) == 2
    assert one.replicas(0, 2, 140.0) == 1
    assert one.replicas(0, 1, 160.0) == 1
    assert one.replicas(0, 1, 170.0) == 0
