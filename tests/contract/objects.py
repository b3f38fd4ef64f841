"""Small manifests for the contract: complete enough for a real API server, and pods that nobody starts."""

from typing import Any

from slipway.api.manifest import Manifest
from tests.contract.backends import Cluster


def deployment(cluster: Cluster, *, env: dict[str, str] | None = None, **spec: Any) -> Manifest:
    container = {
        "name": "model",
        "image": "slipway.local/none:1",
        "env": [{"name": name, "value": value} for name, value in (env or {"A": "1"}).items()],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": cluster.namespace, "labels": {"app": "d"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [container]}},
        }
        | spec,
    }


def applied(deployment: Manifest, *, uid: str = "") -> Manifest:
    """The body of an apply: without replicas, which have an owner of their own."""
    spec = {name: value for name, value in deployment["spec"].items() if name != "replicas"}
    metadata = deployment["metadata"] | ({"uid": uid} if uid else {})
    return deployment | {"metadata": metadata, "spec": spec}


def service(cluster: Cluster, *, name: str = "s", **labels: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": cluster.namespace, "labels": labels or {"app": "s"}},
        "spec": {"selector": {"app": "s", "revision": "1"}, "ports": [{"name": "http", "port": 80}]},
    }


def record(cluster: Cluster, *, name: str = "r", owner: Manifest | None = None) -> Manifest:
    metadata: Manifest = {"name": name, "namespace": cluster.namespace}
    if owner:
        metadata["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata,
        "revision": 1,
        "data": {"template": {"a": 1}},
    }


def container(deployment: Manifest, name: str = "model") -> Manifest:
    containers: list[Manifest] = deployment["spec"]["template"]["spec"]["containers"]
    return next(c for c in containers if c["name"] == name)


def env(deployment: Manifest) -> dict[str, str]:
    return {e["name"]: e["value"] for e in container(deployment).get("env", [])}


def owners_of(obj: Manifest, *path: str) -> set[tuple[str, str, str]]:
    """(manager, operation, subresource) of everybody who owns the field at `path`, written as in FieldsV1."""
    found = set()
    for entry in obj["metadata"]["managedFields"]:
        node: Manifest | None = entry["fieldsV1"]
        for element in path:
            node = (node or {}).get(element)
        if node is not None:
            found.add((entry["manager"], entry["operation"], entry.get("subresource", "")))
    return found
