"""`Kube` on a Store in memory: what the operator under test talks to.

Adds to the store what lies between: the call log, faults, and a switch to other tasks at every call, so that
whatever can interleave on the network interleaves here.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from slipway.api.manifest import Manifest
from slipway.kube.errors import NotFound
from slipway.kube.kinds import Kind

from . import faults
from .faults import Call, Faults
from .store import Store

T = TypeVar("T")


class FakeKube:
    """Implements `slipway.kube.client.Kube`. `calls` has every call, `writes` only those that change something."""

    def __init__(self, store: Store | None = None, *, fault: Faults = faults.none) -> None:
        self.store = store or Store()
        self.fault = fault
        self.calls: list[Call] = []

    @property
    def writes(self) -> list[Call]:
        return [call for call in self.calls if call.verb in faults.WRITES]

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        await self._read("get", kind, namespace, name)
        return self.store.get(kind, namespace, name)

    async def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", metadata_only: bool = False
    ) -> list[Manifest]:
        await self._read("list", kind, namespace, "")
        objects = self.store.list(kind, namespace, selector=selector)
        return [_item(kind, obj, metadata_only) for obj in objects]

    async def create(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        call = _call("create", kind, body, manager)
        return await self._write(call, lambda: self.store.create(kind, body, manager=manager))

    async def apply(self, kind: Kind, body: Manifest, *, manager: str, subresource: str = "") -> Manifest:
        call = _call("patch", kind, body, manager, subresource)
        return await self._write(call, lambda: self.store.apply(kind, body, manager=manager, subresource=subresource))

    async def replace(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        call = _call("update", kind, body, manager)
        return await self._write(call, lambda: self.store.replace(kind, body, manager=manager))

    async def scale(self, kind: Kind, namespace: str, name: str, replicas: int, *, manager: str) -> None:
        call = Call("patch", kind.group, kind.plural, namespace, name, manager, "scale")
        await self._write(call, lambda: self.store.scale(kind, namespace, name, replicas, manager=manager))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        call = Call("delete", kind.group, kind.plural, namespace, name)
        try:
            await self._write(call, lambda: self.store.delete(kind, namespace, name, uid=uid))
        except NotFound:
            return

    async def _read(self, verb: str, kind: Kind, namespace: str | None, name: str) -> None:
        await asyncio.sleep(0)
        self.calls.append(Call(verb, kind.group, kind.plural, namespace, name))

    async def _write(self, call: Call, commit: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        fault = self.fault(len(self.writes), call)
        self.calls.append(call)
        if fault is None:
            return commit()
        if fault.committed:
            commit()
        raise fault.error


def _call(verb: str, kind: Kind, body: Manifest, manager: str, subresource: str = "") -> Call:
    metadata = body["metadata"]
    return Call(verb, kind.group, kind.plural, metadata.get("namespace"), metadata["name"], manager, subresource)


def _item(kind: Kind, obj: Manifest, metadata_only: bool) -> Manifest:
    """An object as it stands in a list: built-in kinds come without apiVersion and kind there."""
    if metadata_only:
        return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": obj["metadata"]}
    if "." in kind.group and not kind.group.endswith(".k8s.io"):
        return obj
    return {name: value for name, value in obj.items() if name not in {"apiVersion", "kind"}}
