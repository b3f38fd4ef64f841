"""Where scenarios run: a cluster, and the two programs by which people work with it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from e2e.cluster import ALL, RUNTIME, Cluster, choose
from e2e.support.api import Api, Manifest, proxied

RUNTIME_IMAGE = f"slipway/{RUNTIME.name}:{RUNTIME.tag}"
SYSTEM = "slipway-system"
"""The namespace that Slipway itself is in."""
GATEWAY_SERVICE = "slipway-gateway"


@dataclass(frozen=True, slots=True)
class Site:
    cluster: Cluster
    api: Api

    @property
    def is_local(self) -> bool:
        """Whether pods are processes of this machine and their addresses can be reached from it."""
        return self.cluster.provider == "local"

    def kubectl(self, *argv: str, stdin: str | None = None) -> str:
        """What kubectl printed; it has to succeed."""
        return _succeeded(self.try_kubectl(*argv, stdin=stdin))

    def try_kubectl(self, *argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return _run([str(self.cluster.kubectl), "--kubeconfig", str(self.cluster.kubeconfig), *argv], stdin)

    def helm(self, *argv: str) -> str:
        return _succeeded(self.try_helm(*argv))

    def try_helm(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return _run([str(self.cluster.helm), "--kubeconfig", str(self.cluster.kubeconfig), *argv], None)

    def apply(self, *manifests: Manifest, namespace: str | None = None) -> str:
        """`kubectl apply`, as people do it."""
        where = ("--namespace", namespace) if namespace else ()
        return self.kubectl("apply", *where, "--filename", "-", stdin=documents(*manifests))


@contextmanager
def started() -> Iterator[Site]:
    """A running cluster with the images of this checkout; one that was not there before is stopped again."""
    provider = choose()
    was_up = provider.is_up()
    provider.up()
    provider.load(ALL)
    cluster = provider.cluster()
    with proxied(cluster.kubectl, cluster.kubeconfig) as api:
        yield Site(cluster, api)
    if not was_up:
        provider.down()


def documents(*manifests: Any) -> str:
    """One or more objects as the text that `kubectl apply -f -` reads."""
    return json.dumps(manifests[0] if len(manifests) == 1 else {"apiVersion": "v1", "kind": "List", "items": manifests})


def _run(argv: list[str], stdin: str | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=300)


def _succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, (
        f"`{' '.join(map(str, done.args))}` ended with {done.returncode}:\n{done.stderr}{done.stdout}"
    )
    return done.stdout
