"""Releases by steps, as rollout.md section 7 numbers what must happen; time is virtual."""

from typing import Any

import pytest

from slipway.api.conditions import Phase, Reason
from slipway.api.rollout import Rollout
from slipway.decide import judge
from slipway.decide.release import Reading
from tests.unit.release_world import DRAIN_S, Model, world

GATED: list[dict[str, Any]] = [
    {"weight": "5%", "gate": True},
    {"weight": "25%", "hold": "30s"},
    {"weight": "50%", "hold": "30s"},
]
SHORT: list[dict[str, Any]] = [{"weight": "50%", "hold": "20s"}]
WATCHED: dict[str, Any] = {"metrics": [{"name": "drift", "promql": "x", "max": 0.5}]}


def test_01_the_first_revision_answers_when_ready_without_steps() -> None:
    service = world(GATED)
    service.operate()
    assert (service.phase, service.state.next) == (
        Phase.PROVISIONING,
        "revision v1 answers as soon as its model is loaded",
    )
    service.wait(10)
    assert (service.phase, service.stable) == (Phase.HEALTHY, "v1")
    assert [str(reason) for reason in service.reasons] == ["RevisionPromoted"]
    assert service.weights == [(None, 0)]
    assert service.state.evidence is None


def test_a_good_release_goes_by_its_steps_and_adds_little_to_their_holds() -> None:
    service = world().serve().apply("v2")
    began = service.now
    service.until(Phase.DRAINING)
    assert [weight for name, weight in service.weights if name == "v2"] == [500, 2500, 5000, 10_000]
    overhead_s = (service.now - began).total_seconds() - 3 * 60 - service.model("v2").lead_s
    assert overhead_s <= 5
    service.until(Phase.HEALTHY)
    assert (service.stable, service.asked) == ("v2", {"v2": 1})
    assert service.told(Reason.REVISION_PROMOTED) == [
        "revision v2 has all replicas ready and answers now, in place of v1"
    ]


def test_02_a_gate_waits_far_beyond_the_progress_deadline_and_promote_passes_just_one_step() -> None:
    service = world(GATED, progressDeadline="1m").serve().apply("v2").wait(300)
    assert (service.phase, service.state.weight, service.state.abort) == (Phase.PROGRESSING, 500, None)
    assert service.state.pause is not None
    assert service.state.pause.reason == "StepGate"
    assert service.state.next == "waits for the command promote"
    service.say("promote")
    assert service.state.weight == 2500
    assert service.told(Reason.COMMAND_OBEYED) == ["promote 1 by kubectl"]
    service.wait(20)
    assert service.state.weight == 2500


def test_03_a_hold_goes_on_while_nobody_looks() -> None:
    service = world([{"weight": "10%", "hold": "60s"}]).serve().apply("v2").wait(30)
    assert service.state.stage == "Soaking"
    assert service.state.soaking_since is not None
    began = service.now
    service.decision = None
    service._pass(25)  # the operator is down
    assert service.state.weight == 1000
    service.operate().until(Phase.PROMOTING)
    assert 30 <= (service.now - began).total_seconds() <= 40


def test_04_another_version_gets_nothing_before_every_gateway_has_left_the_one_it_supersedes() -> None:
    service = world(GATED, replicas=4).serve().apply("v2").wait(10).say("promote").wait(10)
    assert service.state.weight == 2500
    service.ack_s = 5
    service.apply("v3")
    assert (service.phase, service.state.weight) == (Phase.ROLLING_BACK, 0)
    assert "v3" not in service.asked
    service.wait(3)
    assert service.asked["v2"] == 1, "a gateway may lead there still"
    service.wait(3)
    assert (service.phase, service.state.candidate, service.state.step) == (Phase.PROVISIONING, "v3", 0)
    assert service.state.attempt == 1
    service.wait(15)
    assert service.state.weight == 500
    assert "v2" not in service.asked
    assert service.told(Reason.ROLLOUT_SUPERSEDED) == ["revision v2 is left at 25%: the spec asks for revision v3"]
    assert not service.told(Reason.ROLLED_BACK)


def test_another_version_during_the_first_start_simply_takes_over() -> None:
    service = world(GATED).serve().apply("v2").apply("v3")
    assert (service.phase, service.state.candidate) == (Phase.PROVISIONING, "v3")


def test_another_version_during_the_flip_waits_until_it_is_done() -> None:
    service = world([]).serve()
    service.ack_s = 10
    service.apply("v2").until(Phase.PROMOTING)
    service.apply("v3")
    assert service.phase is Phase.PROMOTING
    service.wait(11)
    assert (service.stable, service.state.candidate) == ("v2", "v3")


def test_05_back_to_the_old_spec_ends_a_release_without_steps_and_without_a_verdict() -> None:
    service = world(GATED, replicas=4).serve().apply("v2").wait(10).say("promote").wait(10).apply("v1")
    assert service.state.weight == 0, "stable has all its replicas ready"
    service.until(Phase.HEALTHY)
    service.wait(DRAIN_S + 3)
    assert (service.stable, service.asked) == ("v1", {"v1": 4})
    assert not service.told(Reason.ROLLED_BACK)
    assert service.told(Reason.ROLLOUT_SUPERSEDED) == [
        "revision v2 is left at 25%: the spec asks for revision v1 again"
    ]


def test_05_weight_goes_back_only_as_fast_as_stable_has_replicas_ready() -> None:
    service = world([{"weight": "75%", "gate": True}], replicas=4).serve().apply("v2").wait(10)
    assert service.state.weight == 7500
    service.model("v1").down = 3
    service.apply("v1")
    assert (service.phase, service.state.stage, service.state.weight) == (Phase.ROLLING_BACK, "Shifting", 7500)
    service.wait(40)
    assert service.state.pause is not None
    assert service.state.pause.message == "stable v1 has 1 of 4 replicas ready"
    service.model("v1").down = 2
    service.wait(2)
    assert service.state.weight == 5000
    service.model("v1").down = 0
    service.until(Phase.HEALTHY)
    assert service.weights[-1] == (None, 0)


def test_08_a_good_version_takes_the_place_of_a_dead_one_without_steps() -> None:
    service = world(GATED, replicas=2).serve()
    service.model("v1").down, service.model("v1").fault = 2, (Reason.CRASHED, "boom", False)
    service.apply("v2").wait(5)
    assert (service.phase, service.state.weight) == (Phase.PROMOTING, 10_000)
    service.until(Phase.HEALTHY, limit_s=60)
    assert (service.stable, service.asked) == ("v2", {"v2": 2})


@pytest.mark.parametrize("fault", [None, (Reason.UNSCHEDULABLE, "no node fits", False)])
def test_08_a_stable_that_was_only_evicted_is_waited_for_and_nothing_is_promoted_unjudged(fault: Any) -> None:
    service = world(GATED).serve().apply("v2").wait(10)
    service.model("v1").down, service.model("v1").fault = 1, fault
    service.wait(240)
    assert (service.phase, service.state.weight, service.stable) == (Phase.PROMOTING, 10_000, "v1")
    service.model("v1").down, service.model("v1").fault = 0, None
    service.wait(5)
    assert (service.phase, service.state.weight, service.stable) == (Phase.PROGRESSING, 500, "v1")
    service.model("v1").down = 1
    service.wait(620)
    assert service.stable == "v2", "who does not come back within progressDeadline is given up"


def test_08_a_stable_that_comes_back_is_released_from_step_by_step_after_all() -> None:
    service = world(GATED, replicas=2).serve().apply("v2").wait(10)
    service.model("v1").down = 2
    service.wait(5)
    assert (service.phase, service.state.weight) == (Phase.PROMOTING, 10_000)
    service.model("v1").down = 0
    service.wait(5)
    assert (service.phase, service.state.weight, service.stable) == (Phase.PROGRESSING, 500, "v1")


def test_08_a_fix_is_not_kept_waiting_by_a_bad_candidate_that_is_the_last_to_answer() -> None:
    service = world(GATED, replicas=2).serve().apply("v2").wait(10)
    service.model("v1").down = 2
    service.wait(2).say("abort").wait(60)
    assert (service.phase, service.state.weight) == (Phase.ROLLING_BACK, 10_000), "nobody else answers"
    service.apply("v3").wait(10)
    assert (service.stable, service.state.candidate) == ("v2", "v3")
    service.say("promote-all", "2").until(Phase.HEALTHY)
    assert service.stable == "v3"


def test_09_a_dead_prometheus_freezes_the_step_and_aborts_nothing() -> None:
    service = world([{"weight": "5%", "hold": "20s"}, {"weight": "50%", "hold": "20s"}], analysis=WATCHED).serve()
    service.readings["drift"] = Reading(0.1, "0.1", 1)
    service.apply("v2").wait(12)
    evidence = service.state.evidence
    assert evidence is not None
    service.readings["drift"] = Reading(None, "connection refused", failed=True)
    service.wait(1200)
    assert (service.state.weight, service.state.abort) == (500, None)
    assert service.state.pause is not None
    assert service.state.pause.reason == "MetricsUnavailable"
    assert "connection refused" in service.state.pause.message
    service.readings["drift"] = Reading(0.1, "0.1", 1)
    service.wait(10)
    assert service.state.weight == 5000
    assert service.state.evidence is not None
    assert service.state.evidence["n"] > evidence["n"], "earlier evidence still counts"


def test_09_gateways_that_tell_nothing_freeze_the_step() -> None:
    service = world([{"weight": "5%", "hold": "20s"}]).serve().apply("v2").wait(12)
    service.window_age_s = 60
    service.wait(300)
    assert (service.phase, service.state.weight) == (Phase.PROGRESSING, 500)
    assert service.state.pause is not None
    assert service.state.pause.reason == "MetricsUnavailable"
    service.window_age_s = 0
    service.until(Phase.HEALTHY)


@pytest.mark.parametrize(
    ("choice", "phase"), [("Hold", Phase.PROGRESSING), ("Promote", Phase.HEALTHY), ("Abort", Phase.ROLLED_BACK)]
)
def test_10_without_traffic_a_step_waits_unless_the_user_chose_otherwise(choice: str, phase: Phase) -> None:
    service = world([{"weight": "5%", "hold": "20s"}], analysis={"onNoData": choice, "noDataAfter": "2m"}).serve()
    service.rps = 0
    service.apply("v2").wait(60)
    assert service.phase is Phase.PROGRESSING
    assert service.state.pause is not None
    assert service.state.pause.reason == "LowTraffic"
    service.wait(600)
    assert service.phase is phase
    if choice == "Abort":
        assert service.state.abort is not None
        assert service.state.abort.reason == "NoData"


def test_10_little_traffic_is_waited_for_and_then_counts() -> None:
    service = world([{"weight": "10%", "hold": "20s"}], analysis={"minRequests": 50}).serve()
    service.rps = 1
    service.apply("v2").wait(400)
    assert (service.phase, service.state.weight) == (Phase.PROGRESSING, 1000)
    service.until(Phase.HEALTHY, limit_s=300)


def test_11_a_candidate_that_fails_every_request_goes_back_within_two_intervals_with_the_numbers() -> None:
    service = world(judge=judge).serve().wait(60)
    service.model("v2").error_rate = 1
    service.apply("v2").until(Phase.PROGRESSING)
    began = service.now
    service.until(Phase.ROLLING_BACK)
    assert (service.now - began).total_seconds() <= 11
    assert service.state.abort is not None
    assert service.state.abort.reason == "AnalysisFailed"
    assert "errorRate" in service.state.abort.message
    assert service.weights[-1] == (None, 0), "in the very write that decided it"
    service.until(Phase.ROLLED_BACK).wait(30 + DRAIN_S + 1)
    assert (service.stable, service.asked) == ("v1", {"v1": 1})


def test_12_a_fault_of_both_neither_aborts_nor_promotes() -> None:
    service = world([{"weight": "10%", "hold": "20s"}]).serve()
    service.model("v1").error_rate = service.model("v2").error_rate = 0.5
    service.apply("v2").wait(180)
    assert (service.phase, service.state.weight) == (Phase.PROGRESSING, 1000)
    assert service.state.pause is not None
    assert service.state.pause.reason == "Inconclusive"


def test_13_a_person_may_promote_what_is_inconclusive_and_that_is_recorded() -> None:
    service = world([{"weight": "10%", "hold": "20s"}]).serve()
    service.model("v1").error_rate = service.model("v2").error_rate = 0.5
    service.apply("v2").wait(60).say("promote", "because").until(Phase.DRAINING)
    assert service.told(Reason.COMMAND_OBEYED) == ["promote because by kubectl"]


def test_14_edited_steps_go_on_from_the_nearest_lower_one_with_the_evidence_there_is() -> None:
    service = world(GATED).serve().apply("v2").wait(10).say("promote").wait(20)
    assert service.state.weight == 2500
    evidence = service.state.evidence
    steps: list[dict[str, Any]] = [
        {"weight": "10%", "hold": "30s"},
        {"weight": "30%", "hold": "30s"},
        {"weight": "60%"},
    ]
    service.policy = Rollout.model_validate({"strategy": "Canary", "steps": steps})
    service.operate()
    assert (service.state.step, service.state.weight, service.state.attempt) == (0, 1000, 1)
    assert service.state.evidence == evidence
    service.until(Phase.HEALTHY)
    assert service.stable == "v2"


def test_14_another_hold_of_the_present_step_counts_from_its_beginning() -> None:
    service = world([{"weight": "25%", "hold": "10m"}]).serve().apply("v2").wait(60)
    service.policy = Rollout.model_validate({"strategy": "Canary", "steps": [{"weight": "25%", "hold": "1m"}]})
    service.operate()
    assert (service.state.stage, service.state.weight) == ("Soaking", 2500)
    service.wait(10)
    assert service.phase is not Phase.PROGRESSING


def test_15_replicas_and_model_changed_together_both_take_effect() -> None:
    service = world(GATED, replicas=2).serve().apply("v2").wait(10).say("promote").wait(10)
    service.replicas = 4
    service.operate()
    assert (service.state.candidate, service.state.attempt, service.asked) == ("v2", 1, {"v1": 4, "v2": 1})
    service.replicas = 3
    service.apply("v3").wait(15)
    assert (service.state.candidate, service.state.weight) == ("v3", 500)
    service.say("promote", "2").until(Phase.HEALTHY)
    assert (service.stable, service.asked) == ("v3", {"v3": 3})


def test_22_a_shadow_is_judged_by_its_copies_and_users_never_see_its_answers() -> None:
    steps: list[dict[str, Any]] = [{"mirror": "10%", "hold": "30s"}, {"weight": "50%", "hold": "30s"}]
    service = world(steps).serve().apply("v2").until(Phase.SHADOWING)
    assert (service.state.weight, service.state.mirror) == (0, 1000)
    service.wait(20)
    assert service.state.requests >= 100
    service.until(Phase.PROGRESSING)
    assert (service.state.weight, service.state.mirror) == (5000, 0)
    service.until(Phase.HEALTHY)
    bad = world(steps).serve()
    bad.model("v2").error_rate = 1
    bad.apply("v2").until(Phase.ROLLING_BACK)
    assert {weight for _, weight in bad.weights} == {0}


def test_25_a_gateway_that_does_not_take_the_weights_is_named_and_nothing_goes_on() -> None:
    service = world([{"weight": "10%", "hold": "10s"}]).serve()
    service.silent = ("gw-2",)
    service.apply("v2").wait(300)
    assert (service.state.stage, service.state.weight) == ("Verifying", 1000)
    assert service.state.pause is not None
    assert service.state.pause.reason == "GatewayNotVerified"
    assert service.state.pause.message.endswith(": gw-2")
    service.silent = ()
    service.wait(2)
    assert service.state.stage == "Soaking"
    service.until(Phase.PROMOTING)
    service.silent = ("gw-2",)
    service.wait(120)
    assert service.asked == {"v1": 1, "v2": 1}, "that gateway leads to them"


def test_26_a_release_of_a_service_asleep_is_proven_by_one_replica_and_takes_no_steps() -> None:
    service = world([{"weight": "10%", "hold": "60s"}, {"weight": "50%"}]).serve()
    service.replicas, service.rps, service.is_fixed = 0, 0, False
    service.wait(10)
    assert service.asked == {"v1": 0}
    service.apply("v2")
    assert service.asked == {"v1": 0, "v2": 1}, "nobody needs the old one"
    service.wait(4)
    assert (service.stable, service.phase) == ("v2", Phase.HEALTHY)
    assert [weight for _, weight in service.weights] == [0], "no steps"
    service.wait(10)
    assert service.asked == {"v2": 0}, "asleep again"


def test_26_a_model_that_does_not_load_never_takes_the_place_of_one_asleep() -> None:
    service = world().serve()
    service.replicas, service.rps, service.is_fixed = 0, 0, False
    service.wait(10)
    service.models["v2"] = Model(lead_s=float("inf"), fault=(Reason.MODEL_INVALID, "no model", True))
    service.apply("v2").wait(60)
    assert (service.stable, service.phase) == ("v1", Phase.ROLLED_BACK)
    assert service.asked == {"v1": 0}


@pytest.mark.parametrize("strategy", ["BlueGreen", "Canary"])
def test_a_gate_is_waited_for_even_while_nobody_asks(strategy: str) -> None:
    gate: dict[str, Any] = {"preview": {"gate": True}} if strategy == "BlueGreen" else {}
    service = world(GATED, strategy=strategy, **gate).serve()
    service.replicas, service.rps, service.is_fixed = 0, 0, False
    service.wait(10)
    service.apply("v2").wait(60)
    assert service.stable == "v1"
    service.say("promote-all").wait(30)
    assert service.stable == "v2"


def test_a_service_woken_in_a_release_is_answered_by_whoever_is_ready_first() -> None:
    service = world([{"weight": "10%", "hold": "5s"}]).serve()
    service.replicas, service.rps, service.is_fixed = 0, 0, False
    service.wait(10)
    service.models["v2"] = Model(lead_s=60)
    service.apply("v2").wait(5)
    service.replicas, service.rps = 2, 100
    service.wait(5)
    assert service.asked == {"v1": 2, "v2": 1}
    assert service.ready("v1") == 2
    service.until(Phase.HEALTHY)
    assert service.stable == "v2"


def test_without_steps_a_growing_load_does_not_keep_a_release_from_its_end() -> None:
    """Each look asks for one more than are ready: what answers now is enough."""
    service = world(strategy="None").serve()
    service.is_fixed, service.models["v2"] = False, Model(lead_s=20)
    service.models["v1"] = Model(lead_s=1e9)
    service.pods["v1"][0] = service.pods["v1"][0].replace(year=1970)
    service.apply("v2")
    for _ in range(30):
        service.replicas += 1
        service.wait(1)
    assert service.stable == "v2"


def test_a_new_leader_moves_no_weight_before_it_has_heard_every_gateway() -> None:
    service = world([{"weight": "10%", "hold": "10s"}, {"weight": "50%"}]).serve().apply("v2").wait(10)
    service.is_observed = False
    service.model("v2").error_rate = 1
    service.say("promote").wait(60)
    assert (service.phase, service.state.weight) == (Phase.PROGRESSING, 1000)
    service.is_observed = True
    service.wait(10)
    assert service.state.abort is not None
    assert service.state.abort.reason == "AnalysisFailed"


@pytest.mark.parametrize("why", ["AbortCommanded", "Crashed"])
def test_a_new_leader_that_does_not_hear_a_gateway_takes_weight_away_without_counts(why: str) -> None:
    """A person's word and what pods are known by come from the API server, and so do gateways' tables."""
    service = world([{"weight": "10%", "hold": "10m"}, {"weight": "50%"}]).serve().apply("v2").wait(10)
    service.is_observed, service.silent = False, ("gateway-b",)
    if why == "Crashed":
        service.model("v2").restarts = 3
        service.wait(1)
    else:
        service.say("promote-all").say("abort").wait(1)
        assert service.told(Reason.COMMAND_REFUSED) == ["promote-all 1 by kubectl: an abort came with it"]
    assert service.state.abort is not None
    assert (service.state.abort.reason, service.state.weight, service.route and service.route.weight) == (why, 0, 0)
    service.wait(60)
    assert (service.phase, service.asked["v2"]) == (Phase.ROLLING_BACK, 1), "that gateway may still lead there"
    assert service.told(Reason.ROLLED_BACK) == []
    assert service.state.pause is not None
    assert "gateway-b" in service.state.pause.message
    service.is_observed, service.silent = True, ()
    service.wait(5)
    assert service.phase is Phase.ROLLED_BACK


def test_a_gateway_that_a_new_leader_does_not_hear_is_told_of() -> None:
    service = world(GATED).serve().apply("v2").wait(10)
    service.is_observed, service.silent, service.window_age_s = False, ("gateway-b",), float("inf")
    service.wait(5)
    assert service.state.pause is None or service.state.pause.reason == "StepGate", "a second or two are nothing"
    service.wait(10)
    assert service.state.pause is not None
    assert service.state.pause.reason == "GatewayNotVerified"
    assert "gateway-b" in service.state.pause.message
    service.is_observed, service.silent, service.window_age_s = True, (), 0
    service.wait(5)
    assert service.state.pause.reason == "StepGate"


def test_a_gate_that_is_open_for_long_is_written_each_half_minute_and_a_fault_is_found_as_soon() -> None:
    """A night at a gate is eight hours: 5 760 writes of a service in intervals of 5 s."""
    service = world([{"weight": "50%", "gate": True}], judge=judge).serve().wait(30).apply("v2").wait(60)
    assert service.state.pause is not None
    assert service.state.pause.reason == "StepGate"
    before, counted, answered = service.writes, service.state.requests, service.answered["v2"]
    service.wait(600)
    assert 600 / 30 - 1 <= service.writes - before <= 600 / 30 + 1
    assert service.answered["v2"] - answered - 30 * 50 <= service.state.requests - counted <= 600 * 50 + 100
    service.model("v2").error_rate = 0.5
    began = service.now
    service.until(Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    assert (service.now - began).total_seconds() <= 11
    assert reason_of(service) == "AnalysisFailed"


def test_a_pause_that_comes_and_goes_is_told_each_ten_minutes_and_its_reason_stands_in_status_at_once() -> None:
    """Prometheus is down each other minute of an hour; history has room for twenty."""
    drift = {"metrics": [{"name": "drift", "promql": "x", "max": 1}]}
    service = world([{"weight": "50%", "hold": "2h"}], analysis=drift).serve().wait(30).apply("v2")
    for _ in range(30):
        service.readings = {"drift": Reading(0.1, age_s=2)}
        was_paused = service.wait(60).state.pause is not None
        service.readings = {"drift": Reading(None, "code 503", failed=True)}
        pause = service.wait(60).state.pause
        assert not was_paused
        assert pause is not None
        assert pause.reason == "MetricsUnavailable"
    assert 6 <= len(service.told(Reason.ROLLOUT_PAUSED)) <= 7


def test_a_pause_is_told_in_each_step_and_as_often_as_somebody_says_it() -> None:
    service = world([{"weight": "5%", "gate": True}, {"weight": "50%", "gate": True}]).serve().apply("v2").wait(20)
    service.say("promote").wait(20)
    assert len(service.told(Reason.ROLLOUT_PAUSED)) == 2
    service.say("pause", "2").say("resume", "3").say("pause", "4").wait(1)
    assert len(service.told(Reason.ROLLOUT_PAUSED)) == 4


def test_a_gate_whose_candidate_is_not_clear_yet_is_written_by_the_interval() -> None:
    service = world([{"weight": "50%", "gate": True}], analysis={"minRequests": 100_000}).serve().apply("v2").wait(60)
    before = service.writes
    service.wait(60)
    assert service.writes - before >= 11


def reason_of(service: Any) -> str:
    assert service.state.abort is not None
    return str(service.state.abort.reason)


def test_a_first_revision_that_does_not_come_up_is_not_looked_at_all_the_time() -> None:
    """Nothing is judged yet, so the window of counts never ends."""
    service = world()
    service.model("v1").lead_s = 1e9
    service.operate().wait(30)
    assert service.decision is not None
    assert service.decision.requeue_after_s is None


def test_a_silent_gateway_makes_nobody_look_all_the_time() -> None:
    service = world(GATED).serve().apply("v2").wait(10)
    service.window_age_s = 30
    service.wait(20)
    assert service.decision is not None
    assert service.decision.requeue_after_s == 5


def test_a_metric_of_pods_without_requests_counts_for_nothing() -> None:
    """A rate is 0 as long as a large model loads."""
    busy = {"metrics": [{"name": "throughput", "promql": "x", "min": 1, "for": "30s"}]}
    service = world(GATED, analysis=busy, judge=judge).serve().wait(60)
    service.model("v2").lead_s = 60
    service.readings = {"throughput": Reading(0.0, age_s=2)}
    service.apply("v2").until(Phase.PROGRESSING).wait(20)
    phases = [service.phase]
    service.wait(30)
    assert [*phases, service.phase] == [Phase.PROGRESSING, Phase.ROLLED_BACK]


def test_a_step_may_go_down_too() -> None:
    service = world([{"weight": "50%", "hold": "20s"}, {"weight": "10%", "hold": "20s"}], replicas=2).serve()
    service.apply("v2").until(Phase.HEALTHY)
    assert [weight for name, weight in service.weights if name] == [5000, 1000, 10_000]


def test_equal_steps_have_holds_of_their_own() -> None:
    service = world([{"weight": "10%", "hold": "20s"}, {"weight": "10%", "hold": "20s"}]).serve().apply("v2")
    began = service.now
    service.until(Phase.PROMOTING)
    assert (service.now - began).total_seconds() >= 43
    assert len(service.told(Reason.ROLLOUT_STEPPED)) == 3


@pytest.mark.parametrize("hold", ["3s", "7s", "11s"])
def test_a_hold_that_is_no_multiple_of_an_interval_costs_little_more_and_no_word(hold: str) -> None:
    service = world([{"weight": "50%", "hold": hold}]).serve().wait(3).apply("v2").until(Phase.PROGRESSING)
    began = service.now
    service.until(Phase.PROMOTING)
    assert (service.now - began).total_seconds() <= int(hold[:-1]) + 2
    assert not service.told(Reason.ROLLOUT_PAUSED)


def test_what_happens_next_is_told_with_its_time() -> None:
    service = world().serve().apply("v2").wait(6)
    assert service.state.next.startswith("25% at 10:01:")
    assert service.state.next.endswith(" UTC if at least 100 requests and no fault")


def test_the_state_stays_below_four_kilobytes_however_much_there_is_to_say() -> None:
    """Each write of the world is looked at."""
    latency = {quantile: {"maxRatioToStable": 2, "max": "1s"} for quantile in ("p50", "p90", "p95", "p99")}
    names = [f"{n}{'m' * 62}" for n in range(8)]
    metrics = [{"name": name, "promql": "x", "max": 1} for name in names]
    analysis = {"errorRate": {"max": "5%"}, "latency": latency, "metrics": metrics}
    service = world(SHORT, judge=judge, analysis=analysis).serve("s" * 59).wait(120)
    failed = Reading(None, "connection refused, as it was before and will be " * 9, failed=True)
    service.readings = dict.fromkeys(names, failed)
    service.say("pause", "x" * 120).apply("c" * 59).wait(60)
    assert service.state.pause is not None
    assert service.state.pause.reason == "MetricsUnavailable"
    service.say("promote", "y" * 120).until(Phase.HEALTHY)
    assert service.stable == "c" * 59


def test_restarts_before_the_release_do_not_count() -> None:
    service = world([{"weight": "10%", "hold": "10s"}]).serve()
    service.models["v2"] = Model(restarts=7)
    service.pods["v2"], service.asked["v2"] = [service.now], 1
    service.apply("v2").until(Phase.HEALTHY)
    assert service.stable == "v2"
