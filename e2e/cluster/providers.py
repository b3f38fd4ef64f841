"""Which provider: `local` (this machine), `kind` (a Docker engine) or `context:NAME` (a cluster that exists)."""

import os
import shutil
import subprocess

from .cluster import Provider
from .local import Local
from .shell import ClusterError


def choose(name: str | None = None) -> Provider:
    """The provider called `name`, else the one $CLUSTER names, else kind where a Docker engine answers, else local."""
    name = name or os.environ.get("CLUSTER") or ("kind" if has_docker() else "local")
    if name == "local":
        return Local()
    raise ClusterError(f"no provider is called {name!r}: local, kind, or context:NAME")


def has_docker() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0
