"""What POST, GET, LIST and DELETE promise; the ground the operator's crash safety stands on."""

import pytest

from slipway.kube.errors import AlreadyExists, Conflict
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, SERVICE
from tests.contract import objects
from tests.contract.backends import Cluster


async def test_a_created_object_comes_back_with_its_identity(cluster: Cluster) -> None:
    made = await cluster.kube.create(DEPLOYMENT, objects.deployment(cluster), manager="slipway")
    metadata = made["metadata"]
    assert metadata["uid"]
    assert int(metadata["resourceVersion"]) > 0
    assert metadata["creationTimestamp"].endswith("Z")
    assert metadata["generation"] == 1
    assert (made["apiVersion"], made["kind"]) == ("apps/v1", "Deployment")


async def test_kinds_without_a_wish_have_no_generation(cluster: Cluster) -> None:
    made = await cluster.kube.create(SERVICE, objects.service(cluster), manager="slipway")
    assert "generation" not in made["metadata"]
    made = await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster), manager="slipway")
    assert "generation" not in made["metadata"]


async def test_a_name_is_taken_once(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster), manager="slipway")
    with pytest.raises(AlreadyExists, match='"s" already exists'):
        await cluster.kube.create(SERVICE, objects.service(cluster), manager="slipway")


async def test_the_creator_owns_every_field_and_the_defaults_too(cluster: Cluster) -> None:
    body = objects.deployment(cluster)
    made = await cluster.kube.create(DEPLOYMENT, body, manager="slipway-scaling")
    creator = {("slipway-scaling", "Update", "")}
    assert objects.owners_of(made, "f:spec", "f:replicas") == creator
    assert objects.owners_of(made, "f:spec", "f:revisionHistoryLimit") == creator
    assert objects.owners_of(made, "f:metadata", "f:labels", "f:app") == creator


async def test_what_is_not_there_reads_as_none(cluster: Cluster) -> None:
    assert await cluster.kube.get(SERVICE, cluster.namespace, "none") is None


async def test_a_list_is_filtered_by_label_and_namespace(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster, name="a", app="s", tier="x"), manager="test")
    await cluster.kube.create(SERVICE, objects.service(cluster, name="b", app="s"), manager="test")

    async def names(selector: str) -> list[str]:
        found = await cluster.kube.list(SERVICE, cluster.namespace, selector=selector)
        return [obj["metadata"]["name"] for obj in found]

    assert await names("") == ["a", "b"]
    assert await names("app=s") == ["a", "b"]
    assert await names("app=s,tier=x") == ["a"]
    assert await names("tier") == ["a"]
    assert await names("!tier") == ["b"]
    assert await names("app!=s") == []
    assert await cluster.kube.list(SERVICE, "no-such-namespace") == []


async def test_all_namespaces_are_listed_when_none_is_named(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster), manager="test")
    found = await cluster.kube.list(SERVICE, None, selector="app=s")
    assert ("s", cluster.namespace) in {(obj["metadata"]["name"], obj["metadata"]["namespace"]) for obj in found}


async def test_items_of_a_list_do_not_say_their_kind(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster), manager="test")
    (item,) = await cluster.kube.list(SERVICE, cluster.namespace)
    assert "kind" not in item
    assert "apiVersion" not in item
    assert item["spec"]["ports"]


async def test_a_metadata_only_list_leaves_the_rest_out(cluster: Cluster) -> None:
    await cluster.kube.create(SERVICE, objects.service(cluster), manager="test")
    (item,) = await cluster.kube.list(SERVICE, cluster.namespace, metadata_only=True)
    assert item["metadata"]["name"] == "s"
    assert item["metadata"]["labels"] == {"app": "s"}
    assert item["kind"] == "PartialObjectMetadata"
    assert "spec" not in item


async def test_a_delete_that_means_another_object_is_refused(cluster: Cluster) -> None:
    await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster), manager="slipway")
    with pytest.raises(Conflict):
        await cluster.kube.delete(
            CONTROLLER_REVISION, cluster.namespace, "r", uid="00000000-0000-0000-0000-00000000dead"
        )
    assert await cluster.read(CONTROLLER_REVISION, "r")


async def test_deleting_twice_is_fine(cluster: Cluster) -> None:
    made = await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster), manager="slipway")
    for _ in range(2):
        await cluster.kube.delete(CONTROLLER_REVISION, cluster.namespace, "r", uid=made["metadata"]["uid"])
    assert await cluster.kube.get(CONTROLLER_REVISION, cluster.namespace, "r") is None


async def test_what_is_owned_goes_with_its_owner(cluster: Cluster) -> None:
    owner = await cluster.kube.create(SERVICE, objects.service(cluster, name="owner"), manager="slipway")
    await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster, owner=owner), manager="slipway")
    await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster, name="other"), manager="slipway")
    await cluster.kube.delete(SERVICE, cluster.namespace, "owner", uid=owner["metadata"]["uid"])
    cluster.collect_garbage()

    async def is_gone() -> bool:
        return await cluster.kube.get(CONTROLLER_REVISION, cluster.namespace, "r") is None

    await cluster.until(is_gone)
    assert await cluster.read(CONTROLLER_REVISION, "other")
