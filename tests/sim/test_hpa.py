"""Kubernetes' own cases for the HPA (pkg/controller/podautoscaler, *_test.go), by their numbers."""

import pytest

from slipway.sim.hpa import Behavior, Normalizer, Policies, desired_of_pods, desired_of_total


@pytest.mark.parametrize(
    ("samples", "target", "replicas", "more", "expected"),
    [
        pytest.param([20000, 21000, 21000], 20000, 3, {}, 3, id="within the tolerance"),
        pytest.param([300, 500, 700], 300, 3, {}, 5, id="scale up"),
        pytest.param([500, 700], 300, 3, {"unready": 1}, 4, id="an unready one, less growth"),
        pytest.param([400], 400, 3, {"unready": 2}, 3, id="unready ones, no growth"),
        pytest.param([500, 700], 300, 2, {}, 4, id="failed ones are ignored"),
        pytest.param([50000, 10000, 30000], 15000, 3, {}, 6, id="a custom metric of an unready one counts"),
        pytest.param([50000, 15000, 30000], 15000, 3, {}, 7, id="and up it goes"),
        pytest.param([100, 300, 500, 250, 250], 500, 5, {}, 3, id="scale down"),
        pytest.param([100, 300, 500], 500, 5, {"unready": 2}, 2, id="unready ones are ignored on the way down"),
        pytest.param(
            [450], 500, 3, {"missing": 1, "unready": 1, "assumed": 1000}, 3, id="a missing one turns it: no change"
        ),
        pytest.param([20000, 10000, 30000], 15000, 3, {}, 4, id="scale up by a custom metric"),
        pytest.param([12000, 12000, 12000, 12000, 12000], 20000, 5, {}, 3, id="scale down by a custom metric"),
        pytest.param(
            [400, 95], 1000, 4, {"missing": 2, "assumed": 1000}, 3, id="missing ones are full on the way down"
        ),
        pytest.param([1000], 1000, 2, {"missing": 1}, 2, id="one missing, at target: no change"),
        pytest.param([1900], 1000, 2, {"missing": 1}, 2, id="one missing, above: it may do nothing"),
        pytest.param([600], 1000, 2, {"missing": 1, "assumed": 1000}, 2, id="one missing, below: it may be full"),
        pytest.param([2000], 500, 3, {"missing": 1, "unready": 1}, 4, id="missing and unready ones damp growth"),
        pytest.param(
            [100, 100],
            500,
            4,
            {"missing": 1, "unready": 1, "assumed": 1000},
            3,
            id="unready ones do not stop shrinking",
        ),
    ],
)
def test_replicas_by_the_samples_of_pods(
    samples: list[float], target: float, replicas: int, more: dict[str, int], expected: int
) -> None:
    assert desired_of_pods(samples, target, replicas, **more) == expected


@pytest.mark.parametrize(
    ("total", "target", "replicas", "expected"),
    [
        pytest.param(8600, 2900, 3, 3, id="within the tolerance"),
        pytest.param(8600, 2150, 3, 4, id="up"),
        pytest.param(8600, 2867, 5, 3, id="down"),
    ],
)
def test_replicas_by_a_total(total: float, target: float, replicas: int, expected: int) -> None:
    assert desired_of_total(total, target, replicas) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param([(4, -120), (5, -60)], 5, id="stabilised by what was recommended lately"),
        pytest.param([(1, -120), (2, -60)], 3, id="nothing higher was recommended"),
        pytest.param([(10, -600), (9, -540)], 3, id="what is older than the window does not count"),
        pytest.param([(10, -600), (9, -540), (5, -120), (4, -60)], 5, id="old and new"),
    ],
)
def test_the_highest_recommendation_of_five_minutes_counts_on_the_way_down(
    before: list[tuple[int, float]], expected: int
) -> None:
    one = Normalizer(Behavior(), least=1, most=100)
    for replicas, moment in before:
        one.normalize(replicas, replicas, moment)
    current = max(expected, 5) if expected > 3 else 3
    assert one.normalize(3, current, 0.0) == expected


def test_the_first_recommendation_is_what_is_there() -> None:
    assert Normalizer(Behavior(), least=1, most=100).normalize(1, 8, 0.0) == 8


def test_four_pods_or_as_many_again_in_fifteen_seconds() -> None:
    one = Normalizer(Behavior(), least=1, most=1000)
    assert one.normalize(1000, 3, 0.0) == 7
    assert one.normalize(1000, 7, 15.0) == 14
    # Within the same period the additions before count.
    assert one.normalize(1000, 14, 20.0) == 14


def test_a_disabled_direction_is_frozen() -> None:
    one = Normalizer(Behavior(down=Policies(0.0, None, 100, select="Disabled")), least=1, most=10)
    assert one.normalize(1, 5, 0.0) == 5


def test_a_policy_on_the_way_down_counts_what_has_gone_in_its_period() -> None:
    one = Normalizer(Behavior(down=Policies(0.0, 2, None, period_s=60.0)), least=1, most=10)
    assert one.normalize(1, 8, 0.0) == 6
    assert one.normalize(1, 6, 30.0) == 6
    assert one.normalize(1, 6, 61.0) == 4
