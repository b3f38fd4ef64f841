"""What the cluster looks like, as far as watches, the sweep and our own writes have told.

Answers two questions: what belongs to an InferenceService now, and whom does a changed object concern. Objects
are kept once, trimmed to what decisions need; whoever gets one must not change it. News may come late, twice or
in any order (a watch behind our own write's answer, a deletion behind a re-creation): the newer resourceVersion
wins, compared as integers, which Kubernetes guarantees within a kind.
"""

import sys
from collections import OrderedDict
from collections.abc import Iterator

from slipway.api.manifest import JSON, Key, Manifest
from slipway.api.names import ABORT, COMMAND, DELETION_COST, LABEL_REVISION, LABEL_SERVICE
from slipway.decide.fetching import FETCHER, PROGRESS
from slipway.decide.hosts import label, previewed
from slipway.decide.scaling.seen import launch
from slipway.kube.kinds import (
    CLUSTER_SERVING_RUNTIME,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    INFERENCE_SERVICE,
    OWNED,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVING_RUNTIME,
    Kind,
)

_TOMBSTONES = 4096
"""Deletions remembered: only as many as answers of our own writes can be overtaken by watch events."""
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_POD_METADATA = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
_CONTAINER = ("name", "restartCount", "state", "lastState")
_STARTING = ("ContainerCreating", "PodInitializing")
_WORD = 64
"""Longer strings are seldom alike."""
_CONDITION = ("type", "status", "reason", "message")
_CONDITIONS = ("PodScheduled", "Ready", "ReplicaFailure")
_OF_POD = ("address", "launch")
"""What only scaling looks at, when it looks."""
_NO_NEWS = (*_OF_POD, "fetching")
_DEPLOYMENT_STATUS = ("observedGeneration", "readyReplicas", "updatedReplicas")

Place = tuple[str, str]
"""Namespace ("" for cluster-scoped) and name."""


class Cache:
    def __init__(self) -> None:
        self._objects: dict[Kind, dict[Place, Manifest]] = {}
        self._owned: dict[tuple[Key, Kind], dict[str, Manifest]] = {}
        self._labels: dict[str, set[Key]] = {}
        """Label outside -> services that come to it, nearly always one."""
        self._tombstones: OrderedDict[tuple[Kind, Place], int] = OrderedDict()

    def put(self, kind: Kind, manifest: Manifest) -> set[Key]:
        """Keep the object if it is newer; the keys it concerns, none if nothing changed that decisions look at."""
        place, version = place_of(manifest), version_of(manifest)
        known = self._objects.get(kind, {}).get(place)
        newest = version_of(known) if known else self._tombstones.get((kind, place), -1)
        if version <= newest:
            return set()
        self._tombstones.pop((kind, place), None)
        if known:
            self._forget(kind, place, known)  # its labels may have named another service
        kept = _compact(_trim_pod(manifest, known or {}) if kind == POD else _trim(kind, manifest), known or {})
        is_news = known is None or _content(kind, kept) != _content(kind, known)
        self._objects.setdefault(kind, {})[place] = kept
        if owner := _owner(kind, kept):
            self._owned.setdefault((owner, kind), {})[place[1]] = kept
        if kind == INFERENCE_SERVICE:
            self._labels.setdefault(label(*place), set()).add(place)
        if not is_news:
            return set()
        return self._concerned(kind, kept) | (self._concerned(kind, known) if known else set())

    def remove(self, kind: Kind, manifest: Manifest) -> set[Key]:
        """Drop the object unless a newer one of that name is known; the keys it concerned."""
        place, version = place_of(manifest), version_of(manifest)
        known = self._objects.get(kind, {}).get(place)
        if known and version_of(known) > version:
            return set()
        self._tombstones[kind, place] = version
        self._tombstones.move_to_end((kind, place))
        if len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)
        if known is None:
            return set()
        self._forget(kind, place, known)
        return self._concerned(kind, known)

    def service(self, key: Key) -> Manifest | None:
        """The InferenceService itself."""
        return self._objects.get(INFERENCE_SERVICE, {}).get(key)

    def owned(self, key: Key, kind: Kind) -> list[Manifest]:
        """Objects that carry the service's label; whether it really owns them is the caller's question."""
        return list(self._owned.get((key, kind), {}).values())

    def rivals(self, key: Key) -> list[Manifest]:
        """Other services whose label outside is the same."""
        return [self._objects[INFERENCE_SERVICE][other] for other in self._labels.get(label(*key), ()) if other != key]

    def runtimes(self, namespace: str) -> list[Manifest]:
        """ServingRuntimes of the namespace, then the cluster's."""
        near = self._objects.get(SERVING_RUNTIME, {})
        return [
            *(runtime for (place, _), runtime in near.items() if place == namespace),
            *self._objects.get(CLUSTER_SERVING_RUNTIME, {}).values(),
        ]

    def services(self) -> list[Key]:
        """Every InferenceService known."""
        return list(self._objects.get(INFERENCE_SERVICE, {}))

    def objects(self, kind: Kind) -> Iterator[Manifest]:
        """All of a kind; not to be held across an await."""
        return iter(self._objects.get(kind, {}).values())

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """By name; the namespace of cluster-scoped objects is empty."""
        return self._objects.get(kind, {}).get((namespace, name))

    def _forget(self, kind: Kind, place: Place, known: Manifest) -> None:
        del self._objects[kind][place]
        if kind == INFERENCE_SERVICE:
            self._labels[label(*place)].discard(place)
            if not self._labels[label(*place)]:
                del self._labels[label(*place)]
        if owner := _owner(kind, known):
            siblings = self._owned[owner, kind]
            del siblings[place[1]]
            if not siblings:
                del self._owned[owner, kind]

    def _concerned(self, kind: Kind, manifest: Manifest) -> set[Key]:
        if kind == INFERENCE_SERVICE:
            place = place_of(manifest)
            of_preview = (place[0], previewed(place[1]))
            return {place} | self._labels.get(label(*place), set()) | ({of_preview} & self._objects[kind].keys())
        if kind == CLUSTER_SERVING_RUNTIME:
            return set(self.services())
        if kind == SERVING_RUNTIME:
            namespace = manifest["metadata"]["namespace"]
            return {key for key in self.services() if key[0] == namespace}
        owner = _owner(kind, manifest)
        return {owner} if owner else set()


def place_of(manifest: Manifest) -> Place:
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(manifest: Manifest) -> int:
    return int(manifest["metadata"]["resourceVersion"])


def _owner(kind: Kind, manifest: Manifest) -> Key | None:
    metadata = manifest["metadata"]
    name = (metadata.get("labels") or {}).get(LABEL_SERVICE)
    if not name or not kind.namespaced or kind in (INFERENCE_SERVICE, SERVING_RUNTIME):
        return None
    return metadata["namespace"], name


def _trim(kind: Kind, manifest: Manifest) -> Manifest:
    """Without what is half of an object's size and no decision's input; with the kind that lists leave out."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    annotations = metadata.get("annotations")
    if annotations and _LAST_APPLIED in annotations:
        metadata["annotations"] = {n: value for n, value in annotations.items() if n != _LAST_APPLIED}
    if kind == INFERENCE_SERVICE and annotations and (COMMAND in annotations or ABORT in annotations):
        metadata["managedFields"] = _commanders(manifest["metadata"].get("managedFields") or [])
    kept = manifest | {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    if kind == ENDPOINT_SLICE:
        return _trim_slice(kept)
    if kind == POD_DISRUPTION_BUDGET:
        kept.pop("status", None)
    if kind == DEPLOYMENT:
        status = manifest.get("status") or {}
        kept["status"] = _only(status, _DEPLOYMENT_STATUS) | {"conditions": _conditions(status)}
    return kept


def _commanders(entries: list[Manifest]) -> list[Manifest]:
    """Who wrote the annotations that are commands, and nothing of who wrote what else."""
    found = []
    for entry in entries:
        owned = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if kept := _only(owned, (f"f:{COMMAND}", f"f:{ABORT}")):
            fields = {"f:metadata": {"f:annotations": kept}}
            found.append({"manager": entry.get("manager", ""), "fieldsV1": fields})
    return found


def _trim_slice(one: Manifest) -> Manifest:
    """Who is ready, and nothing of how it came to that."""
    ready = (
        end.get("targetRef", {}).get("name", "")
        for end in one.get("endpoints") or []
        if (end.get("conditions") or {}).get("ready") is not False
    )
    metadata = _only(one["metadata"], _POD_METADATA)
    return _only(one, ("apiVersion", "kind")) | {"metadata": metadata, "ready": sorted(ready)}


def _trim_pod(pod: Manifest, known: Manifest) -> Manifest:
    """A pod without the steps of a good start: only a fault, readiness and the end are anybody's business.

    Once it is ready, where it is and how long its parts took: how it first became so, not how it came back.
    """
    status = pod.get("status") or {}
    containers = {
        field: [_trim_container(container) for container in status[field]]
        for field in ("initContainerStatuses", "containerStatuses")
        if status.get(field)
    }
    marked = _only(pod["metadata"].get("annotations") or {}, (DELETION_COST,))
    marks = {"annotations": marked} if marked else {}
    conditions = [c for c in _conditions(status) if (c["type"] == "Ready") == (c["status"] == "True")]
    return {
        "metadata": _only(pod["metadata"], _POD_METADATA) | marks,
        "status": {"conditions": conditions} | {f: kept for f, kept in containers.items() if any(map(_ended, kept))},
        **_only(known if known.get("metadata", {}).get("uid") == pod["metadata"]["uid"] else {}, _OF_POD),
        **({"address": address} if (address := _address(pod)) else {}),
        **({"fetching": port} if (port := _fetching(pod)) else {}),
        **({"launch": took} if "launch" not in known and (took := launch(pod)) else {}),
    }


def _fetching(pod: Manifest) -> int:
    """The port at which its fetcher tells how far it is, while that runs; 0: there is none."""
    running = (
        one["name"] for one in (pod.get("status") or {}).get("initContainerStatuses") or () if "running" in one["state"]
    )
    if FETCHER not in running:
        return 0
    containers = (pod.get("spec") or {}).get("initContainers") or ()
    ports = (port for one in containers if one["name"] == FETCHER for port in one.get("ports") or ())
    return next((int(port["containerPort"]) for port in ports if port.get("name") == PROGRESS), 0)


def _address(pod: Manifest) -> str:
    """Of a pod that a revision's ReplicaSet made; of none that shares its node's network, or only bears the labels."""
    meta = pod["metadata"]
    revision = (meta.get("labels") or {}).get(LABEL_REVISION, "")
    is_made = any(
        owner.get("controller") and owner.get("kind") == "ReplicaSet" and owner["name"].startswith(f"{revision}-")
        for owner in meta.get("ownerReferences") or ()
    )
    is_own = revision and is_made and not (pod.get("spec") or {}).get("hostNetwork")
    return str((pod.get("status") or {}).get("podIP", "")) if is_own else ""


def _trim_container(container: Manifest) -> Manifest:
    state = container.get("state") or {}
    if (state.get("waiting") or {}).get("reason") in _STARTING or "running" in state:
        state = {}
    return _only(container, _CONTAINER) | {"state": state}


def _ended(container: Manifest) -> bool:
    return bool(container["state"] or container.get("lastState"))


def _conditions(status: Manifest) -> list[Manifest]:
    known = status.get("conditions") or []
    return [_only(condition, _CONDITION) for condition in known if condition["type"] in _CONDITIONS]


def _compact(manifest: Manifest, known: Manifest) -> Manifest:
    """The same in half the memory: unchanged fields are those of the version before, equal words are kept once.

    A fresh copy, too, so that what was trimmed leaves no holes that nothing else fits in.
    """
    return {
        field: known[field] if field in known and known[field] == value else _interned(value)
        for field, value in manifest.items()
    }


def _interned(value: JSON) -> JSON:
    match value:
        case str():
            return sys.intern(value) if len(value) < _WORD else value
        case dict():
            return {sys.intern(key): _interned(inner) for key, inner in value.items()}
        case list():
            return [_interned(inner) for inner in value]
    return value


def _only(manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    return {name: manifest[name] for name in names if name in manifest}


def _content(kind: Kind, manifest: Manifest) -> Manifest:
    """What decisions look at: all but the version and, on what Slipway makes, annotations: those are anybody's."""
    ignored = ("resourceVersion", "annotations") if kind in OWNED else ("resourceVersion",)
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in ignored}
    kept = manifest | {"metadata": metadata}
    return {name: value for name, value in kept.items() if name not in _NO_NEWS} if kind == POD else kept
