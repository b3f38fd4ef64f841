"""Where the peers and the load generators come from: environments made once, pinned, and Debian packages.

Every environment has the torch of locks/torch.txt. uv makes files as hard links of its cache, so all of them together
have one torch on disk.
"""

import os
import shutil
import subprocess
from pathlib import Path

from e2e.bench.report import say
from e2e.cluster import apt
from e2e.cluster.paths import REPO, cache, digest
from e2e.cluster.shell import ClusterError, logged

LOCKS = REPO / "locks" / "bench"
GENERATORS = {"wrk": "wrk", "nghttp2-client": "h2load", "nghttp2-server": "nghttpd"}


def folder(peer: str) -> Path:
    return cache() / f"bench-runtime-{peer}-{digest([LOCKS / f'{peer}.txt'])}"


def require_generators() -> None:
    apt.require(GENERATORS, "the benchmark of the runtime")


def ensure(peer: str) -> Path:
    """The peer's environment, made when it is missing.

    Raises:
        ClusterError: when it cannot be installed; the text says why.
    """
    place = folder(peer)
    if (place / "done").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    uv, lock = os.environ.get("UV", "uv"), LOCKS / f"{peer}.txt"
    log = cache() / "log" / f"bench-runtime-{peer}.log"
    env = {**os.environ, "UV_LINK_MODE": "hardlink"}
    say(f"installing {peer}, once")
    logged(log, uv, "venv", "--python", "3.11", place, env=env)
    logged(log, uv, "pip", "install", "--no-deps", "--python", place / "bin" / "python", "-r", lock, env=env)
    (place / "done").touch()
    return place


def site_packages(place: Path) -> Path:
    return place / "lib" / "python3.11" / "site-packages"


def version(peer: str, package: str) -> str:
    """As pinned."""
    for line in (LOCKS / f"{peer}.txt").read_text().splitlines():
        name, _, number = line.partition("==")
        if name == package:
            return number.split()[0]
    raise ClusterError(f"{package} is not in the list of {peer}")


def run_models(python: str, place: Path) -> None:
    """Write the models anew: torch's own files are not the same in every version."""
    shutil.rmtree(place, ignore_errors=True)
    program = Path(__file__).with_name("models.py")
    # TorchScript's being deprecated is no news here.
    subprocess.run([python, "-W", "ignore", str(program), str(place)], check=True)
