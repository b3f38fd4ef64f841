"""What Prometheus' `kubernetes_sd_configs: [{role: pod}]` finds, as a file: Debian's Prometheus is built without it.

Runs in a pod, alone, with the standard library only: `discover.py FILE NAMESPACE...`, once a second.
"""

import json
import os
import re
import ssl
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVER = f"https://{os.environ.get('KUBERNETES_SERVICE_HOST')}:{os.environ.get('KUBERNETES_SERVICE_PORT')}"


def pods(namespace: str, tls: ssl.SSLContext) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{SERVER}/api/v1/namespaces/{namespace}/pods")  # noqa: S310
    request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text()}")
    with urllib.request.urlopen(request, context=tls, timeout=5) as answer:  # noqa: S310
        found: list[dict[str, Any]] = json.load(answer)["items"]
    return found


def targets(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each declared port of a pod that has an address."""
    meta, address = pod["metadata"], pod.get("status", {}).get("podIP")
    about = {"__meta_kubernetes_namespace": meta["namespace"], "__meta_kubernetes_pod_name": meta["name"]}
    for name, value in meta.get("labels", {}).items():
        about[f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}"] = value
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    return [
        {
            "targets": [f"{address}:{port['containerPort']}"],
            "labels": about | {"__meta_kubernetes_pod_container_port_name": port.get("name", "")},
        }
        for port in ports
        if address
    ]


def main(path: Path, namespaces: list[str]) -> None:
    tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    told = ""
    while True:
        try:
            found = [target for namespace in namespaces for pod in pods(namespace, tls) for target in targets(pod)]
            text = json.dumps(found, sort_keys=True)
        except (OSError, HTTPException, ValueError) as error:  # an answer may be cut off
            print(error, flush=True)
            text = told
        if text != told:
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            fresh.rename(path)
            told = text
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
