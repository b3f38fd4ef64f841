"""The objects of a service, as dicts: one builder per kind.

Every field that the API server would fill in is written out here, so that an object read back equals the one made
(`drift.py`). Pods are always fit for the `restricted` Pod Security Standard.
"""

import json
import math
import re
from typing import Any

from slipway.api.manifest import Manifest
from slipway.api.model import EnvVar, Resources
from slipway.api.names import (
    API_VERSION,
    LABEL_MANAGED_BY,
    LABEL_METRICS,
    LABEL_REVISION,
    LABEL_SERVICE,
    LABEL_VARIANT,
    MANAGED_BY,
    PREVIEW,
)
from slipway.api.schema import seconds
from slipway.api.v1alpha1 import Predictor, RuntimeContainer
from slipway.decide import accounts, fetching, options, placement, storage
from slipway.decide.fetching import Fetching
from slipway.decide.network import Network
from slipway.decide.revision import Record, data

DRAIN_S = 10
"""A pod that ends gives the requests it has their whole `timeout`, and this long more."""
END_S = 10
"""For a process that is done to be gone."""
PROGRESS_S = 3600
PRE_STOP_S = 3
"""A pod keeps answering this long after its end began: the address must have left it everywhere by then."""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
TERMINATION = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError"}
HTTP_PORT, GRPC_PORT = 80, 8001
METRICS = "metrics"
"""The name of the port of a server that tells of itself elsewhere than at `http`."""
NO_WORDS = Fetching()
"""The installation says nothing about fetching."""


def labels(service: str, revision: str | None = None, variant: str = "") -> dict[str, str]:
    own = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_SERVICE: service}
    own |= {LABEL_REVISION: revision} if revision else {}
    return own | ({LABEL_VARIANT: variant} if variant else {})


def metadata(owner: Manifest, name: str, revision: str | None = None, variant: str = "") -> Manifest:
    """Metadata of a child. Deleting the owner never waits for a child, whoever is down (`blockOwnerDeletion`)."""
    meta = owner["metadata"]
    return {
        "name": name,
        "namespace": meta["namespace"],
        "labels": labels(meta["name"], revision, variant),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": "InferenceService",
                "name": meta["name"],
                "uid": meta["uid"],
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def record(owner: Manifest, revision: Record) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata(owner, revision.name, revision.name, revision.variant),
        "data": data(revision),
        "revision": revision.number,
    }


def deployment(owner: Manifest, revision: Record, replicas: int) -> Manifest:
    """The pods of a revision. `replicas` goes into the create request only."""
    service = owner["metadata"]["name"]
    own = labels(service, revision.name, revision.variant)
    spec = revision.template["spec"]
    has_metrics = any(port["name"] == METRICS for one in spec["containers"] for port in one.get("ports") or ())
    told = {LABEL_METRICS: METRICS} if has_metrics else {}
    marks = accounts.marks(spec, revision.storage_uri)
    template = {"metadata": marks | {"labels": own | told | marks.get("labels", {})}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, revision.name, revision.name, revision.variant),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {LABEL_SERVICE: service, LABEL_REVISION: revision.name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            # A revision is one template for ever; the ReplicaSet of a repaired edit is of no use to anybody.
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": PROGRESS_S,
            "template": template,
        },
    }


def revision_service(owner: Manifest, revision: str) -> Manifest:
    """Endpoints of one revision, without an address of its own: by DNS for people, by EndpointSlice for a gateway."""
    ports = [
        {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
        {
            "name": "grpc",
            "port": GRPC_PORT,
            "targetPort": "grpc",
            "protocol": "TCP",
            "appProtocol": "kubernetes.io/h2c",
        },
    ]
    selector = {LABEL_SERVICE: owner["metadata"]["name"], LABEL_REVISION: revision}
    spec = {"type": "ClusterIP", "clusterIP": "None", "selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(owner, revision, revision), "spec": spec}


def address(owner: Manifest, gateway: str) -> Manifest:
    """The one address of a service: a name in its namespace for the gateways, which go by the Host asked for."""
    ports = [{"name": "http", "port": HTTP_PORT, "targetPort": HTTP_PORT, "protocol": "TCP"}]
    spec = {"type": "ExternalName", "externalName": gateway, "ports": ports}
    meta = metadata(owner, owner["metadata"]["name"])
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def preview_address(owner: Manifest, gateway: str) -> Manifest:
    """The same for the preview, NAME-preview, whose answers come from one revision alone."""
    made = address(owner, gateway)
    return made | {"metadata": metadata(owner, owner["metadata"]["name"] + PREVIEW)}


def slots(template: Manifest) -> int:
    """Requests that one pod holds, running and queued; 0 when its server does not tell how long its queue is."""
    env = _told(template)
    queue, concurrency = env.get("SLIPWAY_MAX_QUEUE", ""), env.get("SLIPWAY_CONTAINER_CONCURRENCY", "0")
    return int(queue) + int(concurrency) if queue.isdecimal() and concurrency.isdecimal() else 0


def idle_timeout_ms(template: Manifest) -> int:
    """After how long the server closes a connection without requests; 0 when that is not known."""
    text = _told(template).get("SLIPWAY_IDLE_TIMEOUT_S", "")
    return min(int(float(text) * 1000), 3_600_000) if re.fullmatch(r"[0-9]{1,8}([.][0-9]{1,8})?", text) else 0


def _told(template: Manifest) -> dict[str, str]:
    """What the server is told by its environment."""
    return {var["name"]: str(var.get("value", "")) for var in template["spec"]["containers"][0].get("env") or ()}


def budget(owner: Manifest) -> Manifest:
    """One pod at a time leaves by choice; one that is broken anyway never blocks a node's drain."""
    name = owner["metadata"]["name"]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {LABEL_SERVICE: name}},
        },
    }


def network_policy(owner: Manifest, network: Network) -> Manifest:
    """One for all pods of a service, fetchers included: a pod has one network."""
    name = owner["metadata"]["name"]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, name),
        "spec": {
            "podSelector": {"matchLabels": {LABEL_SERVICE: name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": list(network.ingress),
            "egress": list(network.egress),
        },
    }


def pod_template(
    service: str,
    predictor: Predictor,
    container: RuntimeContainer,
    image: str,
    fetcher_image: str,
    *,
    fetched: Fetching = NO_WORDS,
) -> Manifest:
    """The pods of a new revision, to be frozen in its record."""
    where = storage.locate(predictor.model.storage_uri, runtime_image=image, fetcher_image=fetcher_image)
    spec: Manifest = {
        "containers": [_model(service, predictor, container, image, where)],
        "volumes": [*_volumes(where, container), *fetching.volumes(predictor.model.storage_uri, fetched)],
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": PRE_STOP_S + _drain_s(predictor) + END_S,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {LABEL_SERVICE: service}},
            }
        ],
    }
    spec |= accounts.fields(predictor)
    if where.fetch:
        fetch = fetching.container(where.fetch, predictor.model.storage, fetcher_image, fetched)
        spec["initContainers"] = [fetch | {"securityContext": RESTRICTED, **TERMINATION}]
    if predictor.node_selector:
        spec["nodeSelector"] = predictor.node_selector
    if predictor.tolerations:
        spec["tolerations"] = [t.model_dump(by_alias=True, exclude_none=True) for t in predictor.tolerations]
    return {"spec": spec}


def _model(
    service: str, predictor: Predictor, container: RuntimeContainer, image: str, where: storage.Location
) -> Manifest:
    model = predictor.model
    server: Manifest = {
        "name": accounts.SERVER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": _env(service, predictor, container, where.path),
        "ports": _ports(container),
        "resources": _resources(model.resources, container.resources),
        # A server of somebody's own may listen only once it has loaded: it has as long as the Deployment waits.
        "startupProbe": _probe(container.liveness_path.replace("{name}", service), period_s=1, failures=PROGRESS_S),
        "readinessProbe": _probe(container.readiness_path.replace("{name}", service), period_s=1, failures=3),
        "livenessProbe": _probe(container.liveness_path.replace("{name}", service), period_s=10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "securityContext": RESTRICTED,
        "volumeMounts": _mounts(where, container),
        **TERMINATION,
    }
    if container.command:
        server["command"] = container.command
    if container.args or model.args:
        server["args"] = [*container.args, *model.args]
    return server


def _ports(container: RuntimeContainer) -> list[Manifest]:
    ports = {"http": container.http_port, "grpc": container.grpc_port, METRICS: container.metrics_port}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items() if port]


def _env(service: str, predictor: Predictor, container: RuntimeContainer, path: str) -> list[Manifest]:
    """Environment of the server: Slipway's facts first, so that `$(NAME)` in later values can use them."""
    facts = {
        "SLIPWAY_MODEL_NAME": service,
        "SLIPWAY_MODEL_PATH": path,
        "SLIPWAY_MODEL_FORMAT": predictor.model.model_format.name,
        "SLIPWAY_CONTAINER_CONCURRENCY": str(predictor.container_concurrency),
        "SLIPWAY_TIMEOUT_S": json.dumps(seconds(predictor.timeout)),
        "SLIPWAY_DRAIN_TIMEOUT_S": str(_drain_s(predictor)),
        **({"SLIPWAY_MAX_QUEUE": str(container.max_queue)} if container.max_queue else {}),
        **({"SLIPWAY_MODEL_OPTIONS": said} if (said := options.text(predictor.model)) else {}),
        **({"SLIPWAY_IDLE_TIMEOUT_S": json.dumps(seconds(idle))} if (idle := container.idle_timeout) else {}),
        "HOME": "/tmp/home",  # noqa: S108 - the pod's own emptyDir
        "TMPDIR": "/tmp",  # noqa: S108
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108
    }
    merged: dict[str, Manifest] = {name: {"name": name, "value": value} for name, value in facts.items()}
    for variable in [*container.env, *predictor.model.env]:
        merged[variable.name] = _env_var(variable)
    return list(merged.values())


def _drain_s(predictor: Predictor) -> int:
    return math.ceil(seconds(predictor.timeout)) + DRAIN_S


def _env_var(variable: EnvVar) -> Manifest:
    return variable.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True) | {"name": variable.name}


def _resources(own: Resources, default: Resources) -> Manifest:
    chosen = placement.effective(own, default)
    amounts: dict[str, Any] = {
        "requests": {name: str(amount) for name, amount in chosen.requests.items()},
        "limits": {name: str(amount) for name, amount in chosen.limits.items()},
    }
    # The API server requests what is limited and not requested; written out, the object reads back the same.
    amounts["requests"] = amounts["limits"] | amounts["requests"]
    return {kind: names for kind, names in amounts.items() if names}


def _probe(path: str, *, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": 2,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def _volumes(where: storage.Location, container: RuntimeContainer) -> list[Manifest]:
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    if container.shared_memory is not None:
        memory = {"medium": "Memory", "sizeLimit": str(container.shared_memory)}
        volumes.append({"name": "shm", "emptyDir": memory})
    if where.claim:
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": where.claim, "readOnly": True}})
    elif where.fetch:
        volumes.append({"name": "model", "emptyDir": {}})
    return volumes


def _mounts(where: storage.Location, container: RuntimeContainer) -> list[Manifest]:
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if container.shared_memory is not None:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - where POSIX has it
    if where.claim or where.fetch:
        mounts.append({"name": "model", "mountPath": storage.MOUNT, "readOnly": True})
    return mounts
