"""Kubernetes Events about objects: what `kubectl describe` shows and alerts count.

Posted beside the reconciles, never in their way: a bounded queue, one poster, failures dropped and counted. The
same fact about the same object is told once in ten minutes, so that a retry loop is one line and not a flood.
"""

import asyncio
import datetime as dt
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from slipway.api.manifest import Manifest
from slipway.api.names import MANAGER
from slipway.kube.client import Kube
from slipway.kube.errors import AlreadyExists, KubeError
from slipway.kube.kinds import EVENT

log = logging.getLogger(__name__)

_REPEAT_AFTER_S = 600.0
_QUEUED_MAX = 1000
_REMEMBERED_MAX = 4096
_NOTE_MAX = 1024  # bytes, by the API
_Fact = tuple[str, str, str]
"""uid, reason, note."""


class Events:
    """`record` from anywhere on the event loop; `run` posts. `component` is reportingController."""

    def __init__(
        self,
        kube: Kube,
        *,
        component: str,
        instance: str,
        dropped: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube, self._component, self._instance = kube, component, instance
        self._dropped, self._clock = dropped, clock
        self._queue: asyncio.Queue[Manifest] = asyncio.Queue(_QUEUED_MAX)
        self._told: OrderedDict[_Fact, float] = OrderedDict()

    def record(self, regarding: Manifest, type_: str, reason: str, note: str, action: str, *, at: str = "") -> None:
        """Have the event posted, unless the same was told lately or too many wait. `type_`: Normal or Warning.

        `at`, the time under which history has it, names the event: told again by another process it is there already.
        """
        fact = (regarding["metadata"]["uid"], reason, note)
        if self._is_repeated(fact):
            return
        suffix = hashlib.sha256("\n".join((*fact, at)).encode()).hexdigest()[:16] if at else secrets.token_hex(8)
        event = self._event(regarding, note, suffix) | {"type": type_, "reason": reason, "action": action}
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._dropped()

    async def run(self) -> None:
        """Post until cancelled; what waits then is lost."""
        while True:
            event = await self._queue.get()
            try:
                await self._kube.create(EVENT, event, manager=MANAGER)
            except AlreadyExists:
                log.debug("event posted before")
            except KubeError as error:
                self._dropped()
                log.info("event not posted: %s", error)
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Wait until all that was recorded has been posted or dropped."""
        await self._queue.join()

    def _is_repeated(self, fact: _Fact) -> bool:
        now = self._clock()
        if fact in self._told and now < self._told[fact] + _REPEAT_AFTER_S:
            return True
        self._told[fact] = now
        self._told.move_to_end(fact)
        if len(self._told) > _REMEMBERED_MAX:
            self._told.popitem(last=False)
        return False

    def _event(self, regarding: Manifest, note: str, suffix: str) -> Manifest:
        metadata = regarding["metadata"]
        namespace = metadata.get("namespace", "default")  # where events about cluster-scoped objects go
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"namespace": namespace, "name": f"{metadata['name']}.{suffix}"},
            "eventTime": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "note": note.encode()[:_NOTE_MAX].decode("utf-8", "ignore"),
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "namespace": metadata.get("namespace"),
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion"),
            },
        }
