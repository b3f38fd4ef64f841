"""kopf's watches on a small HTTP API server: what reaches the cache and the queue, and what ends a watch."""

import asyncio
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestServer
from kubernetes.aio.client.configuration import Configuration

from slipway.api.manifest import Manifest
from slipway.control.cache import Cache
from slipway.control.metrics import Metrics
from slipway.control.workqueue import WorkQueue
from slipway.edge import handlers
from slipway.edge.scope import Scope
from slipway.kube.auth import Server
from slipway.kube.kinds import CLUSTER_SERVING_RUNTIME, INFERENCE_SERVICE, SERVING_RUNTIME
from tests.control.apiserver import ApiServer
from tests.fake import Store

HELLO = ("team", "hello")
SCOPE = Scope()
DEADLINE_S = 30.0


def service(name: str = "hello", namespace: str = "team") -> Manifest:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "slipway.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": {}}


class Edge:
    """The watches of one operator, on `api`."""

    def __init__(self, api: ApiServer, url: str, scope: Scope) -> None:
        self.api, self.store = api, api.store
        self.cache, self.queue, self.metrics = Cache(), WorkQueue(), Metrics()
        server = Server(url, ssl.create_default_context(), Configuration())
        self.registry = handlers.registry(scope, self.cache, self.queue, self.metrics)
        handlers.sign_in(self.registry, server)
        self.settings = handlers.settings()
        self.settings.watching.reconnect_backoff = 0.01
        self.settings.networking.error_backoffs = [0.01] * 100
        self.scope = scope
        self.spawned = 0
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        def spawned() -> None:
            self.spawned += 1

        await handlers.watch(self.registry, self.settings, self.scope.namespaces, spawned=spawned)

    async def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert not self.task.done(), self.task
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.005)

    async def watching(self) -> None:
        """Every kind is listed and watched."""
        await self.until(lambda: len(self.api.watched) == len(self.scope.written))

    async def stop(self) -> None:
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith("watcher")]
        survivors = left if self.task.done() else []
        for task in (self.task, *survivors):
            task.cancel()
        await asyncio.gather(self.task, *survivors, return_exceptions=True)


@asynccontextmanager
async def running(scope: Scope = SCOPE, *, store: Store | None = None) -> AsyncIterator[Edge]:
    api = ApiServer(store or Store(), Scope().kinds)
    async with TestServer(api.app()) as http:
        edge = Edge(api, str(http.make_url("")).rstrip("/"), scope)
        try:
            yield edge
        finally:
            await edge.stop()


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running() as edge:
        yield edge


async def keys(queue: WorkQueue, count: int) -> set[tuple[str, str]]:
    found = set()
    for _ in range(count):
        key = await asyncio.wait_for(queue.get(), DEADLINE_S)
        assert key is not None
        queue.done(key)
        found.add(key)
    return found


async def test_what_exists_at_start_is_cached_and_queued() -> None:
    store = Store()
    store.create(INFERENCE_SERVICE, service())
    async with running(store=store) as edge:
        assert await keys(edge.queue, 1) == {HELLO}
        await edge.until(lambda: edge.cache.service(HELLO))


async def test_an_event_reaches_the_cache_and_then_the_queue(edge: Edge) -> None:
    await edge.watching()
    edge.store.create(INFERENCE_SERVICE, service())
    await edge.api.publish()
    assert await keys(edge.queue, 1) == {HELLO}
    assert edge.cache.service(HELLO) is not None


async def test_a_deletion_removes_and_queues(edge: Edge) -> None:
    edge.store.create(INFERENCE_SERVICE, service())
    await edge.watching()
    await edge.until(lambda: edge.cache.service(HELLO))
    await keys(edge.queue, 1)
    edge.store.delete(INFERENCE_SERVICE, *HELLO)
    await edge.api.publish()
    assert await keys(edge.queue, 1) == {HELLO}
    assert edge.cache.service(HELLO) is None


async def test_one_namespace_is_watched_alone_and_cluster_runtimes_are_left_out() -> None:
    scope = Scope(namespaces=("team",), cluster_runtimes=False)
    async with running(scope) as edge:
        edge.store.create(INFERENCE_SERVICE, service())
        edge.store.create(INFERENCE_SERVICE, service("far", "elsewhere"))
        await edge.watching()
        await edge.until(lambda: edge.cache.service(HELLO))
        assert edge.cache.services() == [HELLO]
        lists = [path for path in edge.api.requests if "/apis/slipway.dev/v1alpha1/" in path]
        assert all("/namespaces/team/" in path for path in lists)
        assert not any(CLUSTER_SERVING_RUNTIME.plural in path for path in edge.api.requests)


async def test_nothing_is_ever_written_by_kopf_itself(edge: Edge) -> None:
    """The server knows GET only: a finalizer, an annotation, an Event or a peering would fail the watch."""
    edge.store.create(INFERENCE_SERVICE, service())
    await edge.watching()
    edge.store.edit(INFERENCE_SERVICE, *HELLO, lambda obj: obj["spec"].update(a=1))
    await edge.api.publish()
    await edge.until(lambda: (edge.cache.service(HELLO) or {}).get("spec", {}).get("a") == 1)
    obj = edge.store.get(INFERENCE_SERVICE, *HELLO)
    assert obj is not None
    assert "annotations" not in obj["metadata"]
    assert "finalizers" not in obj["metadata"]


async def test_a_watch_that_is_too_old_lists_again_and_goes_on(edge: Edge) -> None:
    await edge.watching()
    edge.api.silent = True
    edge.store.create(INFERENCE_SERVICE, service())
    edge.api.silent = False
    await edge.api.forget_history()
    await edge.until(lambda: edge.cache.service(HELLO))


@pytest.mark.parametrize("code", [401, 403, 429, 500, 503])
async def test_refusals_at_start_are_waited_out(code: int) -> None:
    store = Store()
    store.create(INFERENCE_SERVICE, service())
    api = ApiServer(store, Scope().kinds)
    api.refuse(code, times=1 if code == 401 else 3)
    async with TestServer(api.app()) as http:
        edge = Edge(api, str(http.make_url("")).rstrip("/"), SCOPE)
        await edge.until(lambda: edge.cache.service(HELLO))
        await edge.stop()


async def test_the_real_backoff_never_ends_and_never_exceeds_its_cap() -> None:
    delays = [delay for delay, _ in zip(handlers.EndlessBackoff(), range(1000), strict=False)]
    assert delays[0] <= 0.6
    assert max(delays) <= 18
    assert delays[-1] >= 12


async def test_a_watch_that_ends_for_good_is_raised_so_that_the_process_ends(edge: Edge) -> None:
    await edge.watching()
    edge.settings.networking.error_backoffs = [0.01]
    edge.api.kinds = tuple(
        kind for kind in edge.api.kinds if kind != SERVING_RUNTIME
    )  # the server breaks down on these
    await edge.api.forget_history()
    with pytest.raises(Exception, match="500"):
        await asyncio.wait_for(edge.task, DEADLINE_S)


async def test_cancelling_leaves_no_task_and_no_connection_behind() -> None:
    before = asyncio.all_tasks()
    async with running() as edge:
        edge.store.create(INFERENCE_SERVICE, service())
        await edge.watching()
        await edge.stop()
        names = {task.get_name() for task in asyncio.all_tasks() - before}
        assert not [name for name in names if "watcher" in name or "worker" in name or "kopf" in name], names


async def test_our_signal_handlers_can_be_taken_back_from_kopf(edge: Edge) -> None:
    caught = asyncio.Event()
    loop = asyncio.get_running_loop()
    await edge.until(lambda: edge.spawned)
    loop.add_signal_handler(signal.SIGTERM, caught.set)
    await edge.watching()
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(caught.wait(), DEADLINE_S)
    loop.remove_signal_handler(signal.SIGTERM)
    assert not edge.task.done(), "kopf did not take the signal for its own"


async def test_lists_wait_behind_changes_and_so_does_a_runtime_s_crowd() -> None:
    cache, queue = Cache(), WorkQueue()
    on_service = handlers.enqueuer(INFERENCE_SERVICE, cache, queue, Metrics())
    on_runtime = handlers.enqueuer(CLUSTER_SERVING_RUNTIME, cache, queue, Metrics())

    def stored(manifest: Manifest, version: int) -> Manifest:
        return manifest | {"metadata": manifest["metadata"] | {"uid": "u", "resourceVersion": str(version)}}

    for number, name in enumerate(("listed-1", "listed-2", "listed-3")):
        await on_service(event={"type": None, "object": stored(service(name), number)})
    await on_runtime(event={"type": "MODIFIED", "object": stored({"metadata": {"name": "r"}}, 8)})
    await on_service(event={"type": "ADDED", "object": stored(service("new"), 9)})
    assert await queue.get() == ("team", "new")
