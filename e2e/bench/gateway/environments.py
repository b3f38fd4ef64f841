"""Where programs come from: proxies and load generators of Debian, Envoy from its wheel, the model server from Go."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.bench.api import CannotMeasureError
from e2e.bench.runtime.environments import GENERATORS
from e2e.cluster import apt, build
from e2e.cluster.paths import REPO
from e2e.cluster.shell import run

_BACKEND = Path(__file__).with_name("backend")


def require() -> None:
    apt.require({**GENERATORS, "nginx": "nginx", "haproxy": "haproxy"}, "the benchmark of the gateway")


def backend() -> Path:
    return build.built(_BACKEND, (".",), "building a model server that computes nothing") / "backend"


def envoy() -> Path:
    clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return Path(run("make", "--silent", "-C", REPO, "envoy", env=clean).split()[-1])


def versions() -> list[str]:
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return [nginx.strip(), run("haproxy", "-v").splitlines()[0], run(envoy(), "--version").strip()]


def cores() -> tuple[int, int]:
    """One for the load generator and the model server, one for the proxy."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise CannotMeasureError("a proxy needs a core of its own: two are needed, this machine gives one")
    return usable[0], usable[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process and those that it starts meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *command]


def own_address() -> str:
    """One of this machine that is not loopback, which the API server takes for no pod's."""
    for word in run("hostname", "-I").split():
        if "." in word and not word.startswith(("127.", "169.254.")):
            return word
    raise CannotMeasureError("this machine has no address but loopback, and the API server takes none such for a pod")


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set for as long as that lasts; what it was before, it is again."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
