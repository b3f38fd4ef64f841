"""What any autoscaler can be held to, by number: scenarios that other projects' suites have."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from slipway.decide.scaling import decide
from slipway.decide.scaling.types import Code, Gateway, Metric, Observation, Pacing, Pods, Replicas, Wanted
from tests.unit.scaling import EPOCH, Revision, by_concurrency, by_queue, promql


def test_01_no_data_is_not_zero_load() -> None:
    seen = Observation(by_concurrency(), Replicas(asked=7, ready=7))
    state, replicas, reasons = decide(None, seen, EPOCH)
    assert (replicas, reasons[0].code) == (7, Code.NO_DATA)
    for tick in range(1, 400):
        state, replicas, reasons = decide(state, seen, EPOCH + 2 * tick)
        assert replicas == 7
    assert reasons[0].code is Code.METRICS_DEGRADED


def test_02_replicas_follow_a_target_up() -> None:
    one = Revision(by_concurrency(10))
    one.in_flight = 50
    assert one.look() == 5
    one.in_flight = 100
    one.now += 2
    assert one.look() == 10


def test_03_a_spike_is_followed_at_once_held_for_a_window_and_released_in_one_step() -> None:
    one = Revision(by_concurrency(10))
    one.run(120)
    one.in_flight = 100
    assert one.run(2) == 10
    one.in_flight = 10
    window = 60.0
    assert one.run(window - 4) == 10
    assert one.run(10) == 1
    assert set(one.history) == {1, 10}


def test_04_slow_growth_does_not_prolong_what_a_spike_needed_and_a_new_surge_does() -> None:
    one = Revision(by_concurrency(10))
    one.run(120)
    one.in_flight = 100
    one.run(2)
    for step in range(60):
        one.in_flight = 20 + step / 4
        one.run(2)
    assert one.replicas == 4
    one.in_flight = 100
    one.run(2)
    one.in_flight = 20
    one.run(60)
    one.in_flight = 100
    one.run(2)
    one.in_flight = 20
    assert one.run(56) == 10


def test_05_the_larger_of_the_long_and_the_short_view_counts() -> None:
    """Fewer requests now than over the window: the window counts. More now: now counts."""
    one = Revision(by_concurrency(10))
    one.in_flight = 50
    one.run(10)
    one.in_flight = 30
    assert one.run(10) == 5
    one.in_flight = 70
    assert one.run(2) == 7


def test_06_rate_limits_never_leave_it_stuck() -> None:
    up = Revision(by_concurrency(10, up=Pacing(percent=10, period_s=60)), replicas=2)
    up.in_flight = 30
    assert up.look() == 3
    down = Revision(by_concurrency(10, down=Pacing(percent=90, period_s=60, delay_s=60)), replicas=100)
    down.in_flight = 10
    down.run(110)
    assert {100, 10} <= set(down.history)
    assert min(down.history) == 10
    down.run(120)
    assert down.replicas == 1


def test_07_going_down_waits_for_the_highest_need_of_the_delay() -> None:
    wanted = by_concurrency(10, least=0, down=Pacing(delay_s=300), idle_after_s=300)
    one = Revision(wanted, replicas=4)
    one.run(540 - 2)
    one.in_flight = 40
    one.run(2)  # minute 9
    one.run(58)
    one.in_flight = 30
    one.run(2)  # minute 10
    one.run(58)
    one.in_flight = 0
    one.run(2)  # minute 11
    begin = len(one.history)
    one.run(420)
    after = one.history[begin:]
    assert after[:118] == [4] * 118
    assert 3 in after
    assert after[-1] == 0
    assert after == sorted(after, reverse=True)


def test_07_a_revision_without_a_route_waits_for_nothing() -> None:
    one = Revision(by_concurrency(10, least=2, down=Pacing(delay_s=300)), replicas=4)
    one.in_flight = 40
    one.run(60)
    assert one.look(reachable=False) == 0


def test_08_after_a_restart_nothing_goes_before_a_full_window_was_seen() -> None:
    one = Revision(by_concurrency(10), replicas=20)
    one.in_flight = 10
    assert one.run(58) == 20
    assert one.run(10) == 1


def test_08_what_was_remembered_before_a_pause_is_no_ground_to_go_down() -> None:
    one = Revision(by_concurrency(10), replicas=20)
    one.in_flight = 200
    one.run(300)
    one.in_flight = 10
    one.now += 600  # the operator was away
    assert one.run(54) == 20
    assert one.run(60) == 1


def test_09_the_last_replica_goes_only_after_the_idle_time_and_any_request_cancels() -> None:
    one = Revision(by_queue(least=0, idle_after_s=300), replicas=1)
    one.run(290, rate=0.0)
    assert one.replicas == 1
    one.run(2, rate=1.0)
    one.run(290, rate=0.0)
    assert one.replicas == 1
    one.run(20, rate=0.0)
    assert (one.replicas, one.reasons[0].code) == (0, Code.IDLE)


def test_09_without_the_gateways_word_nobody_is_idle() -> None:
    one = Revision(by_queue(least=0, idle_after_s=60), replicas=1)
    one.run(1000, rate=0.0, gateway=None)
    assert one.replicas == 1
    stale = Gateway(age_s=30.0, arrived=0, in_flight=0)
    one.run(1000, rate=0.0, gateway=stale)
    assert one.replicas == 1


def test_09_what_was_busy_before_it_fell_asleep_sleeps_until_somebody_asks() -> None:
    """What the last while needed is no ground to wake it: hindsight reaches back fifty minutes, a nap may be short."""
    one = Revision(by_queue(least=0, slots=4, idle_after_s=60), replicas=3, service_s=1.0)
    one.run(900, rate=8.0)
    one.run(70, rate=0.0)
    assert one.run(1800, rate=0.0) == 0
    assert set(one.history[-890:]) == {0}
    one.in_flight = one.queued = 1.0
    assert one.look() >= 1
    assert one.reasons[0].code is Code.WAKING


def test_09_a_number_of_ones_own_keeps_it_awake_and_wakes_it_without_a_request() -> None:
    one = Revision(by_queue(least=0, idle_after_s=60, promql_target=5.0), replicas=1)
    assert one.run(600, rate=0.0, promql=promql(4.0)) == 1
    assert one.run(120, rate=0.0, promql=promql(0.0)) == 0
    assert one.run(120, rate=0.0, promql=promql(0.4)) == 0, "less than a tenth of what one carries is nothing"
    assert one.run(2, rate=0.0, promql=promql(8.0)) == 2
    assert one.reasons[0] == (Code.WAKING, "the query says 8")


def test_09_replicas_that_answer_are_not_idle_whatever_the_gateways_say() -> None:
    one = Revision(by_queue(least=0, idle_after_s=60.0), replicas=1)
    one.run(30, rate=1.0)
    for _ in range(60):
        seen = one.see()
        assert seen.pods is not None
        one.run(2, rate=0.0, pods=replace(seen.pods, answered=seen.pods.answered + one.now))
    assert one.replicas == 1
    one.run(80, rate=0.0)
    assert one.replicas == 0


def test_10_the_first_request_wakes_it_at_once_with_the_replicas_asked_for() -> None:
    one = Revision(by_queue(least=0, idle_after_s=60, activation_replicas=2), replicas=0)
    one.run(20, rate=0.0)
    assert one.replicas == 0
    one.in_flight = one.queued = 1.0
    one.now += 0.01
    assert one.look() == 2
    assert one.reasons[0].code is Code.WAKING


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(Wanted(0, 4, requests_per_second=8.0, idle_after_s=5.0), id="requests per second"),
        pytest.param(Wanted(0, 4, queue_s=1.0, idle_after_s=5.0), id="queue time"),
        pytest.param(Wanted(0, 4, concurrency=1.0, idle_after_s=5.0), id="concurrency"),
    ],
)
def test_10_what_went_to_sleep_after_load_sleeps_on_until_somebody_asks(wanted: Wanted) -> None:
    """The forecast still has the load of before: 0 and 1 replicas by turns, each 2 s, on the cluster."""
    one = Revision(wanted, replicas=2, service_s=0.1)
    one.run(120, rate=16.0)
    begin = len(one.history)
    one.run(120, rate=0.0)
    after = one.history[begin:]
    assert after[-1] == 0
    assert sorted(after, reverse=True) == after, "it only goes down"


def test_10_a_query_that_counts_work_wakes_it_and_keeps_it_awake() -> None:
    wanted = Wanted(0, 4, promql_target=5.0, idle_after_s=5.0)
    one = Revision(wanted, replicas=0, changes={"promql": Metric(1.0, 7.0)})
    assert one.run(60, rate=0.0) == 2
    assert set(one.history[1:]) == {2}
    one.changes = {"promql": Metric(1.0, 0.0)}
    assert one.run(300, rate=0.0) == 0


def test_10_no_pace_keeps_a_request_waiting_for_a_first_replica() -> None:
    one = Revision(by_queue(least=0, up=Pacing(replicas=0, delay_s=120)), replicas=0)
    one.run(20, rate=0.0)
    one.in_flight = one.queued = 1.0
    assert one.look() == 1


def test_10_requests_that_the_gateway_holds_are_not_counted_again_when_pods_tell_of_them() -> None:
    one = Revision(by_concurrency(10))
    one.in_flight = 50
    pods = Pods(age_s=1.0, running=20.0, queued=30.0)
    assert one.look(pods=pods) == 5


def test_11_what_never_becomes_ready_is_given_up_with_a_reason_and_tried_again_later() -> None:
    one = Revision(by_queue(least=0, progress_deadline_s=120), replicas=0, lead_s=1e9)
    one.in_flight = one.queued = 3.0
    one.run(2)
    assert one.run(140) == 1
    one.run(20)
    assert (one.replicas, one.reasons[0].code) == (0, Code.ACTIVATION_FAILED)
    one.launched.clear()
    assert one.run(40) == 0
    assert one.run(30) == 1
    tried = sum(1 for a, b in pairwise(one.history) if (a, b) == (0, 1))
    one.run(3600)
    again = sum(1 for a, b in pairwise(one.history) if (a, b) == (0, 1))
    assert 0 < again - tried < 10


def test_11_a_load_that_lasts_longer_than_its_caller_waits_is_finished_and_kept_for_who_asks_again() -> None:
    """Else each caller starts a load of three minutes, gives up after one, and none is ever ready."""
    one = Revision(by_queue(least=0, idle_after_s=5.0, progress_deadline_s=600), replicas=0, lead_s=180)
    one.in_flight = one.queued = 1.0
    one.run(60)
    one.in_flight = one.queued = 0.0
    assert one.run(124) == 1
    assert set(one.history) == {1}
    assert one.run(20) == 0


def test_11_what_never_becomes_ready_is_given_up_although_its_callers_did_so_before() -> None:
    one = Revision(by_queue(least=0, idle_after_s=5.0, progress_deadline_s=12), replicas=0, lead_s=1e9)
    one.in_flight = one.queued = 1.0
    one.run(20)
    one.in_flight = one.queued = 0.0
    one.run(30)
    assert (one.replicas, one.reasons[0].code) == (0, Code.ACTIVATION_FAILED)


def test_11_one_that_waits_for_a_node_is_given_six_times_as_long() -> None:
    one = Revision(by_queue(least=0, progress_deadline_s=120), replicas=0, lead_s=1e9)
    one.in_flight = one.queued = 3.0
    one.run(2)
    waiting = Replicas(asked=1, ready=0, loading=(5.0,), missing="nvidia.com/gpu")
    assert one.run(6 * 140, replicas=waiting) == 1
    one.run(120, replicas=waiting)
    assert (one.replicas, one.reasons[0].code) == (0, Code.ACTIVATION_FAILED)


@pytest.mark.parametrize(("in_flight", "expected"), [(105, {10}), (91, {10}), (120, {11, 12}), (160, {16})])
def test_12_within_the_tolerance_nothing_changes(in_flight: float, expected: set[int]) -> None:
    """120 is no leap, but followed by its mean: 11 come first, and with them it is within the tolerance."""
    one = Revision(by_concurrency(10), replicas=10)
    one.in_flight = 100
    one.run(300)
    one.in_flight = in_flight
    assert one.run(300) in expected


def test_12_pods_that_say_nothing_may_be_busy_on_the_way_down_and_idle_on_the_way_up() -> None:
    one = Revision(by_concurrency(10), replicas=10)
    few = Pods(age_s=1.0, coverage=0.4, running=10.0, queued=0.0)
    one.run(600, gateway=None, pods=few)
    assert one.replicas == 10
    many = Pods(age_s=1.0, coverage=0.4, running=150.0, queued=0.0)
    assert one.run(2, gateway=None, pods=many) == 15


def test_12_replicas_that_load_damp_growth() -> None:
    one = Revision(by_concurrency(10), replicas=1, lead_s=180)
    one.in_flight = 100
    one.run(170)
    assert set(one.history) == {10}


def test_13_of_several_objectives_the_largest_need_counts() -> None:
    wanted = by_concurrency(10, promql_target=5.0)
    one = Revision(wanted)
    one.in_flight = 20
    assert one.look(promql=promql(40.0)) == 8


def test_13_one_invalid_objective_stops_going_down_and_not_going_up() -> None:
    one = Revision(by_concurrency(10, promql_target=5.0), replicas=8)
    one.in_flight = 20
    one.run(600, promql=promql(math.nan))
    assert one.replicas == 8
    one.in_flight = 120
    assert one.run(2, promql=promql(None)) == 12


def test_13_with_every_objective_invalid_nothing_changes() -> None:
    one = Revision(by_concurrency(10, promql_target=5.0), replicas=8)
    one.run(600, promql=None, gateway=None, pods=None)
    assert one.replicas == 8
    assert Code.METRICS_DEGRADED in one.codes or Code.NO_DATA in one.codes


def test_14_on_the_way_up_the_least_and_on_the_way_down_the_most_of_the_delay_counts() -> None:
    one = Revision(by_concurrency(10, up=Pacing(delay_s=60), down=Pacing(delay_s=120)))
    one.run(200)
    for need in (50, 80, 30):
        one.in_flight = need
        one.run(18)
    assert one.replicas == 1
    one.run(60)
    assert one.replicas == 3


def test_14_a_period_counts_what_came_and_what_went() -> None:
    one = Revision(by_concurrency(10, up=Pacing(replicas=4, period_s=60)))
    one.in_flight = 500
    assert one.look() == 5
    assert one.run(50) == 5
    assert one.run(14) == 9


def test_14_above_the_maximum_it_comes_down_at_once_even_without_metrics() -> None:
    one = Revision(by_concurrency(10, most=6), replicas=9)
    assert one.look(gateway=None, pods=None) == 6


def test_14_below_the_minimum_it_goes_up_at_once_even_without_metrics() -> None:
    assert Revision(by_concurrency(10, least=3), replicas=0).look(gateway=None, pods=None) == 3


def test_15_failing_signals_hold_what_is_there_and_one_success_is_not_enough_to_go_down() -> None:
    one = Revision(by_concurrency(10, least=0), replicas=6)
    one.in_flight = 60
    one.run(200)
    one.in_flight = 0
    one.run(600, gateway=None, pods=None)
    assert one.replicas == 6
    one.run(2)
    assert one.replicas == 6
    one.run(400, gateway=None, pods=None)
    assert one.replicas == 6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5.0, 1e300, None])
def test_15_a_value_that_no_sensor_could_give_never_acts(value: float | None) -> None:
    one = Revision(by_concurrency(10, concurrency=None, promql_target=5.0), replicas=4)
    assert one.run(600, promql=promql(value)) == 4


def test_16_each_direction_can_be_paused() -> None:
    up = Revision(by_concurrency(10, holds_up=True), replicas=2)
    up.in_flight = 100
    assert up.run(60) == 2
    assert Code.PAUSED in up.codes
    down = Revision(by_concurrency(10, holds_down=True), replicas=9)
    assert down.run(600) == 9
    down.in_flight = 200
    assert down.run(2) == 20


def test_16_a_raised_minimum_wakes_without_any_metric() -> None:
    one = Revision(by_queue(least=0), replicas=0)
    one.run(60, gateway=None, pods=None)
    assert one.replicas == 0
    one.wanted = by_queue(least=2)
    assert one.look(gateway=None, pods=None) == 2
