"""Which provider: `local` (this machine), `kind` (a Docker engine) or `context:NAME` (a cluster that exists)."""

import os
import shutil
import subprocess

from .cluster import Provider
from .external import Context, Kind
from .local import Local
from .shell import ClusterError


def choose(name: str | None = None) -> Provider:
    """The provider called `name`, else the one $CLUSTER names, else kind where a Docker engine answers, else local."""
    name = name or os.environ.get("CLUSTER") or ("kind" if _has_docker() else "local")
    if name == "local":
        return Local()
    if name == "kind":
        return Kind()
    if name.startswith("context:"):
        return Context(name.removeprefix("context:"))
    raise ClusterError(f"no provider is called {name!r}: local, kind, or context:NAME")


def _has_docker() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0
