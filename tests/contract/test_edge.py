"""The operator's eyes on a real API server: what no fake can promise about lists, watches and their ends.

Runs only where SLIPWAY_TEST_KUBECONFIG names a server: the fake one has no watches, they are tested in tests/control.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_MANAGED_BY, LABEL_SERVICE, MANAGED_BY
from slipway.control.cache import Cache
from slipway.control.metrics import Metrics
from slipway.control.workqueue import WorkQueue
from slipway.edge import handlers
from slipway.edge.scope import Scope
from slipway.edge.streams import Streams
from slipway.edge.sweep import Sweep, prime
from slipway.kube.auth import Server
from slipway.kube.client import KubeClient
from slipway.kube.kinds import OWNED, SERVICE, Kind
from tests.contract import backends, objects
from tests.contract.backends import Cluster
from tests.contract.conftest import KUBECONFIG

pytestmark = pytest.mark.timeout(180)
DEADLINE_S = 60.0
OURS = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_SERVICE: "hello"}


@dataclass(frozen=True, slots=True)
class One(Scope):
    """A scope whose InferenceService is the test's own kind, so that nobody else's operator sees it."""

    kind: Kind = field(kw_only=True)

    @property
    def written(self) -> tuple[Kind, ...]:
        return (self.kind,)


@dataclass(frozen=True, slots=True)
class Eyes:
    cluster: Cluster
    kube: KubeClient
    server: Server
    scope: Scope
    cache: Cache = field(default_factory=Cache)
    queue: WorkQueue = field(default_factory=WorkQueue)
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def namespace(self) -> str:
        return self.cluster.namespace

    def known(self, kind: Kind, name: str) -> Manifest | None:
        return self.cache.get(kind, self.namespace, name)

    async def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def running(self, *work: Awaitable[None]) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            yield
            assert not [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(params=["real"] if KUBECONFIG else [])
async def eyes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Eyes]:
    monkeypatch.setenv("KUBECONFIG", KUBECONFIG)
    server = await Server.load()
    async with backends.real() as cluster, server.session() as session:
        scope = One((cluster.namespace,), cluster_runtimes=False, kind=cluster.service_kind)
        yield Eyes(cluster, KubeClient(session, server.url), server, scope)


def service(eyes: Eyes, name: str, *, ours: bool = True) -> Manifest:
    body = objects.service(eyes.cluster, name=name)
    return body | {"metadata": body["metadata"] | {"labels": OURS if ours else {}}}


def inference_service(kind: Kind, namespace: str, name: str) -> Manifest:
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": "sample://hello"}
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": metadata,
        "spec": {"predictor": {"model": model}},
    }


async def test_kopf_brings_news_of_a_kind_and_leaves_no_trace_on_its_objects(eyes: Eyes) -> None:
    async with backends.served(eyes.cluster) as kind:
        registry = handlers.registry(eyes.scope, eyes.cache, eyes.queue, eyes.metrics)
        handlers.sign_in(registry, eyes.server)
        async with eyes.running(handlers.watch(registry, handlers.settings(), eyes.scope.namespaces)):
            name = "hello"
            made = await eyes.kube.create(kind, inference_service(kind, eyes.namespace, name), manager="test")
            await eyes.until(lambda: eyes.known(kind, name))
            await eyes.cluster.edit(kind, name, lambda obj: obj["metadata"].update(labels={"a": "b"}), manager="test")
            await eyes.until(lambda: (eyes.known(kind, name) or {})["metadata"].get("labels") == {"a": "b"})
            live = await eyes.cluster.read(kind, name)
            assert {entry["manager"] for entry in live["metadata"]["managedFields"]} == {"test"}
            assert "annotations" not in live["metadata"]
            assert "finalizers" not in live["metadata"]
            await eyes.kube.delete(kind, eyes.namespace, name, uid=made["metadata"]["uid"])
            await eyes.until(lambda: eyes.known(kind, name) is None)


async def test_streams_bring_news_of_our_children_and_of_nobody_else_s(eyes: Eyes) -> None:
    streams = Streams(eyes.kube, eyes.scope, eyes.cache, eyes.queue, eyes.metrics)
    sweep = Sweep(eyes.kube, eyes.scope, eyes.cache, eyes.queue)
    await streams.begin()
    before = await eyes.kube.create(SERVICE, service(eyes, "between"), manager="test")  # the watch is not open yet
    async with eyes.running(streams.run(sweep.compare)):
        await eyes.until(lambda: eyes.known(SERVICE, "between"))
        await eyes.kube.create(SERVICE, service(eyes, "foreign", ours=False), manager="test")
        await eyes.kube.create(SERVICE, service(eyes, "later"), manager="test")
        await eyes.until(lambda: eyes.known(SERVICE, "later"))
        assert eyes.known(SERVICE, "foreign") is None
        assert await eyes.queue.get() == (eyes.namespace, "hello")
        await eyes.kube.delete(SERVICE, eyes.namespace, "between", uid=before["metadata"]["uid"])
        await eyes.until(lambda: eyes.known(SERVICE, "between") is None)


async def test_an_object_that_loses_our_label_leaves_the_picture(eyes: Eyes) -> None:
    streams = Streams(eyes.kube, eyes.scope, eyes.cache, eyes.queue, eyes.metrics)
    sweep = Sweep(eyes.kube, eyes.scope, eyes.cache, eyes.queue)
    await streams.begin()
    async with eyes.running(streams.run(sweep.compare)):
        await eyes.kube.create(SERVICE, service(eyes, "s"), manager="test")
        await eyes.until(lambda: eyes.known(SERVICE, "s"))
        await eyes.cluster.edit(SERVICE, "s", lambda obj: obj["metadata"].update(labels={}), manager="test")
        await eyes.until(lambda: eyes.known(SERVICE, "s") is None)


async def test_the_first_picture_and_the_sweep_agree_with_the_server(eyes: Eyes) -> None:
    async with backends.served(eyes.cluster):
        made = await eyes.kube.create(SERVICE, service(eyes, "s"), manager="test")
        await prime(eyes.kube, eyes.scope, eyes.cache)
        known = eyes.known(SERVICE, "s")
        assert known is not None
        assert known["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        assert (known["apiVersion"], known["kind"]) == ("v1", "Service")
        await eyes.kube.delete(SERVICE, eyes.namespace, "s", uid=made["metadata"]["uid"])
        await Sweep(eyes.kube, eyes.scope, eyes.cache, eyes.queue).once()
        assert eyes.known(SERVICE, "s") is None


@pytest.mark.parametrize("kind", OWNED, ids=lambda kind: kind.kind)
async def test_lists_of_metadata_may_be_empty(eyes: Eyes, kind: Kind) -> None:
    """The server answers null, not an empty list."""
    assert await eyes.kube.list(kind, eyes.namespace, selector="a=none", metadata_only=True) == []
