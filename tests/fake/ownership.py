"""Who owns which field, and what a write by one manager does to the others.

Two ways to write, as on the server: Update (POST, PUT, merge patch) owns what it changed, Apply owns what its
body says, whether it changed or not. Apply here is always forced, as Slipway sends it: a conflicting field
goes over to the applier.
"""

from dataclasses import dataclass
from typing import Literal

from slipway.api.manifest import Manifest

from .fields import FieldSet, leaves, merge, remove, to_fields_v1, with_parents
from .schema import Path


@dataclass(frozen=True, slots=True)
class Owner:
    manager: str
    operation: Literal["Apply", "Update"]
    subresource: str = ""


Owners = dict[Owner, FieldSet]

_UNOWNED = {
    ("f:apiVersion",),
    ("f:kind",),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            "creationTimestamp",
            "deletionTimestamp",
            "generation",
            "managedFields",
            "name",
            "namespace",
            "resourceVersion",
            "uid",
        )
    ),
}
"""Identity and bookkeeping: never owned by anybody (metadata.name inside a template is)."""


def field_values(obj: Manifest) -> dict[Path, object]:
    return {path: value for path, value in leaves(obj) if not (path[:1] in _UNOWNED or path[:2] in _UNOWNED)}


def after_update(before: Manifest, after: Manifest, owners: Owners, writer: Owner) -> Owners:
    """Owners once `writer` has turned `before` into `after` by an Update: it owns what it added or changed."""
    old, new = field_values(before), field_values(after)
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    kept = {owner: fields - changed for owner, fields in owners.items()}
    kept[writer] = owners.get(writer, frozenset()) | changed
    return _existing(kept, frozenset(new))


def after_apply(live: Manifest, body: Manifest, owners: Owners, writer: Owner) -> tuple[Manifest, Owners]:
    """The merged object and the owners once `writer` has applied `body` by force.

    What the writer's last apply had, this one leaves out and nobody else owns, is removed.
    """
    applied, old = field_values(body), field_values(live)
    taken = {path for path, value in applied.items() if path in old and old[path] != value}
    now: Owners = {owner: fields - taken for owner, fields in owners.items()}
    now[writer] = frozenset(applied)
    owned = with_parents(path for fields in now.values() for path in fields)
    dropped = with_parents(owners.get(writer, frozenset())) - owned
    merged = remove(merge(live, body), dropped)
    return merged, now


def still_existing(obj: Manifest, owners: Owners) -> Owners:
    """Owners without the fields that are no longer there."""
    return _existing(owners, frozenset(field_values(obj)))


def _existing(owners: Owners, present: FieldSet) -> Owners:
    # A struct owned while empty ("resources: {}") stays owned when somebody fills it.
    existing = present | with_parents(present)
    return {owner: fields & existing for owner, fields in owners.items() if fields & existing}


def managed_fields(owners: Owners, api_version: str) -> list[Manifest]:
    """`metadata.managedFields`, without the times: they would make equal objects differ."""
    return [
        {
            "manager": owner.manager,
            "operation": owner.operation,
            "apiVersion": api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(fields),
            **({"subresource": owner.subresource} if owner.subresource else {}),
        }
        for owner, fields in owners.items()
    ]
