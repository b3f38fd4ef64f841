"""Releases whose candidate does not come up, or does not stay up."""

from typing import Any

import pytest

from slipway.api.conditions import Phase, Reason
from tests.unit.release_world import Model, World, world

GATED: list[dict[str, Any]] = [
    {"weight": "5%", "gate": True},
    {"weight": "25%", "hold": "30s"},
    {"weight": "50%", "hold": "30s"},
]
FOREVER = float("inf")


def reason(service: World) -> str:
    assert service.state.abort is not None
    return service.state.abort.reason


def test_07_an_image_that_cannot_be_pulled_goes_back_after_a_minute_and_stable_is_not_touched() -> None:
    service = world(GATED).serve()
    service.models["v2"] = Model(FOREVER, fault=(Reason.IMAGE_PULL_FAILED, "pod v2-x: ErrImagePull: not found", False))
    service.apply("v2").wait(50)
    assert service.phase is Phase.PROVISIONING, "a registry may hiccup"
    service.wait(12)
    assert reason(service) == "ImagePullFailed"
    assert service.state.abort is not None
    assert service.state.abort.message == "revision v2: pod v2-x: ErrImagePull: not found"
    assert (service.phase, service.asked) == (Phase.ROLLED_BACK, {"v1": 1})
    assert {weight for _, weight in service.weights} <= {0}


@pytest.mark.parametrize("kind", [Reason.MODEL_NOT_FOUND, Reason.MODEL_INVALID, Reason.OUT_OF_MEMORY])
def test_07_what_no_second_try_helps_goes_back_at_once(kind: Reason) -> None:
    service = world(GATED).serve()
    service.models["v2"] = Model(FOREVER, fault=(kind, "words of the pod", True))
    service.apply("v2").wait(1)
    assert reason(service) == kind


def test_07_a_crash_loop_goes_back_at_the_third_restart_though_it_becomes_ready_in_between() -> None:
    service = world(GATED).serve()
    model = service.models["v2"] = Model(2, fault=(Reason.CRASHED, "segmentation fault (exit code 139)", True))
    service.apply("v2").wait(5)
    assert service.state.weight == 500
    model.restarts, model.down = 1, 1
    service.wait(2)
    assert (service.phase, service.state.weight) == (Phase.PROGRESSING, 0)
    model.down = 0
    service.wait(2)
    assert service.state.weight == 500
    model.restarts = 3
    service.wait(1)
    assert reason(service) == "Crashed"
    assert [verdict.metric for verdict in service.state.verdicts][:1] == ["restarts"]


def test_restarts_far_apart_are_no_crash_loop() -> None:
    """Ten pods at a gate for a night: one restart each hour or so, by nodes."""
    service = world([{"weight": "50%", "gate": True}], replicas=20).serve().apply("v2").wait(60)
    for restarts in range(1, 5):
        service.look_s = 60
        service.wait(3000)
        service.model("v2").restarts = restarts
    assert (service.phase, service.state.abort) == (Phase.PROGRESSING, None)
    service.model("v2").restarts += 3
    service.wait(10)
    assert reason(service) == "Crashed"


def test_restarts_count_through_the_steps_of_a_release() -> None:
    """Who crashes every half minute is not promoted by steps that are shorter than three of its lives."""
    service = world([{"weight": "5%", "hold": "30s"}, {"weight": "50%", "hold": "10m"}]).serve().apply("v2").wait(10)
    service.model("v2").restarts = 2
    service.wait(60)
    assert (service.state.step, service.phase) == (1, Phase.PROGRESSING)
    service.model("v2").restarts = 3
    service.wait(5)
    assert reason(service) == "Crashed"


@pytest.mark.parametrize(("of_stable", "end"), [(0, "Crashed"), (2, ""), (20, "")])
def test_a_candidate_that_restarts_no_more_than_stable_is_not_to_blame(of_stable: int, end: str) -> None:
    """A node, a driver, a service that all of them call."""
    service = world(GATED).serve().wait(10)
    service.model("v1").restarts = 5
    service.apply("v2").wait(10)
    service.model("v1").restarts, service.model("v2").restarts = 5 + of_stable, 4
    service.wait(5)
    assert (service.state.abort.reason if service.state.abort else "") == end


def test_restarts_are_compared_by_the_replica() -> None:
    service = world([{"weight": "10%", "gate": True}], replicas=10).serve().apply("v2").wait(10)
    service.model("v1").restarts, service.model("v2").restarts = 4, 3
    service.wait(5)
    assert reason(service) == "Crashed", "ten pods of stable had four, one of the candidate three"


def test_07_readiness_that_flaps_ends_at_the_deadline_for_only_new_maxima_are_headway() -> None:
    service = world(GATED, replicas=1, progressDeadline="2m").serve().apply("v2").wait(5)
    began = service.now
    for _ in range(60):
        service.model("v2").down = 1
        service.wait(5)
        service.model("v2").down = 0
        service.wait(5)
        if service.state.abort:
            break
    assert reason(service) == "ProgressDeadlineExceeded"
    assert (service.now - began).total_seconds() <= 270


def test_07_never_ready_goes_back_at_the_deadline_not_before() -> None:
    service = world(GATED, progressDeadline="3m").serve()
    service.models["v2"] = Model(FOREVER)
    service.apply("v2").wait(178)
    assert service.phase is Phase.PROVISIONING
    service.wait(4)
    assert reason(service) == "ProgressDeadlineExceeded"
    assert service.state.abort is not None
    assert service.state.abort.message == "revision v2: no more than 0 of its replicas became ready in 3m"


def test_07_each_replica_that_becomes_ready_is_headway() -> None:
    service = world([], replicas=3, progressDeadline="60s").serve()
    service.room = 4
    service.apply("v2")
    service.wait(1)
    assert service.phase is Phase.PROVISIONING
    service.models["v2"] = Model(3)
    service.room = 5
    service.wait(50)
    service.room = 6
    service.wait(50)
    assert service.state.abort is None


def test_07_pods_that_go_after_the_release_abort_nothing() -> None:
    service = world([]).serve().apply("v2").until(Phase.HEALTHY)
    service.model("v2").down = 1
    service.model("v2").restarts = 9
    service.wait(1200)
    assert (service.phase, service.stable, service.state.abort) == (Phase.HEALTHY, "v2", None)


def test_one_lost_pod_after_a_long_wait_at_a_gate_has_the_whole_deadline_to_come_back() -> None:
    service = world(GATED, progressDeadline="60s").serve().apply("v2").wait(600)
    service.model("v2").down = 1
    service.wait(50)
    assert (service.phase, service.state.weight) == (Phase.PROGRESSING, 0)
    assert service.state.next.startswith("limited by capacity: 5% when 1 of its replicas are ready (0 are)")
    service.model("v2").down = 0
    service.wait(3)
    assert service.state.weight == 500


def test_after_a_failure_another_spec_is_a_new_release_and_stables_spec_is_rest() -> None:
    service = world(GATED).serve()
    service.model("v2").error_rate = 1
    service.apply("v2").until(Phase.ROLLED_BACK)
    service.apply("v3")
    assert (service.phase, service.state.candidate, service.state.attempt) == (Phase.PROVISIONING, "v3", 1)
    service.say("abort").until(Phase.ROLLED_BACK)
    service.apply("v1")
    assert (service.phase, service.state.abort) == (Phase.HEALTHY, None)


def test_a_fix_does_not_wait_for_the_pods_of_what_it_mends() -> None:
    service = world(GATED).serve()
    service.model("v2").error_rate = 1
    service.apply("v2").until(Phase.ROLLING_BACK)
    service.apply("v3").wait(2)
    assert (service.phase, service.state.candidate) == (Phase.PROVISIONING, "v3")
