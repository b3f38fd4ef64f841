"""Releases without steps, and the way back after one."""

from typing import Any

from slipway.api.conditions import Phase, Reason
from slipway.decide.release import Reading
from tests.unit.release_world import DRAIN_S, World, world

GATED: list[dict[str, Any]] = [
    {"weight": "5%", "gate": True},
    {"weight": "25%", "hold": "30s"},
    {"weight": "50%", "hold": "30s"},
]


def reason(service: World) -> str:
    assert service.state.abort is not None
    return service.state.abort.reason


def test_20_a_rollback_in_time_leads_to_pods_that_are_still_there() -> None:
    service = world([], scaleDownDelay="5m").serve().apply("v2").until(Phase.DRAINING)
    service.wait(60)
    pods = list(service.pods["v1"])
    service.say("rollback")
    assert service.stable == "v1"
    assert service.route is not None
    assert (service.route.serving, service.route.weight) == ("v1", 0)
    service.until(Phase.ROLLED_BACK, limit_s=40)
    assert service.pods["v1"] == pods, "nothing was loaded again"
    assert service.state.candidate == "v2"
    service.wait(600)
    assert (service.stable, service.asked) == ("v1", {"v1": 1}), "the spec's revision is not tried again by itself"


def test_20_the_old_spec_in_time_leads_to_the_pods_that_are_still_there() -> None:
    service = world(GATED, scaleDownDelay="5m").serve().apply("v2").wait(10).say("promote-all").until(Phase.DRAINING)
    service.apply("v1")
    assert service.stable == "v1"
    service.until(Phase.HEALTHY, limit_s=5)
    assert service.weights[-1] == (None, 0)


def test_20_later_the_old_spec_is_a_release_like_any_other() -> None:
    service = world(GATED, scaleDownDelay="10s").serve().apply("v2").wait(10).say("promote-all").until(Phase.HEALTHY)
    service.apply("v1").wait(10)
    assert (service.phase, service.state.weight) == (Phase.PROGRESSING, 500)
    service = world([], scaleDownDelay="10s").serve().apply("v2").until(Phase.DRAINING).until(Phase.HEALTHY)
    service.say("rollback")
    assert service.stable == "v2"
    assert service.told(Reason.COMMAND_REFUSED) == [
        "rollback 1 by kubectl: the revision before has no pods any more; set spec.predictor.model back to what it was"
    ]


def test_blue_green_shows_the_candidate_at_its_address_then_switches_at_once() -> None:
    service = world(strategy="BlueGreen", preview={"hold": "60s"}, scaleDownDelay="5m", replicas=2).serve().apply("v2")
    service.wait(10)
    assert service.route is not None
    assert (service.route.preview, service.route.weight, service.asked) == ("v2", 0, {"v1": 2, "v2": 2})
    assert service.told(Reason.ROLLOUT_STEPPED) == ["step 1 of 1: the preview address leads to revision v2"]
    began = service.now
    service.until(Phase.PROMOTING)
    assert (service.now - began).total_seconds() >= 54
    service.until(Phase.DRAINING)
    assert [weight for name, weight in service.weights if name] == [0, 10_000]
    service.wait(30).say("rollback")
    assert service.stable == "v1"


def test_blue_green_waits_at_its_gate_and_goes_back_when_a_metric_says_so() -> None:
    metrics = {"metrics": [{"name": "drift", "promql": "x", "max": 0.5}]}
    service = world(strategy="BlueGreen", preview={"gate": True}, analysis=metrics).serve().apply("v2").wait(300)
    assert service.state.pause is not None
    assert service.state.pause.reason == "StepGate"
    service.readings["drift"] = Reading(0.9, "0.9", 1)
    service.wait(6)
    assert reason(service) == "AnalysisFailed"
    assert service.route is not None
    assert service.route.preview is None


def test_strategy_none_switches_when_all_replicas_are_ready_and_tells_no_steps() -> None:
    service = world(strategy="None", scaleDownDelay="0s", replicas=2).serve()
    service.rps = 0
    service.apply("v2")
    assert (service.phase, service.weights) == (Phase.PROVISIONING, [])
    service.model("v2").down = 1
    service.wait(30)
    assert service.stable == "v1"
    service.model("v2").down = 0
    service.wait(1)
    assert (service.stable, service.phase) == ("v2", Phase.DRAINING)
    service.until(Phase.HEALTHY, limit_s=DRAIN_S + 3)
    assert service.weights == [(None, 0)]
    assert [str(one) for one in service.reasons] == ["RevisionPromoted"]


def test_strategy_none_switches_early_when_nobody_else_answers() -> None:
    service = world(strategy="None", scaleDownDelay="0s", replicas=2).serve()
    service.model("v1").down, service.model("v2").down = 2, 1
    service.apply("v2").wait(5)
    assert service.stable == "v2"


def test_a_release_goes_on_to_its_end_when_its_strategy_becomes_none() -> None:
    service = world(GATED).serve().apply("v2").wait(10)
    service.policy = world(strategy="None").policy
    service.until(Phase.HEALTHY)
    assert [weight for name, weight in service.weights if name] == [500, 10_000]


def test_a_status_of_a_slipway_that_knew_no_releases_is_taken_over() -> None:
    service = world(GATED).serve()
    service.stored = '{"phase": "Draining", "since": "2026-01-01T09:00:00Z", "until": "2026-01-01T09:00:05Z"}'
    service.operate()
    assert (service.phase, service.reasons) == (Phase.HEALTHY, [])
