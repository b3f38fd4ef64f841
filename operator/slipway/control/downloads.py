"""How far the pods are that fetch a model: a few of each service are asked every five seconds, while they fetch.

What they say is a tenant's word, and shown to that tenant alone: nothing is decided by it.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_SERVICE
from slipway.control.cache import Cache
from slipway.control.workqueue import Lane
from slipway.decide.types import Fetched
from slipway.kube.kinds import POD
from slipway.signals.downloads import parse
from slipway.signals.pods import Silent

LOOK_S = 5.0
MOST, EACH = 100, 3
"""Pods asked at a time, and of one service: those that were made first."""
KNOWN_S = 60.0
"""So long what a pod has said is shown. With more than MOST that fetch each is asked more seldom than at every look."""


class Downloads:
    """Not for threads."""

    def __init__(
        self,
        cache: Cache,
        ask: Callable[[str, int], Awaitable[bytes]],
        add: Callable[[Key, Lane], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask`: address and port -> what is answered; raises Silent."""
        self._cache, self._ask, self._add, self._clock = cache, ask, add, clock
        self._asked: dict[str, float] = {}
        self._heard: dict[str, tuple[float, Fetched]] = {}
        """Both by uid, of pods that fetch."""

    def of(self, key: Key) -> Mapping[str, Fetched]:
        """Pod -> how far it is, of those that fetch now and said so lately."""
        now, found = self._clock(), dict[str, Fetched]()
        for pod in self._cache.owned(key, POD):
            heard = self._heard.get(pod["metadata"]["uid"])
            if heard is not None and "fetching" in pod and now - heard[0] <= KNOWN_S:
                found[pod["metadata"]["name"]] = replace(heard[1], age_s=now - heard[0])
        return found

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask once round, whoever was asked longest ago first."""
        fetching = self._fetching()
        known = {pod["metadata"]["uid"] for pods in fetching.values() for pod in pods}
        self._asked = {uid: at for uid, at in self._asked.items() if uid in known}
        self._heard = {uid: heard for uid, heard in self._heard.items() if uid in known}
        due = [
            (self._asked.get(pod["metadata"]["uid"], float("-inf")), pod["metadata"]["uid"], key, pod)
            for key, pods in fetching.items()
            for pod in sorted(pods, key=_age)[:EACH]
        ]
        async with asyncio.TaskGroup() as group:
            for _, uid, key, pod in sorted(due, key=lambda entry: entry[:2])[:MOST]:
                self._asked[uid] = self._clock()
                group.create_task(self._hear(key, pod))

    def _fetching(self) -> dict[Key, list[Manifest]]:
        found: dict[Key, list[Manifest]] = defaultdict(list)
        for pod in self._cache.objects(POD):
            if "fetching" in pod and "address" in pod and not pod["metadata"].get("deletionTimestamp"):
                found[pod["metadata"]["namespace"], pod["metadata"]["labels"][LABEL_SERVICE]].append(pod)
        return found

    async def _hear(self, key: Key, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        try:
            fetched = parse(await self._ask(pod["address"], pod["fetching"]))
        except Silent:
            return
        _, before = self._heard.get(uid, (0.0, None))
        self._heard[uid] = (self._clock(), fetched)
        if fetched != before:
            self._add(key, Lane.BACKGROUND)


def _age(pod: Manifest) -> tuple[str, str]:
    return pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]
