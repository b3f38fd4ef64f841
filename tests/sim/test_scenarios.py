"""The scenarios that any autoscaler can be held to, by number: where each is tested, and those that need requests.

1 to 17 are what the suites of Kubernetes' HPA, Knative, KEDA and Ray hold their own to, in our words; 18 what none of
them has. Numbers differ from theirs where the idea does: there is no panic mode, so 3 and 4 are about a need that is
held for a window; no fallback number, so 15 is about replicas that stay; no target utilisation with times as objective.
"""

import ast
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest

from slipway.sim import traces
from slipway.sim.models import VISION
from slipway.sim.outcome import Outcome
from slipway.sim.slipway import Slipway
from slipway.sim.traces import Trace
from slipway.sim.world import Fault, Terms, replay

TESTS = Path(__file__).parents[1]
UNIT, HARD, SLEEP = "unit/test_scaling_scenarios.py", "unit/test_scaling_hardships.py", "control/test_sleep.py"
CONTROL, LIFE, LIVES, HERE = (
    "control/test_scaling.py",
    "sim/test_life.py",
    "unit/test_scaling_lives.py",
    "sim/test_scenarios.py",
)
SCENARIOS: dict[str, tuple[tuple[str, str], ...]] = {
    "1 no data is not zero": ((UNIT, "test_01_no_data_is_not_zero_load"),),
    "2 a ramp is followed by the target": ((UNIT, "test_02_replicas_follow_a_target_up"),),
    "3 a spike is held for a window, then released at once": (
        (UNIT, "test_03_a_spike_is_followed_at_once_held_for_a_window_and_released_in_one_step"),
    ),
    "4 slow growth does not prolong a spike": (
        (UNIT, "test_04_slow_growth_does_not_prolong_what_a_spike_needed_and_a_new_surge_does"),
    ),
    "5 the larger of two windows wins": ((UNIT, "test_05_the_larger_of_the_long_and_the_short_view_counts"),),
    "6 rate limits never leave it stuck": ((UNIT, "test_06_rate_limits_never_leave_it_stuck"),),
    "7 going down by a sliding maximum": (
        (UNIT, "test_07_going_down_waits_for_the_highest_need_of_the_delay"),
        (UNIT, "test_07_a_revision_without_a_route_waits_for_nothing"),
    ),
    "8 a restart at N": (
        (UNIT, "test_08_after_a_restart_nothing_goes_before_a_full_window_was_seen"),
        (UNIT, "test_08_what_was_remembered_before_a_pause_is_no_ground_to_go_down"),
        (CONTROL, "test_the_processes_memory_is_that_of_the_one_before"),
    ),
    "9 to zero only when proven idle and the gateways hold": (
        (UNIT, "test_09_the_last_replica_goes_only_after_the_idle_time_and_any_request_cancels"),
        (UNIT, "test_09_without_the_gateways_word_nobody_is_idle"),
        (SLEEP, "test_the_last_replica_goes_only_when_every_gateway_holds_requests"),
    ),
    "10 waking": (
        (UNIT, "test_10_the_first_request_wakes_it_at_once_with_the_replicas_asked_for"),
        (UNIT, "test_10_requests_that_the_gateway_holds_are_not_counted_again_when_pods_tell_of_them"),
        (LIFE, "test_two_hundred_requests_at_once_wake_it_and_are_all_answered"),
        ("gateway/test_hold.py", "test_two_hundred_requests_to_a_service_at_zero_are_all_answered_when_its_pod_comes"),
    ),
    "11 one that never becomes ready": (
        (UNIT, "test_11_what_never_becomes_ready_is_given_up_with_a_reason_and_tried_again_later"),
        (CONTROL, "test_a_model_that_never_loads_is_given_up_after_its_deadline"),
        (SLEEP, "test_a_service_that_never_wakes_says_so_and_answers_at_once"),
    ),
    "12 tolerance and direction": (
        (UNIT, "test_12_within_the_tolerance_nothing_changes"),
        (UNIT, "test_12_pods_that_say_nothing_may_be_busy_on_the_way_down_and_idle_on_the_way_up"),
        (UNIT, "test_12_replicas_that_load_damp_growth"),
    ),
    "13 several objectives": (
        (UNIT, "test_13_of_several_objectives_the_largest_need_counts"),
        (UNIT, "test_13_one_invalid_objective_stops_going_down_and_not_going_up"),
        (UNIT, "test_13_with_every_objective_invalid_nothing_changes"),
    ),
    "14 behaviours": (
        (UNIT, "test_14_on_the_way_up_the_least_and_on_the_way_down_the_most_of_the_delay_counts"),
        (UNIT, "test_14_a_period_counts_what_came_and_what_went"),
        (UNIT, "test_14_above_the_maximum_it_comes_down_at_once_even_without_metrics"),
        (UNIT, "test_14_below_the_minimum_it_goes_up_at_once_even_without_metrics"),
    ),
    "15 signals that fail": (
        (UNIT, "test_15_failing_signals_hold_what_is_there_and_one_success_is_not_enough_to_go_down"),
        (UNIT, "test_15_a_value_that_no_sensor_could_give_never_acts"),
        (HERE, "test_15_a_signal_that_comes_and_goes_never_takes_one_away"),
    ),
    "16 pausing and waking by hand": (
        (UNIT, "test_16_each_direction_can_be_paused"),
        (UNIT, "test_16_a_raised_minimum_wakes_without_any_metric"),
    ),
    "17 overload": (
        (HERE, "test_17_beyond_what_may_wait_requests_are_refused_at_once_and_the_others_answered"),
        ("gateway/test_limits.py", "test_more_at_once_than_allowed_is_refused_with_a_sentence"),
    ),
    "18a pending replicas stop repeated growth": (
        (HARD, "test_18a_replicas_that_load_are_counted_with_their_time_of_arrival"),
        ("sim/test_world.py", "test_a_step_does_not_make_us_storm_the_cluster_as_it_does_knative"),
    ),
    "18b ten minutes of empty answers": (
        (HARD, "test_18b_ten_minutes_without_an_answer_at_the_peak_never_cost_a_replica"),
        ("sim/test_world.py", "test_ten_minutes_without_metrics_at_full_load_cost_us_no_request"),
        (CONTROL, "test_a_number_of_prometheus_decides_and_its_loss_costs_nothing"),
    ),
    "18c half of the pods unseen": (
        (HARD, "test_18c_half_of_the_pods_unseen_is_no_ground_to_go_down"),
        (LIVES, "test_replicas_stay_within_bounds_and_never_go_down_while_a_signal_is_lost"),
    ),
    "18d crashing launches": (
        (HARD, "test_18d_two_launches_that_crash_stop_growth_until_one_succeeds"),
        (HERE, "test_18d_while_every_launch_crashes_no_more_are_asked_for"),
    ),
    "18e releases": (
        (HARD, "test_18e_each_revision_is_scaled_by_its_own_share_and_the_rollout_can_ask_for_more"),
        (HARD, "test_18e_nothing_goes_down_while_traffic_moves"),
        ("unit/test_rollout_capacity.py", "test_24_without_room_a_release_waits_and_names_what_is_missing"),
        (SLEEP, "test_a_release_of_a_service_asleep_takes_one_replica_and_no_steps"),
    ),
    "18f streams are finished": (
        (LIFE, "test_a_replica_that_is_taken_away_ends_what_it_works_on"),
        (SLEEP, "test_the_least_loaded_pods_leave_first"),
    ),
    "18g a hundred reconciles": (
        (HARD, "test_18g_a_hundred_looks_at_the_same_leave_replicas_untouched"),
        (SLEEP, "test_replicas_that_somebody_else_sets_are_put_back"),
    ),
    "18h another autoscaler": (
        (HARD, "test_18h_another_autoscaler_on_the_same_deployment_is_not_fought"),
        (CONTROL, "test_a_deployment_that_another_autoscaler_has_is_left_to_it"),
    ),
    "18i on and off faster than a launch": (
        (HARD, "test_18i_a_load_that_comes_and_goes_faster_than_a_launch_turns_it_at_most_once_in_ten_minutes"),
        (HERE, "test_18i_bursts_and_pauses_shorter_than_a_launch_turn_it_at_most_once_in_ten_minutes"),
    ),
}


@lru_cache
def named_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_all_eighteen_are_there() -> None:
    numbers = [name.split()[0] for name in SCENARIOS]
    assert numbers == [*map(str, range(1, 18)), *(f"18{letter}" for letter in "abcdefghi")]


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_is_held_by_tests_that_exist(name: str) -> None:
    assert [place for place in SCENARIOS[name] if place[1] not in named_in(place[0])] == []


def changes(outcome: Outcome) -> list[int]:
    wished = [asked for _, asked, _ in outcome.replicas]
    return [after - before for before, after in pairwise(wished) if after != before]


def ours(trace: Trace, terms: Terms) -> Outcome:
    return replay(trace, Slipway(trace.model, terms), terms)


@pytest.mark.parametrize("period_s", [4, 30, 90])
def test_15_a_signal_that_comes_and_goes_never_takes_one_away(period_s: int) -> None:
    """Pods that are silent for as long as they speak, over and over, at a load that needs all there are."""
    times = [number / 12.0 for number in range(12 * 900)]
    trace = Trace("steady", times, [1.0] * len(times), VISION, 6)
    faults = tuple(Fault("error", begin, begin + period_s) for begin in range(60, 900, 2 * period_s))
    outcome = ours(trace, Terms(lead_s=60, faults=faults))
    assert min(changes(outcome), default=0) >= 0
    assert outcome.attainment_pct == 100.0


def test_17_beyond_what_may_wait_requests_are_refused_at_once_and_the_others_answered() -> None:
    """Twelve thousand at once where ten thousand may wait: none is lost, none is counted twice."""
    trace = Trace("flood", [0.5] * 12_000 + [400.0], [1e-4] * 12_001, VISION, 2)
    outcome = ours(trace, Terms(lead_s=10, most=8))
    assert outcome.late == 12_000 - 10_000 - 2 * VISION.slots
    assert len(outcome.latencies) == 10_000 + 2 * VISION.slots + 1


def test_18d_while_every_launch_crashes_no_more_are_asked_for() -> None:
    """They crash when they should be ready, a minute after they were asked for: what was asked by then stays."""
    outcome = ours(traces.step(0), Terms(lead_s=60, crash_share=1.0))
    crashed = 600.0 + 3 * 60.0
    before = max(asked for moment, asked, _ in outcome.replicas if moment < crashed)
    assert before > 2, "it did grow"
    assert max((asked for moment, asked, _ in outcome.replicas if moment >= crashed), default=0) <= before


@pytest.mark.parametrize("seed", [0, 1])
def test_18i_bursts_and_pauses_shorter_than_a_launch_turn_it_at_most_once_in_ten_minutes(seed: int) -> None:
    trace = traces.on_off(seed)
    outcome = ours(trace, Terms(lead_s=180, seed=seed))
    assert outcome.reversals <= trace.times[-1] / 600
