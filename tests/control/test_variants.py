"""Variants from the outside: revisions of their own, shares that move when they answer, faults that stay theirs."""

from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, INFERENCE_SERVICE, POD, SERVICE
from tests.control.world import KEY, World, service, split
from tests.fake import controllers
from tests.fake.controllers import Failure

GROUP = {"header": "x-group", "exact": "beta"}


@pytest.fixture
async def ready() -> World:
    """Stable alone."""
    world = World()
    world.user_applies(service())
    await world.converge()
    return world


@pytest.fixture
async def both(ready: World) -> World:
    """Stable, and b with a tenth."""
    ready.user_applies(split("sample://hello-b", "10%", match=[GROUP]))
    await ready.converge()
    return ready


def revision(world: World, role: str, variant: str = "") -> Manifest:
    found: list[Manifest] = [
        r for r in world.status["revisions"] if (r["role"], r.get("variant", "")) == (role, variant)
    ]
    assert len(found) == 1, world.status["revisions"]
    return found[0]


def is_of(variant: str) -> Any:
    return lambda deployment: deployment["metadata"]["labels"].get("slipway.dev/variant", "") == variant


async def test_a_variant_gets_pods_of_its_own_and_its_share_once_it_answers(ready: World) -> None:
    stable = ready.status["stable"]
    ready.user_applies(split("sample://hello-b", "10%", match=[GROUP]))
    await ready.operate()
    b = next(name for name in ready.names(DEPLOYMENT) if name != stable)
    assert ready.weights == {stable: 10_000, b: 0}
    assert ready.status["routing"]["rules"] == []
    assert revision(ready, "Candidate", "b")["weight"] == 1000, "what is wanted, though not served yet"
    controllers.settle(ready.store)
    await ready.operate()
    assert ready.weights == {stable: 9000, b: 1000}
    assert ready.status["routing"]["rules"] == [{"revision": b, "match": [GROUP]}]
    assert ready.names(SERVICE) == sorted(["hello", stable, b])
    assert (revision(ready, "Variant", "b")["name"], revision(ready, "Stable")["weight"]) == (b, 9000)
    pods = [p for p in ready.store.list(POD, "team") if p["metadata"]["labels"].get("slipway.dev/variant") == "b"]
    assert len(pods) == 1
    assert ready.condition("RoutesReady")["status"] == "True"
    assert ready.condition("Reconciling") == {}


async def test_the_same_model_can_be_both_a_and_a(ready: World) -> None:
    ready.user_applies(split("sample://hello", "50%"))
    await ready.converge()
    assert sorted(ready.weights.values()) == [5000, 5000]
    assert len(ready.names(DEPLOYMENT)) == len(ready.names(CONTROLLER_REVISION)) == 2


async def test_a_variant_has_replicas_of_its_own(ready: World) -> None:
    ready.user_applies(split("sample://hello-b", "10%", minReplicas=3))
    await ready.converge()
    replicas = {r["name"]: r["replicas"] for r in ready.status["revisions"]}
    assert replicas == {ready.status["stable"]: 1, revision(ready, "Variant", "b")["name"]: 3}


async def test_a_new_weight_makes_no_revision_and_touches_no_pod(both: World) -> None:
    pods, writes = both.names(POD), len(both.kube.writes)
    both.user_applies(split("sample://hello-b", "33.33%", match=[GROUP]))
    await both.operate()
    assert sorted(both.weights.values()) == [3333, 6667]
    assert both.names(POD) == pods
    assert {call.resource for call in both.kube.writes[writes:]} == {"inferenceservices"}
    assert len(both.kube.writes) - writes == 2, "the table, and that it is acknowledged"


async def test_a_variant_that_fails_touches_stable_never_and_status_says_why(both: World) -> None:
    stable, b = both.status["stable"], revision(both, "Variant", "b")["name"]
    failure = Failure(exit_code=137, reason="OOMKilled", restarts=3)
    controllers.settle(both.store, failure=failure, only=is_of("b"))
    await both.operate()
    assert both.weights == {stable: 10_000, b: 0}
    assert both.status["routing"]["rules"] == []
    assert both.condition("Ready")["status"] == "True"
    assert "of variant b failed: the model needs more memory" in both.condition("Ready")["message"]
    assert both.condition("RolloutHealthy")["reason"] == "RevisionFailed"
    assert both.condition("Stalled")["reason"] == "OutOfMemory"
    controllers.settle(both.store, only=is_of("b"))
    await both.operate()
    assert both.weights == {stable: 9000, b: 1000}
    assert both.condition("Stalled") == {}


async def test_a_changed_variant_stands_beside_the_old_one_until_it_is_ready(both: World) -> None:
    stable, old = both.status["stable"], revision(both, "Variant", "b")["name"]
    both.user_applies(split("sample://hello-b2", "10%", match=[GROUP]))
    await both.operate()
    new = revision(both, "Candidate", "b")["name"]
    assert both.weights == {stable: 9000, old: 1000}
    controllers.settle(both.store)
    await both.operate()
    assert both.weights == {stable: 9000, new: 1000}
    assert revision(both, "Previous", "b")["name"] == old
    both.wait(6)
    await both.operate()
    assert both.names(DEPLOYMENT) == sorted([stable, new])
    assert "RevisionPromoted" in both.recorder.reasons


async def test_a_broken_new_model_of_a_variant_leaves_the_old_one_its_share(both: World) -> None:
    old, before = revision(both, "Variant", "b")["name"], both.weights
    both.user_applies(split("sample://missing", "10%", match=[GROUP]))
    await both.operate()
    new = revision(both, "Candidate", "b")["name"]
    failure = Failure(exit_code=66, message="sample 'missing' does not exist")
    controllers.settle(both.store, failure=failure, only=lambda d: d["metadata"]["name"] == new)
    await both.operate()
    assert (both.weights, revision(both, "Variant", "b")["name"]) == (before, old)
    assert "sample 'missing' does not exist" in both.condition("RolloutHealthy")["message"]


async def test_a_variant_taken_away_leaves_like_any_revision(both: World) -> None:
    stable, b = both.status["stable"], revision(both, "Variant", "b")["name"]
    both.user_applies(service())
    await both.operate()
    assert both.weights == {stable: 10_000}
    assert b in both.names(DEPLOYMENT)
    both.wait(6)
    await both.operate()
    assert both.names(DEPLOYMENT) == [stable]
    assert both.names(SERVICE) == ["hello", stable]


async def test_stable_changes_its_version_under_a_variant_that_stays_as_it_is(both: World) -> None:
    b, pods = revision(both, "Variant", "b")["name"], both.names(POD)
    changed = split("sample://hello-b", "10%", match=[GROUP])
    changed["spec"]["predictor"]["model"]["storageUri"] = "sample://hello-v2"
    both.user_applies(changed)
    await both.converge()
    assert both.weights == {both.status["stable"]: 9000, b: 1000}
    assert set(pods) & set(both.names(POD)) == {name for name in pods if name.startswith(b)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param(
            {"env": [{"name": "LD_PRELOAD", "value": "/x"}]},
            "spec.traffic.variants[b].model.env: LD_PRELOAD says what is loaded and run, which is the runtime's",
            id="a field of its model",
        ),
        pytest.param(
            {"modelFormat": {"name": "coreml"}},
            "spec.traffic.variants[b]: no runtime supports model format 'coreml'",
            id="the model as a whole",
        ),
    ],
)
async def test_a_refusal_says_which_variant_it_is_about(both: World, fields: Any, words: str) -> None:
    wrong = split("sample://hello-b", "10%", match=[GROUP])
    wrong["spec"]["traffic"]["variants"][0]["model"] |= fields
    both.user_applies(wrong)
    await both.converge()
    assert both.condition("Accepted")["message"].startswith(words)


async def test_traffic_that_cannot_be_honoured_leaves_everything_as_it_was(both: World) -> None:
    before, table = both.picture()["children"], both.status["routing"]
    both.user_applies(split("sample://hello-b3", "10%", extra="95%", match=[GROUP]))
    await both.converge()
    assert (both.picture()["children"], both.status["routing"]) == (before, table)
    assert both.condition("Accepted")["reason"] == "InvalidTraffic"
    assert "sum to 105%" in both.condition("Accepted")["message"]
    assert both.condition("Ready")["status"] == "True"


async def test_a_refused_spec_still_takes_the_share_from_a_variant_that_fails_and_gives_it_back(both: World) -> None:
    stable, b = both.status["stable"], revision(both, "Variant", "b")["name"]
    both.user_applies(split("sample://hello-b3", "10%", extra="95%"))
    await both.operate()
    controllers.settle(both.store, failure=Failure(), only=is_of("b"))
    await both.operate()
    assert both.weights == {stable: 10_000, b: 0}
    controllers.settle(both.store)
    await both.operate()
    assert both.weights == {stable: 9000, b: 1000}


async def test_a_refused_spec_with_a_lost_status_opens_nothing(both: World) -> None:
    both.user_applies(split("sample://hello-b3", "10%", extra="95%"))
    await both.operate()

    def wipe(live: Manifest) -> None:
        live["status"] = {}

    both.store.edit(INFERENCE_SERVICE, *KEY, wipe, manager="somebody", subresource="status")
    await both.operate()
    assert "routing" not in both.status, "who may call is not known any more"
    assert both.condition("RoutesReady")["reason"] == "NotRouted"


async def test_a_lost_record_of_a_variant_is_made_again_as_the_variant_s(both: World) -> None:
    before = both.picture()
    for name in both.names(CONTROLLER_REVISION):
        both.store.delete(CONTROLLER_REVISION, "team", name)
    both.restart()
    await both.converge()
    assert both.picture() == before
