"""Writes the CRDs from the pydantic models: `python -m slipway.crdgen [--check] DIR...`.

A pydantic JSON schema is not a structural one (KEP-1693): references are inlined, nulls dropped, unknown words left
out. What has no structural form (unions, recursion) is an error here, not a surprise in a cluster.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from slipway.api.names import GROUP, VERSION
from slipway.api.v1alpha1 import ClusterServingRuntime, InferenceService, Resource, ServingRuntime

DROPPED = {"title", "examples", "deprecated", "readOnly", "writeOnly", "propertyNames", "$defs"}
SIZE_MAX = 100_000
MAP_TYPE = "x-kubernetes-map-type"
OPAQUE = "x-kubernetes-preserve-unknown-fields"
FLAGS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
BOUNDS = {
    "default",
    *FLAGS,
    "format",
    "maximum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "minimum",
    "minItems",
    "minLength",
    "pattern",
    "x-kubernetes-validations",
}
"""What only a user's words need. `status` comes from the models themselves, and who reads it checks it by them."""


def structural(node: dict[str, Any], defs: dict[str, Any], path: str = "") -> dict[str, Any]:
    """One schema node without references, nulls and words that the API server does not take.

    Raises:
        ValueError: the node has no structural form.
    """
    if "$ref" in node:
        target = defs[node["$ref"].rsplit("/", 1)[-1]]
        return structural(target | {key: value for key, value in node.items() if key != "$ref"}, defs, path)
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    if len(branches) == 1:
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return structural(branches[0] | rest, defs, path)
    if branches or "oneOf" in node:
        raise ValueError(f"{path}: a union is not structural; use optional siblings and a CEL rule")
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: structural(child, defs, f"{path}.{name}") for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = structural(value, defs, f"{path}[]")
        elif key not in DROPPED and not (key == "default" and value is None):
            out[key] = _without_nulls(value)
    if out.get("type") == "integer":
        out.setdefault("format", "int64")
    return _with_flags(out)


def _with_flags(node: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0, which CRDs are written in, has a limit and says beside it whether it is excluded."""
    for flag, limit in FLAGS.items():
        if flag in node:
            node |= {limit: node[flag], flag: True}
    return node


def _without_nulls(value: Any) -> Any:
    """Absent, not null: a null is no valid value of an optional field."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def shorten_defaults(node: dict[str, Any]) -> None:
    """Leave out of a nested object's default what its fields' own defaults say: the API server fills those in."""
    for child in node.get("properties", {}).values():
        fields, default = child.get("properties"), child.get("default")
        if fields is not None and isinstance(default, dict):
            own = {name: field.get("default") for name, field in fields.items()}
            child["default"] = {name: value for name, value in default.items() if value != own.get(name)}
        shorten_defaults(child)
    if "items" in node:
        shorten_defaults(node["items"])


def lean(node: dict[str, Any]) -> dict[str, Any]:
    """A schema that says what a field is, not what it may be; of what is kept as it comes, only its type.

    A list of no type is atomic, as one that says so; a map has to say so. What is kept as it comes is one value: of a
    map that is merged by key, an apply that takes the last key away leaves null.
    """
    if node.get(OPAQUE):
        kept = {key: value for key, value in node.items() if key in ("type", "description", OPAQUE)}
        return kept | {MAP_TYPE: "atomic"}
    out = {
        key: value
        for key, value in node.items()
        if value == "date-time" or key == MAP_TYPE or (key not in BOUNDS and value != "atomic")
    }
    if "properties" in out:
        out["properties"] = {name: lean(child) for name, child in out["properties"].items()}
    return out | {key: lean(out[key]) for key in ("items", "additionalProperties") if isinstance(out.get(key), dict)}


def openapi(model: type[Resource]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    root = structural(schema, schema.get("$defs", {}), model.__name__)
    root["properties"]["apiVersion"] = {"type": "string"}
    root["properties"]["kind"] = {"type": "string"}
    root["properties"]["metadata"] = {"type": "object"}
    shorten_defaults(root)
    if "status" in root["properties"]:
        root["properties"]["status"] = lean(root["properties"]["status"])
    return root


def crd(model: type[Resource], plural: str, scope: str, **version: Any) -> dict[str, Any]:
    names = {
        "kind": model.__name__,
        "listKind": f"{model.__name__}List",
        "plural": plural,
        "singular": plural[:-1],
    }
    short = version.pop("short", [])
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": names | ({"shortNames": short} if short else {}) | {"categories": ["slipway"]},
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": openapi(model)},
                    **version,
                }
            ],
        },
    }


def column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": 1} if wide else {})


def ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


RUNTIME_COLUMNS = [
    column("Formats", ".spec.supportedModelFormats[*].name"),
    column("Image", ".spec.container.image", wide=True),
    column("Age", ".metadata.creationTimestamp", "date"),
]


def all_crds() -> list[dict[str, Any]]:
    service_columns = [
        column("Ready", ready("status")),
        column("Reason", ready("reason")),
        column("URL", ".status.url"),
        column("Stable", ".status.stable"),
        column("Candidate", ".status.candidate"),
        column("Release", ".status.release"),
        column("Replicas", '.status.scaling[?(@.variant=="")].desired', "integer", wide=True),
        column("Model", ".spec.predictor.model.storageUri", wide=True),
        column("Message", ready("message"), wide=True),
        column("Age", ".metadata.creationTimestamp", "date"),
    ]
    return [
        crd(
            InferenceService,
            "inferenceservices",
            "Namespaced",
            short=["infsvc"],
            subresources={"status": {}},
            additionalPrinterColumns=service_columns,
        ),
        crd(ServingRuntime, "servingruntimes", "Namespaced", additionalPrinterColumns=RUNTIME_COLUMNS),
        crd(
            ClusterServingRuntime,
            "clusterservingruntimes",
            "Cluster",
            additionalPrinterColumns=RUNTIME_COLUMNS,
        ),
    ]


LINE_MAX = 400


class _Literal(yaml.SafeDumper):
    """A node that is short is on one line: of one word per line, two fifths would be indentation.

    What two fields share is written twice: an anchor is for people to puzzle over, and some tools refuse it.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = node.flow_style or len(str(mapping)) <= LINE_MAX
        return node

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = node.flow_style or len(str(sequence)) <= LINE_MAX
        return node


def render() -> dict[str, str]:
    """File name -> YAML of every CRD.

    Raises:
        ValueError: a CRD grew beyond what a client-side `kubectl apply` can carry.
    """
    texts = {}
    for manifest in all_crds():
        text = "# Generated by python -m slipway.crdgen; edit operator/slipway/api instead.\n"
        text += yaml.dump(
            manifest, Dumper=_Literal, sort_keys=False, width=1000, allow_unicode=True, default_flow_style=None
        )
        if len(text) > SIZE_MAX:
            raise ValueError(f"{manifest['metadata']['name']}: {len(text)} bytes, must stay below {SIZE_MAX}")
        texts[f"{manifest['spec']['names']['plural']}.yaml"] = text
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the CRDs, or check that they are up to date.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is out of date")
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    stale = 0
    for folder in options.folders:
        for name, text in render().items():
            path = folder / name
            if path.exists() and path.read_text() == text:
                continue
            stale += 1
            if options.check:
                sys.stderr.write(f"{path}: not what the models say; run `make generate`\n")
            else:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
