"""Clusters that are not this machine's own build: one that kind makes with a Docker engine, or one that exists."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from . import build
from .cluster import Cluster
from .config import GPUS
from .images import REGISTRY, Image
from .lock import hold
from .paths import HERE, REPO, cache
from .shell import ClusterError, logged, run, step

_AUDIT = "/var/log/kubernetes"
_POLICY = "/etc/kubernetes/policies"


class Kind:
    """A cluster of one node in a Docker container. Needs `docker` and `kind` on PATH."""

    def __init__(self) -> None:
        self._folder = cache() / "kind"

    def cluster(self) -> Cluster:
        return Cluster(
            "kind", self._folder / "kubeconfig", _tool("kubectl"), _tool("helm"), self._folder / "audit" / "audit.log"
        )

    def is_up(self) -> bool:
        return "slipway" in run(_required("kind"), "get", "clusters").split()

    def up(self) -> None:
        if self.is_up():
            return
        with hold("creating the kind cluster"):
            self._create()

    def _create(self) -> None:
        (self._folder / "audit").mkdir(parents=True, exist_ok=True)
        settings = self._folder / "kind.json"
        settings.write_text(json.dumps(_kind_settings(self._folder / "audit")))
        options = ["--name", "slipway", "--config", str(settings), "--kubeconfig", str(self.cluster().kubeconfig)]
        with step("creating a kind cluster"):
            logged(cache() / "log" / "kind.log", _required("kind"), "create", "cluster", "--wait", "120s", *options)
        patch = json.dumps({"status": {"capacity": {"nvidia.com/gpu": GPUS}}})  # pretended, but counted for real
        node = ("node", "slipway-control-plane", "--subresource=status", "--patch", patch)
        run(self.cluster().kubectl, "--kubeconfig", self.cluster().kubeconfig, "patch", *node)

    def down(self) -> None:
        if self.is_up():
            target = ("--name", "slipway", "--kubeconfig", self.cluster().kubeconfig)
            with hold("deleting the kind cluster"), step("deleting the kind cluster"):
                run(_required("kind"), "delete", "cluster", *target)
        shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> str:
        return _nodes(self.cluster()) if self.is_up() else "kind cluster slipway: not running"

    def load(self, images: Iterable[Image]) -> None:
        with hold("building images"):
            for image in images:
                self._load(image)

    def _load(self, image: Image) -> None:
        if not run("docker", "images", "--quiet", image.reference).strip():
            command = ("docker", "build", "--file", image.dockerfile, "--tag", image.reference, REPO)
            with step(f"building {image.name}"):
                logged(cache() / "log" / f"image-{image.name}.log", *command)
        with step(f"bringing {image.name} to the node"):
            run(_required("kind"), "load", "docker-image", "--name", "slipway", image.reference)


class Context:
    """A cluster of somebody's, by the name of its context; only ever used when named, never made nor removed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def cluster(self) -> Cluster:
        copy = cache() / "context.kubeconfig"
        config = run(_tool("kubectl"), "config", "view", "--context", self._name, "--minify", "--flatten", "--raw")
        copy.touch(mode=0o600)
        copy.write_text(config)
        return Cluster(f"context:{self._name}", copy, _tool("kubectl"), _tool("helm"), None)

    def is_up(self) -> bool:
        cluster = self.cluster()
        command = (cluster.kubectl, "--kubeconfig", cluster.kubeconfig, "get", "--raw", "/readyz")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def up(self) -> None:
        if not self.is_up():
            raise ClusterError(f"the cluster of context {self._name} does not answer, and is not ours to start")

    def down(self) -> None:
        raise ClusterError(
            f"the cluster of context {self._name} is not ours to remove; `helm uninstall` removes Slipway"
        )

    def status(self) -> str:
        return _nodes(self.cluster())

    def load(self, images: Iterable[Image]) -> None:
        """Nothing is brought to a cluster that is not ours: whoever pushed the images says so."""
        wanted = ", ".join(image.reference for image in images)
        if not os.environ.get(REGISTRY):
            raise ClusterError(
                f"nothing is brought to a cluster that is not ours: build {wanted} from the Dockerfiles, push them to "
                f"REGISTRY/slipway/..., and set {REGISTRY}=REGISTRY"
            )


def _tool(name: str) -> Path:
    """The one on PATH, which fits the person's cluster, else the one built for ours."""
    found = shutil.which(name)
    return Path(found) if found else build.programs() / name


def _required(name: str) -> Path:
    found = shutil.which(name)
    if not found:
        raise ClusterError(f"this provider needs {name} on PATH")
    return Path(found)


def _nodes(cluster: Cluster) -> str:
    return run(cluster.kubectl, "--kubeconfig", cluster.kubeconfig, "get", "nodes,pods", "--all-namespaces")


def _kind_settings(audit: Path) -> dict[str, object]:
    """One node, whose API server writes the same audit log as the local cluster's. Source: kind's page "Auditing"."""
    patch = f"""
kind: ClusterConfiguration
apiServer:
  extraArgs:
    audit-policy-file: {_POLICY}/audit.yaml
    audit-log-path: {_AUDIT}/audit.log
  extraVolumes:
  - {{name: audit-policy, hostPath: {_POLICY}, mountPath: {_POLICY}, readOnly: true, pathType: DirectoryOrCreate}}
  - {{name: audit-log, hostPath: {_AUDIT}, mountPath: {_AUDIT}, readOnly: false, pathType: DirectoryOrCreate}}
"""
    mounts = [
        {"hostPath": f"{HERE}/manifests", "containerPath": _POLICY, "readOnly": True},
        {"hostPath": str(audit), "containerPath": _AUDIT},
    ]
    node = {"role": "control-plane", "kubeadmConfigPatches": [patch], "extraMounts": mounts}
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}
