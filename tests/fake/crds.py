"""Defaults of Slipway's own kinds: from the generated CRDs, as the API server fills them in."""

from functools import cache
from pathlib import Path

import yaml

from slipway.api.manifest import JSON, Manifest

from .fields import copied

FOLDER = Path(__file__).resolve().parents[2] / "crds"


@cache
def schemas() -> dict[str, Manifest]:
    """Kind -> its structural schema."""
    crds = (yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml")))
    return {crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in crds}


def fill(value: JSON, schema: Manifest) -> None:
    """Put the schema's defaults where a present object or item has nothing; a default is completed likewise."""
    if isinstance(value, list):
        for item in value:
            fill(item, schema.get("items", {}))
    elif isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = copied(child["default"])
            if name in value:
                fill(value[name], child)
