"""The whole decision and its execution against the fake API server: what users see, step by step."""

import json
from dataclasses import replace

import pytest

from slipway.api.manifest import Manifest
from slipway.control.worker import Done
from slipway.decide import placement
from slipway.decide.network import Network
from slipway.kube.errors import Conflict, Forbidden, Invalid
from slipway.kube.kinds import (
    CLUSTER_SERVING_RUNTIME,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
)
from tests.control.world import KEY, NETWORK, World, changed_runtime, service
from tests.fake import controllers, faults
from tests.fake.controllers import Failure


async def test_a_new_service_gets_its_children_and_becomes_ready(world: World) -> None:
    await world.operate()
    revision = world.names(DEPLOYMENT)[0]
    assert world.names(CONTROLLER_REVISION) == [revision]
    assert world.names(SERVICE) == ["hello", revision]
    assert world.names(POD_DISRUPTION_BUDGET) == []
    assert world.condition("Ready")["status"] == "False"
    assert world.condition("Reconciling")["status"] == "True"
    controllers.settle(world.store)
    await world.operate()
    assert world.names(POD_DISRUPTION_BUDGET) == ["hello"]
    assert world.condition("Ready") | {"lastTransitionTime": ""} == {
        "type": "Ready",
        "status": "True",
        "reason": "Serving",
        "message": f"revision {revision} answers",
        "observedGeneration": 1,
        "lastTransitionTime": "",
    }
    assert world.condition("Reconciling") == {}
    assert (world.status["stable"], world.status["url"]) == (revision, "http://hello.team")
    assert len(world.kube.writes) <= 9, "budget of writes per create"


async def test_a_steady_service_is_never_written_to(ready: World) -> None:
    ready.restart()
    for _ in range(3):
        ready.wait(600)
        await ready.operate()
    assert ready.kube.writes == []


async def test_what_is_remembered_of_children_goes_with_them(ready: World) -> None:
    """A service lives for years, and each release makes a few objects anew."""
    for version in range(2, 6):
        ready.user_applies(service(f"sample://hello-v{version}"))
        for _ in range(4):
            await ready.operate()
            controllers.settle(ready.store)
            ready.wait(6)
    kinds = (DEPLOYMENT, SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY, CONTROLLER_REVISION)
    living = {child["metadata"]["uid"] for kind in kinds for child in ready.cache.owned(KEY, kind)}
    assert len(living) < 11
    assert ready.reconciler._notes[KEY].settled.keys() <= living


async def test_a_version_change_switches_when_ready_and_then_removes_the_old(ready: World) -> None:
    old = ready.status["stable"]
    before = len(ready.kube.writes)
    ready.user_applies(service("sample://hello-v2"))
    await ready.operate()
    new = ready.status["candidate"]
    assert new != old
    assert ready.weights == {old: 10_000}, "not before the new one is ready"
    assert ready.condition("Ready")["status"] == "True"
    controllers.settle(ready.store)
    await ready.operate()
    assert ready.weights == {new: 10_000}
    assert old in ready.names(DEPLOYMENT), "the old pods stay while a request may be on its way to them"
    assert ready.status["rollout"]["phase"] == "Draining"
    ready.wait(6)
    await ready.operate()
    assert ready.names(DEPLOYMENT) == [new]
    assert ready.names(SERVICE) == ["hello", new]
    assert ready.names(CONTROLLER_REVISION) == sorted([old, new]), "the record of the old one is kept"
    assert len(ready.kube.writes) - before <= 10, "budget of writes per version change"
    assert ready.recorder.reasons == ["RevisionCreated", "RevisionPromoted", "RevisionCreated", "RevisionPromoted"]


@pytest.mark.parametrize(
    ("failure", "reason", "words"),
    [
        pytest.param(
            Failure(exit_code=66, message="loading\nsample 'x' does not exist; there are: hello"),
            "ModelNotFound",
            "sample 'x' does not exist; there are: hello",
            id="missing",
        ),
        pytest.param(
            Failure(exit_code=65, message="m.pt is no model"), "ModelInvalid", "m.pt is no model", id="corrupt"
        ),
        pytest.param(
            Failure(exit_code=137, reason="OOMKilled"),
            "OutOfMemory",
            "needs more memory than its limit: raise spec.predictor.model.resources.limits.memory",
            id="out of memory",
        ),
        pytest.param(Failure(exit_code=1, message="boom"), "Crashed", "boom (exit code 1)", id="crash"),
        pytest.param(
            Failure(waiting="ImagePullBackOff", waiting_message="Back-off pulling x", exit_code=None),
            "ImagePullFailed",
            "ImagePullBackOff: Back-off pulling x",
            id="image",
        ),
    ],
)
async def test_a_broken_revision_is_named_and_the_old_one_keeps_answering(
    ready: World, failure: Failure, reason: str, words: str
) -> None:
    old = ready.status["stable"]
    ready.user_applies(service("sample://x"))
    await ready.operate()
    new = ready.status["candidate"]
    controllers.settle(ready.store, failure=failure, only=lambda d: d["metadata"]["name"] == new)
    await ready.operate()
    assert ready.condition("ModelLoaded")["reason"] == reason
    assert words in ready.condition("ModelLoaded")["message"]
    assert ready.condition("Ready")["status"] == "True"
    assert words in ready.condition("Ready")["message"]
    assert ready.condition("RolloutHealthy")["status"] == "False"
    assert (("Warning", reason, f"revision {new}: {ready.condition('ModelLoaded')['message'].partition(': ')[2]}")) in (
        ready.recorder.events
    )
    assert ready.weights == {old: 10_000}
    ready.user_applies(service("sample://hello-v2"))
    await ready.converge()
    assert ready.condition("Ready")["message"].startswith(f"revision {ready.status['stable']} answers")
    assert ready.names(DEPLOYMENT) == [ready.status["stable"]]
    assert ready.condition("Stalled") == {}


async def test_a_first_revision_that_cannot_load_stalls_and_a_fix_replaces_it_at_once(world: World) -> None:
    await world.operate()
    controllers.settle(world.store, failure=Failure(exit_code=66, message="sample 'hello' does not exist"))
    await world.operate()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "ModelNotFound")
    assert world.condition("Stalled")["status"] == "True"
    broken = world.names(DEPLOYMENT)[0]
    world.user_applies(service("sample://hello-v2"))
    await world.operate()
    assert broken not in world.names(DEPLOYMENT), "it never answered, so it holds no GPU back"
    await world.converge()
    assert world.condition("Ready")["status"] == "True"


async def test_a_stable_revision_beyond_help_gives_way_to_its_successor(ready: World) -> None:
    old = ready.status["stable"]
    controllers.settle(ready.store, failure=Failure(exit_code=137, reason="OOMKilled", restarts=3))
    await ready.operate()
    assert ready.condition("Ready")["reason"] == "OutOfMemory"
    ready.user_applies(service(model={"resources": {"limits": {"memory": "4Gi"}}}))
    await ready.operate()
    new = next(name for name in ready.names(DEPLOYMENT) if name != old)
    controllers.settle(ready.store, only=lambda deployment: deployment["metadata"]["name"] == new)
    await ready.operate()
    assert ready.status["stable"] == new


async def test_pods_beyond_help_make_room_for_those_that_find_none(ready: World) -> None:
    """One GPU, and its model crashes for ever: the next version could never start."""
    old = ready.status["stable"]
    controllers.settle(ready.store, failure=Failure(exit_code=137, reason="OOMKilled", restarts=3))
    ready.user_applies(service(model={"resources": {"limits": {"memory": "4Gi"}}}))
    await ready.operate()
    assert old in ready.names(DEPLOYMENT)
    controllers.no_node(ready.store, only=lambda deployment: deployment["metadata"]["name"] != old)
    ready.wait(10)
    await ready.operate()
    assert old not in ready.names(DEPLOYMENT)


async def test_one_crash_of_the_old_revision_never_hands_over_to_a_broken_one(ready: World) -> None:
    old = ready.status["stable"]
    ready.user_applies(service("sample://missing"))
    await ready.operate()
    broken = Failure(exit_code=66, message="sample 'missing' does not exist")
    controllers.settle(ready.store, failure=broken, only=lambda deployment: deployment["metadata"]["name"] != old)
    await ready.operate()
    crashed = Failure(exit_code=137, reason="OOMKilled", restarts=1, waiting="")
    controllers.settle(ready.store, failure=crashed, only=lambda deployment: deployment["metadata"]["name"] == old)
    await ready.operate()
    assert old in ready.names(DEPLOYMENT)
    assert ready.weights == {old: 10_000}
    controllers.settle(ready.store, only=lambda deployment: deployment["metadata"]["name"] == old)
    await ready.operate()
    assert ready.condition("Ready")["status"] == "True"


# What the API server refuses to make


def _refusing(world: World, resource: str, name: str) -> None:
    error = Forbidden(f"exceeded quota: {resource}")
    fault = faults.Fault(error)
    world.kube.fault = lambda _k, call: (
        fault if (call.verb, call.resource) == ("create", resource) and call.name.startswith(name) else None
    )


@pytest.mark.parametrize(
    ("resource", "name", "ready", "reason"),
    [
        pytest.param("services", "hello", "False", "ObjectRefused", id="address"),
        pytest.param("services", "hello-", "False", "ObjectRefused", id="revision-service"),
        pytest.param("poddisruptionbudgets", "hello", "True", "ObjectRefused", id="budget"),
        pytest.param("controllerrevisions", "hello-", "False", "InvalidSpec", id="record"),
        pytest.param("deployments", "hello-", "False", "InvalidSpec", id="pods"),
        pytest.param("networkpolicies", "hello", "False", "ObjectRefused", id="policy"),
    ],
)
async def test_what_is_refused_is_told_and_tried_again_each_minute(
    world: World, resource: str, name: str, ready: str, reason: str
) -> None:
    _refusing(world, resource, name)
    await world.converge()
    assert world.condition("Ready")["status"] == ready
    assert world.condition("Stalled")["reason"] == reason
    assert f"exceeded quota: {resource}" in world.condition("Stalled")["message"]
    asked = len(world.kube.writes)
    for _ in range(5):
        outcome = await world.reconciler(KEY)
    assert len(world.kube.writes) - asked <= 1, "no hot loop"
    assert isinstance(outcome, Done)
    assert outcome.requeue_after_s is not None
    assert outcome.requeue_after_s <= 60
    world.kube.fault = faults.none
    world.wait(61)
    await world.converge()
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled") == {}
    assert world.status["url"] == "http://hello.team"


@pytest.mark.parametrize("what", ["controllerrevisions", "networkpolicies"])
async def test_no_pods_without_a_record_and_the_policy_they_are_to_have(world: World, what: str) -> None:
    _refusing(world, what, "hello")
    await world.converge()
    assert world.names(DEPLOYMENT) == []


async def test_a_lost_record_is_made_again_as_its_pods_are_not_as_it_would_be_today(ready: World) -> None:
    stable = ready.status["stable"]
    before = ready.get(CONTROLLER_REVISION, stable)["data"]["template"]
    pods = ready.get(DEPLOYMENT, stable)["spec"]["template"]
    ready.store.replace(CLUSTER_SERVING_RUNTIME, changed_runtime(ready))
    await ready.converge()
    live = ready.get(CONTROLLER_REVISION, stable)
    ready.store.delete(CONTROLLER_REVISION, "team", stable, uid=live["metadata"]["uid"])
    await ready.converge()
    ready.restart()
    await ready.converge()
    assert ready.get(CONTROLLER_REVISION, stable)["data"]["template"] == before
    assert ready.get(DEPLOYMENT, stable)["spec"]["template"] == pods
    assert ready.condition("UpdateAvailable")["status"] == "True"


async def test_a_service_of_kserve_s_kind_of_that_name_is_somebody_else_s(world: World) -> None:
    owner = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": "hello", "uid": "theirs"}
    metadata = {"name": "hello", "namespace": "team", "ownerReferences": [owner | {"controller": True}]}
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}
    world.store.create(SERVICE, theirs, manager="kserve")
    await world.operate()
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "Conflict")
    assert world.get(SERVICE, "hello")["metadata"]["ownerReferences"] == metadata["ownerReferences"]


async def test_a_service_made_again_waits_for_the_children_of_the_one_before(ready: World) -> None:
    live = ready.store.get(INFERENCE_SERVICE, "team", "hello")
    assert live is not None
    ready.store.delete(INFERENCE_SERVICE, "team", "hello", uid=live["metadata"]["uid"])
    ready.user_applies(service("sample://hello-v2"))
    for _ in range(3):
        with pytest.raises(Conflict):
            await ready.reconciler(KEY)
    controllers.gc(ready.store)
    await ready.converge()
    assert ready.condition("Ready")["status"] == "True"
    assert ready.names(SERVICE)[0] == "hello"


async def test_going_back_to_an_earlier_spec_uses_its_record(ready: World) -> None:
    old = ready.status["stable"]
    template = ready.get(CONTROLLER_REVISION, old)["data"]["template"]
    ready.user_applies(service("sample://hello-v2"))
    await ready.converge()
    ready.user_applies(service())
    await ready.converge()
    assert ready.status["stable"] == old
    assert ready.get(CONTROLLER_REVISION, old)["data"]["template"] == template


async def test_more_replicas_are_no_new_revision(ready: World) -> None:
    stable = ready.status["stable"]
    ready.user_applies(service(replicas=3))
    await ready.converge()
    assert ready.names(DEPLOYMENT) == [stable]
    assert ready.get(DEPLOYMENT, stable)["spec"]["replicas"] == 3
    assert ready.status["revisions"][0]["ready"] == 3


async def test_replicas_belong_to_their_own_field_manager(world: World) -> None:
    await world.operate()
    deployment = world.get(DEPLOYMENT, world.names(DEPLOYMENT)[0])
    owners = [m["manager"] for m in deployment["metadata"]["managedFields"] if "f:replicas" in str(m["fieldsV1"])]
    assert owners == ["slipway-scaling"]


# Specs that cannot be honoured


@pytest.mark.parametrize(
    ("model", "reason", "words"),
    [
        pytest.param(
            {"runtime": "nope"}, "RuntimeNotFound", "no runtime 'nope'; there are: slipway-pytorch", id="runtime"
        ),
        pytest.param(
            {"modelFormat": {"name": "onnx"}},
            "NoSupportingRuntime",
            "no runtime supports model format 'onnx'",
            id="format",
        ),
        pytest.param(
            {"options": {"dtype": "float16"}},
            "OptionNotSupported",
            "options.dtype: ClusterServingRuntime/slipway-pytorch does not take it",
            id="option",
        ),
    ],
)
async def test_a_spec_that_cannot_be_honoured_leaves_the_last_good_one_serving(
    ready: World, model: Manifest, reason: str, words: str
) -> None:
    before = ready.picture()["children"]
    ready.user_applies(service("sample://hello-v2", replicas=5, model=model))
    await ready.converge()
    assert ready.picture()["children"] == before
    assert (ready.condition("Accepted")["status"], ready.condition("Accepted")["reason"]) == ("False", reason)
    assert words in ready.condition("Accepted")["message"]
    assert f"revision {ready.status['stable']} is still served" in ready.condition("Accepted")["message"]
    assert ready.condition("Ready")["status"] == "True"
    assert ready.condition("Stalled")["status"] == "True"
    ready.user_applies(service("sample://hello-v2"))
    await ready.converge()
    assert ready.condition("Accepted")["status"] == "True"


async def test_pods_with_a_device_run_where_the_administrator_says(ready: World) -> None:
    tolerated = [{"key": "gpu", "operator": "Exists"}]
    rule = {"resource": "nvidia.com/*", "nodeSelector": {"pool": "gpu"}, "tolerations": tolerated}
    ready.config = replace(ready.config, placement=placement.parse(json.dumps([rule])))
    ready.restart()
    asked = service(model={"resources": {"limits": {"nvidia.com/gpu": 1}}})
    ready.user_applies(asked)
    await ready.converge()
    deployment = ready.get(DEPLOYMENT, ready.status["stable"])
    spec = deployment["spec"]["template"]["spec"]
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"pool": "gpu"}, tolerated)
    assert ready.status["runtimeReason"] == "the only one that is suitable for model format 'torchscript'"
    asked["spec"]["predictor"]["nodeSelector"] = {"pool": "plain"}
    ready.user_applies(asked)
    await ready.converge()
    assert ready.condition("Accepted")["reason"] == "PlacementRefused"
    assert ready.get(DEPLOYMENT, ready.status["stable"])["spec"] == deployment["spec"]


async def test_pods_run_under_a_service_account_that_the_administrator_allows_there(ready: World) -> None:
    ready.config = replace(ready.config, service_accounts=frozenset({"reader", "team/own", "other/theirs"}))
    ready.restart()
    for name in ("reader", "own"):
        ready.user_applies(service(serviceAccountName=name))
        await ready.converge()
        spec = ready.get(DEPLOYMENT, ready.status["stable"])["spec"]["template"]["spec"]
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == (name, False)
    for name in ("theirs", "admin"):
        ready.user_applies(service(serviceAccountName=name))
        await ready.converge()
        refused = ready.condition("Accepted")
        assert refused["reason"] == "ServiceAccountRefused"
        assert f"may not run as ServiceAccount {name} of namespace team; leave it out" in refused["message"]
        assert ready.get(DEPLOYMENT, ready.status["stable"])["spec"]["template"]["spec"] == spec


async def test_one_policy_covers_all_pods_of_a_service_and_follows_the_installation(ready: World) -> None:
    policy = ready.get(NETWORK_POLICY, "hello")
    assert policy["spec"] == {
        "podSelector": {"matchLabels": {"slipway.dev/inferenceservice": "hello"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": list(NETWORK.ingress),
        "egress": list(NETWORK.egress),
    }
    pods = [pod["metadata"]["labels"] for pod in ready.store.list(POD)]
    assert pods
    assert all(policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items() for labels in pods)
    ready.config = replace(ready.config, network=Network())
    ready.restart()
    await ready.converge()
    policy = ready.get(NETWORK_POLICY, "hello")
    assert (policy["spec"]["ingress"], policy["spec"]["egress"]) == ([], [])
    assert ("Normal", "DriftRepaired", "NetworkPolicy hello has other rules than the installation; put right") in (
        ready.recorder.events
    )
    ready.config = replace(ready.config, network=None)
    ready.restart()
    await ready.converge()
    assert ready.names(NETWORK_POLICY) == []


async def test_a_rule_that_the_api_server_refuses_keeps_nothing_else_from_being_done(ready: World) -> None:
    error = faults.Fault(Invalid("spec.egress[0].to[0].ipBlock.cidr: not a CIDR"))
    ready.config = replace(ready.config, network=Network())
    ready.restart()
    ready.kube.fault = lambda _k, call: error if (call.verb, call.resource) == ("update", "networkpolicies") else None
    ready.user_applies(service("sample://hello-v2"))
    for _ in range(4):
        with pytest.raises(Invalid):
            await ready.reconciler(KEY)
        controllers.settle(ready.store)
        ready.wait(6)
        ready.gateways.take()
    assert ready.status["revisions"][0]["storageUri"] == "sample://hello-v2"
    assert ready.condition("Ready")["status"] == "True"


async def test_a_stored_object_that_does_not_fit_the_schema_is_told_not_crashed_on(ready: World) -> None:
    broken = service()
    broken["spec"]["predictor"]["containerConcurrency"] = "many"
    ready.user_applies(broken)
    await ready.converge()
    assert ready.condition("Accepted")["reason"] == "InvalidSpec"
    assert "spec.predictor.containerConcurrency" in ready.condition("Accepted")["message"]
    assert ready.condition("Ready")["status"] == "True"


# Runtime updates


async def test_achanged_runtime_changes_no_running_revision(ready: World) -> None:
    before = ready.picture()["children"]
    ready.store.replace(CLUSTER_SERVING_RUNTIME, changed_runtime(ready))
    await ready.converge()
    assert ready.picture()["children"] == before
    assert ready.condition("UpdateAvailable")["status"] == "True"


async def test_follow_takes_achanged_runtime_over_in_a_new_revision(ready: World) -> None:
    old = ready.status["stable"]
    ready.user_applies(service(runtimeUpdates="Follow"))
    await ready.converge()
    assert ready.status["stable"] == old, "the wish alone changes nothing"
    ready.store.replace(CLUSTER_SERVING_RUNTIME, changed_runtime(ready))
    await ready.converge()
    assert ready.status["stable"] != old
    image = ready.get(DEPLOYMENT, ready.status["stable"])["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "slipway/runtime:2"


async def test_a_newer_slipway_restarts_no_pod(ready: World) -> None:
    pods = ready.names(POD)
    ready.config = type(ready.config)(fetcher_image="slipway/runtime:2")
    ready.restart()
    await ready.converge()
    assert ready.names(POD) == pods


async def test_a_service_that_is_being_deleted_is_left_to_the_garbage_collector(ready: World) -> None:
    def mark(live: Manifest) -> None:
        live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    ready.store.edit(INFERENCE_SERVICE, *KEY, mark, manager="kubectl")
    before = len(ready.kube.writes)
    await ready.operate()
    assert len(ready.kube.writes) == before


async def test_every_write_carries_a_manager_and_deletes_carry_a_uid(ready: World) -> None:
    ready.user_applies(service("sample://hello-v2"))
    await ready.converge()
    managers = {(call.verb, call.resource, call.manager) for call in ready.kube.writes if call.verb != "delete"}
    assert {manager for _, _, manager in managers} == {"slipway", "slipway-scaling"}
    assert {(v, r) for v, r, m in managers if m == "slipway-scaling"} == {("create", "deployments")}
