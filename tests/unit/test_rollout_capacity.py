"""Releases where room is short."""

from typing import Any

import pytest

from slipway.api.conditions import Phase
from tests.unit.release_world import World, world

SHORT: list[dict[str, Any]] = [{"weight": "50%", "hold": "20s"}]


def test_a_candidate_that_loses_a_replica_keeps_the_weight_that_the_others_carry() -> None:
    service = world([{"weight": "50%", "gate": True}], replicas=4).serve().apply("v2").wait(10)
    service.model("v2").down = 1
    service.wait(1)
    assert (service.state.stage, service.state.weight) == ("Scaling", 2500)
    service.model("v2").down = 0
    service.wait(3)
    assert service.state.weight == 5000


def test_24_without_room_a_release_waits_and_names_what_is_missing() -> None:
    service = world(SHORT, replicas=2, progressDeadline="1m").serve()
    service.room = 2
    service.apply("v2").wait(600)
    assert (service.phase, service.state.abort, service.asked["v1"]) == (Phase.PROVISIONING, None, 2)
    assert service.state.pause is not None
    assert service.state.pause.reason == "CapacityBlocked"
    assert service.state.pause.message == (
        "no nvidia.com/gpu is left for 1 more of its replicas; make room, or let it borrow from stable by "
        "spec.rollout.capacity: Borrow"
    )
    service.room = 4
    service.until(Phase.HEALTHY)
    assert service.stable == "v2"


@pytest.mark.parametrize("replicas", [2, 3, 4, 7])
def test_24_borrowed_room_brings_a_release_to_its_end_one_replica_at_a_time(replicas: int) -> None:
    steps: list[dict[str, Any]] = [{"weight": "10%", "hold": "20s"}, {"weight": "50%", "hold": "20s"}]
    service = world(steps, replicas=replicas, capacity="Borrow").serve()
    service.room = replicas
    service.apply("v2")
    least = replicas
    for _ in range(600):
        service.wait(1)
        least = min(least, service.ready("v1") + service.ready("v2"))
        if service.phase is Phase.HEALTHY:
            break
    assert (service.stable, service.phase) == ("v2", Phase.HEALTHY)
    assert least >= replicas - 1
    service.wait(10)
    assert service.ready("v2") == replicas


def test_24_a_single_replica_cannot_be_borrowed_and_that_is_said() -> None:
    service = world(SHORT, replicas=1, capacity="Borrow").serve()
    service.room = 1
    service.apply("v2").wait(600)
    assert (service.phase, service.asked["v1"]) == (Phase.PROVISIONING, 1)
    assert service.state.pause is not None
    assert service.state.pause.message == (
        "no nvidia.com/gpu is left for 1 more of its replicas, and stable has but one replica, which it cannot lend"
    )


def test_06_after_borrowing_stable_gets_its_replicas_back_before_its_requests() -> None:
    service = world([{"weight": "50%", "gate": True}], replicas=4, capacity="Borrow").serve()
    service.room = 4
    service.apply("v2")
    for _ in range(60):
        service.wait(1)
        if service.state.weight == 5000:
            break
    assert service.asked == {"v1": 2, "v2": 2}
    service.say("abort")
    assert 0 < service.state.weight < 5000
    service.until(Phase.ROLLED_BACK)
    service.wait(15)
    assert (service.asked, service.ready("v1")) == ({"v1": 4}, 4)


WAY: list[dict[str, Any]] = [{"weight": "5%", "hold": "60s"}, {"weight": "50%", "hold": "60s"}]


def slow(way: list[dict[str, Any]] = WAY, **policy: Any) -> World:
    """Four replicas of models that take 20 s to load."""
    service = world(way, replicas=4, **policy)
    for name in ("v1", "v2"):
        service.model(name).lead_s = 20
    return service.serve().apply("v2").wait(21)


def test_the_pods_of_the_next_step_start_so_early_that_it_costs_no_start_up() -> None:
    service = slow().wait(30)
    assert (service.state.stage, service.asked["v2"]) == ("Soaking", 1), "not before they are needed"
    service.wait(10)
    assert (service.state.stage, service.asked["v2"]) == ("Soaking", 2)
    service.wait(26)
    assert (service.state.weight, service.ready("v2")) == (5000, 2)
    began = service.now
    service.until(Phase.DRAINING)
    assert service.ready("v2") == 4
    assert (service.now - began).total_seconds() <= 66, "the hold, and what gateways take"


def test_a_restart_goes_on_from_how_long_the_first_replica_took() -> None:
    assert slow().state.lead_seconds == 20


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"capacity": "Borrow"}, "stable lends for what is decided"),
        ({"analysis": {"minRequests": 100_000}}, "the requests will not be there"),
        ({"way": [WAY[0] | {"gate": True}, WAY[1]]}, "nobody knows when somebody says promote"),
    ],
    ids=["borrowed", "few requests", "a gate"],
)
def test_no_pods_start_ahead_of_what_may_not_come(changes: dict[str, Any], why: str) -> None:
    service = slow(**changes).wait(55)
    assert (service.state.stage, service.asked["v2"]) == ("Soaking", 1), why


def test_no_pods_start_ahead_for_a_candidate_in_doubt_or_held() -> None:
    doubtful = slow()
    doubtful.model("v1").error_rate = 0.2
    doubtful.wait(10).model("v2").error_rate = 0.1
    assert doubtful.wait(45).asked["v2"] == 1
    assert doubtful.state.verdicts[0].verdict == "Inconclusive"
    held = slow().say("pause").wait(55)
    assert held.asked["v2"] == 1
