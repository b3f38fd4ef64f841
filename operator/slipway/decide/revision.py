"""What a revision is: the hash of the user's choice, its frozen record, and which revision a spec asks for.

A revision is recorded in a ControllerRevision before its first pod exists. The record holds the pod template as it was
rendered then; a newer Slipway or an edited runtime renders differently, but never for a revision that is recorded.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slipway.api.manifest import JSON, Manifest
from slipway.api.names import HASH_LENGTH
from slipway.api.v1alpha1 import Predictor


def digest(value: JSON) -> str:
    """Stable hash of a JSON value, short enough for names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def choice(predictor: Predictor, variant: str = "") -> dict[str, Any]:
    """Everything the user chose that changes pods; a variant's name too, so that the same model can be both A and A'.

    Defaults are left out, so that a field added by a newer Slipway changes no existing hash.
    """
    chosen = predictor.model_dump(by_alias=True, exclude_defaults=True, exclude={"runtime_updates"})
    return chosen | ({"variant": variant} if variant else {})


@dataclass(frozen=True, slots=True)
class Record:
    """The content of one ControllerRevision."""

    name: str
    number: int
    choice: str
    """Digest of the user's choice."""
    runtime: str
    storage_uri: str
    template: Manifest
    variant: str = ""
    """Empty: of the service itself."""
    runtime_reason: str = ""
    """Why that runtime was chosen; empty: made before that was told."""

    @property
    def rendering(self) -> str:
        return digest(self.template)


def read(manifest: Manifest) -> Record:
    data = manifest["data"]
    return Record(
        name=manifest["metadata"]["name"],
        number=manifest["revision"],
        choice=data["choice"],
        runtime=data["runtime"],
        storage_uri=data["storageUri"],
        template=data["template"],
        variant=data.get("variant", ""),
        runtime_reason=data.get("runtimeReason", ""),
    )


def data(record: Record) -> Manifest:
    found: Manifest = {
        "choice": record.choice,
        "runtime": record.runtime,
        "storageUri": record.storage_uri,
        "template": record.template,
    }
    more = {"variant": record.variant, "runtimeReason": record.runtime_reason}
    return found | {name: value for name, value in more.items() if value}


def recorded(records: Iterable[Record], wanted: str) -> Record | None:
    """The newest record of this choice."""
    return max((record for record in records if record.choice == wanted), key=lambda r: r.number, default=None)


def next_number(records: Iterable[Record]) -> int:
    return max((record.number for record in records), default=0) + 1


def name(service: str, wanted: str, rendering: str, *, follow: bool) -> str:
    """Name of a new revision. A followed runtime makes new revisions of an unchanged choice, so it is in the name."""
    return f"{service}-{digest([wanted, rendering]) if follow else wanted}"
