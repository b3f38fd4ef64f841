"""What the operator makes reads back as it was made: else it would repair its own objects for ever."""

from collections.abc import Iterator

import pytest

from slipway.api.manifest import Manifest
from slipway.api.v1alpha1 import Predictor, RuntimeContainer
from slipway.decide import resources
from slipway.decide.drift import metadata_drifted, replacement, spec_drifted
from slipway.decide.fetching import Fetching
from slipway.decide.network import Network
from slipway.decide.revision import Record
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, NETWORK_POLICY, POD_DISRUPTION_BUDGET, SERVICE, Kind
from tests.contract import objects
from tests.contract.backends import Cluster
from tests.fake import crds, schema

PREDICTOR: Manifest = {
    "model": {
        "modelFormat": {"name": "torchscript"},
        "storageUri": "pvc://claim/models/a",
        "args": ["--x", "$(SLIPWAY_MODEL_NAME)"],
        "env": [
            {"name": "PLAIN", "value": "1"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "EMPTY", "value": ""},
        ],
        "resources": {
            "requests": {"cpu": "1000m", "memory": "1024Mi"},
            "limits": {"cpu": 2, "memory": "0.5Ti", "nvidia.com/gpu": 1},
        },
    },
    "timeout": "90s",
    "serviceAccountName": "reader",
    "nodeSelector": {"gpu": "yes"},
    "tolerations": [
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "x", "operator": "Equal", "value": "y", "effect": "NoExecute", "tolerationSeconds": 5},
    ],
}
NETWORK = Network(
    ingress=(
        {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}], "ports": [{"port": "http"}]},
    ),
    egress=(
        {
            "ports": [{"port": 53, "protocol": "UDP"}],
            "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}],
        },
    ),
)
CONTAINER = {"image": "runtime:1", "command": ["serve"], "args": ["a"], "env": [{"name": "R", "value": "1"}]}


async def children(cluster: Cluster, uri: str) -> list[tuple[Kind, Manifest]]:
    """Every kind of child of a service that uses every field, none of them with a pod."""
    maker = await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster, name="maker"), manager="test")
    owner = {"metadata": {"name": "hello", "namespace": cluster.namespace, "uid": maker["metadata"]["uid"]}}
    stored = {"storage": {"secretName": "reader", "sha256": "a" * 64}} if uri.startswith("s3://") else {}
    predictor = Predictor.model_validate(PREDICTOR | {"model": PREDICTOR["model"] | {"storageUri": uri} | stored})
    container = RuntimeContainer.model_validate(CONTAINER)
    fetched = Fetching(policy={"schemes": ["s3"]}, ca_config_map="bundle")
    template = resources.pod_template("hello", predictor, container, "runtime:1", "fetcher:1", fetched=fetched)
    record = Record("hello-0123456789", 1, "0123456789", "slipway-pytorch", uri, template)
    made = [
        (CONTROLLER_REVISION, resources.record(owner, record)),
        (DEPLOYMENT, resources.deployment(owner, record, 0)),
        (SERVICE, resources.revision_service(owner, record.name)),
        (SERVICE, resources.address(owner, "gateway.ns.svc.cluster.local")),
        (POD_DISRUPTION_BUDGET, resources.budget(owner)),
        (NETWORK_POLICY, resources.network_policy(owner, NETWORK)),
    ]
    for _, body in made:  # an owner that exists, or the garbage collector comes in between
        body["metadata"]["ownerReferences"][0] |= {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "name": "maker",
        }
    return made


@pytest.mark.parametrize("uri", ["pvc://claim/models/a", "sample://hello", "s3://models/a"])
async def test_children_read_back_without_drift(cluster: Cluster, uri: str) -> None:
    for kind, body in await children(cluster, uri):
        live = await cluster.kube.create(kind, body, manager="slipway")
        if kind == CONTROLLER_REVISION:
            assert live["data"] == body["data"]
        else:
            assert not metadata_drifted(body, live)
            assert not spec_drifted(body, live), f"{kind.kind}: {body['spec']} reads back as {live['spec']}"


async def test_repairing_what_has_not_drifted_writes_nothing(cluster: Cluster) -> None:
    for kind, body in await children(cluster, "sample://hello"):
        if kind in {SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY}:
            made = await cluster.kube.create(kind, body, manager="slipway")
            again = body | {"metadata": body["metadata"] | {"uid": made["metadata"]["uid"]}}
            first = await cluster.kube.apply(kind, again, manager="slipway")
            second = await cluster.kube.apply(kind, again, manager="slipway")
            assert first["metadata"].get("generation") == made["metadata"].get("generation")
            assert second["spec"] == made["spec"]


async def test_the_defaults_of_a_deployment_are_these(cluster: Cluster) -> None:
    body = objects.deployment(cluster)
    model = objects.container(body)
    model |= {
        "readinessProbe": {"httpGet": {"port": "http"}},
        "livenessProbe": {"grpc": {"port": 8001}},
        "resources": {"limits": {"memory": "1Gi"}},
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    body["spec"]["template"]["spec"]["volumes"] = [{"name": "a"}, {"name": "c", "configMap": {"name": "c"}}]
    made = await cluster.kube.create(DEPLOYMENT, body, manager="slipway")
    probe = {"failureThreshold": 3, "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1}
    container = {
        "name": "model",
        "image": "slipway.local/none:1",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "readinessProbe": probe | {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}},
        "livenessProbe": probe | {"grpc": {"port": 8001, "service": ""}},
        "resources": {"limits": {"memory": "1Gi"}},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    pod = {
        "containers": [container],
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "volumes": [{"name": "a", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
    }
    template_metadata = made["spec"]["template"].pop("metadata")
    assert template_metadata["labels"] == {"app": "d"}
    assert made["spec"] == {
        "replicas": 0,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "selector": {"matchLabels": {"app": "d"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"spec": pod},
    }


async def test_the_defaults_of_a_service_are_these(cluster: Cluster) -> None:
    made = await cluster.kube.create(SERVICE, objects.service(cluster), manager="slipway")
    address = made["spec"].pop("clusterIP")
    assert address.count(".") == 3
    assert made["spec"] == {
        "type": "ClusterIP",
        "clusterIPs": [address],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}],
        "selector": {"app": "s", "revision": "1"},
        "sessionAffinity": "None",
    }


def test_the_fake_knows_the_map_lists_of_the_crds() -> None:
    found = {
        (name, tuple(node.get("x-kubernetes-list-map-keys", ())))
        for crd in crds.schemas().values()
        for name, node in _lists(crd)
    }
    assert {name: keys for name, keys in found if keys}.items() <= schema.LIST_KEYS.items()
    assert not {name for name, keys in found if not keys} & (schema.LIST_KEYS.keys() | schema.SETS)


def _lists(node: Manifest, name: str = "") -> Iterator[tuple[str, Manifest]]:
    if node.get("type") == "array":
        yield name, node
        yield from _lists(node["items"])
    for child, value in node.get("properties", {}).items():
        yield from _lists(value, child)


async def test_a_service_with_an_address_of_its_own_becomes_a_name_for_the_gateways(cluster: Cluster) -> None:
    """As versions before the gateway left it."""
    maker = await cluster.kube.create(CONTROLLER_REVISION, objects.record(cluster, name="maker"), manager="test")
    owner = {"metadata": {"name": "hello", "namespace": cluster.namespace, "uid": maker["metadata"]["uid"]}}
    wanted = resources.address(owner, "gateway.ns.svc.cluster.local")
    wanted["metadata"]["ownerReferences"][0] |= {"apiVersion": "apps/v1", "kind": "ControllerRevision", "name": "maker"}
    ports = [{"name": "http", "port": 80}, {"name": "grpc", "port": 8001}]
    old = wanted | {"spec": {"selector": {"a": "b"}, "ports": ports}}
    live = await cluster.kube.create(SERVICE, old, manager="slipway")
    assert live["spec"]["clusterIP"]
    assert spec_drifted(wanted, live)
    live = await cluster.kube.replace(SERVICE, replacement(wanted, live), manager="slipway")
    assert live["spec"]["externalName"] == "gateway.ns.svc.cluster.local"
    assert not live["spec"].get("clusterIP")
    assert not spec_drifted(wanted, live)
