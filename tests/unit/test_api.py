"""The schema and its generator."""

import json
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from slipway import crdgen
from slipway.api.schema import seconds

ROOT = Path(__file__).parents[2]


def test_the_operator_directory_does_not_shadow_the_standard_library() -> None:
    assert ROOT not in Path(str(operator.__file__)).parents
    assert not (ROOT / "operator/__init__.py").exists()
    assert not (ROOT / "runtime/__init__.py").exists()


@pytest.mark.parametrize(("text", "expected"), [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1h", 3600)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@given(st.text(max_size=8).filter(lambda text: not re.fullmatch(r"([0-9]+(ms|s|m|h))+", text)))
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        seconds(text)


def test_crds_are_as_committed() -> None:
    for name, text in crdgen.render().items():
        assert (ROOT / "crds" / name).read_text() == text, "run: make generate"


def _nodes(node: Any, path: str = "") -> Any:
    if isinstance(node, dict):
        yield path, node
        for key, child in node.items():
            yield from _nodes(child, f"{path}.{key}")
    elif isinstance(node, list):
        for child in node:
            yield from _nodes(child, f"{path}[]")


@pytest.mark.parametrize("manifest", crdgen.all_crds(), ids=lambda manifest: manifest["spec"]["names"]["kind"])
def test_every_field_is_described_and_bounded(manifest: Any) -> None:
    """An unbounded list or string is an unbounded cost of validation, and of everything after it."""
    schema = manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert len(json.dumps(manifest)) < crdgen.SIZE_MAX
    for path, node in _nodes(schema["properties"]["spec"], "spec"):
        kind = node.get("type")
        if kind == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if kind == "array":
            assert "maxItems" in node, path
        if kind == "object" and "additionalProperties" in node:
            assert "maxProperties" in node, path
        if kind == "integer":
            assert {"minimum", "maximum"} <= node.keys(), path
        for name, child in node.get("properties", {}).items() if isinstance(node.get("properties"), dict) else ():
            assert child.get("description"), f"{path}.{name} has no description"


def test_an_excluded_limit_is_said_as_the_api_server_reads_it() -> None:
    """OpenAPI 3.0: a number and a flag. With a number for the flag the API server refuses the whole CRD."""
    assert crdgen.structural({"type": "number", "exclusiveMinimum": 0}, {}) == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
    }
    for manifest in crdgen.all_crds():
        flags = [node["exclusiveMinimum"] for _, node in _nodes(manifest) if "exclusiveMinimum" in node]
        assert all(flag is True for flag in flags)


def test_status_is_told_but_not_bounded() -> None:
    """The operator writes it from the models; bounds there would only take room that fields of the spec need."""
    service = next(each for each in crdgen.all_crds() if each["spec"]["names"]["kind"] == "InferenceService")
    status = service["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    for path, node in _nodes(status, "status"):
        assert not {"maxLength", "x-kubernetes-validations", "pattern"} & node.keys(), path
        for name, child in node.get("properties", {}).items():
            assert child.get("description"), f"{path}.{name} has no description"
            assert "default" not in child, f"{path}.{name}"
    assert status["properties"]["routing"].keys() == {"type", "description", crdgen.OPAQUE, crdgen.MAP_TYPE}


def test_a_map_of_status_is_applied_as_one_value() -> None:
    """Merged by key, one whose last key an apply takes away becomes null, which the API server then refuses."""
    service = next(each for each in crdgen.all_crds() if each["spec"]["names"]["kind"] == "InferenceService")
    status = service["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    maps = dict(maps_of(status, "status"))
    assert {"status.rollout.told", "status.rollout.evidence", "status.routing"} <= maps.keys()
    assert {name for name, kind in maps.items() if kind != "atomic"} == set()


def maps_of(node: dict[str, Any], path: str) -> Iterator[tuple[str, str | None]]:
    """Those that are fields of objects; a list without keys is one value anyway, and all that is in it."""
    if crdgen.OPAQUE in node or "additionalProperties" in node:
        yield path, node.get(crdgen.MAP_TYPE)
    for name, child in node.get("properties", {}).items():
        yield from maps_of(child, f"{path}.{name}")
    if "x-kubernetes-list-map-keys" in node:
        yield from maps_of(node["items"], f"{path}[]")


def test_a_crd_has_no_yaml_anchors() -> None:
    """People have to puzzle them out, and some tools refuse them."""
    for text in crdgen.render().values():
        assert not re.search(r"[&*]id[0-9]+", text)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_says_the_same_to_kubectl_as_to_python(path: Path) -> None:
    """kubectl takes a bare y or n for true or false, Python's YAML for text."""
    assert re.findall(r"[:,\[{-] *[yYnN] *(?=[,}\]#\n])", path.read_text()) == []


class _Either(BaseModel):
    value: int | list[str]


def test_what_is_not_structural_is_refused() -> None:
    schema = _Either.model_json_schema()
    with pytest.raises(ValueError, match="a union is not structural"):
        crdgen.structural(schema, schema.get("$defs", {}), "x")
