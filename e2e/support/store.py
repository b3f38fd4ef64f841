"""A store of models in a team's namespace: a pod that speaks S3, has good models and bad ones, and fails on demand."""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.paths import REPO
from e2e.support.api import Manifest
from e2e.support.manifests import secret
from e2e.support.site import RUNTIME_IMAGE
from e2e.support.store_server import PORT
from e2e.support.team import Team, is_ready
from e2e.support.wait import until

NAME = "store"
LABELS = {"app": NAME}
INSIDE = f"*.svc:{PORT}"
"""What an administrator must allow for it: its address is the cluster's, and it has no TLS."""
_FETCHING = REPO / "tests" / "runtime" / "fetching"
_FILES = {"store_server.py": Path(__file__).with_name("store_server.py")} | {
    f"tests/runtime/fetching/{name}.py": _FETCHING / f"{name}.py" for name in ("stand_in", "buckets", "archives")
}


Models = Mapping[str, Mapping[str, bytes]]
"""Files by the name of a model, which lies at s3://models/NAME."""


@dataclass(frozen=True, slots=True)
class Store:
    """`models` are those that it was given beside its own."""

    team: Team
    key: str
    password: str
    models: Models

    @property
    def endpoint(self) -> str:
        return f"http://{NAME}.{self.team.name}.svc:{PORT}"


def start(team: Team, models: Models | None = None) -> Store:
    """Ready, with the Secrets `reader`, whose keys are right, and `stranger`, whose are not."""
    made = Store(team, f"AKIA{secrets.token_hex(6).upper()}", f"canary-{secrets.token_hex(16)}", models or {})
    team.apply(
        secret("reader", AWS_ACCESS_KEY_ID=made.key, AWS_SECRET_ACCESS_KEY=made.password),
        secret("stranger", AWS_ACCESS_KEY_ID="AKIASTRANGER", AWS_SECRET_ACCESS_KEY=made.password),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME},
            "data": {path.replace("/", "-"): file.read_text() for path, file in _FILES.items()},
            "binaryData": {
                path.replace("/", "-"): base64.b64encode(data).decode() for path, data in _brought(made.models).items()
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": LABELS, "ports": [{"port": PORT, "targetPort": PORT}]},
        },
    )
    restart(made)
    return made


def restart(store: Store) -> None:
    """Its pod, where it has none."""
    store.team.apply(_pod(store))
    until("the store is ready", lambda: is_ready(store.team.get("pods", NAME) or {}), within_s=60)


def _brought(models: Models) -> dict[str, bytes]:
    return {f"models/{name}/{file}": data for name, files in models.items() for file, data in files.items()}


def _pod(store: Store) -> Manifest:
    items = [{"key": path.replace("/", "-"), "path": path} for path in (*_FILES, *_brought(store.models))]
    container = {
        "name": NAME,
        "image": RUNTIME_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "/app/store_server.py"],
        "env": [{"name": "ACCESS_KEY", "value": store.key}, {"name": "PYTHONPATH", "value": "/app"}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "app", "mountPath": "/app"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "app", "configMap": {"name": NAME, "items": items}}],
            # With 0 the pod's object is gone before the pod is, which answers for a moment still.
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }
