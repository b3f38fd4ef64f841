"""What server-side apply promises: identity, ownership, pruning, and no write where nothing changes."""

import pytest

from slipway.api.manifest import Manifest
from slipway.kube.errors import Conflict, Invalid, NotFound
from slipway.kube.kinds import DEPLOYMENT, POD_DISRUPTION_BUDGET, SERVICE
from tests.contract import objects
from tests.contract.backends import Cluster

NOBODY = "00000000-0000-0000-0000-00000000dead"


async def created(cluster: Cluster, **more: object) -> Manifest:
    """A Deployment as the operator makes it: created by one manager, applied by the other."""
    body = objects.deployment(cluster, **more)  # type: ignore[arg-type]
    made = await cluster.kube.apply(DEPLOYMENT, objects.applied(body), manager="slipway")
    await cluster.kube.scale(DEPLOYMENT, cluster.namespace, "d", 0, manager="slipway-scaling")
    return made


@pytest.mark.parametrize("subresource", ["", "status"])
async def test_an_apply_that_names_a_uid_never_creates(cluster: Cluster, subresource: str) -> None:
    body = objects.applied(objects.deployment(cluster), uid=NOBODY)
    with pytest.raises(NotFound if subresource else Conflict):
        await cluster.kube.apply(DEPLOYMENT, body, manager="slipway", subresource=subresource)
    assert await cluster.kube.get(DEPLOYMENT, cluster.namespace, "d") is None


async def test_an_apply_that_means_another_object_is_refused(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster), manager="somebody")
    body = objects.service(cluster, app="changed")
    body["metadata"]["uid"] = NOBODY
    with pytest.raises((Conflict, Invalid)):  # the server calls it invalid, not a conflict
        await cluster.kube.apply(SERVICE, body, manager="slipway")
    assert (await cluster.read(SERVICE, "s"))["metadata"]["labels"] == {"app": "s"}


async def test_an_apply_that_names_no_uid_creates(cluster: Cluster) -> None:
    await cluster.kube.apply(SERVICE, objects.service(cluster), manager="slipway")
    live = await cluster.read(SERVICE, "s")
    assert objects.owners_of(live, "f:metadata", "f:labels", "f:app") == {("slipway", "Apply", "")}
    assert objects.owners_of(live, "f:spec", "f:type") == set(), "defaults belong to nobody"


async def test_applying_the_same_again_writes_nothing(cluster: Cluster) -> None:
    first = await cluster.kube.apply(SERVICE, objects.service(cluster), manager="slipway")
    second = await cluster.kube.apply(SERVICE, objects.service(cluster), manager="slipway")
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_applying_what_somebody_else_created_writes_its_ownership_once(cluster: Cluster) -> None:
    first = await cluster.kube.create(SERVICE, objects.service(cluster), manager="somebody")
    second = await cluster.kube.apply(SERVICE, objects.service(cluster), manager="slipway")
    third = await cluster.kube.apply(SERVICE, objects.service(cluster), manager="slipway")
    assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
    assert third["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    both = {("somebody", "Update", ""), ("slipway", "Apply", "")}
    assert objects.owners_of(third, "f:metadata", "f:labels", "f:app") == both


async def test_a_stale_resource_version_is_refused(cluster: Cluster) -> None:
    made = await cluster.kube.apply(SERVICE, objects.service(cluster), manager="slipway")
    await cluster.kube.apply(SERVICE, objects.service(cluster, app="x"), manager="slipway")
    body = objects.service(cluster, app="y")
    body["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await cluster.kube.apply(SERVICE, body, manager="slipway")


async def test_a_body_with_managed_fields_is_refused(cluster: Cluster) -> None:
    made = await cluster.kube.apply(SERVICE, objects.service(cluster), manager="slipway")
    with pytest.raises(Invalid, match="managedFields must be nil"):
        await cluster.kube.apply(SERVICE, made, manager="slipway")


async def test_a_field_left_out_goes_when_nobody_else_owns_it(cluster: Cluster) -> None:
    await created(cluster, env={"A": "1", "B": "2"})
    body = objects.deployment(cluster, env={"A": "1"})
    live = await cluster.kube.apply(DEPLOYMENT, objects.applied(body), manager="slipway")
    assert objects.env(live) == {"A": "1"}


async def test_a_struct_left_out_goes_with_its_defaults(cluster: Cluster) -> None:
    body = objects.applied(objects.deployment(cluster))
    objects.container(body)["livenessProbe"] = {"httpGet": {"port": "http"}}
    live = await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    assert objects.container(live)["livenessProbe"]["periodSeconds"] == 10
    live = await cluster.kube.apply(DEPLOYMENT, objects.applied(objects.deployment(cluster)), manager="slipway")
    assert "livenessProbe" not in objects.container(live)


async def test_an_item_left_out_goes_with_its_defaults(cluster: Cluster) -> None:
    body = objects.applied(objects.deployment(cluster))
    body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    live = await cluster.kube.apply(DEPLOYMENT, objects.applied(objects.deployment(cluster)), manager="slipway")
    assert [c["name"] for c in live["spec"]["template"]["spec"]["containers"]] == ["model"]


async def test_a_default_comes_back_when_its_field_is_left_out(cluster: Cluster) -> None:
    await created(cluster, revisionHistoryLimit=2)
    live = await cluster.kube.apply(DEPLOYMENT, objects.applied(objects.deployment(cluster)), manager="slipway")
    assert live["spec"]["revisionHistoryLimit"] == 10


async def test_what_the_creator_owns_stays_when_the_applier_leaves_it_out(cluster: Cluster) -> None:
    made = await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster, env={"A": "1", "B": "2"}), manager="c")
    uid = made["metadata"]["uid"]
    both = objects.deployment(cluster, env={"A": "1", "B": "2"})
    await cluster.kube.apply(DEPLOYMENT, objects.applied(both, uid=uid), manager="slipway")
    one = objects.deployment(cluster, env={"A": "1"})
    live = await cluster.kube.apply(DEPLOYMENT, objects.applied(one, uid=uid), manager="slipway")
    assert objects.env(live) == {"A": "1", "B": "2"}


async def test_what_somebody_added_stays(cluster: Cluster) -> None:
    await created(cluster)

    def change(live: Manifest) -> None:
        live["metadata"]["annotations"] = live["metadata"].get("annotations", {}) | {"theirs": "1"}
        objects.container(live)["env"].append({"name": "THEIRS", "value": "1"})
        live["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})

    await cluster.edit(DEPLOYMENT, "d", change, manager="kubectl-edit")
    live = await cluster.kube.apply(DEPLOYMENT, objects.applied(objects.deployment(cluster)), manager="slipway")
    assert objects.env(live) == {"A": "1", "THEIRS": "1"}
    assert live["metadata"]["annotations"]["theirs"] == "1"
    assert objects.container(live, "side")


async def test_what_somebody_changed_is_taken_back(cluster: Cluster) -> None:
    await created(cluster)

    def change(live: Manifest) -> None:
        objects.container(live)["image"] = "theirs:1"

    live = await cluster.edit(DEPLOYMENT, "d", change, manager="kubectl-edit")
    image = ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"model"}', "f:image")
    assert objects.owners_of(live, *image) == {("kubectl-edit", "Update", "")}
    live = await cluster.kube.apply(DEPLOYMENT, objects.applied(objects.deployment(cluster)), manager="slipway")
    assert objects.container(live)["image"] == "slipway.local/none:1"
    assert objects.owners_of(live, *image) == {("slipway", "Apply", "")}


async def test_what_somebody_removed_comes_back(cluster: Cluster) -> None:
    await created(cluster, env={"A": "1", "B": "2"})
    live = await cluster.edit(
        DEPLOYMENT, "d", lambda live: objects.container(live)["env"].pop(0), manager="kubectl-edit"
    )
    assert objects.env(live) == {"B": "2"}
    body = objects.applied(objects.deployment(cluster, env={"A": "1", "B": "2"}))
    live = await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    assert objects.env(live) == {"A": "1", "B": "2"}


async def test_variables_stand_in_the_applied_order(cluster: Cluster) -> None:
    await created(cluster, env={"A": "1", "B": "2", "C": "3"})
    body = objects.applied(objects.deployment(cluster, env={"C": "3", "D": "4", "A": "1"}))
    live = await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    assert list(objects.env(live)) == ["C", "D", "A"]


async def test_ports_are_told_apart_by_number_and_protocol(cluster: Cluster) -> None:
    body = objects.applied(objects.deployment(cluster))
    objects.container(body)["ports"] = [
        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
        {"name": "http-u", "containerPort": 8080, "protocol": "UDP"},
    ]
    await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    objects.container(body)["ports"].pop()
    live = await cluster.kube.apply(DEPLOYMENT, body, manager="slipway")
    assert [port["protocol"] for port in objects.container(live)["ports"]] == ["TCP"]


async def test_a_selector_is_replaced_as_a_whole(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster), manager="somebody")
    body = objects.service(cluster)
    body["spec"]["selector"] = {"revision": "2"}
    live = await cluster.kube.apply(SERVICE, body, manager="slipway")
    assert live["spec"]["selector"] == {"revision": "2"}


async def test_a_service_keeps_its_address(cluster: Cluster) -> None:
    made = await cluster.kube.create(SERVICE, objects.service(cluster), manager="slipway")
    body = objects.service(cluster)
    body["spec"]["selector"] = {"revision": "2"}
    live = await cluster.kube.apply(SERVICE, body, manager="slipway")
    assert live["spec"]["clusterIP"] == made["spec"]["clusterIP"]


async def test_a_budget_takes_another_selector(cluster: Cluster) -> None:
    body: Manifest = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": cluster.namespace},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    }
    made = await cluster.kube.apply(POD_DISRUPTION_BUDGET, body, manager="slipway")
    assert made["metadata"]["generation"] == 1
    body["spec"]["selector"] = {"matchLabels": {"app": "y"}}
    live = await cluster.kube.apply(POD_DISRUPTION_BUDGET, body, manager="slipway")
    assert live["spec"]["selector"] == {"matchLabels": {"app": "y"}}
    assert live["metadata"]["generation"] == 2
