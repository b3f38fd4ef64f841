"""The operator and its gateways: what is served, what is acknowledged, what may leave, and what status says of it."""

from datetime import timedelta

import pytest

from slipway.api.manifest import Manifest
from slipway.control.worker import Done
from slipway.decide.hosts import Domains
from slipway.decide.types import Entrance
from slipway.kube.kinds import DEPLOYMENT, ENDPOINT_SLICE, INFERENCE_SERVICE, SERVICE
from tests.control.world import KEY, World, service, split
from tests.fake import controllers
from tests.fake.gateways import FakeGateway


@pytest.fixture
async def world() -> World:
    world = World()
    world.user_applies(service())
    await world.converge()
    return world


async def flip(world: World) -> tuple[str, str]:
    """Another version, ready; its routing is written. Old and new revision."""
    old = world.status["stable"]
    world.user_applies(service("sample://hello-v2"))
    await world.operate()
    controllers.settle(world.store)
    await world.operate()
    return old, world.status["stable"]


async def test_the_address_is_a_name_for_the_gateways(world: World) -> None:
    spec = world.get(SERVICE, "hello")["spec"]
    assert (spec["type"], spec["externalName"]) == ("ExternalName", world.config.entrance.address)
    assert "selector" not in spec
    assert world.weights == {world.status["stable"]: 10_000}


async def test_status_tells_how_many_gateways_serve_it(world: World) -> None:
    assert world.condition("RoutesReady")["reason"] == "Routed"
    assert world.condition("RoutesReady")["message"] == f"the gateways (2) lead to revision {world.status['stable']}"
    assert world.status["revisions"][0]["acknowledged"] == {"gateways": 2, "of": 2}


async def test_old_pods_stay_until_every_gateway_has_left_them(world: World) -> None:
    world.gateways.pods["gw-b"].is_silent = True
    old, new = await flip(world)
    for _ in range(5):
        world.wait(60)
        await world.operate()
    assert old in world.names(DEPLOYMENT)
    assert world.condition("Ready")["status"] == "True"
    routes = world.condition("RoutesReady")
    assert (routes["status"], routes["reason"]) == ("False", "GatewayNotAcknowledged")
    assert routes["message"].startswith("1 of 2 gateways serve routing ")
    assert routes["message"].endswith("not yet: gw-b")
    assert world.condition("Reconciling")["status"] == "True"
    assert next(r for r in world.status["revisions"] if r["name"] == new)["acknowledged"] == {"gateways": 1, "of": 2}
    world.gateways.pods["gw-b"].is_silent = False
    await world.operate()
    assert old in world.names(DEPLOYMENT), "a request may be on its way there still"
    assert world.condition("RoutesReady")["status"] == "True"
    world.wait(6)
    await world.operate()
    assert world.names(DEPLOYMENT) == [new]


async def test_a_gateway_that_takes_no_traffic_any_more_cannot_block(world: World) -> None:
    world.gateways.pods["gw-b"].is_silent = True
    old, new = await flip(world)
    world.wait(60)
    await world.operate()
    assert old in world.names(DEPLOYMENT)
    world.gateways.pods["gw-b"].takes_traffic = False
    await world.operate()
    world.wait(6)
    await world.operate()
    assert world.names(DEPLOYMENT) == [new]
    assert world.condition("RoutesReady")["message"] == f"the gateways (1) lead to revision {new}"


async def test_a_drain_that_was_begun_ends_at_its_time_though_the_operator_restarts(world: World) -> None:
    old, new = await flip(world)
    until = next(r for r in world.status["revisions"] if r["name"] == old)["drainUntil"]
    assert (
        until
        == world.status["rollout"]["until"]
        == (world.store.now + timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    world.wait(4)
    world.restart()
    await world.operate()
    assert old in world.names(DEPLOYMENT)
    world.wait(2)
    world.restart()
    await world.operate()
    assert world.names(DEPLOYMENT) == [new]


async def test_as_long_as_it_is_not_known_which_gateways_there_are_nothing_leaves_and_ready_stays(world: World) -> None:
    world.gateways.are_known = False
    world.restart()
    old, _ = await flip(world)
    for _ in range(3):
        world.wait(60)
        await world.operate()
    assert old in world.names(DEPLOYMENT)
    assert world.condition("Ready")["status"] == "True"
    assert (world.condition("RoutesReady")["status"], world.condition("RoutesReady")["reason"]) == (
        "Unknown",
        "NoGateway",
    )


async def test_no_gateway_is_not_ready_and_says_so(world: World) -> None:
    world.gateways.pods.clear()
    await world.operate()
    assert world.condition("Ready")["status"] == "False"
    assert world.condition("Ready")["reason"] == world.condition("RoutesReady")["reason"] == "NoGateway"
    world.gateways.pods["gw-c"] = FakeGateway()
    world.gateways.take()
    await world.operate()
    assert world.condition("Ready")["status"] == "True"


async def test_what_a_gateway_refuses_is_told_in_its_words_and_the_next_table_heals(world: World) -> None:
    world.gateways.pods["gw-a"].refuses = "regex: bad repetition operator"
    old, _ = await flip(world)
    world.wait(60)
    await world.operate()
    routes = world.condition("RoutesReady")
    assert routes["reason"] == world.condition("Stalled")["reason"] == "GatewayRefused"
    assert routes["message"].startswith("gateway gw-a refuses routing ")
    assert routes["message"].endswith(": regex: bad repetition operator")
    assert world.condition("Ready")["status"] == "True", "it serves the table before"
    assert old in world.names(DEPLOYMENT), "which leads there"
    world.gateways.pods["gw-a"].refuses = ""
    world.user_applies(service("sample://hello-v3"))
    await world.converge()
    assert world.condition("RoutesReady")["status"] == "True"
    assert world.condition("Stalled") == {}
    assert world.names(DEPLOYMENT) == [world.status["stable"]]


async def test_what_gateways_note_stands_in_the_message_of_a_service_that_is_routed(world: World) -> None:
    key = ("team", "hello")
    for pod in world.gateways.pods.values():
        pod.notes[key] = "client web: a key is shorter than 16 characters"
    world.wait(60)
    await world.operate()
    routes = world.condition("RoutesReady")
    assert routes["status"] == "True"
    assert routes["message"].endswith("; gateways say: client web: a key is shorter than 16 characters")
    for pod in world.gateways.pods.values():
        pod.notes.clear()
    world.wait(60)
    await world.operate()
    assert "gateways say" not in world.condition("RoutesReady")["message"]


async def test_what_a_gateway_said_before_a_table_was_written_acknowledges_nothing(world: World) -> None:
    """There and back again: it may still be on the table between, though its last report has the version of both."""
    first = world.status["routing"]["version"]
    world.user_applies(split("sample://hello-b", "10%"))
    await world.converge()
    controllers.settle(world.store)
    gateway = world.gateways.pods["gw-b"]
    gateway.is_silent, gateway.tables[KEY] = True, {"version": first, "targets": []}
    gateway.said_at = world.store.now
    world.wait(1)
    world.user_applies(service())
    await world.operate()
    assert world.status["routing"]["version"] == first
    assert world.condition("RoutesReady")["reason"] == "GatewayNotAcknowledged"


async def test_another_number_of_gateways_is_written_at_the_next_checkpoint_only(world: World) -> None:
    world.gateways.pods["gw-c"] = FakeGateway()
    world.gateways.take()
    world.wait(30)
    await world.operate()
    before = len(world.kube.writes)
    del world.gateways.pods["gw-c"]
    await world.operate()
    assert len(world.kube.writes) == before
    world.wait(29)
    await world.operate()
    assert len(world.kube.writes) == before, "outside rollouts every 30 s"
    world.wait(1)
    await world.operate()
    assert len(world.kube.writes) == before + 1
    assert world.status["revisions"][0]["acknowledged"] == {"gateways": 2, "of": 2}


# Measured shares


async def _measured(world: World, counts: dict[str, int]) -> list[Manifest | None]:
    world.gateways.requests[KEY] = counts
    world.wait(31)
    await world.operate()
    return [revision.get("measured") for revision in world.status["revisions"]]


async def test_measured_shares_are_written_when_they_are_news(world: World) -> None:
    world.user_applies(split("sample://hello-b", "10%"))
    await world.converge()
    stable, b = world.status["routing"]["targets"]
    name = [r["name"] for r in world.status["revisions"]].index(b["revision"])
    assert (await _measured(world, {stable["revision"]: 50, b["revision"]: 5}))[name] is None, "too few"
    first = (await _measured(world, {stable["revision"]: 900, b["revision"]: 100}))[name]
    assert first == {"share": 1000, "low": 829, "high": 1202, "requests": 1000}
    before = len(world.kube.writes)
    assert (await _measured(world, {stable["revision"]: 1790, b["revision"]: 210}))[name] == first
    assert len(world.kube.writes) == before, "inside its interval"
    assert (await _measured(world, {stable["revision"]: 3000, b["revision"]: 1000}))[name] != first
    world.user_applies(split("sample://hello-b", "20%"))
    await world.operate()
    assert "measured" not in world.status["revisions"][name] or world.status["revisions"][name]["measured"] != first


# Addresses outside


async def test_a_domain_gives_an_address_outside() -> None:
    world = World()
    world.config = type(world.config)("x", Entrance(domains=Domains(outside="models.example.com"), tls=True))
    world.restart()
    world.user_applies(service())
    await world.converge()
    assert world.status["externalUrl"] == "https://hello-team.models.example.com"
    assert world.status["url"] == "http://hello.team"


async def test_of_two_services_that_claim_a_host_the_oldest_has_it_and_the_other_a_conflict() -> None:
    world = World()
    world.config = type(world.config)("x", Entrance(domains=Domains(outside="models.example.com")))
    world.restart()
    older = service(name="a-team")
    older["metadata"]["namespace"] = "x"
    world.store.create(INFERENCE_SERVICE, older, manager="kubectl")
    world.wait(60)
    newer = service(name="a")
    newer["metadata"]["namespace"] = "team-x"
    world.store.create(INFERENCE_SERVICE, newer, manager="kubectl")
    loser, winner = ("team-x", "a"), ("x", "a-team")
    for key in (winner, loser):
        await world.converge(key)
    statuses = {key: (world.store.get(INFERENCE_SERVICE, *key) or {})["status"] for key in (winner, loser)}
    assert statuses[winner]["externalUrl"] == "http://a-team-x.models.example.com"
    assert "externalUrl" not in statuses[loser]
    conditions = {c["type"]: c for c in statuses[loser]["conditions"]}
    assert (conditions["RoutesReady"]["status"], conditions["RoutesReady"]["reason"]) == ("False", "Conflict")
    assert "belongs to InferenceService x/a-team, which is older" in conditions["RoutesReady"]["message"]
    assert conditions["Ready"]["status"] == "True", "inside it answers"
    live = world.store.get(INFERENCE_SERVICE, *winner)
    assert live is not None
    world.store.delete(INFERENCE_SERVICE, *winner, uid=live["metadata"]["uid"])
    await world.operate(loser)
    assert (world.store.get(INFERENCE_SERVICE, *loser) or {})["status"]["externalUrl"]


async def test_a_report_that_was_on_its_way_during_the_write_is_looked_at_again_soon(world: World) -> None:
    """It tells of the new table already, but was asked for before: only the next one acknowledges, and is no news."""
    world.gateways.pods["gw-b"].is_silent = True
    world.wait(10)
    await flip(world)
    late = world.gateways.pods["gw-b"]
    late.tables[KEY], late.said_at = world.status["routing"], world.store.now - timedelta(seconds=0.1)
    outcome = await world.reconciler(KEY)
    assert world.condition("RoutesReady")["reason"] == "GatewayNotAcknowledged"
    assert isinstance(outcome, Done)
    assert outcome.requeue_after_s is not None
    assert outcome.requeue_after_s <= 2
    world.wait(2)
    late.said_at = world.store.now
    await world.operate()
    assert world.condition("RoutesReady")["status"] == "True"


async def test_a_gateway_that_is_long_silent_is_looked_at_each_minute(world: World) -> None:
    world.gateways.pods["gw-b"].is_silent = True
    await flip(world)
    world.wait(20)
    await world.operate()
    outcome = await world.reconciler(KEY)
    assert isinstance(outcome, Done)
    assert outcome.requeue_after_s == 60


async def test_requests_go_only_where_gateways_know_of_pods(world: World) -> None:
    """Pods are ready a moment before the EndpointSlices say so: until then nothing is sent there."""
    old = world.status["stable"]
    world.user_applies(service("sample://hello-v2"))
    await world.operate()
    controllers.settle(world.store)
    new = next(name for name in world.names(DEPLOYMENT) if name != old)
    world.store.edit(ENDPOINT_SLICE, "team", new, lambda live: live.update(endpoints=[]))
    await world.operate()
    assert world.weights == {old: 10_000}
    controllers.slices(world.store)
    await world.operate()
    assert world.weights == {new: 10_000}


async def test_a_clock_that_is_set_back_holds_no_rollout_up(world: World) -> None:
    """Ages of reports and of the routing are by one monotonic clock; conditions and drains go by the other."""
    for gateway in world.gateways.pods.values():
        gateway.is_silent = True
    _, new = await flip(world)
    world.skew = -timedelta(hours=1)
    for gateway in world.gateways.pods.values():
        gateway.is_silent = False
    await world.operate()
    (revision,) = (known for known in world.status["revisions"] if known["name"] == new)
    assert revision["acknowledged"] == {"gateways": 2, "of": 2}
