"""The objects that a gateway reads: services with their routing, their revisions' pods, and a key."""

import base64
import json
from collections.abc import Iterator

from e2e.bench import workload
from e2e.bench.api import Api, Manifest
from e2e.bench.gateway.proxies import KEY
from slipway.api.access import SECRET
from slipway.api.names import LABEL_REVISION
from slipway.api.routing import Routing, Target
from slipway.api.traffic import WHOLE
from slipway.decide.traffic import version

NAMESPACE, CLIENT = "bench", "caller"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


def revisions(name: str) -> tuple[str, str]:
    """Stable and candidate."""
    return f"{name}-1", f"{name}-2"


def routing(name: str, candidate_pct: int) -> Manifest:
    """As the operator compiles it."""
    stable, candidate = revisions(name)
    share = candidate_pct * WHOLE // 100
    targets = [
        Target(revision=candidate, weight=share, slots=64),
        Target(revision=stable, weight=WHOLE - share, slots=64),
    ]
    table = Routing.model_validate(
        {"version": "-", "targets": targets, "timeoutMs": 60_000, "access": {"clients": [CLIENT]}}
    )
    return table.model_copy(update={"version": version(table)}).model_dump(
        by_alias=True, mode="json", exclude_defaults=True
    )


def status(name: str, uid: str, candidate_pct: int) -> Manifest:
    """What the operator writes: applied to this very object, never to another one of its name."""
    return {
        "apiVersion": workload.GROUP,
        "kind": "InferenceService",
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": uid},
        "status": {"routing": routing(name, candidate_pct)},
    }


async def make(api: Api, names: list[str], pod: tuple[str, int], candidate_pct: int) -> None:
    """Services whose revisions all have the one pod at this address and port."""
    services = workload.SERVICES.format(NAMESPACE)
    await api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    key = {CLIENT: base64.b64encode(KEY.encode()).decode()}
    await api.create(SECRETS, {"metadata": {"name": SECRET}, "data": key})
    await api.create_all(_slices(names, *pod))
    await api.create_all(workload.inference_services(NAMESPACE, names))
    await api.merge_all(
        (f"{services}/{name}/status", {"status": {"routing": routing(name, candidate_pct)}}) for name in names
    )


def _slices(names: list[str], address: str, port: int) -> Iterator[tuple[str, bytes]]:
    for name in names:
        for revision in revisions(name):
            pod = {"kind": "Pod", "namespace": NAMESPACE, "name": f"{revision}-pod"}
            body = {
                "metadata": {
                    "name": revision,
                    "labels": {LABEL_REVISION: revision, "kubernetes.io/service-name": revision},
                },
                "addressType": "IPv4",
                "ports": [{"name": kind, "port": port, "protocol": "TCP"} for kind in ("http", "grpc")],
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}, "targetRef": pod}],
            }
            yield SLICES, json.dumps(body).encode()
