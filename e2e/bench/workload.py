"""What is created: InferenceServices, and as the baseline plain Deployments and Services with the very same pods."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from e2e.bench.api import Api, Manifest, until
from e2e.bench.subject import IMAGE
from e2e.cluster.paths import REPO

GROUP = "slipway.dev/v1alpha1"
RUNTIME: Manifest = {
    "apiVersion": GROUP,
    "kind": "ClusterServingRuntime",
    "metadata": {"name": "slipway-pytorch"},
    "spec": {
        "supportedModelFormats": [{"name": "torchscript"}, {"name": "torch-export"}],
        "container": {
            "image": IMAGE,
            "args": ["serve"],
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        },
    },
}
_LABELS = ("slipway.dev/inferenceservice", "slipway.dev/revision")


SERVICES = f"/apis/{GROUP}/namespaces/{{}}/inferenceservices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
CORE = "/api/v1/namespaces/{}/services"


def read_crds() -> list[Manifest]:
    return [yaml.safe_load(path.read_text()) for path in sorted((REPO / "crds").glob("*.yaml"))]


async def install(api: Api, crds: list[Manifest], namespace: str) -> None:
    """What the chart installs of it."""
    for crd in crds:
        await api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    await api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})

    async def is_served() -> bool:
        return await api.exists(f"/apis/{GROUP}/clusterservingruntimes") and await api.exists(
            SERVICES.format("default")
        )

    await until(is_served, "the CRDs to be served")
    await api.create(f"/apis/{GROUP}/clusterservingruntimes", RUNTIME)


def spec(model: str) -> Manifest:
    return {"predictor": {"model": {"modelFormat": {"name": "torchscript"}, "storageUri": f"sample://{model}"}}}


def inference_services(namespace: str, names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        body = {"apiVersion": GROUP, "kind": "InferenceService", "metadata": {"name": name}, "spec": spec("first")}
        yield SERVICES.format(namespace), json.dumps(body).encode()


def owner(deployment: Manifest) -> str:
    return str(deployment["metadata"]["labels"][_LABELS[0]])


def plain(namespace: str, names: list[str], deployment: Manifest, address: Manifest) -> Iterator[tuple[str, bytes]]:
    """Copies of what Slipway made for one service, under labels that are nobody's."""
    revision, service = deployment["metadata"]["name"], owner(deployment)
    pairs = [(DEPLOYMENTS, json.dumps(_anonymous(deployment))), (CORE, json.dumps(_anonymous(address)))]
    for name in names:
        for path, text in pairs:
            yield path.format(namespace), text.replace(revision, name).replace(service, name).encode()


def _anonymous(body: Manifest) -> Manifest:
    spec = {key: value for key, value in body["spec"].items() if not key.startswith(("clusterIP", "ipFamil"))}
    text = json.dumps({"metadata": {"name": body["metadata"]["name"]}, "spec": spec})
    for label in _LABELS:
        text = text.replace(label, label.replace("slipway.dev", "example.com"))
    anonymous: Manifest = json.loads(text)
    anonymous["spec"].get("template", {}).get("metadata", {}).get("labels", {}).pop(
        "app.kubernetes.io/managed-by", None
    )
    return anonymous


def is_available(deployment: Manifest) -> bool:
    status = deployment.get("status", {})
    return bool(
        status.get("availableReplicas") and status["observedGeneration"] == deployment["metadata"]["generation"]
    )


def is_ready(service: Manifest) -> bool:
    return _condition(service, "Ready") == "True" and _is_observed(service)


def has_released(model: str) -> Callable[[Manifest], bool]:
    """Whether the revision with this model answers, and the one before it has gone."""

    def test(service: Manifest) -> bool:
        status = service.get("status", {})
        models = [revision.get("storageUri") for revision in status.get("revisions", [])]
        return is_ready(service) and models == [f"sample://{model}"] and status["rollout"]["phase"] == "Healthy"

    return test


def _is_observed(service: Manifest) -> bool:
    return bool(service["status"].get("observedGeneration") == service["metadata"]["generation"])


def _condition(service: Manifest, kind: str) -> Any:
    conditions = service.get("status", {}).get("conditions", [])
    return next((one["status"] for one in conditions if one["type"] == kind), None)
