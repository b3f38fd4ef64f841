"""Where Triton is, and which backends it has. `python -m slipway_runtime.triton.install DEST` lays one out.

A home is a folder as in NVIDIA's images: bin/tritonserver, backends/NAME, caches/NAME, perhaps lib. PyPI's wheel
`nvidia-pytriton` has all of it at other places, with a stub of the Python backend for each version of Python: DEST
becomes a home of links to them.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from slipway_runtime.errors import BadConfig, Failure, report

DEFAULT = Path("/opt/tritonserver")
STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def program(self) -> Path:
        return self.path / "bin" / "tritonserver"

    def backends(self) -> frozenset[str]:
        folder = self.path / "backends"
        return frozenset(entry.name for entry in folder.iterdir()) if folder.is_dir() else frozenset()


def home(folder: str) -> Home:
    """Raises BadConfig: no Triton is there."""
    found = Home(Path(folder) if folder else DEFAULT)
    if not found.program.is_file():
        raise BadConfig(
            f"there is no Triton in '{found.path}' (bin/tritonserver); use an image that has it, or --triton"
        )
    return found


def lay_out(dest: Path) -> Home:
    """A home from the wheel in this Python's environment."""
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise BadConfig("nvidia-pytriton is not installed in this environment; install it from locks/triton.txt")
    package = Path(found.submodule_search_locations[0])
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    links = {
        "bin/tritonserver": server / "bin" / "tritonserver",
        "caches": server / "caches",
        "lib": package.parent / "nvidia_pytriton.libs",
        f"backends/python/{STUB}": server / "python_backend_stubs" / version / STUB,
        **{f"backends/python/{entry.name}": entry for entry in (server / "backends" / "python").iterdir()},
    }
    for name, target in links.items():
        if not target.exists():
            raise BadConfig(f"nvidia-pytriton has no '{target}'; install the version of locks/triton.txt")
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).symlink_to(target)
    return Home(dest)


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        return report(BadConfig("usage: python -m slipway_runtime.triton.install DEST"))
    try:
        lay_out(Path(argv[0]))
    except Failure as failure:
        return report(failure)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
