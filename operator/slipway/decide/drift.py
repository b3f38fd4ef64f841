"""Does a live object still say what it was made to say?

The API server adds defaults and rewrites quantities (1024Mi -> 1Gi), so equality is too strict; "contains" is too lax,
for it would miss a sidecar or a variable that somebody added. In between: what is wanted must be there, lists must have
the same items, and what is there beyond the wanted must be empty or one of the API server's known defaults.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from slipway.api.manifest import JSON, Manifest

SERVER_DEFAULTS: Mapping[str, JSON] = {
    "defaultMode": 420,
    "protocol": "TCP",
    "scheme": "HTTP",
    "securityContext": {},
    "creationTimestamp": None,
    "sessionAffinity": "None",
    "internalTrafficPolicy": "Cluster",
}
ASSIGNED = ("replicas", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
"""Fields of a child's spec that others set for good: the scale subresource, the API server."""
SUFFIXES: Mapping[str, Decimal] = {
    "": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20),
    "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def same(wanted: JSON, live: JSON) -> bool:
    """True when `live` is `wanted` plus nothing but the API server's own defaults."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return all(same(value, live.get(key)) for key, value in wanted.items()) and all(
            key in wanted or not value or SERVER_DEFAULTS.get(key, ()) == value for key, value in live.items()
        )
    if isinstance(wanted, list) and isinstance(live, list):
        return len(wanted) == len(live) and all(map(same, wanted, live))
    return wanted == live or (not wanted and not live) or same_quantity(wanted, live)


def same_quantity(wanted: JSON, live: JSON) -> bool:
    amount = quantity(wanted)
    return amount is not None and amount == quantity(live)


def quantity(value: JSON) -> Decimal | None:
    """A Kubernetes quantity as a number: `500m` -> 0.5; None when it is not one."""
    text = str(value)
    number = text.rstrip("EGKMPTikm")
    try:
        return Decimal(number) * SUFFIXES[text[len(number) :]]
    except (InvalidOperation, KeyError):
        return None


def metadata_drifted(wanted: Manifest, live: Manifest) -> bool:
    """Whether labels or owner of a child must be put right. Annotations and further labels are anybody's."""
    labels = live["metadata"].get("labels") or {}
    owners = live["metadata"].get("ownerReferences") or []
    return any(labels.get(key) != value for key, value in wanted["metadata"]["labels"].items()) or any(
        not any(same(owner, other) for other in owners) for owner in wanted["metadata"]["ownerReferences"]
    )


def spec_drifted(wanted: Manifest, live: Manifest) -> bool:
    """Whether the spec of a child must be put right."""
    spec = {field: value for field, value in wanted["spec"].items() if field != "replicas"}
    return not same(spec, {f: value for f, value in live["spec"].items() if f in spec or f not in ASSIGNED})


def replacement(wanted: Manifest, live: Manifest) -> Manifest:
    """The live object with everything that is ours put right; what others set for good and their annotations stay."""
    meta = live["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion")}
    kept["annotations"] = meta.get("annotations") or {}
    kept["labels"] = (meta.get("labels") or {}) | wanted["metadata"]["labels"]
    others = [owner for owner in meta.get("ownerReferences") or [] if not owner.get("controller")]
    kept["ownerReferences"] = [*others, *wanted["metadata"]["ownerReferences"]]
    # A name for something else has no address of its own; one that was left from another type would be refused.
    kept_fields = () if wanted["spec"].get("type") == "ExternalName" else ASSIGNED
    assigned = {field: live["spec"][field] for field in kept_fields if field in live["spec"]}
    return {
        "apiVersion": wanted["apiVersion"],
        "kind": wanted["kind"],
        "metadata": kept,
        "spec": wanted["spec"] | assigned,
    }


def version(child: Manifest) -> str:
    """What changes when somebody changes the spec: the generation, for kinds that have none every write."""
    meta = child["metadata"]
    return str(meta.get("generation") or meta["resourceVersion"])
