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
RUNTIME = Image(
    "runtime",
    REPO / "runtime/Dockerfile",
    _paths(*_COMMON, "runtime/slipway_runtime", "locks/torch.txt", "locks/runtime.txt"),
)
ALL = (OPERATOR, RUNTIME)

REGISTRY = "SLIPWAY_REGISTRY"
"""Names where somebody's own cluster pulls the images from, which are pushed there already."""


def chart_values() -> list[str]:
    """The arguments by which helm installs the images of this checkout."""
    values = [f"image.tag={OPERATOR.tag}", f"runtime.image.tag={RUNTIME.tag}"]
    if registry := os.environ.get(REGISTRY):
        values += [
            f"image.repository={registry}/slipway/operator",
            f"runtime.image.repository={registry}/slipway/runtime",
        ]
    return [argument for value in values for argument in ("--set", value)]
