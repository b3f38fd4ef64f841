"""The Helm release that scenarios work with, and the operator's pods and processes."""

import hashlib
import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import chart_values
from e2e.cluster.paths import REPO
from e2e.support.api import ApiError, Manifest
from e2e.support.manifests import RESTRICTED
from e2e.support.site import GATEWAY_SERVICE, SYSTEM, Site
from e2e.support.team import is_ready, restarts
from e2e.support.wait import until

RELEASE, NAMESPACE = "slipway", SYSTEM
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:slipway-operator"
GATEWAY_ACCOUNT = f"system:serviceaccount:{NAMESPACE}:slipway-gateway"
DEPLOYMENT, LEASE = "slipway-operator", "slipway-operator"
GATEWAYS = "slipway-gateway"
"""The gateways' Deployment."""
GATEWAY_SELECTOR = (
    "app.kubernetes.io/name=slipway,app.kubernetes.io/instance=slipway,app.kubernetes.io/component=gateway"
)
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
        until("the operator and the gateways are ready", self.is_well, within_s=90, seen=self.seen)
        until("one of them leads", lambda: self.leader() in [name(pod) for pod in self.pods()], within_s=60)

    def seen(self) -> list[str]:
        """Every pod of Slipway's own, and whether it is ready."""
        return [f"{name(pod)} {'ready' if is_ready(pod) else 'not ready'}" for pod in self.pods() + self.gateways()]

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
        return self._pods_of("operator")

    def _pods_of(self, component: str) -> list[Manifest]:
        found = self.site.api.items("pods", NAMESPACE, f"app.kubernetes.io/component={component}")
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def lives(self) -> dict[str, int]:
        """uid -> restarts: the same before and after means that no operator ended."""
        return {pod["metadata"]["uid"]: restarts(pod) for pod in self.pods()}

    def is_well(self) -> bool:
        """All that was asked for is there and ready, operators and gateways."""
        return self._is_complete(DEPLOYMENT, self.pods()) and self.has_all_gateways()

    def has_all_gateways(self) -> bool:
        return self._is_complete(GATEWAYS, self.gateways())

    def _is_complete(self, deployment_name: str, pods: Sequence[Manifest]) -> bool:
        deployment = self.site.api.get("deployments", NAMESPACE, deployment_name)
        if not deployment:
            return False
        wanted = deployment["spec"]["replicas"]
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

    # The gateways

    def gateways(self) -> list[Manifest]:
        """Those that are not on their way out."""
        return self._pods_of("gateway")

    def gateway_address(self) -> str:
        """Where every service is reached, from a machine that can reach the cluster's addresses."""
        service = self.site.api.get("services", NAMESPACE, GATEWAY_SERVICE)
        assert service, f"there is no Service {GATEWAY_SERVICE}"
        return str(service["spec"]["clusterIP"])

    def gateway_text(self, pod_name: str, path: str) -> str:
        """What a gateway's agent answers on its own port."""
        return self.site.api.text(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod_name}:8082/proxy/{path}")

    def gateway_log(self, pod_name: str, container: str, since_s: int = 600) -> str:
        query = f"container={container}&sinceSeconds={since_s}"
        return self.site.api.text(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod_name}/log?{query}")

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
    """Of the chart, its values and the images: what makes an installation that is there already still the right one."""
    total = hashlib.sha256(" ".join(chart_values()).encode())
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


def agent_processes(gateway: Manifest) -> list[int]:
    """Of Slipway's agent in a gateway's pod, not of Envoy (local cluster only)."""
    found = [pid for pid in processes(gateway) if b"slipway-gateway" in _program(pid)]
    assert found, f"no agent runs in {name(gateway)}"
    return found


def _program(pid: int) -> bytes:
    """With the script that an interpreter runs."""
    return b" ".join(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2])


def age_s(pid: int) -> float:
    """How long a process of this machine has run. Source: proc(5), stat and uptime."""
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started


def send(pids: Sequence[int], what: signal.Signals) -> None:
    """A process that has ended meanwhile needs none: with the first of a container the kernel ends the others."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)
