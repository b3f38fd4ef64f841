"""Weights that change in the spec under load: replicas first, and nobody ever gets more than is ready for it."""

from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.decide.release import Reading
from slipway.kube.kinds import INFERENCE_SERVICE, POD
from tests.control.shifts import DEADLINE_S, Shifts, under_load, wanted
from tests.control.world import KEY
from tests.fake import faults

IDLE = {"weight": "0%", "minReplicas": 0}
RATE = 20.0
"""Ten requests at once, so three replicas at the least."""
GROUP = {"header": "x-group", "exact": "beta"}


def b(weight: str, least: int = 1, **more: Any) -> Manifest:
    return {"weight": weight, "minReplicas": least, **more}


async def _asleep(**more: Any) -> Shifts:
    """b sleeps, and stable carries the load alone."""
    world = await under_load(RATE, seconds=80, b=IDLE, **more)
    assert world.asked("b") == 0, world.status["scaling"]
    return world


async def test_a_weight_raised_under_load_waits_for_its_replicas() -> None:
    world = await under_load(RATE, b=b("0%"))
    await world.apply(wanted(b=b("90%")))
    assert world.share("b") == 3000, "what its one replica carries"
    assert world.message == "variant b waits with 30% of 90% for replicas: 1 of 3 are ready"
    assert world.condition("Reconciling")["message"] == world.message
    assert world.condition("RolloutHealthy")["status"] == "Unknown"
    shares = []
    for _ in range(20):
        await world.pass_time(2, rate=RATE)
        shares.append((world.share("b"), len(world.ready_of(world.of("b")))))
    assert all(share <= 3000 * ready for share, ready in shares)
    assert world.share("b") == 9000
    assert world.condition("RolloutHealthy")["status"] == "True"
    assert world.told("TrafficShifted") == ["variant b gets 90%: 3 replicas are ready"]
    world.assert_unharmed()


async def test_what_moved_stays_until_its_load_is_known_and_then_nothing_is_left_of_it_in_status() -> None:
    world = await under_load(RATE, b=b("0%"))
    quick = wanted(b=b("90%"))
    quick["spec"]["scaling"]["behavior"] = {"down": {"delay": "2s"}}
    await world.apply(quick)
    await world.pass_time(20, rate=RATE)
    assert world.waiting("b")["stand"] == "Settling"
    assert world.message == "variant b has 90%, and keeps 3 replicas until its load is known"
    for _ in range(45):
        await world.pass_time(2, rate=RATE)
        assert world.asked("b") >= 3
    assert "shift" not in world.status
    world.kube.calls.clear()
    await world.operate()
    assert world.kube.writes == []
    world.assert_unharmed()


async def test_a_variant_that_sleeps_is_woken_before_it_gets_any_weight() -> None:
    world = await _asleep()
    await world.apply(wanted(b=b("90%", 0, maxReplicas=3)))
    assert (world.share("b"), world.waiting("b")["replicas"]) == (0, 3)
    for _ in range(15):
        await world.pass_time(2, rate=RATE)
        assert bool(world.share("b")) <= bool(world.ready_of(world.of("b")))
    assert (world.share("b"), world.asked("b")) == (9000, 3)
    world.assert_unharmed()


async def test_without_load_a_weight_counts_at_once_and_asks_for_no_replica() -> None:
    world = Shifts(wanted(least=1, b=b("0%")))
    await world.begin()
    await world.pass_time(10)
    await world.apply(wanted(least=1, b=b("90%")))
    assert (world.share("b"), world.asked("b")) == (9000, 1)
    assert "shift" not in world.status


async def test_a_weight_that_ready_replicas_carry_counts_at_once() -> None:
    world = await under_load(RATE, b=b("0%", 3))
    await world.apply(wanted(b=b("90%", 3)))
    assert world.share("b") == 9000
    assert world.told("TrafficShifted") == [], "nothing had to wait"
    world.assert_unharmed()


async def test_a_variant_taken_out_of_the_spec_answers_until_the_rest_can() -> None:
    world = await under_load(2 * RATE, least=1, most=8, b=b("60%"))
    await world.pass_time(60, rate=2 * RATE)
    leaving, before = world.of("b"), len(world.ready_of(world.revision))
    world.assert_unharmed()
    await world.apply(wanted(least=1))
    assert world.waiting("")["replicas"] > before
    waits = f"the service itself waits with {world.share('') / 100:g}% of 100% for replicas: {before} of "
    assert world.message.startswith(waits)
    assert world.share("b") == 10_000 - world.share("") > 0
    await world.pass_time(30, rate=2 * RATE)
    assert world.weights == {world.revision: 10_000}
    await world.pass_time(10, rate=2 * RATE)
    assert leaving not in [one["metadata"]["name"] for one in world.deployments]
    world.assert_unharmed()


async def test_a_variant_that_the_rest_can_do_without_leaves_at_once() -> None:
    world = await under_load(RATE, least=4, b=b("50%"))
    await world.apply(wanted(least=4))
    assert world.weights == {world.revision: 10_000}
    world.assert_unharmed()


async def test_who_gives_keeps_its_replicas_until_every_gateway_has_taken_the_new_weights() -> None:
    world = await under_load(RATE, least=4, b=b("90%", 4))
    world.gateways.pods["gw-b"].is_silent = True
    await world.apply(wanted(least=4, b=b("0%", 1, maxReplicas=1)))
    assert world.share("b") == 0
    await world.pass_time(10, rate=RATE)
    assert world.asked("b") == 4, "gw-b still leads there"
    world.gateways.pods["gw-b"].is_silent = False
    await world.pass_time(6, rate=RATE)
    assert world.asked("b") == 1
    world.assert_unharmed()


async def test_who_gives_keeps_its_replicas_while_others_start() -> None:
    world = await under_load(RATE, least=2, load_s=10, b=b("90%", 4))
    await world.apply(wanted(least=2, b=b("0%", 1, maxReplicas=1)))
    while world.share("b"):
        assert world.asked("b") == 4
        await world.pass_time(2, rate=RATE)
    await world.pass_time(10, rate=RATE)
    assert world.asked("b") == 1
    world.assert_unharmed()


async def test_an_operator_that_is_killed_all_the_time_moves_weights_all_the_same() -> None:
    world = await _asleep()
    await world.apply(wanted(b=b("90%", 0)))
    for _ in range(20):
        world.restart()
        await world.pass_time(2, rate=RATE)
    assert world.share("b") == 9000
    assert len(world.told("TrafficShifted")) == 1
    world.assert_unharmed()


@pytest.mark.parametrize("fault", [faults.crash_before, faults.crash_after])
async def test_whatever_write_an_operator_dies_at_the_end_is_the_same(fault: Any) -> None:
    number = 0
    while True:
        world = await under_load(RATE, seconds=10, least=3, b=b("0%"))
        world.break_at(fault(number))
        world.user_applies(wanted(least=3, b=b("90%")))
        for _ in range(10):
            await world.pass_time(2, rate=RATE)
        assert (world.share("b"), world.asked("b") >= 3) == (9000, True), f"write {number}"
        world.assert_unharmed()
        if not world.crashes:
            break
        number += 1
    assert number >= 4


async def test_a_model_that_never_loads_stops_after_its_deadline_and_says_so() -> None:
    world = await _asleep()
    world.stuck = {"b"}
    await world.apply(wanted(b=b("90%", 0)))
    await world.pass_time(DEADLINE_S - 4, rate=RATE)
    assert world.condition("Stalled") == {}
    await world.pass_time(8, rate=RATE)
    words = "variant b stays at 0% of 90%: no more than 0 of its replicas became ready in 60s"
    assert world.message == words
    assert (world.condition("Stalled")["reason"], world.condition("Stalled")["message"]) == (
        "ProgressDeadlineExceeded",
        words,
    )
    assert world.condition("RolloutHealthy")["status"] == "False"
    assert world.condition("Ready")["status"] == "True"
    assert world.told("ProgressDeadlineExceeded") == [words]
    world.restart()
    await world.pass_time(150, rate=RATE)
    assert (world.share("b"), world.asked("b")) == (0, 0), "it holds no GPU for a weight that it does not get"
    assert world.told("ProgressDeadlineExceeded") == [words]
    world.stuck = set()
    await world.apply(wanted(b=b("50%", 0)))
    await world.pass_time(20, rate=RATE)
    assert (world.share("b"), world.condition("Stalled")) == (5000, {})
    world.assert_unharmed()


async def test_one_that_never_loads_is_taken_out_of_the_spec_at_once() -> None:
    world = await under_load(RATE, seconds=10, least=3, b=b("0%"))
    world.stuck = {"c"}
    await world.apply(wanted(least=3, b=b("20%"), c=b("50%")))
    await world.pass_time(DEADLINE_S + 10, rate=RATE)
    assert (world.share("b"), world.share("c")) == (2000, 0), "b is not kept waiting for c"
    await world.apply(wanted(least=3, b=b("20%")))
    assert (world.share("b"), world.condition("Stalled"), world.condition("Reconciling")) == (2000, {}, {})
    world.assert_unharmed()


async def test_what_one_gave_up_for_another_that_fails_goes_to_the_service_itself() -> None:
    """By the spec c is to have what b had; b leaves even so, once the others can do without."""
    world = await under_load(RATE, seconds=10, least=2, b=b("60%", 3))
    world.stuck = {"c"}
    await world.apply(wanted(least=2, c=b("60%")))
    await world.pass_time(20, rate=RATE)
    assert (world.share("b"), world.share("c")) == (6000, 0)
    await world.pass_time(DEADLINE_S, rate=RATE)
    await world.pass_time(20, rate=RATE)
    assert (world.share(""), world.share("b"), world.share("c")) == (10_000, 0, 0)
    world.assert_unharmed()


async def test_a_spec_that_comes_in_the_middle_counts_from_where_weights_are() -> None:
    world = await under_load(RATE, least=3, load_s=10, b=b("0%"))
    await world.apply(wanted(least=3, b=b("90%")))
    await world.pass_time(4, rate=RATE)
    assert world.share("b") == 3000
    await world.apply(wanted(least=3, b=b("20%")))
    assert (world.share("b"), world.waiting("b")) == (2000, {}), "less than it carries"
    await world.apply(wanted(least=3, b=b("60%")))
    assert world.waiting("b")["weight"] == 6000
    await world.pass_time(20, rate=RATE)
    assert world.share("b") == 6000
    world.assert_unharmed()


async def test_a_spec_that_is_refused_in_the_middle_stops_nothing_and_gives_nothing_early() -> None:
    world = await under_load(RATE, least=3, load_s=10, b=b("0%"))
    await world.apply(wanted(least=3, b=b("90%")))
    refused = wanted(least=3, b=b("90%"), c=b("20%"))
    await world.apply(refused)
    assert world.condition("Accepted")["status"] == "False"
    assert world.share("b") == 3000
    await world.pass_time(30, rate=RATE)
    assert world.share("b") == 9000
    world.assert_unharmed()


async def test_with_too_few_replicas_allowed_it_goes_on_with_those_and_says_what_would_be_right() -> None:
    world = await under_load(2 * RATE, least=1, b=b("0%"))
    await world.apply(wanted(least=1, b=b("90%", maxReplicas=2)))
    await world.pass_time(20, rate=2 * RATE)
    assert (world.share("b"), world.asked("b")) == (9000, 2)
    (words,) = world.told("CapacityLimited")
    assert words == "variant b gets 90%: 2 replicas are ready, as many as maxReplicas allows; 6 would be right"


async def test_without_room_in_the_cluster_it_waits_however_long_and_names_what_is_missing() -> None:
    world = await _asleep()
    world.roomless = {"b"}
    await world.apply(wanted(b=b("90%", 0)))
    await world.pass_time(2 * DEADLINE_S, rate=RATE)
    assert world.waiting("b")["stand"] == "CapacityLimited"
    assert world.message.endswith("0 of 3 are ready; no nvidia.com/gpu is left")
    assert world.condition("Stalled") == {}
    world.roomless = set()
    await world.pass_time(20, rate=RATE)
    assert world.share("b") == 9000
    world.assert_unharmed()


async def test_fixed_replicas_get_their_weight_as_they_become_ready() -> None:
    world = Shifts(wanted(least=3, most=3))
    await world.begin()
    await world.apply(wanted(least=3, most=3, b={"weight": "90%"}))
    assert world.share("b") == 0
    await world.pass_time(10, rate=RATE)
    assert (world.share("b"), "shift" in world.status) == (9000, False)
    await world.apply(wanted(least=3, most=3, b={"weight": "10%"}))
    assert world.share("b") == 1000, "all is ready for that"
    world.assert_unharmed()


async def test_a_variant_for_a_group_of_users_is_nothing_that_a_weight_waits_for() -> None:
    world = await under_load(RATE, least=3, b=b("0%", match=[GROUP]))
    table = world.status["routing"]
    assert table["rules"] == [{"revision": world.of("b"), "match": [GROUP]}]
    await world.apply(wanted(least=3, b=b("0%", match=[GROUP]), c=b("30%")))
    await world.pass_time(10, rate=RATE)
    assert (world.share("b"), world.share("c")) == (0, 3000)
    assert world.status["routing"]["rules"] == table["rules"]
    world.assert_unharmed()


async def test_a_variant_that_leaves_is_no_arm_of_an_experiment_any_more() -> None:
    world = await under_load(RATE, least=1, b=b("40%"), c=b("20%"))
    changed = wanted(least=1, c=b("20%"))
    changed["spec"]["traffic"]["experiment"] = {"minEffect": "5%"}
    await world.apply(changed)
    assert 0 < world.share("b") < 4000
    assert [arm["name"] for arm in world.status["experiment"]["arms"]] == ["stable", "c"]


async def test_a_mirror_goes_on_while_weights_wait() -> None:
    world = await under_load(RATE, least=3, load_s=10, b=b("0%"))
    changed = wanted(least=3, b=b("90%"))
    changed["spec"]["traffic"]["mirror"] = {"variant": "b", "percent": "10%"}
    await world.apply(changed)
    assert world.waiting("b")
    assert world.status["routing"]["mirror"] == {"revision": world.of("b"), "share": 1000}
    await world.pass_time(20, rate=RATE)
    assert world.share("b") == 9000
    world.assert_unharmed()


async def test_a_variant_whose_pods_were_lost_gets_its_weight_back_as_they_return() -> None:
    world = await under_load(RATE, least=4, b=b("80%", 3))
    world.stuck = {"b"}
    await world.pass_time(2, rate=0)
    assert world.share("b") == 0, "the service itself answers"
    for pod in world.ready_of(world.of("b")):
        world.store.delete(POD, "team", pod["metadata"]["name"])
    world.stuck = set()
    seen = []
    for _ in range(10):
        await world.pass_time(2, rate=RATE)
        seen.append(world.share("b"))
    assert seen[-1] == 8000
    world.assert_unharmed()


async def test_a_release_and_a_shift_go_on_side_by_side() -> None:
    """The release shares out what the service itself has; how much that is, is the shift's to say."""
    world = await under_load(RATE, least=2, load_s=6, b=b("60%"))
    changed = wanted(least=2, b=b("10%"))
    changed["spec"]["predictor"]["model"]["storageUri"] = "sample://hello-v2"
    old = world.revision
    await world.apply(changed)
    shares = []
    for _ in range(60):
        await world.pass_time(2, rate=RATE)
        shares.append(world.share("b"))
        assert sum(world.weights.values()) == 10_000
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 1000
    assert world.status["candidate"] != old
    world.assert_unharmed()


async def test_before_gateways_have_told_the_load_weights_stay() -> None:
    world = await under_load(RATE, least=3, b=b("0%"))
    world.traffic.are_known = False
    world.restart()
    await world.apply(wanted(least=3, b=b("90%")))
    await world.pass_time(20, rate=RATE)
    assert world.share("b") == 0
    assert world.message == "variant b waits with 0% of 90% until gateways tell the load"
    world.traffic.are_known = True
    await world.pass_time(10, rate=RATE)
    assert world.share("b") == 0, "what has come in a few seconds tells too little"
    await world.pass_time(30, rate=RATE)
    assert world.share("b") == 9000
    world.assert_unharmed()


async def test_a_status_that_somebody_wiped_changes_nothing_for_good() -> None:
    world = await under_load(RATE, least=3, load_s=10, b=b("0%"))
    await world.apply(wanted(least=3, b=b("90%")))
    world.store.edit(INFERENCE_SERVICE, *KEY, lambda live: live.pop("status"), manager="x", subresource="status")
    await world.pass_time(30, rate=RATE)
    assert world.share("b") == 9000


async def test_a_variant_that_another_autoscaler_has_gets_its_weight_once_it_answers() -> None:
    """That one adds replicas when requests are there, and not before."""
    world = await under_load(RATE, least=3, b=b("0%"))
    world.rivals["team", world.of("b")] = "HorizontalPodAutoscaler team/theirs"
    await world.pass_time(4, rate=RATE)
    await world.apply(wanted(least=3, b=b("50%")))
    assert (world.share("b"), world.waiting("b")) == (5000, {})


async def test_by_a_number_of_prometheus_a_share_takes_its_part_of_the_replicas() -> None:
    objective = {"promql": {"query": "sum(queue_length)", "target": 10}}
    first, then = wanted(least=1, b=b("0%")), wanted(least=1, b=b("50%"))
    for manifest in (first, then):
        manifest["spec"]["scaling"]["objective"] = objective
    world = Shifts(first)
    world.metrics.readings["objective"] = Reading(60.0, age_s=1.0)
    await world.begin()
    await world.pass_time(20, rate=RATE)
    assert world.asked("") == 6
    await world.apply(then)
    assert 3 <= world.waiting("b")["replicas"] <= 4, "of six for all"
    await world.pass_time(20, rate=RATE)
    assert world.share("b") == 5000
