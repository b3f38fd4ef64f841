"""What watches miss: the first full picture at start, and the differences found by listing now and then.

A watch that was broken for long is followed by a new list, from which kopf cannot tell what vanished meanwhile;
and no watch is perfect for weeks. So every period the metadata of all objects is listed and compared with the
cache, and every service is reconciled once even if nothing happened.
"""

import asyncio
import logging
import random
from collections.abc import Iterable

from slipway.api.manifest import Key, Manifest
from slipway.control.cache import Cache, Place, place_of, version_of
from slipway.control.workqueue import Lane, WorkQueue
from slipway.edge.scope import Scope
from slipway.kube.client import Kube
from slipway.kube.errors import KubeError
from slipway.kube.kinds import Kind

log = logging.getLogger(__name__)

_FIRST_SWEEP_S = 10.0
_SETTLE_S = 5.0
"""How far a healthy watch may lag behind a list before an object counts as missed."""
_RETRY_S = (1.0, 3.0)


async def prime(kube: Kube, scope: Scope, cache: Cache) -> None:
    """Fill the cache, however long the API server or the CRDs take to be there.

    Only then may anything be reconciled: a service whose Deployments are not listed yet looks like a new one.
    """
    for kind in scope.kinds:
        while True:
            try:
                for manifest in await _list(kube, scope, kind):
                    cache.put(kind, manifest)
                break
            except KubeError as error:
                log.warning("waiting for %s: %s", kind.plural, error)
                await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 (spreads retries)


class Sweep:
    def __init__(self, kube: Kube, scope: Scope, cache: Cache, queue: WorkQueue) -> None:
        self._kube, self._scope, self._cache, self._queue = kube, scope, cache, queue

    async def run(self, period_s: float) -> None:
        """Sweep and resync every `period_s` until cancelled; the first sweep soon, for the gap after `prime`."""
        pause_s = min(_FIRST_SWEEP_S, period_s)
        while True:
            await asyncio.sleep(pause_s)
            await self.once()
            for key in self._cache.services():
                self._queue.add_after(key, random.uniform(0, period_s), Lane.BACKGROUND)  # noqa: S311
            pause_s = period_s

    async def once(self) -> None:
        """Compare every kind; what cannot be listed now is compared next time."""
        for kind in self._scope.kinds:
            try:
                await self.compare(kind)
            except KubeError as error:
                log.warning("sweep of %s put off: %s", kind.plural, error)

    async def compare(self, kind: Kind) -> None:
        """Compare one kind with the cache. Raises KubeError if it cannot be listed now."""
        keys = await self._compare(kind)
        if keys:
            log.info("the sweep found news of %s that no watch brought, for %d services", kind.plural, len(keys))
        for key in keys:
            self._queue.add(key, Lane.BACKGROUND)

    async def _compare(self, kind: Kind) -> set[Key]:
        known = {place_of(manifest): _uid(manifest) for manifest in self._cache.objects(kind)}
        listed = {place_of(m): m for m in await _list(self._kube, self._scope, kind, metadata_only=True)}
        keys = self._drop(kind, (place for place, uid in known.items() if _uid(listed.get(place)) != uid), known)
        if self._missed(kind, listed):
            await asyncio.sleep(_SETTLE_S)
            for place in self._missed(kind, listed):
                if manifest := await self._kube.get(kind, place[0] or None, place[1]):
                    keys |= self._cache.put(kind, manifest)
        return keys

    def _drop(self, kind: Kind, vanished: Iterable[Place], known: dict[Place, str]) -> set[Key]:
        """Remove what is not listed, but not what was made again since."""
        keys: set[Key] = set()
        for place in vanished:
            manifest = self._cache.get(kind, *place)
            if manifest and _uid(manifest) == known[place]:
                keys |= self._cache.remove(kind, manifest)
        return keys

    def _missed(self, kind: Kind, listed: dict[Place, Manifest]) -> list[Place]:
        return [place for place, manifest in listed.items() if self._is_behind(kind, place, manifest)]

    def _is_behind(self, kind: Kind, place: Place, listed: Manifest) -> bool:
        cached = self._cache.get(kind, *place)
        return cached is None or version_of(cached) < version_of(listed)


async def _list(kube: Kube, scope: Scope, kind: Kind, *, metadata_only: bool = False) -> list[Manifest]:
    found: list[Manifest] = []
    for namespace in scope.places(kind):
        found += await kube.list(kind, namespace, selector=scope.selector(kind), metadata_only=metadata_only)
    return found


def _uid(manifest: Manifest | None) -> str:
    return str(manifest["metadata"]["uid"]) if manifest else ""
