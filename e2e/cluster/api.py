"""The few words the cluster tool itself has with the API server, without starting kubectl for each."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

from .config import GPUS, NODE_IP

_JSON_PATCH = "application/json-patch+json"


class Api:
    """One short connection per request, as the cluster's admin."""

    def __init__(self, pki: Path) -> None:
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def is_ready(self) -> bool:
        return self._request("GET", "/readyz")[0] == 200

    def get(self, path: str) -> dict[str, Any] | None:
        """The object at `path`, or None if it, or the server, is not there."""
        code, body = self._request("GET", path)
        return json.loads(body) if code == 200 else None

    def pretend_gpus(self) -> bool:
        """Give the node GPUs that the scheduler counts for real; False if the node's status could not be changed."""
        where = ("/status/capacity/nvidia.com~1gpu", "/status/allocatable/nvidia.com~1gpu")
        patch = json.dumps([{"op": "add", "path": path, "value": GPUS} for path in where])
        return self._request("PATCH", "/api/v1/nodes/node/status", patch)[0] == 200

    def _request(self, verb: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(NODE_IP, 6443, context=self._tls, timeout=5)
        try:
            connection.request(verb, path, body, {"Content-Type": _JSON_PATCH} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:  # not listening yet, or no longer
            return 0, b""
        finally:
            connection.close()


def is_node_ready(node: dict[str, Any] | None, *, with_gpus: bool = False) -> bool:
    status = node["status"] if node else {}
    if with_gpus and "nvidia.com/gpu" not in status.get("capacity", {}):
        return False
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))


def is_available(deployment: dict[str, Any] | None) -> bool:
    return bool(deployment and deployment["status"].get("availableReplicas"))
