"""The project's images: which there are, and the tag that names exactly what went into one."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .paths import REPO, digest


@dataclass(frozen=True, slots=True)
class Image:
    """One of the project's images as this checkout would build it."""

    name: str
    dockerfile: Path
    inputs: tuple[Path, ...]

    @property
    def tag(self) -> str:
        return _tag(self)

    @property
    def reference(self) -> str:
        return f"docker.io/slipway/{self.name}:{self.tag}"  # in full, as containerd and kubelet call it


@cache  # an edit while a command runs must not change what the command calls its images
def _tag(image: Image) -> str:
    return f"dev-{digest([image.dockerfile, *image.inputs])}"


def _paths(*names: str) -> tuple[Path, ...]:
    return tuple(REPO / name for name in names)


_COMMON = ("pyproject.toml", "README.md", "LICENSE", ".dockerignore", "locks/uv.txt", "locks/build.txt")
OPERATOR = Image("operator", REPO / "operator/Dockerfile", _paths(*_COMMON, "operator/slipway", "locks/operator.txt"))
GATEWAY = Image(
    "gateway",
    REPO / "operator/gateway.Dockerfile",
    _paths(*_COMMON, "operator/slipway", "locks/envoy.txt", "locks/gateway.txt"),
)
RUNTIME = Image(
    "runtime",
    REPO / "runtime/Dockerfile",
    _paths(*_COMMON, "runtime/slipway_runtime", "locks/torch.txt", "locks/runtime.txt"),
)
ALL = (OPERATOR, GATEWAY, RUNTIME)
TRITON = Image(
    "triton",
    REPO / "runtime/triton.Dockerfile",
    _paths(*_COMMON, "runtime/slipway_runtime", "locks/torch.txt", "locks/triton.txt"),
)
"""For models that Triton serves: brought by the scenarios that have some."""
SKLEARN = Image(
    "sklearn",
    REPO / "runtime/sklearn.Dockerfile",
    _paths(*_COMMON, "runtime/slipway_runtime", "locks/sklearn.txt"),
)
"""For models of scikit-learn, XGBoost and LightGBM, in the same way."""
PROMETHEUS = Image("prometheus", REPO / "e2e/cluster/prometheus.Dockerfile", ())
"""For scenarios about metrics only, which bring it themselves."""
MODEST = ("resources", "gateway.envoy.resources", "gateway.agent.resources")
"""Operator, Envoy and agent ask for less CPU on the cluster of tests, where twenty models stand side by side."""

REGISTRY = "SLIPWAY_REGISTRY"
"""Names where somebody's own cluster pulls the images from, which are pushed there already."""


def chart_values() -> list[str]:
    """The arguments by which helm installs the images of this checkout, modestly: one node of two cores has it all."""
    keys = {
        "image": OPERATOR,
        "gateway.image": GATEWAY,
        "runtime.image": RUNTIME,
        "triton.image": TRITON,
        "sklearn.image": SKLEARN,
    }
    values = [f"{key}.tag={image.tag}" for key, image in keys.items()]
    values += [f"{part}.requests.cpu=10m" for part in MODEST]
    if registry := os.environ.get(REGISTRY):
        values += [f"{key}.repository={registry}/slipway/{image.name}" for key, image in keys.items()]
    return [argument for value in values for argument in ("--set", value)]
