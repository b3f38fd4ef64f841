"""The rest of the control plane, one step at a time: Deployment controller, kubelet, garbage collector.

Nothing here runs by itself; a test calls `settle` and `gc` where it wants the cluster to have caught up.
Pods name a ReplicaSet as their owner, which has its Deployment's uid and is not there: nothing of Slipway looks for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from json import dumps

from slipway.api.manifest import Manifest
from slipway.kube.kinds import DEPLOYMENT, ENDPOINT_SLICE, POD, SERVICE, Kind

from .fields import copied
from .store import Store

SERVICE_NAME = "kubernetes.io/service-name"
CONTROLLER = "kube-controller-manager"
KUBELET = "kubelet"
Choice = Callable[[Manifest], bool]


@dataclass(frozen=True, slots=True)
class Failure:
    """How a container of a pod fails, as its kubelet reports it.

    `waiting` is the reason it is not running now (CrashLoopBackOff, ImagePullBackOff, ...; empty: it has just
    ended); `exit_code` None means that it never ran.
    """

    container: str = "model"
    waiting: str = "CrashLoopBackOff"
    waiting_message: str = ""
    exit_code: int | None = 1
    reason: str = "Error"
    message: str = ""
    restarts: int = 1


def settle(
    store: Store,
    *,
    ready: bool = True,
    failure: Failure | None = None,
    only: Choice = lambda _deployment: True,
    load_s: float = 0.0,
) -> None:
    """Bring pods and status of the Deployments that `only` chooses to what their spec says.

    Every such pod is then Ready, or starting, or fails as told; it is starting for `load_s` at least.
    """
    for deployment in filter(only, store.list(DEPLOYMENT)):
        pods = _scale(store, deployment)
        for index, pod in enumerate(pods):
            is_loaded = ready and _age_s(store, pod) >= load_s
            status = _pod_status(store, pod, index, ready=is_loaded, failure=failure)
            pods[index] = _set_status(store, pod, status, KUBELET)
        _set_status(store, deployment, _deployment_status(store, deployment, pods), CONTROLLER)
    slices(store)


def _age_s(store: Store, pod: Manifest) -> float:
    return (store.now - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])).total_seconds()


def slices(store: Store) -> None:
    """Bring the EndpointSlices of headless Services to what their pods are."""
    wanted = {(s["metadata"]["namespace"], s["metadata"]["name"]): s for s in store.list(SERVICE) if _is_headless(s)}
    for live in store.list(ENDPOINT_SLICE):
        meta = live["metadata"]
        if (meta["namespace"], meta["labels"][SERVICE_NAME]) not in wanted:
            store.delete(ENDPOINT_SLICE, meta["namespace"], meta["name"])
    for (namespace, name), service in wanted.items():
        body = _slice(service, [pod for pod in store.list(POD, namespace) if _is_selected(service, pod)])
        if store.get(ENDPOINT_SLICE, namespace, name) is None:
            store.create(ENDPOINT_SLICE, body, manager=CONTROLLER)
        else:
            store.edit(ENDPOINT_SLICE, namespace, name, partial(_relist, body["endpoints"]), manager=CONTROLLER)


def _relist(endpoints: list[Manifest], live: Manifest) -> None:
    live["endpoints"] = endpoints


def _is_headless(service: Manifest) -> bool:
    return service["spec"].get("clusterIP") == "None" and bool(service["spec"].get("selector"))


def _is_selected(service: Manifest, pod: Manifest) -> bool:
    return bool(service["spec"]["selector"].items() <= pod["metadata"].get("labels", {}).items())


def _slice(service: Manifest, pods: list[Manifest]) -> Manifest:
    meta = service["metadata"]
    return {
        "apiVersion": ENDPOINT_SLICE.api_version,
        "kind": ENDPOINT_SLICE.kind,
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": meta["labels"] | {SERVICE_NAME: meta["name"]},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": is_ready(pod)},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
            }
            for pod in pods
            if pod.get("status")
        ],
    }


def no_node(store: Store, *, only: Choice = lambda _deployment: True) -> None:
    """The pods of the Deployments that `only` chooses exist, and no node has room for them."""
    for deployment in filter(only, store.list(DEPLOYMENT)):
        for pod in _scale(store, deployment):
            unscheduled = _condition(store, pod, "PodScheduled", False, reason="Unschedulable", message="no node fits")
            _set_status(store, pod, {"conditions": [unscheduled]}, "kube-scheduler")


def gc(store: Store) -> None:
    """Delete what has owners, all of which are gone; and what that leaves alone, until nothing changes."""
    while orphans := _orphans(store):
        for kind, obj in orphans:
            store.delete(kind, obj["metadata"].get("namespace"), obj["metadata"]["name"])
    slices(store)


def _orphans(store: Store) -> list[tuple[Kind, Manifest]]:
    objects = [(kind, obj) for kind in store.kinds() for obj in store.list(kind)]
    alive = {obj["metadata"]["uid"] for _, obj in objects}
    return [(kind, obj) for kind, obj in objects if (owners := _owner_uids(obj)) and not owners & alive]


def _scale(store: Store, deployment: Manifest) -> list[Manifest]:
    """As many pods of the present template as the Deployment asks for; the others deleted."""
    meta, wanted = deployment["metadata"], deployment["spec"]["replicas"]
    digest = sha256(dumps(deployment["spec"]["template"], sort_keys=True).encode()).hexdigest()[:8]
    mine = [pod for pod in store.list(POD, meta["namespace"]) if meta["uid"] in _owner_uids(pod)]
    current = [pod for pod in mine if pod["metadata"]["labels"]["pod-template-hash"] == digest]
    for pod in [pod for pod in mine if pod not in current] + current[wanted:]:
        store.delete(POD, meta["namespace"], pod["metadata"]["name"])
    used = {pod["metadata"]["name"] for pod in current}
    free = (name for n in range(wanted * 2) if (name := f"{meta['name']}-{digest}-{n}") not in used)
    missing = max(0, wanted - len(current))
    made = [store.create(POD, _pod(deployment, next(free), digest), manager=CONTROLLER) for _ in range(missing)]
    return current[:wanted] + made


def _owner_uids(obj: Manifest) -> set[str]:
    return {owner["uid"] for owner in obj["metadata"].get("ownerReferences", [])}


def _pod(deployment: Manifest, name: str, digest: str) -> Manifest:
    meta, template = deployment["metadata"], copied(deployment["spec"]["template"])
    labels = template["metadata"].get("labels", {}) | {"pod-template-hash": digest}
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": f"{meta['name']}-{digest}",
        "uid": meta["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template["metadata"],
            "name": name,
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": template["spec"] | {"nodeName": "node"},
    }


def _pod_status(store: Store, pod: Manifest, index: int, *, ready: bool, failure: Failure | None) -> Manifest:
    time = store.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    inits = [c["name"] for c in pod["spec"].get("initContainers", [])]
    mains = [c["name"] for c in pod["spec"]["containers"]]
    init_failed = failure is not None and failure.container in inits
    is_ready = ready and failure is None
    status = {
        "phase": "Pending" if init_failed else "Running",
        "startTime": time,
        "podIP": f"10.244.{_net(pod)}.{index + 1}",
        "conditions": [
            _flag("Initialized", not init_failed, time),
            _flag("Ready", is_ready, time, "ContainersNotReady"),
            _flag("ContainersReady", is_ready, time, "ContainersNotReady"),
            _flag("PodScheduled", True, time),
        ],
        "containerStatuses": [_container(name, failure, is_ready, time, held=init_failed) for name in mains],
    }
    if inits:
        status["initContainerStatuses"] = [_init_container(name, failure, time) for name in inits]
    return status


def _net(pod: Manifest) -> int:
    """Pods of a variant have addresses of their own."""
    variant = pod["metadata"]["labels"].get("slipway.dev/variant", "")
    return sum(map(ord, variant)) % 256


def _flag(kind: str, value: bool, time: str, reason: str = "") -> Manifest:
    condition = {"type": kind, "status": str(value), "lastTransitionTime": time}
    return condition if value or not reason else condition | {"reason": reason}


def _container(name: str, failure: Failure | None, ready: bool, time: str, *, held: bool) -> Manifest:
    base = {"name": name, "ready": ready, "restartCount": 0, "started": True}
    if held:
        return base | {"state": {"waiting": {"reason": "PodInitializing"}}, "started": False}
    if failure is not None and failure.container == name:
        return base | _failed(failure, time)
    return base | {"state": {"running": {"startedAt": time}}}


def _init_container(name: str, failure: Failure | None, time: str) -> Manifest:
    if failure is not None and failure.container == name:
        return {"name": name, "ready": False, **_failed(failure, time)}
    done = {"exitCode": 0, "reason": "Completed", "startedAt": time, "finishedAt": time}
    return {"name": name, "ready": True, "restartCount": 0, "state": {"terminated": done}}


def _failed(failure: Failure, time: str) -> Manifest:
    status: Manifest = {"restartCount": failure.restarts, "started": False}
    ended = {
        "exitCode": failure.exit_code,
        "reason": failure.reason,
        "startedAt": time,
        "finishedAt": time,
    } | ({"message": failure.message} if failure.message else {})
    if not failure.waiting:
        return status | {"state": {"terminated": ended}}
    waiting = {"reason": failure.waiting} | ({"message": failure.waiting_message} if failure.waiting_message else {})
    last = {} if failure.exit_code is None else {"lastState": {"terminated": ended}}
    return status | last | {"state": {"waiting": waiting}}


def _deployment_status(store: Store, deployment: Manifest, pods: list[Manifest]) -> Manifest:
    wanted, total = deployment["spec"]["replicas"], len(pods)
    ready = sum(is_ready(pod) for pod in pods)
    counts = {
        "replicas": total,
        "updatedReplicas": total,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, wanted - ready),
    }
    name, done = deployment["metadata"]["name"], ready >= wanted
    availability = "MinimumReplicasAvailable" if done else "MinimumReplicasUnavailable"
    progress = "NewReplicaSetAvailable" if done else "ReplicaSetUpdated"
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        **{field: count for field, count in counts.items() if count},
        "conditions": [
            _condition(
                store,
                deployment,
                "Available",
                done,
                reason=availability,
                message=f"{ready} of {wanted} available",
            ),
            _condition(
                store,
                deployment,
                "Progressing",
                True,
                reason=progress,
                message=f'ReplicaSet "{name}" is progressing.',
            ),
        ],
    }


def is_ready(pod: Manifest) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])


def _condition(store: Store, obj: Manifest, kind: str, value: bool, *, reason: str, message: str) -> Manifest:
    """The condition with the time it had, if its status is the same as before."""
    now = store.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    known = obj.get("status", {}).get("conditions", [])
    before: Manifest = next((c for c in known if c["type"] == kind and c["status"] == str(value)), {})
    return {
        "type": kind,
        "status": str(value),
        "reason": reason,
        "message": message,
        "lastTransitionTime": before.get("lastTransitionTime", now),
        "lastUpdateTime": before.get("lastUpdateTime", now),
    }


def _set_status(store: Store, obj: Manifest, status: Manifest, manager: str) -> Manifest:
    kind = POD if obj["kind"] == "Pod" else DEPLOYMENT
    meta = obj["metadata"]

    def change(live: Manifest) -> None:
        live["status"] = status

    return store.edit(kind, meta["namespace"], meta["name"], change, manager=manager, subresource="status")
