"""The cluster's news by kopf's watches: each event goes into the cache, and whom it concerns into the queue.

kopf does what it is good at: watch, reconnect, bookmarks, dead streams. It decides nothing, writes nothing and
keeps nothing: low-level handlers only, storages that store nothing, no finalizer, no annotation, no Events of its
own. What it cannot tell, deletions missed while a watch was broken, `sweep.py` finds.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

import kopf

from slipway.control.cache import Cache
from slipway.control.metrics import Metrics
from slipway.control.workqueue import Lane, WorkQueue
from slipway.edge.scope import Scope
from slipway.kube.auth import Server
from slipway.kube.kinds import Kind

log = logging.getLogger(__name__)

_BACKOFF_CAP_S = 15.0


class NoDiffBase(kopf.DiffBaseStorage):
    """kopf would keep the last state in an annotation and deep-copy every body twice to compare: 60 % of its CPU."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: kopf.Body) -> None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        return


class NoProgress(kopf.ProgressStorage):
    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        return

    def clear(self, *, essence: Any) -> Any:
        return essence


class EndlessBackoff:
    """Delays without end. With a finite list an API server's upgrade ends every operator at the same time."""

    def __iter__(self) -> Iterator[float]:
        delay_s = 0.5
        while True:
            yield delay_s * random.uniform(0.8, 1.2)  # noqa: S311 (spreads retries)
            delay_s = min(_BACKOFF_CAP_S, delay_s * 2)


def settings() -> kopf.OperatorSettings:
    """What kopf is told; its defaults are for operators that let it do more."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True  # no LIST and WATCH of CRDs and namespaces: less RBAC
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.persistence.diffbase_storage = NoDiffBase()
    chosen.persistence.progress_storage = NoProgress()
    chosen.process.ultimate_exiting_timeout = None  # the shutdown is main's
    chosen.queueing.idle_timeout = 0.1  # an object's task holds 8 to 16 KiB and the whole object until it ends
    chosen.watching.chunk_size = 100  # raw objects in memory at once
    chosen.watching.server_timeout, chosen.watching.client_timeout = 300, 330
    chosen.networking.connect_timeout, chosen.networking.request_timeout = 5, 30
    chosen.networking.error_backoffs = EndlessBackoff()
    return chosen


def registry(scope: Scope, cache: Cache, queue: WorkQueue, metrics: Metrics) -> kopf.OperatorRegistry:
    """One handler per kind, and nothing else."""
    handlers = kopf.OperatorRegistry()
    for kind in scope.written:
        on_event = kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=handlers)
        on_event(enqueuer(kind, cache, queue, metrics))
    return handlers


def enqueuer(kind: Kind, cache: Cache, queue: WorkQueue, metrics: Metrics) -> Any:
    """The handler of one kind: into the cache, and whom it concerns into the queue."""

    async def handle(event: kopf.RawEvent, **_: Any) -> None:
        manifest: Any = event["object"]
        metrics.seen(kind.kind)
        keys = cache.remove(kind, manifest) if event["type"] == "DELETED" else cache.put(kind, manifest)
        # Type None is an object of a list, at start or after a gap: nobody waits for that one now. And one change of
        # a runtime concerns many services: they must not delay a change of one.
        lane = Lane.BACKGROUND if event["type"] is None or len(keys) > 2 else Lane.CHANGE
        for key in keys:
            queue.add(key, lane)

    return handle


def sign_in(handlers: kopf.OperatorRegistry, server: Server) -> None:
    """Let kopf use the same credentials as the client. It closes the session it is given."""
    attempts = 0

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        nonlocal attempts
        attempts += 1
        if attempts > 1:  # the last session was answered 401; kopf itself would ask again at once, for ever
            await asyncio.sleep(random.uniform(1, 3))  # noqa: S311 (spreads retries)
        return kopf.AiohttpSession(server=server.url, aiohttp_session=server.session())


async def watch(
    handlers: kopf.OperatorRegistry,
    chosen: kopf.OperatorSettings,
    namespaces: Collection[str],
    *,
    spawned: Callable[[], None] = lambda: None,
) -> None:
    """Watch until cancelled. Raises what ended a watcher: then this process has gone blind and must end too.

    Only a cancelled kopf takes its watchers along; when one fails, the others run on until the loop ends.

    `spawned` is called once kopf runs, which has by then taken the process's signal handlers for itself.
    `kopf.operator` is not used because it ends by cancelling every task of the loop that is younger than itself.
    """
    # Named, or kopf asks for the name of the user, which a container's uid need not have.
    identity: Any = "slipway"
    tasks = await kopf.spawn_tasks(
        registry=handlers,
        settings=chosen,
        identity=identity,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    spawned()
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    raise RuntimeError("kopf ended by itself")
