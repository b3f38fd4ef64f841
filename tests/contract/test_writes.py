"""What PUT and the scale subresource promise, what may not change, and what counts as a new generation."""

import pytest

from slipway.api.manifest import Manifest
from slipway.kube.errors import Conflict, Invalid, NotFound
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, SERVICE
from tests.contract import objects
from tests.contract.backends import Cluster

REPLICAS = ("f:spec", "f:replicas")


async def test_a_replace_removes_what_somebody_added(cluster: Cluster) -> None:
    await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster), manager="slipway-scaling")

    def add(live: Manifest) -> None:
        objects.container(live)["env"].append({"name": "THEIRS", "value": "1"})
        live["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})

    await cluster.edit(DEPLOYMENT, "d", add, manager="kubectl-edit")

    def put_right(live: Manifest) -> None:
        live["spec"] = objects.deployment(cluster)["spec"]

    live = await cluster.edit(DEPLOYMENT, "d", put_right, manager="slipway")
    assert objects.env(live) == {"A": "1"}
    assert [c["name"] for c in live["spec"]["template"]["spec"]["containers"]] == ["model"]


async def test_a_replace_of_what_has_changed_since_is_refused(cluster: Cluster) -> None:
    stale = await cluster.kube.create(SERVICE, objects.service(cluster), manager="slipway")
    await cluster.kube.apply(SERVICE, objects.service(cluster, app="x"), manager="somebody")
    with pytest.raises(Conflict):
        await cluster.kube.replace(SERVICE, stale, manager="slipway")
    assert (await cluster.read(SERVICE, "s"))["metadata"]["labels"] == {"app": "x"}


async def test_a_replace_of_what_was_made_anew_is_refused(cluster: Cluster) -> None:
    old = await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster), manager="slipway")
    await cluster.kube.delete(CONTROLLER_REVISION, cluster.namespace, "r", uid=old["metadata"]["uid"])
    await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster), manager="somebody")
    with pytest.raises(Conflict):
        await cluster.kube.replace(CONTROLLER_REVISION, old, manager="slipway")


async def test_a_replace_of_what_is_gone_is_refused(cluster: Cluster) -> None:
    old = await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster), manager="slipway")
    await cluster.kube.delete(DEPLOYMENT, cluster.namespace, "d", uid=old["metadata"]["uid"])
    with pytest.raises((NotFound, Conflict)):
        await cluster.kube.replace(DEPLOYMENT, old, manager="slipway")
    assert await cluster.kube.get(DEPLOYMENT, cluster.namespace, "d") is None


async def test_a_replace_without_an_address_keeps_the_service_its_own(cluster: Cluster) -> None:
    made = await cluster.kube.create(SERVICE, objects.service(cluster), manager="slipway")
    body = objects.service(cluster, app="x")
    body["metadata"] |= {key: made["metadata"][key] for key in ("uid", "resourceVersion")}
    live = await cluster.kube.replace(SERVICE, body, manager="slipway")
    assert live["spec"]["clusterIP"] == made["spec"]["clusterIP"]


async def test_a_replace_owns_only_what_it_changed(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster), manager="somebody")
    live = await cluster.read(SERVICE, "s")
    live["metadata"]["labels"]["more"] = "1"
    live = await cluster.kube.replace(SERVICE, live, manager="slipway")
    assert objects.owners_of(live, "f:metadata", "f:labels", "f:more") == {("slipway", "Update", "")}
    assert objects.owners_of(live, "f:metadata", "f:labels", "f:app") == {("somebody", "Update", "")}


async def test_scaling_changes_replicas_and_their_owner_only(cluster: Cluster) -> None:
    made = await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster, paused=True), manager="creator")
    await cluster.kube.scale(DEPLOYMENT, cluster.namespace, "d", 3, manager="slipway-scaling")
    live = await cluster.read(DEPLOYMENT, "d")
    assert live["spec"] == made["spec"] | {"replicas": 3}
    assert live["metadata"]["generation"] == 2
    assert objects.owners_of(live, *REPLICAS) == {("slipway-scaling", "Update", "scale")}


async def test_an_apply_without_replicas_leaves_them_alone(cluster: Cluster) -> None:
    made = await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster, paused=True), manager="slipway-scaling")
    await cluster.kube.scale(DEPLOYMENT, cluster.namespace, "d", 2, manager="slipway-scaling")
    body = objects.applied(objects.deployment(cluster, paused=True, env={"A": "2"}), uid=made["metadata"]["uid"])
    live = await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    assert live["spec"]["replicas"] == 2
    assert objects.owners_of(live, *REPLICAS) == {("slipway-scaling", "Update", "scale")}


async def test_scaling_to_the_same_number_is_no_new_wish(cluster: Cluster) -> None:
    """The real server shuffles managedFields on it: a write after all, so the operator must not do it idly."""
    await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster), manager="slipway-scaling")
    await cluster.kube.scale(DEPLOYMENT, cluster.namespace, "d", 0, manager="slipway-scaling")
    live = await cluster.read(DEPLOYMENT, "d")
    assert live["metadata"]["generation"] == 1
    assert live["spec"]["replicas"] == 0


async def test_scaling_what_is_gone_says_so(cluster: Cluster) -> None:
    with pytest.raises(NotFound):
        await cluster.kube.scale(DEPLOYMENT, cluster.namespace, "none", 1, manager="slipway-scaling")


async def test_the_data_of_a_record_never_changes(cluster: Cluster) -> None:
    await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster), manager="slipway")
    body = objects.record(cluster)
    body["data"] = {"template": {"a": 2}}
    with pytest.raises(Invalid, match="immutable"):
        await cluster.kube.apply(CONTROLLER_REVISION, body, manager="slipway")


async def test_the_selector_of_a_deployment_never_changes(cluster: Cluster) -> None:
    await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster), manager="slipway")
    body = objects.applied(objects.deployment(cluster))
    body["spec"]["template"]["metadata"]["labels"] = {"app": "d", "more": "1"}
    body["spec"]["selector"] = {"matchLabels": {"more": "1"}}
    with pytest.raises(Invalid, match="immutable"):
        await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")


async def test_a_selector_must_match_the_pods(cluster: Cluster) -> None:
    body = objects.deployment(cluster)
    body["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    with pytest.raises(Invalid, match="does not match template"):
        await cluster.kube.create(DEPLOYMENT, body, manager="slipway")


@pytest.mark.parametrize(
    ("part", "generation"),
    [
        pytest.param("labels", 1, id="a label is no wish"),
        pytest.param("annotations", 2, id="an annotation of a Deployment is one"),
        pytest.param("spec", 2, id="the spec is one"),
    ],
)
async def test_the_generation_counts_wishes(cluster: Cluster, part: str, generation: int) -> None:
    await cluster.kube.apply(DEPLOYMENT, objects.applied(objects.deployment(cluster)), manager="slipway")
    await cluster.kube.scale(DEPLOYMENT, cluster.namespace, "d", 1, manager="slipway-scaling")
    before = await cluster.read(DEPLOYMENT, "d")
    body = objects.applied(objects.deployment(cluster))
    if part == "spec":
        body["spec"]["minReadySeconds"] = 1
    else:
        body["metadata"][part] = {"app": "d", "new": "1"}
    after = await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    assert after["metadata"]["generation"] - before["metadata"]["generation"] == generation - 1
