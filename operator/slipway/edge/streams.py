"""The news of the objects Slipway makes: one plain watch per kind and place, into the cache and the queue.

There are a dozen events of children for every one of a service. kopf takes about a millisecond for each, most of it
for what only its own handlers need; a plain watch takes a twentieth of that (docs/decisions/0001-watches.md). What a
watch cannot tell, deletions missed in a gap, `sweep.py` finds, as it does for kopf's.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from slipway.api.manifest import Manifest
from slipway.control.cache import Cache, version_of
from slipway.control.metrics import Metrics
from slipway.control.workqueue import WorkQueue
from slipway.edge.scope import Scope
from slipway.kube.client import KubeClient
from slipway.kube.errors import Gone, KubeError
from slipway.kube.kinds import OWNED, Kind

log = logging.getLogger(__name__)

_BACKOFF_S = (0.5, 15.0)
_BREATH_S = 0.05
"""Between watches; a server that ends each at once is not asked in a tight loop."""


class Streams:
    def __init__(self, kube: KubeClient, scope: Scope, cache: Cache, queue: WorkQueue, metrics: Metrics) -> None:
        self._kube, self._scope, self._cache, self._queue, self._metrics = kube, scope, cache, queue, metrics
        self._versions: dict[tuple[Kind, str | None], str] = {}

    async def begin(self) -> None:
        """Note where every watch shall start: to be awaited before the cache is filled, so that no news falls between.

        Waits for an API server that is not there yet.
        """
        for kind in OWNED:
            for namespace in self._scope.places(kind):
                await self._note_version(kind, namespace)

    async def run(self, recover: Callable[[Kind], Awaitable[None]]) -> None:
        """Watch until cancelled. `recover` compares a kind with the cache, after a gap that no watch can bridge.

        It is called again until it raises no KubeError.
        """
        async with asyncio.TaskGroup() as group:
            for kind, namespace in list(self._versions):
                group.create_task(self._follow(kind, namespace, recover), name=f"watch {kind.plural}")

    async def _follow(self, kind: Kind, namespace: str | None, recover: Callable[[Kind], Awaitable[None]]) -> None:
        """Watch on from where the last watch ended; after an error a little later, and ever less often."""
        delay_s, gap = _BACKOFF_S[0], False
        while True:
            try:
                if gap:
                    await self._note_version(kind, namespace)
                    await recover(kind)
                    gap = False
                async for type_, manifest in self._kube.watch(
                    kind, namespace, selector=self._scope.selector(kind), version=self._versions[kind, namespace]
                ):
                    self._versions[kind, namespace] = str(version_of(manifest))
                    delay_s = _BACKOFF_S[0]
                    self._take(kind, type_, manifest)
                await asyncio.sleep(_BREATH_S)
            except Gone:
                gap = True
            except KubeError as error:
                log.info("watch of %s broken, again in %.1f s: %s", kind.plural, delay_s, error)
                await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))  # noqa: S311 (spreads retries)
                delay_s = min(delay_s * 2, _BACKOFF_S[1])

    async def _note_version(self, kind: Kind, namespace: str | None) -> None:
        self._versions.pop((kind, namespace), None)
        while (kind, namespace) not in self._versions:
            try:
                self._versions[kind, namespace] = await self._kube.version(kind, namespace)
            except KubeError as error:
                log.warning("waiting for %s: %s", kind.plural, error)
                await asyncio.sleep(random.uniform(1, 3))  # noqa: S311 (spreads retries)

    def _take(self, kind: Kind, type_: str, manifest: Manifest) -> None:
        if type_ == "BOOKMARK":
            return
        self._metrics.seen(kind.kind)
        keys = self._cache.remove(kind, manifest) if type_ == "DELETED" else self._cache.put(kind, manifest)
        for key in keys:
            self._queue.add(key)
