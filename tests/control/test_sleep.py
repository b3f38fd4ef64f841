"""A service whose replicas follow its load, seen from the outside: asleep, woken, bounded, released, restarted."""

from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.api.scaled import Counted, Lead, ScalingState, Trust, Zero
from slipway.decide.demand import Demand
from slipway.decide.scaling.types import Code, Reason
from slipway.kube.errors import Forbidden
from slipway.kube.kinds import DEPLOYMENT, ENDPOINT_SLICE, INFERENCE_SERVICE, POD
from tests.control.world import KEY, Demanded, World, service, split
from tests.fake import controllers
from tests.fake.controllers import Failure
from tests.fake.faults import Call, Fault

MINUTE = 60.0


def scales(uri: str = "sample://hello", *, least: int = 0, most: int = 5, **more: Any) -> Manifest:
    wanted = service(uri, timeout="30s")
    wanted["spec"]["scaling"] = {"minReplicas": least, "maxReplicas": most, **more}
    return wanted


def demanded(world: World) -> Demanded:
    assert isinstance(world.scaling, Demanded)
    return world.scaling


def asks(world: World, replicas: int, *codes: Code, variant: str = "", requests: float = 0, **state: Any) -> None:
    """What scaling has decided, now, for the revision that serves."""
    role = "Variant" if variant else "Stable"
    known = [r for r in world.status.get("revisions", ()) if (r["role"], r.get("variant", "")) == (role, variant)]
    reasons = tuple(Reason(code, f"because of {code}") for code in codes or (Code.STEADY,))
    now = world.store.now.timestamp()
    heard: dict[str, Any] = {"clock": MINUTE, "trust": Trust(gateway=0.0)}
    remembered = ScalingState(at=now, counted=Counted(arrived=requests), **(heard | state))
    demanded(world).of[variant] = Demand(known[0]["name"] if known else "", replicas, reasons, remembered)


def told(world: World, variant: str = "") -> Manifest:
    found: list[Manifest] = [one for one in world.status.get("scaling", ()) if one["variant"] == variant]
    assert len(found) == 1, world.status.get("scaling")
    return found[0]


def replicas(world: World, name: str | None = None) -> int:
    return int(world.get(DEPLOYMENT, name or world.status["stable"])["spec"]["replicas"])


def target(world: World, name: str | None = None) -> Manifest:
    wanted = name or world.status["stable"]
    return next(one for one in world.status["routing"]["targets"] if one["revision"] == wanted)


@pytest.fixture
async def awake() -> World:
    """One replica, which may go."""
    world = World()
    world.user_applies(scales())
    await world.converge()
    asks(world, 1)
    await world.converge()
    return world


@pytest.fixture
async def asleep(awake: World) -> World:
    asks(awake, 0, Code.IDLE)
    await awake.converge()
    assert replicas(awake) == 0
    return awake


async def test_a_new_service_proves_its_model_before_it_may_sleep() -> None:
    world = World()
    world.user_applies(scales())
    asks(world, 0, Code.IDLE)
    await world.operate()
    assert [d["spec"]["replicas"] for d in world.store.list(DEPLOYMENT)] == [1]
    assert world.condition("Ready")["status"] == "False"
    controllers.settle(world.store)
    await world.operate()
    asks(world, 0, Code.IDLE)
    await world.converge()
    assert replicas(world) == 0


async def test_a_new_service_that_never_loads_gives_its_place_back_and_is_tried_now_and_then() -> None:
    world = World()
    world.user_applies(scales())
    await world.operate()
    asks(world, 0, Code.ACTIVATION_FAILED, zero=Zero(failed=1, barred_s=60.0))
    await world.converge()
    (name,) = world.names(DEPLOYMENT)
    assert replicas(world, name) == 0
    assert world.condition("Ready")["reason"] == world.condition("Stalled")["reason"] == "ActivationFailed"
    asks(world, 0, Code.IDLE, zero=Zero(failed=1))
    await world.operate()
    assert replicas(world, name) == 1
    assert world.condition("Stalled") == {}


async def test_a_service_asleep_is_ready_and_all_is_as_wanted(asleep: World) -> None:
    ready = asleep.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")
    assert ready["message"].endswith("asleep, the first request wakes it: because of Idle")
    assert asleep.condition("ScalingActive")["reason"] == "ScaledToZero"
    for kind in ("Accepted", "PredictorReady", "RoutesReady", "ModelLoaded", "RolloutHealthy", "ScalingActive"):
        assert asleep.condition(kind)["status"] == "True", kind
    assert asleep.condition("Reconciling") == asleep.condition("Stalled") == {}
    assert (target(asleep)["weight"], target(asleep)["holdMs"]) == (10_000, 30_000)
    assert told(asleep)["desired"] == 0
    assert "ScaledToZero" in asleep.recorder.reasons


async def test_the_last_replica_goes_only_when_every_gateway_holds_requests(awake: World) -> None:
    awake.user_applies(scales(least=1))
    asks(awake, 1)
    await awake.converge()
    assert "holdMs" not in target(awake)
    awake.gateways.pods["gw-b"].is_silent = True
    awake.user_applies(scales(least=0))
    asks(awake, 0, Code.IDLE)
    await awake.operate()
    assert target(awake)["holdMs"] == 30_000
    assert replicas(awake) == 1, "gw-b would answer 503"
    awake.gateways.pods["gw-b"].is_silent = False
    awake.wait(1)
    awake.gateways.take()
    await awake.operate()
    assert replicas(awake) == 0


async def test_a_service_asleep_is_not_written_to(asleep: World) -> None:
    asleep.kube.calls.clear()
    for _ in range(10):
        asks(asleep, 0, Code.IDLE, zero=Zero(idle_s=500))
        asleep.wait(MINUTE)
        await asleep.operate()
    assert asleep.kube.writes == []


async def test_an_operator_that_restarts_keeps_holding_before_anything_is_decided(asleep: World) -> None:
    before = asleep.status
    demanded(asleep).of = {}
    asleep.restart()
    await asleep.operate()
    assert asleep.kube.writes == []
    assert asleep.status == before


async def test_a_first_request_wakes_it_and_it_stays_ready_meanwhile(asleep: World) -> None:
    asks(asleep, 1, Code.WAKING)
    await asleep.operate()
    assert replicas(asleep) == 1
    asks(asleep, 1, Code.OBJECTIVE)  # the reason of every look but the first
    asleep.wait(2)
    await asleep.operate()
    assert (asleep.condition("Ready")["status"], asleep.condition("Ready")["reason"]) == ("True", "Waking")
    assert asleep.condition("Reconciling") == {}
    controllers.settle(asleep.store)
    asks(asleep, 1, Code.OBJECTIVE)
    await asleep.operate()
    assert asleep.condition("Ready")["reason"] == "Serving"
    assert told(asleep)["reason"] == "Scaled"
    assert asleep.recorder.reasons.count("Waking") == 1


async def test_it_wakes_until_gateways_know_of_its_pod(asleep: World) -> None:
    """The Deployment may tell of it before the EndpointSlice does: until then requests wait, and all is well."""
    asks(asleep, 1, Code.WAKING)
    await asleep.operate()
    ready_unknown_to_gateways(asleep, asleep.status["stable"])
    asks(asleep, 1, Code.OBJECTIVE)
    await asleep.operate()
    assert (asleep.condition("Ready")["status"], asleep.condition("Ready")["reason"]) == ("True", "Waking")
    controllers.slices(asleep.store)
    await asleep.operate()
    assert asleep.condition("Ready")["reason"] == "Serving"
    assert told(asleep)["reason"] == "Scaled"


def ready_unknown_to_gateways(world: World, name: str) -> None:
    def change(live: Manifest) -> None:
        live["endpoints"] = []

    controllers.settle(world.store)
    world.store.edit(ENDPOINT_SLICE, KEY[0], name, change, manager="kube-controller-manager")


async def test_a_service_that_never_wakes_says_so_and_answers_at_once(asleep: World) -> None:
    asks(asleep, 1, Code.WAKING)
    await asleep.operate()
    controllers.settle(asleep.store, failure=Failure(exit_code=1, message="no device", restarts=3))
    asks(asleep, 0, Code.ACTIVATION_FAILED, zero=Zero(failed=2, barred_s=120.0))
    await asleep.converge()
    assert replicas(asleep) == 0
    assert "holdMs" not in target(asleep), "503 at once"
    ready, stalled = asleep.condition("Ready"), asleep.condition("Stalled")
    assert (ready["status"], ready["reason"]) == ("False", "ActivationFailed")
    assert (stalled["status"], stalled["reason"]) == ("True", "ActivationFailed")
    assert asleep.condition("ScalingActive")["status"] == "False"
    assert "no replica became ready, 2 times in a row: requests are answered 503 until " in ready["message"]
    assert ("Warning", "ActivationFailed") in [(kind, reason) for kind, reason, _ in asleep.recorder.events]
    asleep.kube.calls.clear()
    asleep.wait(2)
    asks(asleep, 0, Code.ACTIVATION_FAILED, zero=Zero(failed=2, barred_s=118.0))
    await asleep.operate()
    assert asleep.kube.writes == [], "the time that passes is no news"
    asks(asleep, 0, Code.IDLE, zero=Zero(failed=2))
    await asleep.converge()
    assert target(asleep)["holdMs"] == 30_000, "the next request tries again"
    assert asleep.condition("Ready")["status"] == "False", "nothing has become better yet"
    asks(asleep, 1, Code.WAKING, zero=Zero(failed=2))
    await asleep.operate()
    assert asleep.condition("Stalled") == {}
    controllers.settle(asleep.store)
    asks(asleep, 1, Code.OBJECTIVE)
    await asleep.operate()
    assert asleep.condition("Ready")["status"] == asleep.condition("ScalingActive")["status"] == "True"


async def test_an_operator_that_restarts_between_two_tries_keeps_answering_at_once(asleep: World) -> None:
    asks(asleep, 0, Code.ACTIVATION_FAILED, zero=Zero(failed=1, barred_s=60.0))
    await asleep.converge()
    demanded(asleep).of = {}
    asleep.restart()
    await asleep.operate()
    assert "holdMs" not in target(asleep)
    assert asleep.kube.writes == []


async def test_the_bounds_of_the_spec_hold_whatever_was_decided_before(awake: World) -> None:
    awake.user_applies(scales(least=3))
    await awake.converge()
    assert replicas(awake) == 3
    asks(awake, 5)
    await awake.converge()
    awake.user_applies(scales(least=1, most=2))
    await awake.converge()
    assert replicas(awake) == 2


async def test_a_higher_minimum_wakes_a_service(asleep: World) -> None:
    asleep.user_applies(scales(least=1))
    await asleep.converge()
    assert replicas(asleep) == 1
    assert asleep.condition("Ready")["reason"] == "Serving"


async def test_fixed_replicas_follow_no_demand_and_tell_of_none(awake: World) -> None:
    awake.user_applies(service(replicas=2, timeout="30s"))
    asks(awake, 0, Code.IDLE)
    await awake.converge()
    assert replicas(awake) == 2
    assert "scaling" not in awake.status or awake.status["scaling"] == []
    assert awake.condition("ScalingActive")["reason"] == "FixedReplicas"


async def test_replicas_that_somebody_else_sets_are_put_back(awake: World) -> None:
    def grow(live: Manifest) -> None:
        live["spec"]["replicas"] = 40

    awake.store.edit(DEPLOYMENT, "team", awake.status["stable"], grow, manager="kubectl")
    await awake.operate()
    assert replicas(awake) == 1


def _set_replicas(world: World, number: int) -> None:
    change = {"replicas": number}
    name = world.status["stable"]
    world.store.edit(DEPLOYMENT, "team", name, lambda live: live["spec"].update(change), manager="hpa")


@pytest.mark.parametrize("fixed", [False, True], ids=["scaled", "fixed"])
async def test_another_autoscaler_has_its_way_and_that_is_said(awake: World, *, fixed: bool) -> None:
    awake.user_applies(service(replicas=1, timeout="30s") if fixed else scales())
    other = "HorizontalPodAutoscaler team/mine"
    demanded(awake).others = {awake.status["stable"]: other}
    if not fixed:
        asks(awake, 4, Code.CONFLICT)
    for number in (4, 9, 1):
        _set_replicas(awake, number)
        await awake.converge()
        assert replicas(awake) == number, "beyond its bounds, but hands off"
    active = awake.condition("ScalingActive")
    assert (active["status"], active["reason"]) == ("False", "AutoscalerConflict")
    assert active["message"].startswith(f"{other} scales Deployment {awake.status['stable']} too")
    assert awake.condition("Ready")["status"] == awake.condition("PredictorReady")["status"] == "True"
    assert awake.recorder.reasons.count("AutoscalerConflict") == 1
    demanded(awake).others, demanded(awake).of = {}, {}
    _set_replicas(awake, 3)
    await awake.converge()
    assert replicas(awake) == (1 if fixed else 3)
    asks(awake, 2)
    await awake.converge()
    assert replicas(awake) == (1 if fixed else 2)


async def test_without_a_decision_replicas_stay_as_they_are(awake: World) -> None:
    asks(awake, 4)
    await awake.converge()
    awake.wait(MINUTE)
    await awake.operate()
    demanded(awake).of = {}
    awake.restart()
    await awake.converge()
    assert replicas(awake) == 4
    assert awake.kube.writes == []


async def test_scaling_that_contradicts_itself_is_refused_and_the_last_good_goes_on(awake: World) -> None:
    asks(awake, 3)
    await awake.converge()
    zone = {"name": "day", "start": "0 8 * * *", "timeZone": "Mars/Base", "minReplicas": 2}
    awake.user_applies(scales(schedules=[zone]))
    await awake.converge()
    accepted = awake.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidScaling")
    assert "there is no time zone 'Mars/Base'" in accepted["message"]
    assert replicas(awake) == 3
    assert target(awake)["holdMs"] == 30_000
    asks(awake, 4)
    await awake.converge()
    assert replicas(awake) == 4, "its load is still seen to"


async def test_a_service_asleep_whose_spec_is_refused_stays_so_over_a_restart(asleep: World) -> None:
    asleep.user_applies(scales(idleAfter="5m", schedules=[{"name": "a", "start": "99 * * * *", "minReplicas": 1}]))
    await asleep.operate()
    assert asleep.condition("Accepted")["status"] == "False"
    demanded(asleep).of = {}
    asleep.restart()
    await asleep.operate()
    assert (replicas(asleep), target(asleep)["holdMs"]) == (0, 30_000)
    assert asleep.kube.writes == []
    asks(asleep, 1, Code.WAKING)
    await asleep.operate()
    assert replicas(asleep) == 1, "a request wakes it all the same"


async def test_what_a_waking_service_has_no_room_for_is_named(asleep: World) -> None:
    asks(asleep, 1, Code.WAKING)
    await asleep.operate()
    controllers.no_node(asleep.store)
    pods = asleep.store.list(POD)
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    for pod in pods:
        asleep.store.edit(
            POD,
            "team",
            pod["metadata"]["name"],
            lambda live: live["status"]["conditions"][0].update(message=message),
            manager="kube-scheduler",
            subresource="status",
        )
    asleep.wait(10)
    asks(asleep, 1, Code.STEADY)
    await asleep.operate()
    active = asleep.condition("ScalingActive")
    assert (active["status"], active["reason"]) == ("False", "CapacityLimited")
    assert active["message"].startswith("1 replica: no nvidia.com/gpu is left for 1 of them; ")


@pytest.mark.parametrize("paused", ["Up", "Both"])
async def test_nobody_waits_for_a_service_that_is_paused_while_it_sleeps(asleep: World, paused: str) -> None:
    asleep.user_applies(scales(paused=paused))
    asks(asleep, 0, Code.WAKING, Code.PAUSED)
    await asleep.converge()
    assert "holdMs" not in target(asleep)
    ready = asleep.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ScalingPaused")
    assert ready["message"].endswith("asleep, and spec.scaling.paused keeps it so: requests are answered 503")
    asleep.user_applies(scales())
    asks(asleep, 0, Code.IDLE)
    await asleep.converge()
    assert target(asleep)["holdMs"] == 30_000


async def test_a_service_that_could_not_be_woken_does_not_fall_asleep(awake: World) -> None:
    awake.user_applies(scales(paused="Up"))
    asks(awake, 0, Code.IDLE)
    await awake.converge()
    assert replicas(awake) == 1


async def test_nobody_waits_for_what_another_autoscaler_took_away(awake: World) -> None:
    demanded(awake).others = {awake.status["stable"]: "HorizontalPodAutoscaler team/mine"}
    asks(awake, 0, Code.CONFLICT)
    _set_replicas(awake, 0)
    await awake.converge()
    assert "holdMs" not in target(awake)
    assert (awake.condition("Ready")["status"], awake.condition("Ready")["reason"]) == ("False", "AutoscalerConflict")


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        pytest.param({"activationReplicas": 5}, "activationReplicas 5 is more than the replicas", id="activation"),
        pytest.param(
            {"maxReplicas": 4, "objective": {"promql": {"query": 'x{revision="$candidate"}', "target": 1}}},
            "objective.promql: there is no revision for $candidate to stand for",
            id="a placeholder of releases",
        ),
        pytest.param({"minReplicas": 3, "maxReplicas": 2}, "minReplicas 3 is more than maxReplicas 2", id="bounds"),
        pytest.param(
            {"maxReplicas": 4, "schedules": [{"name": "day", "start": "0 8 * * *", "minReplicas": 6}]},
            "schedule day keeps 6 replicas, more than maxReplicas 4",
            id="a schedule beyond them",
        ),
        pytest.param(
            {"schedules": [{"name": "day", "start": "0 8 * * *", "minReplicas": 6}]},
            "schedule day keeps 6 replicas, more than the replicas there may be without maxReplicas, 1",
            id="a schedule without maxReplicas",
        ),
        pytest.param(
            {"maxReplicas": 4, "objective": {"promql": {"query": "sum(", "target": 1}}},
            "objective.promql: ",
            id="promql",
        ),
        pytest.param(
            {"maxReplicas": 4, "behavior": {"up": {"replicas": 1, "period": "2h"}}},
            "behavior.up.period is 2h, must be at most 1h",
            id="a long period",
        ),
    ],
)
async def test_what_cannot_be_honoured_of_scaling_is_said(scaling: Manifest, words: str) -> None:
    world = World()
    wanted = service()
    wanted["spec"]["scaling"] = scaling
    world.user_applies(wanted)
    await world.operate()
    accepted = world.condition("Accepted")
    assert accepted["reason"] == "InvalidScaling"
    assert accepted["message"].startswith(f"spec.scaling: {words}")


# What is told and remembered


async def test_a_growing_load_is_nothing_to_wait_for(awake: World) -> None:
    asks(awake, 4, Code.OBJECTIVE)
    await awake.operate()
    assert replicas(awake) == 4
    assert awake.condition("Reconciling") == awake.condition("Stalled") == {}
    assert awake.condition("Ready")["status"] == awake.condition("PredictorReady")["status"] == "True"
    assert awake.condition("PredictorReady")["message"].startswith("1 of 4 replicas")
    assert (told(awake)["desired"], told(awake)["ready"], told(awake)["loading"]) == (4, 1, 3)


async def test_new_replicas_that_fail_are_missing(awake: World) -> None:
    asks(awake, 2, Code.LAUNCH_FAILED)
    await awake.operate()
    before = {pod["metadata"]["name"] for pod in awake.store.list(POD)}
    controllers.settle(awake.store, failure=Failure(message="no device"))
    assert before < {pod["metadata"]["name"] for pod in awake.store.list(POD)}
    await awake.operate()
    assert awake.condition("PredictorReady")["status"] == "False"
    assert awake.condition("ScalingActive")["reason"] == "LaunchFailed"


async def test_no_room_is_named_with_what_is_missing(awake: World) -> None:
    asks(awake, 3, Code.BACKLOG, Code.CAPACITY_LIMITED)
    await awake.operate()
    active = awake.condition("ScalingActive")
    assert (active["status"], active["reason"]) == ("False", "CapacityLimited")
    assert active["message"] == "3 replicas: because of CapacityLimited; because of Backlog"
    assert awake.condition("Ready")["status"] == "True"
    assert awake.recorder.reasons.count("CapacityLimited") == 1


async def test_what_is_learnt_is_kept_once_a_minute_and_only_from_requests(awake: World) -> None:
    asks(awake, 1, requests=100, clock=5.0)
    awake.wait(MINUTE)
    asks(awake, 1, requests=100)
    await awake.operate()
    awake.kube.calls.clear()
    for looks in range(1, 60):
        awake.wait(2)
        asks(awake, 1, requests=100 + 10 * looks)
        await awake.operate()
    assert 1 <= len(awake.kube.writes) <= 2, "two minutes"
    assert told(awake)["state"]["counted"]["arrived"] > 100
    awake.wait(MINUTE)
    asks(awake, 1, requests=690)
    await awake.operate()
    awake.kube.calls.clear()
    for _ in range(60):
        awake.wait(2)
        asks(awake, 1, requests=690, clock=awake.store.now.timestamp())
        await awake.operate()
    assert awake.kube.writes == [], "nobody asked"


async def test_a_climb_is_one_decision_in_history_and_releases_keep_their_room(awake: World) -> None:
    began = len(awake.status["history"])
    for number in (2, 3, 4):
        asks(awake, number, Code.OBJECTIVE)
        awake.wait(10)
        await awake.converge()
    newest = awake.status["history"][0]
    assert (newest["reason"], len(awake.status["history"])) == ("ScaledUp", began + 1)
    assert newest["message"] == "from 1 to 4 replicas: because of Objective"
    for turn in range(30):
        asks(awake, 1 + turn % 2, Code.FEWER)
        awake.wait(2 * MINUTE)
        await awake.converge()
    reasons = [entry["reason"] for entry in awake.status["history"]]
    assert sum(reason in ("ScaledUp", "ScaledDown") for reason in reasons) == 8
    assert "RevisionPromoted" in reasons


async def test_the_lead_time_and_its_parts_are_told(awake: World) -> None:
    known = Lead(launches=[20.0, 21.0, 22.0], parts=[1.0, 0.0, 5.0, 12.0, 3.0], seen=5.0)
    asks(awake, 2, Code.OBJECTIVE, lead=known)
    await awake.operate()
    assert told(awake)["leadTime"] == {
        "seconds": 21.6, "schedule": 1.0, "pull": 0.0, "fetch": 5.0, "load": 12.0, "warmUp": 3.0
    }  # fmt: skip


# Which pods leave first


def _marks(world: World) -> dict[str, str]:
    found = {p["metadata"]["name"]: p["metadata"].get("annotations", {}) for p in world.store.list(POD)}
    return {
        name: marks["controller.kubernetes.io/pod-deletion-cost"]
        for name, marks in found.items()
        if any(map(str, marks))
    }


async def _three(world: World) -> list[str]:
    asks(world, 3)
    await world.converge()
    return sorted(pod["metadata"]["name"] for pod in world.store.list(POD))


async def test_the_least_loaded_pods_leave_first(awake: World) -> None:
    one, two, three = await _three(awake)
    demanded(awake).pods = {one: 5.0, two: 0.5, three: 2.0}
    asks(awake, 2, Code.FEWER)
    await awake.operate()
    assert _marks(awake) == {two: "-1"}
    verbs = [
        (call.resource, call.subresource) for call in awake.kube.writes if call.resource in ("pods", "deployments")
    ]
    assert verbs[-2:] == [("pods", ""), ("deployments", "scale")], "marked before anybody has to go"


async def test_a_mark_moves_with_the_load(awake: World) -> None:
    one, two, three = await _three(awake)
    demanded(awake).pods = {one: 5.0, two: 0.5, three: 2.0}
    awake.kube.fault = lambda _number, call: _refuses(call, "deployments")
    asks(awake, 2, Code.FEWER)
    with pytest.raises(Forbidden):
        await awake.reconciler(KEY)
    assert _marks(awake) == {two: "-1"}
    awake.kube.fault = lambda _number, _call: None
    demanded(awake).pods = {one: 0.0, two: 4.0, three: 2.0}
    await awake.operate()
    assert _marks(awake) == {one: "-1"}


async def test_nobody_is_marked_where_it_is_not_known_who_does_what(awake: World) -> None:
    await _three(awake)
    asks(awake, 1, Code.FEWER)
    await awake.operate()
    assert (_marks(awake), replicas(awake)) == ({}, 1)


async def test_replicas_go_even_where_pods_may_not_be_marked(awake: World) -> None:
    one, *_ = await _three(awake)
    demanded(awake).pods = {one: 1.0}
    awake.kube.fault = lambda _number, call: _refuses(call, "pods")
    asks(awake, 2, Code.FEWER)
    await awake.operate()
    assert (_marks(awake), replicas(awake)) == ({}, 2)


def _refuses(call: Call, plural: str) -> Fault | None:
    return Fault(Forbidden("no")) if call.resource == plural else None


# Releases and variants asleep


async def test_a_release_of_a_service_asleep_takes_one_replica_and_no_steps(asleep: World) -> None:
    old = asleep.status["stable"]
    asleep.user_applies(scales("sample://hello-v2"))
    await asleep.operate()
    asks(asleep, 0, Code.IDLE)
    new = next(name for name in asleep.names(DEPLOYMENT) if name != old)
    assert (replicas(asleep, old), replicas(asleep, new)) == (0, 1)
    assert asleep.condition("Ready")["status"] == "True", "a request would wake the old one"
    controllers.settle(asleep.store)
    await asleep.operate()
    assert asleep.status["stable"] == new
    assert target(asleep)["holdMs"] == 30_000
    assert replicas(asleep) == 1, "decided for the old one: the new one is looked at first"
    asks(asleep, 0, Code.IDLE)
    await asleep.converge()
    assert (asleep.names(DEPLOYMENT), replicas(asleep)) == ([new], 0)
    assert asleep.condition("Ready")["reason"] == "ScaledToZero"


@pytest.fixture
async def both() -> World:
    """Stable, and a variant b with a tenth, which both may sleep."""
    world = World()
    world.user_applies(_with_b())
    await world.converge()
    asks(world, 1)
    asks(world, 1, variant="b")
    await world.converge()
    return world


GROUP = {"header": "x-group", "exact": "beta"}


def _with_b(**b: Any) -> Manifest:
    wanted = split("sample://hello-b", "10%", match=[GROUP], **b)
    wanted["spec"]["scaling"] = {"minReplicas": 0, "maxReplicas": 5}
    return wanted


async def test_a_variant_asleep_keeps_its_share_and_its_users(both: World) -> None:
    b = told(both, "b")["revision"]
    asks(both, 0, Code.IDLE, variant="b")
    await both.converge()
    assert (replicas(both, b), replicas(both)) == (0, 1)
    assert both.weights == {both.status["stable"]: 9000, b: 1000}
    assert both.status["routing"]["rules"] == [{"revision": b, "match": [GROUP]}]
    assert both.condition("RolloutHealthy")["status"] == "True"
    assert both.condition("Reconciling") == {}


async def test_users_of_a_variant_that_wakes_stay_with_it(both: World) -> None:
    b = told(both, "b")["revision"]
    asks(both, 0, Code.IDLE, variant="b")
    await both.converge()
    asks(both, 1, Code.WAKING, variant="b")
    await both.operate()
    ready_unknown_to_gateways(both, b)
    asks(both, 1, Code.OBJECTIVE, variant="b")
    await both.operate()
    assert both.weights == {both.status["stable"]: 9000, b: 1000}
    assert both.status["routing"]["rules"] == [{"revision": b, "match": [GROUP]}]


async def test_users_of_a_variant_that_fails_to_wake_go_to_stable(both: World) -> None:
    b = told(both, "b")["revision"]
    asks(both, 0, Code.IDLE, variant="b")
    await both.converge()
    asks(both, 1, Code.WAKING, variant="b")
    await both.operate()
    assert both.weights[b] == 1000, "it is on its way"
    controllers.settle(both.store, failure=Failure(message="no device"), only=lambda one: one["metadata"]["name"] == b)
    await both.operate()
    assert both.weights == {both.status["stable"]: 10_000, b: 0}
    assert both.status["routing"]["rules"] == []


async def test_a_variant_that_could_not_be_woken_is_tried_again_by_its_users(both: World) -> None:
    b = told(both, "b")["revision"]
    asks(both, 0, Code.IDLE, variant="b")
    await both.converge()
    asks(both, 0, Code.ACTIVATION_FAILED, variant="b", zero=Zero(failed=1, barred_s=60.0))
    await both.converge()
    assert both.weights == {both.status["stable"]: 10_000, b: 0}, "not while nobody would wake it"
    asks(both, 0, Code.IDLE, variant="b", zero=Zero(failed=1))
    await both.converge()
    assert both.weights == {both.status["stable"]: 9000, b: 1000}
    assert both.status["routing"]["rules"] == [{"revision": b, "match": [GROUP]}]


async def test_a_variant_has_bounds_of_its_own() -> None:
    world = World()
    world.user_applies(_with_b(minReplicas=2, maxReplicas=2))
    await world.converge()
    asks(world, 0, Code.IDLE)
    asks(world, 0, Code.IDLE, variant="b")
    await world.converge()
    counts = {one["metadata"]["labels"].get("slipway.dev/variant", ""): one for one in world.store.list(DEPLOYMENT)}
    assert {name: one["spec"]["replicas"] for name, one in counts.items()} == {"": 0, "b": 2}
    assert [one["variant"] for one in world.status["scaling"]] == [""]


async def test_a_wiped_status_wakes_a_service_rather_than_lose_it(asleep: World) -> None:
    asleep.store.edit(
        INFERENCE_SERVICE, *KEY, lambda live: live.pop("status"), manager="somebody", subresource="status"
    )
    demanded(asleep).of = {}
    await asleep.converge()
    assert replicas(asleep) == 1
    assert asleep.condition("Ready")["status"] == "True"
