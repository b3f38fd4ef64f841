"""The API server as scenarios see it: JSON by way of `kubectl proxy`, which brings the credentials of any cluster."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

Manifest = dict[str, Any]

GROUPS = {
    "inferenceservices": "/apis/slipway.dev/v1alpha1",
    "servingruntimes": "/apis/slipway.dev/v1alpha1",
    "clusterservingruntimes": "/apis/slipway.dev/v1alpha1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "controllerrevisions": "/apis/apps/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "events": "/apis/events.k8s.io/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "customresourcedefinitions": "/apis/apiextensions.k8s.io/v1",
}
"""Where a resource lives when not in the core group."""


class ApiError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Api:
    port: int

    def get(self, resource: str, namespace: str | None, name: str) -> Manifest | None:
        try:
            return self.call("GET", path(resource, namespace, name))
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def items(self, resource: str, namespace: str | None = None, selector: str = "") -> list[Manifest]:
        query = f"?labelSelector={quote(selector)}" if selector else ""
        items: list[Manifest] = self.call("GET", path(resource, namespace) + query)["items"]
        return items

    def create(self, resource: str, body: Manifest) -> Manifest:
        return self.call("POST", path(resource, body["metadata"].get("namespace")), body)

    def merge(self, resource: str, namespace: str | None, name: str, body: Manifest) -> Manifest:
        """A JSON merge patch."""
        return self.call("PATCH", path(resource, namespace, name), body, "application/merge-patch+json")

    def patch(self, resource: str, namespace: str | None, name: str, body: list[Manifest]) -> Manifest:
        """A JSON patch: a list of operations."""
        return self.call("PATCH", path(resource, namespace, name), body, "application/json-patch+json")

    def delete(self, resource: str, namespace: str | None, name: str, **options: Any) -> None:
        """Delete in the background; fine if it is not there."""
        try:
            self.call("DELETE", path(resource, namespace, name), {"propagationPolicy": "Background"} | options)
        except ApiError as error:
            if error.code != 404:
                raise

    def text(self, where: str) -> str:
        """What is at a path that does not answer in JSON: a log, metrics."""
        code, body = self._send("GET", where, None, "")
        if code >= 400:
            raise ApiError(code, body.decode(errors="replace"))
        return body.decode(errors="replace")

    def call(self, verb: str, where: str, body: Any = None, content_type: str = "application/json") -> Manifest:
        code, answer = self._send(verb, where, None if body is None else json.dumps(body), content_type)
        if code >= 400:
            raise ApiError(code, answer.decode(errors="replace")[:2000])
        found: Manifest = json.loads(answer)
        return found

    def _send(self, verb: str, where: str, body: str | None, content_type: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            headers = {"User-Agent": "slipway-e2e", "Content-Type": content_type}
            connection.request(verb, where, body, headers if body is not None else {"User-Agent": "slipway-e2e"})
            response = connection.getresponse()
            return response.status, response.read()

    def watch(self, resource: str, namespace: str | None, version: str) -> http.client.HTTPConnection:
        """A connection on which the events after `version` arrive, one JSON object a line; the caller closes it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=900)
        connection.request("GET", f"{path(resource, namespace)}?watch=1&resourceVersion={version}")
        return connection


def path(resource: str, namespace: str | None, name: str = "") -> str:
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{GROUPS.get(resource, '/api/v1')}{place}/{resource}{'/' + name if name else ''}"


@contextmanager
def proxied(kubectl: Path, kubeconfig: Path) -> Iterator[Api]:
    argv = [str(kubectl), "--kubeconfig", str(kubeconfig), "proxy", "--port=0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()  # Starting to serve on 127.0.0.1:43127
            assert ":" in line, f"kubectl proxy said {line!r}"
            yield Api(int(line.rsplit(":", 1)[1]))
        finally:
            process.terminate()
