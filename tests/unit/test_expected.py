"""Replicas for a load that is not there yet."""

import pytest

from slipway.api.scaled import Capacity, Forecast, ScalingState, Trust
from slipway.api.traffic import WHOLE
from slipway.decide.scaling.expected import Load, added, beyond, replicas, seen
from slipway.decide.scaling.types import Wanted

BUSY = Load(rates=(20.0, 18.0), at_once=(10.0, 9.0))
HALF_A_SECOND = ScalingState(capacity=Capacity(windows=10, n=20, s=5, nn=40, ns=10))
NEW = ScalingState()


@pytest.mark.parametrize(
    ("wanted", "own", "expected"),
    [
        pytest.param(Wanted(concurrency=4.0), NEW, 3, id="requests at once"),
        pytest.param(Wanted(requests_per_second=6.0), NEW, 4, id="requests per second"),
        pytest.param(Wanted(queue_s=1.0, slots=4), NEW, 4, id="time, of a model nobody knows"),
        pytest.param(Wanted(queue_s=1.0, slots=4), HALF_A_SECOND, 3, id="time, of a model that is known"),
        pytest.param(Wanted(promql_target=5.0), NEW, 7, id="a number of Prometheus"),
        pytest.param(Wanted(concurrency=4.0, requests_per_second=6.0), NEW, 4, id="the one that needs most"),
    ],
)
def test_each_objective_says_what_a_load_takes(wanted: Wanted, own: ScalingState, expected: int) -> None:
    assert replicas(BUSY, wanted, own, NEW, 6.5) == expected
    assert replicas(Load(), wanted, own, NEW, 6.5) == 0, "nobody asks"


def test_what_has_answered_nothing_is_taken_to_carry_what_the_others_do() -> None:
    wanted = Wanted(queue_s=1.0, slots=4)
    assert replicas(BUSY, wanted, NEW, HALF_A_SECOND) == replicas(BUSY, wanted, HALF_A_SECOND, NEW) == 3


def test_a_request_now_and_then_takes_one() -> None:
    assert replicas(Load(rates=(0.0, 0.01)), Wanted(concurrency=4.0), NEW, NEW) == 1


def _heard(since: float, clock: float, **more: object) -> ScalingState:
    known = Forecast(recent=[100.0] * 14, step=int(clock // 5))
    return ScalingState(clock=clock, trust=Trust(gateway=since), forecast=known, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("since", "clock", "is_known"),
    [
        pytest.param(0.0, 2.0, True, id="from the beginning"),
        pytest.param(-1.0, 100.0, False, id="lost"),
        pytest.param(90.0, 100.0, False, id="back a moment ago"),
        pytest.param(80.0, 100.0, True, id="back for a while"),
    ],
)
def test_a_load_is_known_from_gateways_that_are_heard(since: float, clock: float, *, is_known: bool) -> None:
    assert (seen(_heard(since, clock)) is not None) is is_known


def test_a_load_is_the_rate_and_what_is_in_flight_over_a_short_and_a_long_while() -> None:
    found = seen(_heard(0.0, 100.0, in_flight=[1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0]))
    assert found is not None
    assert found.rates == pytest.approx((20.0, 20.0), rel=0.4)
    assert found.at_once == (4.0, 2.125)


def test_arms_are_added_up_and_shared_out() -> None:
    assert added(BUSY, BUSY).part(WHOLE // 2) == BUSY
    assert BUSY.part(WHOLE, of=WHOLE // 2) == added(BUSY, BUSY)
    assert beyond(BUSY, added(BUSY, BUSY)).is_none
