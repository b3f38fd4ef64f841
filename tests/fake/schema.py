"""How the API server merges each field: which lists are maps, which maps are atomic.

Stands in for the OpenAPI extensions `x-kubernetes-list-type`, `-list-map-keys` and `-map-type` of the kinds
Slipway writes. Keyed by field name: within these kinds a name means one thing, but for `ports`.
A list that is not here is atomic, as on the server.
"""

from typing import Final

from slipway.api.manifest import Manifest

Path = tuple[str, ...]
"""FieldsV1 spelling of a field: `("f:spec", "f:containers", 'k:{"name":"model"}', "f:image")`."""

LIST_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "metrics": ("name",),
    "options": ("name",),
    "ownerReferences": ("uid",),
    "revisions": ("name",),
    "scaling": ("variant",),
    "schedules": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "variants": ("name",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
SETS: Final = frozenset({"finalizers"})
ATOMIC_ITEMS: Final = frozenset({"ownerReferences"})
ATOMIC_MAPS: Final = frozenset(
    {"configMapKeyRef", "fieldRef", "nodeSelector", "resourceFieldRef", "secretKeyRef", "selector"}
)
KEY_DEFAULTS: Final = {"protocol": "TCP"}
"""A key field with a schema default takes part in the key even when the body leaves it out."""

STATUS_SUBRESOURCE: Final = frozenset(
    {"Deployment", "InferenceService", "Pod", "PodDisruptionBudget", "ReplicaSet", "Service"}
)
GENERATION: Final = frozenset(
    {
        "ClusterServingRuntime",
        "Deployment",
        "InferenceService",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "ReplicaSet",
        "ServingRuntime",
    }
)
"""Kinds whose strategy counts generations; Service and ControllerRevision have none."""


def field_name(path: Path) -> str:
    return path[-1].removeprefix("f:") if path else ""


def list_keys(path: Path) -> tuple[str, ...]:
    """Names of the fields that identify an item of the list at `path`; empty: the list is no map."""
    name = field_name(path)
    if name == "ports":
        in_container = any(element.startswith("f:containers") for element in path) or any(
            element.startswith("f:initContainers") for element in path
        )
        return ("containerPort" if in_container else "port", "protocol")
    return LIST_KEYS.get(name, ())


def item_key(item: Manifest, keys: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(item.get(key, KEY_DEFAULTS.get(key)) for key in keys)
