"""A real Prometheus in a team's namespace, that reads Slipway and the team's models as docs/metrics.md says."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import yaml

from e2e.cluster import PROMETHEUS
from e2e.cluster.paths import REPO
from e2e.support.api import Manifest
from e2e.support.site import RUNTIME_IMAGE, SYSTEM
from e2e.support.team import Team, is_ready
from e2e.support.wait import until

NAME, PORT = "prometheus", 9090
LABELS = {"app": NAME}
FILE = "/targets/pods.json"
SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True, slots=True)
class Prometheus:
    team: Team

    @property
    def url(self) -> str:
        return f"http://{NAME}.{self.team.name}.svc:{PORT}"

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and number of every series."""
        path = f"/api/v1/namespaces/{self.team.name}/services/{NAME}:{PORT}/proxy/api/v1/query?query={quote(query)}"
        answer = json.loads(self.team.site.api.text(path))
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def scale(self, replicas: int) -> None:
        """0: it is gone, connections are refused."""
        self.team.kubectl("scale", "deployment", NAME, f"--replicas={replicas}")
        until(
            f"Prometheus has {replicas} pods",
            lambda: [is_ready(pod) for pod in self._pods()] == [True] * replicas,
            within_s=120,
            seen=lambda: [pod.get("status") for pod in self._pods()],
        )

    def _pods(self) -> list[Manifest]:
        return self.team.site.api.items("pods", self.team.name, f"app={NAME}")


@contextmanager
def running(team: Team) -> Iterator[Prometheus]:
    """Ready, and gone afterwards."""
    team.apply(*_manifests(team.name))
    reader = _binding(f"{NAME}-{team.name}", team.name)
    team.site.apply(reader, namespace=SYSTEM)
    found = Prometheus(team)
    try:
        found.scale(1)
        yield found
    finally:
        team.site.kubectl("--namespace", SYSTEM, "delete", "rolebinding", reader["metadata"]["name"])
        team.kubectl("delete", "deployment", NAME, "--wait=false")


def config() -> str:
    """The jobs of the documentation, each second, by the file that discover.py writes."""
    page = (REPO / "docs" / "metrics.md").read_text()
    jobs = next(
        block["scrape_configs"]
        for block in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
        if "scrape_configs" in block
    )
    for job in jobs:
        del job["kubernetes_sd_configs"]
        job |= {"scrape_interval": "1s", "file_sd_configs": [{"files": [FILE], "refresh_interval": "1s"}]}
    return yaml.safe_dump({"scrape_configs": jobs})


def _manifests(namespace: str) -> list[Manifest]:
    files = {"config.yaml": config(), "discover.py": Path(__file__).with_name("discover.py").read_text()}
    port = {"name": "web", "port": PORT, "targetPort": PORT}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME}},
        _binding(NAME, namespace),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": files},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": LABELS, "ports": [port]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": _pod(namespace)},
            },
        },
    ]


def _pod(namespace: str) -> Manifest:
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("config", "targets", "data")]
    common = {"imagePullPolicy": "IfNotPresent", "securityContext": SECURITY, "volumeMounts": mounts}
    return {
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "config", "configMap": {"name": NAME}},
            {"name": "targets", "emptyDir": {}},
            {"name": "data", "emptyDir": {}},
        ],
        "containers": [
            {
                "name": NAME,
                "image": f"slipway/{PROMETHEUS.name}:{PROMETHEUS.tag}",
                "args": ["--config.file=/config/config.yaml", "--storage.tsdb.path=/data"],
                "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
            }
            | common,
            {
                "name": "discover",
                "image": RUNTIME_IMAGE,
                "command": ["python", "/config/discover.py", FILE, SYSTEM, namespace],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
            }
            | common,
        ],
    }


def _binding(name: str, namespace: str) -> Manifest:
    """Lets Prometheus see the pods of the namespace that this is applied to."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
    }
