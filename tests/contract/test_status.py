"""What the status subresource of an InferenceService promises: apart from the spec, both ways."""

import pytest

from slipway.api.manifest import Manifest
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.kube.errors import Conflict
from slipway.kube.kinds import Kind
from tests.contract import objects
from tests.contract.backends import Cluster, served

READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Serving",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
    "observedGeneration": 1,
}
STALLED = READY | {"type": "Stalled", "status": "False"}


def wish(cluster: Cluster, kind: Kind, uri: str = "sample://hello") -> Manifest:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": "hello", "namespace": cluster.namespace},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "torchscript"}, "storageUri": uri}}},
    }


def report(live: Manifest, **status: object) -> Manifest:
    metadata = {key: live["metadata"][key] for key in ("name", "namespace", "uid")}
    return {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata, "status": status}


async def test_status_and_spec_do_not_touch_each_other(cluster: Cluster) -> None:
    async with served(cluster) as kind:
        made = await cluster.kube.create(kind, wish(cluster, kind) | {"status": {"url": "theirs"}}, manager="kubectl")
        assert "status" not in made, "a status in a create request is dropped"
        live = await cluster.kube.apply(kind, report(made, url="http://a"), manager="slipway", subresource="status")
        assert live["metadata"]["generation"] == 1
        assert live["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
        assert live["spec"] == made["spec"]
        body = wish(cluster, kind, "sample://other") | {"status": {"url": "theirs"}}
        live = await cluster.kube.apply(kind, body, manager="kubectl")
        assert live["status"]["url"] == "http://a"
        assert live["metadata"]["generation"] == 2
        assert objects.owners_of(live, "f:status", "f:url") == {("slipway", "Apply", "status")}


async def test_a_status_applied_again_writes_nothing(cluster: Cluster) -> None:
    async with served(cluster) as kind:
        made = await cluster.kube.create(kind, wish(cluster, kind), manager="kubectl")
        body = report(made, url="http://a", conditions=[READY])
        first = await cluster.kube.apply(kind, body, manager="slipway", subresource="status")
        second = await cluster.kube.apply(kind, body, manager="slipway", subresource="status")
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_conditions_are_kept_apart_by_type(cluster: Cluster) -> None:
    async with served(cluster) as kind:
        made = await cluster.kube.create(kind, wish(cluster, kind), manager="kubectl")
        theirs = report(made, conditions=[READY | {"type": "Theirs"}])
        await cluster.kube.apply(kind, theirs, manager="somebody", subresource="status")
        ours = report(made, url="http://a", conditions=[READY, STALLED])
        await cluster.kube.apply(kind, ours, manager="slipway", subresource="status")
        fewer = report(made, conditions=[READY])
        live = await cluster.kube.apply(kind, fewer, manager="slipway", subresource="status")
        assert {condition["type"] for condition in live["status"]["conditions"]} == {"Ready", "Theirs"}
        assert "url" not in live["status"]


async def test_only_a_resource_version_keeps_a_status_from_a_namesake(cluster: Cluster) -> None:
    """On /status the server does not look at metadata.uid."""
    async with served(cluster) as kind:
        made = await cluster.kube.create(kind, wish(cluster, kind), manager="kubectl")
        live = await cluster.kube.apply(kind, report(made, url="http://a"), manager="slipway", subresource="status")
        body = report(made, url="http://b")
        body["metadata"]["uid"] = "00000000-0000-0000-0000-00000000dead"
        live = await cluster.kube.apply(kind, body, manager="slipway", subresource="status")
        assert live["status"]["url"] == "http://b"
        body["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
        with pytest.raises(Conflict):
            await cluster.kube.apply(kind, body, manager="slipway", subresource="status")


async def test_a_wish_reads_back_with_the_defaults_of_the_models(cluster: Cluster) -> None:
    async with served(cluster) as kind:
        made = await cluster.kube.create(kind, wish(cluster, kind), manager="kubectl")
        wanted = InferenceServiceSpec.model_validate(wish(cluster, kind)["spec"])
        assert made["spec"] == wanted.model_dump(by_alias=True, exclude_none=True)


async def test_a_status_reads_back_as_it_was_written(cluster: Cluster) -> None:
    """Nothing is added and nothing pruned, the table that gateways read included."""
    table = {"version": "a", "targets": [{"revision": "a-1", "weight": 10_000}], "timeoutMs": 1, "later": {"field": 1}}
    written = {"url": "http://a", "conditions": [READY], "routing": table}
    async with served(cluster) as kind:
        made = await cluster.kube.create(kind, wish(cluster, kind), manager="kubectl")
        live = await cluster.kube.apply(kind, report(made, **written), manager="slipway", subresource="status")
        assert live["status"] == written
