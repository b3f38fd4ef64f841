"""The chart as Helm renders it, without a cluster."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import build
from slipway.api.manifest import Manifest

REPO = Path(__file__).resolve().parents[2]
CHART = REPO / "charts" / "slipway"
KUBERNETES = "1.34.0"
NAMESPACE = "slipway-system"
NAMESPACED = {"watchNamespaces": ["team-a", "team-b"]}


def helm(*arguments: str, values: Manifest | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(build.programs() / "helm"), *arguments, "--kube-version", KUBERNETES, "--values", "-"]
    return subprocess.run(command, input=yaml.safe_dump(values or {}), capture_output=True, text=True, check=False)  # noqa: S603


def template(values: Manifest | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
    return helm("template", "slipway", str(CHART), "--namespace", NAMESPACE, *arguments, values=values)


@cache
def _rendered(values: str, arguments: tuple[str, ...]) -> str:
    result = template(yaml.safe_load(values), *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def render(values: Manifest | None = None, *arguments: str) -> list[Manifest]:
    """Every object of the release, hooks and tests included."""
    text = _rendered(yaml.safe_dump(values or {}), arguments)
    return [obj for obj in yaml.safe_load_all(text) if obj]


def of_kind(objects: list[Manifest], *kinds: str) -> list[Manifest]:
    return [obj for obj in objects if obj["kind"] in kinds]


def pod_specs(objects: list[Manifest]) -> dict[str, Manifest]:
    """KIND/NAME -> spec of the pods it makes."""
    found: dict[str, Manifest] = {}
    for obj in objects:
        spec: Any = obj.get("spec", {})
        pod = spec if obj["kind"] == "Pod" else spec.get("template", {}).get("spec")
        if pod and obj["kind"] != "CustomResourceDefinition":
            found[f"{obj['kind']}/{obj['metadata']['name']}"] = pod
    return found
