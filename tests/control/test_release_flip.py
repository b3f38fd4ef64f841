"""What comes while the pointer is about to flip."""

from collections.abc import Iterator

import pytest

from slipway.api.manifest import Manifest
from slipway.kube.kinds import DEPLOYMENT
from tests.control.releases import NEW, NEWER, Releases, released
from tests.control.world import World
from tests.fake import controllers

GATE = [{"weight": "50%", "gate": True}]


@pytest.fixture
def world() -> Iterator[Releases]:
    world = Releases()
    yield world
    assert world.witness.faults == []


async def test_04_another_spec_while_gateways_take_the_last_weights_waits_for_the_flip(world: Releases) -> None:
    world.user_applies(released(steps=GATE))
    await world.live(20, until=lambda: world.phase == "Healthy")
    world.user_applies(released(NEW, steps=GATE))
    await world.live(20, until=lambda: world.release["stage"] == "Soaking")
    world.gateways.pods["gw-b"].is_silent = True
    world.command("promote 1")
    await world.live(10, until=lambda: world.phase == "Promoting")
    new = world.release["candidate"]
    world.user_applies(released(NEWER, steps=GATE))
    await world.live(5)
    assert world.phase == "Promoting"
    world.gateways.pods["gw-b"].is_silent = False
    await world.live(10, until=lambda: world.status["stable"] == new)
    await world.live(30, until=lambda: world.release["candidate"] == world.revision(NEWER))


async def test_a_first_revision_whose_endpoints_are_known_before_its_deployment_says_ready_is_promoted_once() -> None:
    """EndpointSlices come from another controller than the Deployment's own count."""
    world = World()
    world.user_applies(released(replicas=1))
    await world.operate()
    controllers.settle(world.store)
    [name] = world.names(DEPLOYMENT)
    counted = world.get(DEPLOYMENT, name)["status"]

    def count(status: Manifest) -> None:
        world.store.edit(
            DEPLOYMENT, "team", name, lambda live: live.update(status=status), manager="kcm", subresource="status"
        )

    count(counted | {"readyReplicas": 0})
    await world.operate()
    assert world.status.get("stable") is None
    count(counted)
    await world.converge()
    assert world.status["stable"] == name
    assert world.status["rollout"]["phase"] == "Healthy"
    assert world.recorder.reasons.count("RevisionPromoted") == 1


async def test_only_a_routing_that_a_release_waits_for_asks_gateways_before_their_round(world: Releases) -> None:
    world.user_applies(released(steps=GATE))
    await world.live(20, until=lambda: world.phase == "Healthy")
    world.gateways.hurries = 0
    world.user_applies(released(NEW, steps=GATE))
    await world.live(20, until=lambda: world.release["stage"] == "Soaking")
    assert world.gateways.hurries == 1
    await world.live(30)
    assert world.gateways.hurries == 1
