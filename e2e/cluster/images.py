"""The project's images: which there are, and the tag that names exactly what went into one."""

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
