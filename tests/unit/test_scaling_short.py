"""Requests that take a fraction of the two seconds between looks: many of them come and go unseen in between."""

import math
from itertools import pairwise
from random import Random

import pytest

from slipway.api.scaled import Forecast, Hindsight
from slipway.decide.scaling import forecast, hindsight
from slipway.decide.scaling.capacity import Carries
from slipway.decide.scaling.types import Pacing, Wanted
from slipway.sim.models import ServiceModel
from slipway.sim.slipway import Slipway
from slipway.sim.traces import Trace
from slipway.sim.world import Terms, replay
from tests.unit.scaling import Revision, by_queue


def behind(rate: float, service_s: float, *, every: float = 2.0, spare_s: float = 1.0) -> int:
    """Replicas of one slot that hindsight takes for enough after a quarter of an hour of a steady rate."""
    carries = Carries(slots=1.0, service_s=service_s, spare_s=spare_s)
    known, clock = Hindsight(), 0.0
    while clock < 900:
        clock += every
        known = hindsight.look(known, arrived=rate * every, dt=every, carries=carries, most=64, clock=clock, lead=10.0)
    return hindsight.enough(known, most=64, share_late=0.005, clock=clock, lead=10.0, usual=rate * service_s)


@pytest.mark.parametrize(
    ("rate", "service_s", "most"),
    [
        pytest.param(3.0, 0.1, 1, id="a third of a replica"),
        pytest.param(30.0, 0.1, 4, id="three replicas"),
        pytest.param(300.0, 0.01, 4, id="three replicas, shorter still"),
        pytest.param(6.0, 0.5, 6, id="half a second: some of each look is lost"),
    ],
)
def test_a_replica_answers_as_many_short_requests_in_a_look_as_fit(rate: float, service_s: float, most: int) -> None:
    assert rate * service_s <= behind(rate, service_s) <= most


def test_looks_of_five_service_times_or_twenty_find_the_same_number_enough_but_for_one() -> None:
    found = [behind(20.0, 0.2, every=every) for every in (1.0, 2.0, 4.0)]
    assert max(found) - min(found) <= 1


def test_a_rush_of_short_requests_is_late_for_as_long_as_its_queue_is_too_long() -> None:
    carries = Carries(slots=1.0, service_s=0.1, spare_s=0.9)
    known = hindsight.look(Hindsight(), arrived=1.0, dt=2.0, carries=carries, most=64, clock=2.0, lead=10.0)
    known = hindsight.look(known, arrived=200.0, dt=2.0, carries=carries, most=64, clock=4.0, lead=10.0)
    late = known.segments[-1][1:]
    assert late[0] > 150, "one replica answers 20 in these two seconds, and ten more in time"
    assert late == sorted(late, reverse=True)
    assert len(late) < 12, "ten replicas have it done within the time it takes to come"


def test_what_came_before_a_step_began_is_counted_in_the_step_before() -> None:
    """Looks at even seconds, steps of five: three looks fall into each second step."""
    known, clock = Forecast(), 0.0
    while clock < 120:
        clock += 2.0
        known = forecast.count(known, 60.0, clock, 2.0)
        if clock > 20:
            assert forecast.mean_rate(known, clock, 5.0) == pytest.approx(30.0)


def test_what_chance_makes_of_a_steady_load_is_no_peak_and_ten_times_the_load_is() -> None:
    random, known, clock = Random(4), Forecast(), 0.0  # noqa: S311 - a load
    peaks: list[bool] = []

    def look(rate: float) -> forecast.Outlook:
        nonlocal known, clock
        clock += 2.0
        before = known
        known = forecast.count(known, random.gauss(2 * rate, (2 * rate) ** 0.5), clock, 2.0)
        known = forecast.forward(known, clock=clock, lead=10.0, now=clock, is_new_step=known.step != before.step)
        return forecast.outlook(known, clock=clock, lead=10.0, service_s=0.1, now=clock, share=0.7, headroom=1.1)

    for _ in range(450):
        there = look(30.0)
        peaks.append(there.peak > there.ahead)
    assert sum(peaks) < 0.05 * len(peaks)
    assert look(300.0).peak > 2 * look(300.0).now


@pytest.mark.parametrize(("lead_s", "ahead_s"), [(3.0, 3.0), (10.0, 5.0), (100.0, 15.0)])
def test_a_climb_is_continued_to_the_lead_time_and_no_longer_than_it_was_seen(lead_s: float, ahead_s: float) -> None:
    known, clock, per_s = Forecast(), 0.0, 2.0
    while clock < 120:
        clock += 1.0
        known = forecast.count(known, 20.0 + per_s * clock, clock, 1.0)
    there = forecast.outlook(known, clock=clock, lead=lead_s, service_s=0.1, now=clock, share=0.7, headroom=1.1)
    beyond = min(per_s * ahead_s, there.peak / 2)
    assert there.peak == pytest.approx(20.0 + per_s * clock + beyond, rel=0.06)


def test_what_is_continued_is_twice_of_what_there_is_at_most() -> None:
    known, clock = Forecast(), 0.0
    while clock < 60:
        clock += 1.0
        known = forecast.count(known, 1.0 if clock < 55 else 500.0, clock, 1.0)
    there = forecast.outlook(known, clock=clock, lead=10.0, service_s=0.1, now=clock, share=0.7, headroom=1.1)
    assert there.peak <= 2 * forecast.mean_rate(known, clock, 5.0)


@pytest.mark.parametrize("lead_s", [3.0, 10.0])
def test_a_quick_climb_is_followed_by_a_rate_as_objective(lead_s: float) -> None:
    """From 3 to 28 requests a second in 20 s: replicas for what comes during a launch, no more than for twice of it."""
    one = Revision(Wanted(max_replicas=20, requests_per_second=8.0), replicas=1, lead_s=lead_s, service_s=0.1)
    one.run(60, rate=3.0)
    too_few = []
    for second in range(0, 20, 2):
        rate = 3.0 + 25.0 * second / 20
        asked = one.run(2, rate=rate)
        too_few.append(asked < math.ceil(rate / 10.0))
    assert sum(too_few) <= 1
    assert one.run(10, rate=28.0) <= 7


def test_a_steady_load_of_short_requests_takes_what_it_takes_and_stays() -> None:
    """30 a second of a tenth of a second each: three are at work at a time."""
    one = Revision(by_queue(slots=1), replicas=1, lead_s=10, service_s=0.1)
    one.run(1800, rate=30.0)
    settled = one.history[-450:]
    assert 4 <= min(settled) <= max(settled) <= 6
    assert sum(a != b for a, b in pairwise(settled)) <= 2


def test_one_request_at_work_in_one_slot_is_no_ground_for_a_second_replica() -> None:
    one = Revision(by_queue(slots=1), replicas=1)
    one.in_flight = 1.0
    assert one.look() == 1
    one.in_flight = 2.0
    assert one.look() == 2


def test_a_delay_that_the_user_gives_counts_from_the_start_on() -> None:
    """Without one, nothing that was there at the start goes for ten minutes."""
    own, usual = (
        Revision(by_queue(slots=1, down=Pacing(delay_s=delay_s)), replicas=4, service_s=0.1) for delay_s in (30.0, 0.0)
    )
    own.run(90, rate=1.0)
    usual.run(590, rate=1.0)
    assert (own.replicas, usual.replicas) == (1, 4)


def test_a_load_of_a_third_of_a_replica_keeps_one() -> None:
    """As it is measured: poisson arrivals, one at a time, 100 ms each, an answer within a second."""
    random, times = Random(7), [0.0]  # noqa: S311 - a load
    while times[-1] < 1200:
        times.append(times[-1] + random.expovariate(3.0))
    model = ServiceModel(base_s=0.1, each_s=0.0, slots=1, latency_s=1.0)
    trace, terms = Trace("short", times, [1.0] * len(times), model, 1), Terms(lead_s=10)
    outcome = replay(trace, Slipway(model, terms), terms)
    assert outcome.attainment_pct == 100.0
    # Two that came together at the very start, when nothing is known, may have asked for more: kept for ten minutes.
    assert {asked for moment, asked, _ in outcome.replicas if moment > 605} <= {1}
    assert outcome.replicas[-1][1] == 1
