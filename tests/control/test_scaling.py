"""The loop of scaling against a cluster in memory: what becomes of replicas, whatever becomes of the signals."""

import math
from datetime import timedelta

import pytest

from slipway.api.manifest import Manifest
from slipway.api.scaled import ScalingState, stored
from slipway.control.arms import remembered
from slipway.control.workqueue import Lane
from slipway.decide.release import Reading
from slipway.decide.scaling import decide
from slipway.decide.scaling.types import Code, Gateway, Observation, Pacing, Pods, Replicas, Wanted
from slipway.kube.kinds import DEPLOYMENT, INFERENCE_SERVICE
from slipway.signals.report import Counters
from tests.control.scaled import ScalingWorld, scaled
from tests.control.world import service


async def under_load(rate: float = 30.0, seconds: float = 90.0, **wanted: object) -> ScalingWorld:
    world = ScalingWorld(scaled(**wanted))  # type: ignore[arg-type]
    await world.begin()
    await world.pass_time(seconds, rate=rate)
    return world


async def test_replicas_follow_the_load_up_and_nothing_is_asked_for_twice() -> None:
    world = await under_load()
    # 30 requests/s of 0.5 s, 4 at once in a replica: 4 at the least.
    assert 4 <= world.replicas <= 8
    assert world.history == sorted(world.history), "it never came down on the way"
    assert world.ready == world.replicas
    scales = [call for call in world.kube.writes if call.subresource == "scale"]
    assert len(scales) == len(set(world.history)) - 1
    before = len(world.kube.writes)
    await world.pass_time(240, rate=30.0)
    assert len(world.kube.writes) - before <= 5, "but for a checkpoint each minute"


async def test_replicas_come_down_again_after_all_has_been_seen_for_a_while() -> None:
    world = await under_load()
    await world.pass_time(1500, rate=2.0)
    assert world.replicas <= 2


async def test_without_requests_it_sleeps_and_the_first_ones_wake_as_many_as_they_need() -> None:
    world = ScalingWorld(scaled(least=0, idleAfter="60s"))
    await world.begin()
    assert world.replicas == 1, "its model is proved to load first"
    await world.pass_time(100)
    assert (world.replicas, world.scaler.demand(world.key)[""].code) == (0, Code.IDLE)
    world.traffic.count(world.key, world.revision, held=200)
    world.scaler.wake(world.key)
    assert world.added == [(world.key, Lane.CHANGE)]
    await world.catch_up()
    assert world.replicas == 5
    assert world.scaler.demand(world.key)[""].code is Code.WAKING


async def test_who_waits_in_one_gateway_is_served_although_another_was_never_heard() -> None:
    world = ScalingWorld(scaled(least=0, idleAfter="60s"))
    await world.begin()
    await world.pass_time(100)
    assert world.replicas == 0
    world.restart()
    world.traffic.age_s = math.inf
    await world.pass_time(4)
    assert world.replicas == 0
    await world.pass_time(2, held=20)
    assert world.replicas >= 1


async def test_a_model_that_takes_longer_to_load_than_it_may_be_idle_is_loaded_all_the_same() -> None:
    world = ScalingWorld(scaled(least=0, idleAfter="30s"), load_s=120)
    await world.operate()
    await world.pass_time(118)
    assert world.replicas == 1
    await world.pass_time(12)
    assert world.status["stable"] == world.revision, "it has answered once"


async def test_a_model_that_never_loads_is_given_up_after_its_deadline() -> None:
    wanted = scaled(least=0, idleAfter="30s")
    wanted["spec"]["rollout"] = {"progressDeadline": "1m", "steps": [{"weight": "50%"}]}
    world = ScalingWorld(wanted, load_s=1e6)
    await world.operate()
    await world.pass_time(140)
    assert world.scaler.demand(world.key)[""].code is Code.ACTIVATION_FAILED
    assert world.scaler.demand(world.key)[""].replicas == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "fault", ["agents are silent", "no gateway is known", "half of the pods", "no pod", "restarts"]
)
async def test_no_signal_that_fails_ever_costs_a_replica(fault: str) -> None:
    world = await under_load()
    before = world.replicas
    for number in range(90):
        match fault:
            case "agents are silent":
                world.traffic.age_s += 2
                world.traffic.heard_s += 2
            case "no gateway is known":
                world.traffic.are_known = False
            case "half of the pods" | "no pod":
                addresses = [pod["status"]["podIP"] for pod in world.ready_pods]
                world.mute = set(addresses[: len(addresses) // 2 + 1] if fault == "half of the pods" else addresses)
            case _ if number % 5 == 0:
                world.restart()
        await world.pass_time(10 if fault != "restarts" else 2, rate=0.0 if "gateway" in fault else 2.0)
        assert world.replicas >= before
    assert world.ready >= before


async def test_a_spike_is_served_by_an_operator_that_is_killed_every_ten_seconds() -> None:
    world = ScalingWorld(scaled(most=8))
    await world.begin()
    for _ in range(9):
        world.restart()
        await world.pass_time(10, rate=30.0)
    assert world.ready >= 4
    assert world.history == sorted(world.history)


@pytest.mark.parametrize("hours", [-1, 1, 25])
async def test_a_clock_that_jumps_neither_costs_a_replica_nor_starts_one(hours: float) -> None:
    world = await under_load()
    before = world.replicas
    world.skew += (
        hours * (world.store.now - world.store.now.replace(hour=(world.store.now.hour - 1) % 24)) or world.skew
    )
    await world.pass_time(60, rate=30.0)
    assert world.replicas == before


async def test_replicas_that_load_when_the_clock_jumps_are_not_taken_for_lost() -> None:
    histories = []
    for hours in (0, 1):
        world = ScalingWorld(scaled(most=16), load_s=30)
        await world.begin()
        await world.pass_time(10, rate=12.0)
        assert world.replicas > world.ready
        world.skew += timedelta(hours=hours)
        await world.pass_time(10, rate=12.0)
        histories.append(max(world.history))
    assert histories[1] <= histories[0]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_replicas_launched_while_two_clocks_differ_are_not_taken_for_lost(hours: float) -> None:
    highest = []
    for apart in (0, hours):
        world = ScalingWorld(scaled(most=16), load_s=30)
        await world.begin()
        world.skew += timedelta(hours=apart)
        await world.pass_time(10)
        await world.pass_time(30, rate=12.0)
        highest.append(max(world.history))
    assert highest[1] == highest[0] > 1


async def test_what_somebody_scales_by_hand_is_put_back() -> None:
    world = await under_load()
    before = world.replicas

    def more(live: Manifest) -> None:
        live["spec"]["replicas"] = 7 if before != 7 else 6

    world.store.edit(DEPLOYMENT, "team", world.revision, more, manager="kubectl")
    await world.operate()
    await world.pass_time(10, rate=30.0)
    assert world.replicas == before


async def test_a_deployment_that_another_autoscaler_has_is_left_to_it() -> None:
    world = await under_load()
    world.rivals["team", world.revision] = "HorizontalPodAutoscaler team/theirs"
    await world.pass_time(4, rate=30.0)

    def theirs(live: Manifest) -> None:
        live["spec"]["replicas"] = 2

    world.store.edit(DEPLOYMENT, "team", world.revision, theirs, manager="hpa")
    await world.operate()
    await world.pass_time(20, rate=30.0)
    assert world.replicas == 2
    demand = world.scaler.demand(world.key)[""]
    assert (demand.code, demand.replicas) == (Code.CONFLICT, 2)
    assert "HorizontalPodAutoscaler team/theirs" in demand.reasons[0].note
    world.rivals.clear()
    await world.pass_time(30, rate=30.0)
    assert world.replicas >= 4, "alone again"


async def test_a_fixed_service_is_not_looked_at() -> None:
    world = ScalingWorld(service(replicas=2))
    await world.operate()
    await world.pass_time(20, rate=50.0)
    assert (world.replicas, world.decisions.codes) == (2, [])
    assert not world.pods.due()
    assert list(world.scaler.arms()) == []


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param({"name": "day", "start": "99 8 * * *", "minReplicas": 1}, id="a cron field that is none"),
        pytest.param({"name": "day", "start": "0 8 * * *", "minReplicas": 3}, id="a schedule above the maximum"),
    ],
)
async def test_a_spec_that_cannot_be_honoured_leaves_the_last_one_deciding(refused: Manifest) -> None:
    world = ScalingWorld(scaled(most=8))
    await world.begin()
    world.user_applies(scaled(most=2, schedules=[refused]))
    await world.operate()
    assert world.condition("Accepted")["status"] == "False"
    await world.pass_time(60, rate=30.0)
    assert world.replicas >= 4


async def test_a_refused_spec_takes_no_replica_away_whatever_it_is_refused_for() -> None:
    world = await under_load()
    before = world.replicas
    wanted = scaled(most=2)
    wanted["spec"]["predictor"]["model"]["modelFormat"] = {"name": "unheard-of"}
    world.user_applies(wanted)
    await world.operate()
    assert world.condition("Accepted")["status"] == "False"
    await world.pass_time(10, rate=30.0)
    assert world.replicas >= before


async def test_what_sleeps_under_a_refused_spec_can_be_woken_by_an_operator_that_starts_anew() -> None:
    world = ScalingWorld(scaled(least=0, idleAfter="60s"))
    await world.begin()
    await world.pass_time(100)
    assert world.replicas == 0
    refused = scaled(
        least=0, schedules=[{"name": "day", "start": "0 8 * * *", "timeZone": "No/Where", "minReplicas": 1}]
    )
    world.user_applies(refused)
    await world.operate()
    assert world.condition("Accepted")["status"] == "False"
    world.restart()
    await world.pass_time(12, held=20)
    assert world.replicas == 1


async def test_with_bounds_that_meet_nothing_is_decided_any_more() -> None:
    world = await under_load()
    world.user_applies(scaled(least=2, most=2))
    await world.operate()
    await world.pass_time(4, rate=30.0)
    assert world.scaler.demand(world.key) == {}
    assert world.replicas == 2
    assert not world.pods.due()


async def test_nothing_is_left_of_a_service_that_is_gone() -> None:
    world = await under_load(seconds=20)
    world.store.delete(INFERENCE_SERVICE, *world.key)
    await world.scaler.tick()
    assert list(world.scaler.arms()) == []
    assert world.scaler.demand(world.key) == {}
    assert not world.pods.due()
    world.traffic.count(world.key, "hello-gone", requests=1)
    assert world.traffic.tally.news == set()


async def test_what_rests_is_looked_at_seldom_until_something_comes() -> None:
    world = ScalingWorld(scaled(least=0, idleAfter="30s"))
    await world.begin()
    await world.pass_time(60)
    assert world.replicas == 0
    before = len(world.decisions.codes)
    await world.pass_time(120)
    assert len(world.decisions.codes) - before <= 7
    await world.pass_time(2, held=1)
    assert world.replicas == 1


async def test_a_number_of_prometheus_decides_and_its_loss_costs_nothing() -> None:
    objective = {"promql": {"query": "sum(queue_length)", "target": 10}}
    world = ScalingWorld(scaled(most=8, objective=objective))
    world.metrics.readings["objective"] = Reading(5.0, age_s=1.0)
    await world.begin()
    world.metrics.readings["objective"] = Reading(55.0, age_s=1.0)
    await world.pass_time(20)
    assert world.replicas == 6
    world.metrics.readings["objective"] = Reading(None, "Prometheus cannot be reached", failed=True)
    await world.pass_time(300)
    assert world.replicas == 6
    world.metrics.readings.clear()
    await world.pass_time(60)
    assert world.replicas == 6
    world.metrics.readings["objective"] = Reading(5.0, age_s=1.0)
    await world.pass_time(300)
    assert world.replicas == 1


async def test_a_new_revision_begins_with_what_the_one_before_carried_less_some() -> None:
    world = await under_load()
    before = world.scaler.demand(world.key)[""]
    wanted = scaled(most=8)
    wanted["spec"]["predictor"]["model"]["storageUri"] = "sample://other"
    world.user_applies(wanted)
    await world.operate()
    totals = []
    for _ in range(30):
        await world.pass_time(2, rate=30.0)
        totals.append(sum(one["spec"]["replicas"] for one in world.deployments))
    demand = world.scaler.demand(world.key)[""]
    assert demand.revision != before.revision
    assert demand.revision == world.status["stable"]
    assert demand.replicas >= before.replicas, "nothing goes down by it"
    assert demand.state.capacity.windows > 0
    assert demand.state.capacity.caution > 1.0
    assert max(totals) <= 2 * before.replicas


async def test_a_release_of_a_service_that_sleeps_starts_one_replica_and_sleeps_again() -> None:
    world = ScalingWorld(scaled(least=0, idleAfter="60s"))
    await world.begin()
    await world.pass_time(60, rate=30.0)
    await world.pass_time(400)
    assert world.replicas == 0
    before = world.revision
    wanted = scaled(least=0, idleAfter="60s")
    wanted["spec"]["predictor"]["model"]["storageUri"] = "sample://other"
    world.user_applies(wanted)
    await world.operate()
    totals = []
    for _ in range(100):
        await world.pass_time(2)
        totals.append(sum(one["spec"]["replicas"] for one in world.deployments))
    assert world.revision != before
    assert max(totals) == 1
    assert totals[-1] == 0


async def test_the_processes_memory_is_that_of_the_one_before() -> None:
    world = await under_load()
    known = world.scaler.demand(world.key)[""].state
    await world.operate()
    world.restart()
    await world.step()
    state = world.scaler.demand(world.key)[""].state
    assert state.capacity.windows > 0
    assert state.lead.launches
    assert state.clock >= known.clock - 70
    assert world.scaler.demand(world.key)[""].replicas == world.replicas


async def test_a_process_that_has_heard_nobody_yet_asks_for_nothing_for_ten_seconds() -> None:
    world = await under_load()
    world.restart()
    world.traffic.are_known = False
    await world.pass_time(8)
    assert world.scaler.demand(world.key) == {}
    await world.pass_time(4)
    assert world.scaler.demand(world.key)[""].replicas == world.replicas


async def test_a_gateway_or_a_revision_more_or_less_is_no_burst_and_forgets_nothing() -> None:
    world = await under_load()
    before = world.scaler.demand(world.key)[""].state
    other = f"team/{world.revision.rpartition('-')[0]}-0123456789"
    world.traffic.counters[other] = Counters(requests=1_000_000)
    await world.pass_time(4, rate=30.0)
    del world.traffic.counters[other]
    world.traffic.epoch = "gw-a-2"
    await world.pass_time(20, rate=30.0)
    after = world.scaler.demand(world.key)[""]
    assert after.state.whole_since == before.whole_since
    assert after.state.forecast.recent[-2] == pytest.approx(150, rel=0.3)
    world.restart()
    await world.pass_time(4, rate=30.0)
    found = world.scaler.demand(world.key)[""]
    assert found.state.counted.epoch != after.state.counted.epoch
    assert max(found.state.forecast.recent, default=0) < 250
    assert found.replicas >= after.replicas


async def test_lead_times_are_learnt_from_pods_each_counted_once() -> None:
    world = ScalingWorld(scaled(most=8), load_s=20)
    await world.begin()
    await world.pass_time(90, rate=30.0)
    launches = world.scaler.demand(world.key)[""].state.lead.launches
    assert 1 <= len(launches) <= world.replicas
    assert all(19 <= one <= 25 for one in launches)


async def test_a_server_that_tells_nothing_after_one_that_did_is_no_signal_that_is_lost() -> None:
    world = await under_load(least=0, idleAfter="60s")
    wanted = scaled(least=0, idleAfter="60s")
    wanted["spec"]["predictor"]["model"]["storageUri"] = "sample://other"
    world.user_applies(wanted)
    await world.operate()
    world.mute = {f"10.244.0.{number}" for number in range(1, 20)}
    before = world.revision
    await world.pass_time(60, rate=8.0)
    assert world.revision != before
    await world.pass_time(200)
    assert world.replicas == 0


async def test_loads_of_pods_are_told_so_that_the_least_loaded_go_first() -> None:
    world = await under_load()
    loads = world.scaler.loads(world.key)
    assert loads.keys() == {pod["metadata"]["name"] for pod in world.ready_pods}
    assert all(load == pytest.approx(world.each_running) for load in loads.values())


async def test_a_fault_in_one_service_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    world = ScalingWorld(scaled(most=8))
    await world.begin()
    broken = scaled(name="broken")
    world.user_applies(broken)
    await world.operate(("team", "broken"))
    (deployment,) = [one for one in world.deployments if one["metadata"]["name"].startswith("broken")]

    def unreadable(live: Manifest) -> None:
        live["metadata"]["labels"]["slipway.dev/revision"] = "broken-nothing"

    world.store.edit(DEPLOYMENT, "team", deployment["metadata"]["name"], unreadable, manager="someone")
    await world.scaler.tick()
    before = len(world.decisions.codes)
    world.wait(2)
    await world.scaler.tick()
    assert len(world.decisions.codes) > before


def test_what_the_process_before_remembered_is_no_ground_to_go_down_by() -> None:
    """Killed each ten seconds in a spike, a new operator found no arrivals in its first look: 4 to 1 on the cluster."""
    wanted = Wanted(1, 4, queue_s=1.0, slots=1, down=Pacing(delay_s=5.0))
    pods = Pods(age_s=1.0, answered=0.0, busy_s=0.0, running=0.0, queued=0.0)
    state, now = ScalingState(at=1e9), 1e9
    for look in range(1, 30):
        busy = Gateway(age_s=0.5, epoch="a", arrived=56.0 * look, in_flight=4.0)
        state, _, _ = decide(state, Observation(wanted, Replicas(4, 4), busy, pods), now := now + 2)
    entry = {"scaling": [{"variant": "", "revision": "a", "desired": 4, "state": stored(state)}]}
    found = remembered(entry, "", wanted).state
    quiet = Gateway(age_s=0.5, epoch="a", arrived=56.0 * 29, in_flight=0.0)
    for _ in range(15):
        found, replicas, _ = decide(found, Observation(wanted, Replicas(4, 4), quiet, pods), now := now + 2)
        assert replicas == 4
    for _ in range(60):
        found, replicas, _ = decide(found, Observation(wanted, Replicas(4, 4), quiet, pods), now := now + 2)
    assert replicas == 1
