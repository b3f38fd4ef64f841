"""Programs built from Go modules, each module's into a cache folder named by a hash of its inputs.

The cluster's are from two: `go/` holds every program that agrees on one version of the Kubernetes libraries, so that
shared packages compile once; `kwok/` is on an older line, and only benchmarks need it.
"""

import os
import re
import shutil
from pathlib import Path

from .paths import HERE, cache, digest
from .shell import ClusterError, logged, run, step

KUBERNETES = "v1.34.4"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")
PROGRAMS = (
    "./kube",
    "./pause",
    "k8s.io/kubernetes/cmd/kubectl",
    "helm.sh/helm/v3/cmd/helm",
    "github.com/coredns/coredns",
)
# Without these the server says v0.0.0, and kubectl and helm stumble over it.
_VERSION = "k8s.io/component-base/version"
LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion={KUBERNETES} -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=34 "
    f"-X {_VERSION}.gitTreeState=clean"
)
GO_AT_LEAST = (1, 24)


def programs() -> Path:
    """Folder with the cluster's programs and kubectl, helm, coredns, pause; built if missing (7 min on 2 cores)."""
    folder = built(
        HERE / "go", PROGRAMS, "building Kubernetes, CoreDNS and Helm from their Go modules (7 min the first time)"
    )
    for component in COMPONENTS:
        link = folder / component
        if not link.is_symlink():
            link.symlink_to("kube")
    return folder


def kwok() -> Path:
    """The program that pretends nodes and pods by the thousand; built if missing (3 min on 2 cores)."""
    return (
        built(HERE / "kwok", ("sigs.k8s.io/kwok/cmd/kwok",), "building KWOK from its Go module (3 min the first time)")
        / "kwok"
    )


def built(module: Path, packages: tuple[str, ...], title: str) -> Path:
    """Folder with the programs of these packages of the module in folder `module`.

    Raises:
        ClusterError: when there is no Go, or it does not build; the text says why.
    """
    folder = cache() / f"bin-{digest([module], *packages, LDFLAGS)}"
    if folder.is_dir():
        return folder
    _require_go()
    fresh = folder.with_suffix(".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    # CGO_ENABLED=0 makes programs that run in an image FROM scratch.
    env = {**os.environ, "CGO_ENABLED": "0"}
    argv = ("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", LDFLAGS, "-o", f"{fresh}/", *packages)
    with step(title):
        logged(cache() / "log" / f"build-{module.name}.log", *argv, cwd=module, env=env)
    fresh.rename(folder)
    return folder


def _require_go() -> None:
    if not shutil.which("go"):
        raise ClusterError(
            "the cluster's programs are built with Go 1.24 or newer: put `go` on PATH (https://go.dev/dl)"
        )
    found = re.match(r"go(\d+)\.(\d+)", run("go", "env", "GOVERSION"))
    if found and (int(found[1]), int(found[2])) < GO_AT_LEAST:
        raise ClusterError(f"Go 1.24 or newer is needed, {found[0]} is on PATH (https://go.dev/dl)")
