"""One face for two API servers: the fake one in memory and a real kube-apiserver with its controllers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import yaml

from slipway.api.manifest import Manifest
from slipway.kube.auth import Server
from slipway.kube.client import Kube, KubeClient
from slipway.kube.errors import Conflict, KubeError
from slipway.kube.kinds import Kind
from tests.fake import FakeKube, controllers

NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
CRD = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
REPO = Path(__file__).resolve().parents[2]
DEADLINE_S = 90.0
"""Its controllers may have more to do than these tests: the garbage collector begins anew with every CRD that comes."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A namespace of its own on one of the two. `service_kind` is InferenceService, in a group nobody else uses."""

    kube: Kube
    namespace: str
    service_kind: Kind
    collect_garbage: Callable[[], None]

    async def read(self, kind: Kind, name: str) -> Manifest:
        found = await self.kube.get(kind, self.namespace, name)
        assert found is not None, f"{kind.kind} {name} is gone"
        return found

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait for what controllers do in their own time; on the fake it holds at once or never."""
        deadline = time.monotonic() + DEADLINE_S
        while not await holds():
            assert time.monotonic() < deadline, "the cluster has not got there in time"
            await asyncio.sleep(0.05)

    async def edit(self, kind: Kind, name: str, change: Callable[[Manifest], object], *, manager: str) -> Manifest:
        """Read, change, replace; again while a controller writes in between, as `kubectl edit` has people do."""
        done: list[Manifest] = []

        async def is_done() -> bool:
            body = await self.read(kind, name)
            change(body)
            try:
                done.append(await self.kube.replace(kind, body, manager=manager))
            except Conflict:
                return False
            return True

        await self.until(is_done)
        return done[0]


@asynccontextmanager
async def fake() -> AsyncIterator[Cluster]:
    kube = FakeKube()
    group = _own_group()
    kind = Kind(group, "v1alpha1", "inferenceservices", "InferenceService")
    yield Cluster(kube, "contract", kind, lambda: controllers.gc(kube.store))


@asynccontextmanager
async def real() -> AsyncIterator[Cluster]:
    """On the API server of KUBECONFIG. The namespace is deleted afterwards, without waiting for it."""
    server = await Server.load()
    async with server.session() as session:
        kube = KubeClient(session, server.url)
        name = f"contract-{uuid4().hex[:8]}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        made = await kube.create(NAMESPACE, body, manager="test")
        kind = Kind(_own_group(), "v1alpha1", "inferenceservices", "InferenceService")
        try:
            yield Cluster(kube, name, kind, lambda: None)
        finally:
            await kube.delete(NAMESPACE, name, name, uid=made["metadata"]["uid"])


def _own_group() -> str:
    return f"c{uuid4().hex[:8]}.slipway.dev"


@asynccontextmanager
async def served(cluster: Cluster) -> AsyncIterator[Kind]:
    """`cluster.service_kind` with its CRD in place: the project's own, under another group."""
    kind = cluster.service_kind
    if isinstance(cluster.kube, FakeKube):
        yield kind
        return
    crd = yaml.safe_load((REPO / "crds" / "inferenceservices.yaml").read_text())
    crd["metadata"]["name"] = f"{kind.plural}.{kind.group}"
    crd["spec"]["group"] = kind.group
    del crd["spec"]["names"]["shortNames"]
    made = await cluster.kube.create(CRD, crd, manager="test")
    try:
        await cluster.until(lambda: _is_served(cluster, kind))
        yield kind
    finally:
        await cluster.kube.delete(CRD, "", made["metadata"]["name"], uid=made["metadata"]["uid"])


async def _is_served(cluster: Cluster, kind: Kind) -> bool:
    """A CRD takes writes a moment after it is listed: only a create that works tells."""
    probe = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": "probe", "namespace": cluster.namespace},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "torchscript"}, "storageUri": "sample://probe"}}},
    }
    try:
        made = await cluster.kube.create(kind, probe, manager="test")
    except KubeError:
        return False
    await cluster.kube.delete(kind, cluster.namespace, "probe", uid=made["metadata"]["uid"])
    return True
