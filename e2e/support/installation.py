"""The Helm release that scenarios work with, and the operator's pods and processes."""

import hashlib
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import chart_values
from e2e.cluster.paths import REPO
from e2e.support.api import ApiError, Manifest
from e2e.support.manifests import RESTRICTED
from e2e.support.site import OPERATOR_TAG, RUNTIME_TAG, Site
from e2e.support.team import is_ready, restarts
from e2e.support.wait import until

RELEASE, NAMESPACE = "slipway", "slipway-system"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:slipway-operator"
DEPLOYMENT, LEASE = "slipway-operator", "slipway-operator"
LEASE_S = 15
"""The chart's default, which scenarios keep."""
CRDS = ("inferenceservices", "servingruntimes", "clusterservingruntimes")
CHART = REPO / "charts" / "slipway"


@dataclass(frozen=True, slots=True)
class Installation:
    site: Site

    def values(self) -> list[str]:
        return chart_values()

    def install_command(self, *more: str) -> list[str]:
        """`helm install` as in the README, with the images of this checkout."""
        where = ["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"]
        return ["install", RELEASE, str(CHART), *where, "--description", fingerprint(), *self.values(), *more]

    def upgrade(self, *more: str) -> None:
        """Install or upgrade; without `more` to what scenarios start from."""
        self.make_namespace()
        command = self.install_command(*more)
        if more:
            command[command.index("--description") + 1] = "changed by a scenario"
        self.site.helm("upgrade", "--install", *command[1:])

    def ensure(self) -> None:
        """Installed, as this checkout has it, and working."""
        if self.description() != fingerprint() or not self.is_well():
            self.upgrade()
        until("the operator's pods are ready", self.is_well, within_s=90, seen=self.pods)
        until("one of them leads", lambda: self.leader() in [name(pod) for pod in self.pods()], within_s=60)

    def description(self) -> str:
        done = self.site.try_helm("status", RELEASE, "--namespace", NAMESPACE, "--output", "json")
        return str(json.loads(done.stdout)["info"]["description"]) if done.returncode == 0 else ""

    def uninstall(self, *, everything: bool = False) -> None:
        """`helm uninstall`; with `everything` the CRDs too, and so every InferenceService of the cluster."""
        self.site.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait")
        if everything:
            crds = [f"{plural}.slipway.dev" for plural in CRDS]
            self.site.kubectl("delete", "crd", "--ignore-not-found", *crds)

    def make_namespace(self) -> None:
        """With restricted Pod Security enforced, so that everything the chart creates is proven fit for it."""
        about = {"name": NAMESPACE, "labels": RESTRICTED}
        self.site.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": about})

    # The operator's pods

    def pods(self) -> list[Manifest]:
        """Those that are not on their way out."""
        found = self.site.api.items("pods", NAMESPACE, "app.kubernetes.io/component=operator")
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def lives(self) -> dict[str, int]:
        """uid -> restarts: the same before and after means that no operator ended."""
        return {pod["metadata"]["uid"]: restarts(pod) for pod in self.pods()}

    def is_well(self) -> bool:
        deployment = self.site.api.get("deployments", NAMESPACE, DEPLOYMENT)
        if not deployment:
            return False
        pods, wanted = self.pods(), deployment["spec"]["replicas"]
        status = deployment.get("status", {})
        is_current = status.get("observedGeneration") == deployment["metadata"]["generation"]
        is_rolled_out = status.get("updatedReplicas", 0) == wanted == status.get("replicas", 0)
        return is_current and is_rolled_out and len(pods) == wanted and all(map(is_ready, pods))

    def leader(self) -> str:
        """Name of the pod that holds the Lease; empty when nobody does."""
        lease = self.site.api.get("leases", NAMESPACE, LEASE)
        return str(lease.get("spec", {}).get("holderIdentity") or "") if lease else ""

    def pod(self, pod_name: str) -> Manifest:
        found = next((pod for pod in self.pods() if name(pod) == pod_name), None)
        assert found, f"no operator pod {pod_name}; there are {[name(pod) for pod in self.pods()]}"
        return found

    def scale(self, replicas: int) -> None:
        self.site.kubectl("--namespace", NAMESPACE, "scale", "deployment", DEPLOYMENT, f"--replicas={replicas}")
        until(
            f"the operator has {replicas} pods",
            lambda: (
                len(self.site.api.items("pods", NAMESPACE, "app.kubernetes.io/component=operator")) == replicas
                and self.is_well()
            ),
            within_s=60,
            seen=lambda: [name(pod) for pod in self.pods()],
        )

    def kill(self, pod_name: str) -> None:
        """Take the pod's process away, as a node's failure does."""
        where = ("--namespace", NAMESPACE, "--force", "--grace-period=0", "--wait=false")
        self.site.kubectl("delete", "pod", pod_name, *where)

    def log(self, tail: int = 200, containing: str = "") -> str:
        """The end of every replica's log."""
        texts = []
        for pod in self.pods():
            where = f"/api/v1/namespaces/{NAMESPACE}/pods/{name(pod)}/log?tailLines=3000"
            try:
                lines = self.site.api.text(where).splitlines()
            except ApiError as error:
                lines = [str(error)]
            texts += [f"--- {name(pod)}", *[line for line in lines if containing in line][-tail:]]
        return "\n".join(texts)


def name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def fingerprint() -> str:
    """Of the chart and the images: what makes an installation that is already there still the right one."""
    total = hashlib.sha256(f"{OPERATOR_TAG} {RUNTIME_TAG}".encode())
    for file in sorted(path for path in CHART.rglob("*") if path.is_file()):
        total.update(file.relative_to(CHART).as_posix().encode() + file.read_bytes())
    return f"slipway e2e {total.hexdigest()[:12]}"


def processes(pod: Manifest) -> list[int]:
    """Process ids, on this machine, of a pod's containers other than its sandbox (local cluster only)."""
    uid = pod["metadata"]["uid"]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            is_inside = uid in (entry / "cgroup").read_text()
            program = (entry / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:  # ended in between
            continue
        if is_inside and not program.endswith(b"/pause"):
            found.append(int(entry.name))
    return found


def send(pids: Sequence[int], what: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, what)
