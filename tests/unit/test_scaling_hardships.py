"""Scenarios that no other autoscaler's suite has, by number (18), and clocks that jump."""

from dataclasses import replace
from itertools import pairwise

import pytest

from slipway.decide.scaling.types import Code, Pods, Reason, Replicas, Wanted
from tests.unit.scaling import Revision, by_concurrency, by_queue, promql


def test_18a_replicas_that_load_are_counted_with_their_time_of_arrival() -> None:
    """A load of five times as much meets a lead time of 180 s: asked for once, not again and again."""
    one = Revision(by_queue(slots=4), replicas=2, lead_s=180, service_s=1.0)
    one.run(600, rate=5.0)
    before = one.replicas
    one.run(60, rate=25.0)
    asked = one.replicas
    assert asked > before
    one.queued = 0.0
    one.run(120, rate=25.0)
    assert one.replicas <= asked + 2


def test_18b_ten_minutes_without_an_answer_at_the_peak_never_cost_a_replica() -> None:
    one = Revision(by_queue(slots=4), replicas=10, service_s=1.0)
    one.run(900, rate=30.0)
    peak = one.replicas
    one.run(600, rate=30.0, pods=None, promql=promql(None))
    assert min(one.history[-300:]) >= peak


def test_a_gateway_that_is_silent_takes_the_right_to_go_down_and_no_other() -> None:
    one = Revision(by_queue(least=0, idle_after_s=60.0), replicas=3, service_s=0.5)
    one.run(900, rate=6.0)
    before = one.replicas
    for _ in range(300):
        seen = one.see()
        assert seen.gateway is not None
        one.run(2, rate=0.0, gateway=replace(seen.gateway, is_whole=False))
    assert one.replicas == before
    for _ in range(30):
        one.arrived, one.in_flight = one.arrived + 80.0, 20.0
        seen = one.see()
        assert seen.gateway is not None
        one.run(2, gateway=replace(seen.gateway, is_whole=False))
    assert one.replicas > before


def test_18c_half_of_the_pods_unseen_is_no_ground_to_go_down() -> None:
    one = Revision(by_queue(slots=4), replicas=10, service_s=1.0)
    one.run(900, rate=30.0)
    peak = one.replicas
    half = Pods(age_s=1.0, coverage=0.4, answered=0.0, busy_s=0.0, running=1.0, queued=0.0)
    one.run(600, rate=0.5, pods=half)
    assert one.replicas == peak


def test_18d_two_launches_that_crash_stop_growth_until_one_succeeds() -> None:
    one = Revision(by_concurrency(10), replicas=2)
    one.in_flight = 100
    crashed = Replicas(asked=2, ready=1, failed=2)
    assert one.look(replicas=crashed) == 2
    assert Code.LAUNCH_FAILED in one.codes
    one.now += 2
    assert one.look(replicas=replace(crashed, failed=0)) == 10


def test_18e_each_revision_is_scaled_by_its_own_share_and_the_rollout_can_ask_for_more() -> None:
    stable, candidate = Revision(by_concurrency(10), replicas=9), Revision(by_concurrency(10))
    stable.in_flight, candidate.in_flight = 90, 10
    assert (stable.look(), candidate.look()) == (9, 1)
    assert candidate.look(floor=4) == 4


def test_18e_nothing_goes_down_while_traffic_moves() -> None:
    one = Revision(by_concurrency(10), replicas=9)
    one.run(600, is_shifting=True)
    assert (one.replicas, one.reasons[0].code) == (9, Code.SHIFTING)


def test_18g_a_hundred_looks_at_the_same_leave_replicas_untouched() -> None:
    one = Revision(by_queue(slots=4), replicas=3, service_s=1.0)
    one.run(900, rate=6.0)
    before, clock = one.replicas, one.now
    for _ in range(100):
        one.look()
    assert one.now == clock
    assert set(one.history[-100:]) == {before}


def test_18h_another_autoscaler_on_the_same_deployment_is_not_fought() -> None:
    one = Revision(by_concurrency(10), replicas=3)
    one.in_flight = 500
    assert one.look(conflict="HorizontalPodAutoscaler ns/x") == 3
    assert one.codes == {Code.CONFLICT}
    assert "remove one of the two" in one.reasons[0].note


def test_18i_a_load_that_comes_and_goes_faster_than_a_launch_turns_it_at_most_once_in_ten_minutes() -> None:
    one = Revision(by_queue(slots=4), replicas=2, lead_s=120, service_s=1.0)
    for _ in range(30):
        one.run(50, rate=20.0)
        one.run(50, rate=0.2)
    deltas = [b - a for a, b in pairwise(one.history) if a != b]
    turns = sum(1 for a, b in pairwise(deltas) if a * b < 0)
    assert turns <= len(one.history) * 2 / 600


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 25 * 3600.0])
def test_a_clock_that_jumps_puts_nobody_to_sleep_and_starts_no_storm(jump: float) -> None:
    one = Revision(by_queue(least=0, slots=4), replicas=2, service_s=1.0)
    one.run(900, rate=6.0)
    before = one.replicas
    one.now += jump
    one.run(60, rate=6.0)
    assert set(one.history[-30:]) == {before}
    idle = Revision(by_queue(least=0, slots=4, idle_after_s=600), replicas=1)
    idle.run(100, rate=0.0)
    idle.now += jump
    assert idle.run(60, rate=0.0) == 1


def test_without_room_in_the_cluster_it_stays_and_tries_again_ever_more_seldom() -> None:
    one = Revision(by_concurrency(10, most=50), replicas=4)
    one.in_flight = 200
    missing = "nvidia.com/gpu"
    asked: list[int] = []
    for _ in range(1800):
        one.now += 2
        blocked = Replicas(asked=one.replicas, ready=4, missing=missing)
        asked.append(one.look(replicas=blocked))
    assert Code.CAPACITY_LIMITED in one.codes
    assert missing in one.reasons[-1].note
    assert asked[0] == 4
    assert asked[-1] - 4 <= 12
    assert asked == sorted(asked)


def test_replicas_that_find_no_room_are_told_although_no_more_are_wanted() -> None:
    """Three asked for, two run: on the cluster it was called Scaled."""
    one = Revision(Wanted(1, 4, requests_per_second=8.0), replicas=3, service_s=0.1)
    full = Replicas(asked=3, ready=2, missing="nvidia.com/gpu")
    assert one.run(60, rate=24.0, replicas=full) == 3
    note = "the cluster has no nvidia.com/gpu left: 2 of 3 replicas run"
    assert one.reasons[-1] == Reason(Code.CAPACITY_LIMITED, note)
    one.look(replicas=Replicas(asked=3, ready=3, missing="nvidia.com/gpu"))
    assert Code.CAPACITY_LIMITED not in one.codes
