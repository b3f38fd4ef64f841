"""The first picture, and what the sweep finds that no watch told: vanished, missed, made again."""

import asyncio
from collections.abc import Callable

import pytest

from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_MANAGED_BY, LABEL_SERVICE, MANAGED_BY
from slipway.control.cache import Cache
from slipway.control.workqueue import WorkQueue
from slipway.edge.scope import Scope
from slipway.edge.sweep import Sweep, prime
from slipway.kube.errors import NotFound
from slipway.kube.kinds import CLUSTER_SERVING_RUNTIME, INFERENCE_SERVICE, POD, SERVICE, SERVING_RUNTIME, Kind
from tests.fake import FakeKube

pytestmark = pytest.mark.looptime

HELLO: Key = ("team", "hello")
OURS = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_SERVICE: "hello"}


def child(name: str, *, namespace: str = "team", ours: bool = True) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": OURS if ours else {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}


def service(name: str = "hello", namespace: str = "team") -> Manifest:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "slipway.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": {}}


class World:
    def __init__(self, kube: FakeKube | None = None, scope: Scope | None = None) -> None:
        self.kube, self.scope = kube or FakeKube(), scope or Scope()
        self.store, self.cache, self.queue = self.kube.store, Cache(), WorkQueue()
        self.sweep = Sweep(self.kube, self.scope, self.cache, self.queue)

    async def primed(self) -> "World":
        await prime(self.kube, self.scope, self.cache)
        self.kube.calls.clear()
        return self

    async def queued(self) -> list[Key]:
        found = []
        while len(self.queue):
            key = await self.queue.get()
            assert key is not None
            self.queue.done(key)
            found.append(key)
        return found

    def names(self, kind: Kind) -> list[str]:
        return sorted(manifest["metadata"]["name"] for manifest in self.cache.objects(kind))


async def test_the_first_picture_has_every_kind_and_only_our_children() -> None:
    world = World()
    world.store.create(INFERENCE_SERVICE, service())
    world.store.create(SERVICE, child("hello"))
    world.store.create(SERVICE, child("foreign", ours=False))
    await world.primed()
    assert world.cache.service(HELLO) is not None
    assert world.names(SERVICE) == ["hello"]


async def test_the_first_picture_waits_for_crds_that_are_not_there_yet() -> None:
    class Late(FakeKube):
        async def list(
            self, kind: Kind, namespace: str | None, *, selector: str = "", metadata_only: bool = False
        ) -> list[Manifest]:
            if kind == SERVING_RUNTIME and asyncio.get_running_loop().time() < 100:
                raise NotFound("the server could not find the requested resource")
            return await super().list(kind, namespace, selector=selector, metadata_only=metadata_only)

    world = World(Late())
    world.store.create(INFERENCE_SERVICE, service())
    await world.primed()
    assert asyncio.get_running_loop().time() >= 100
    assert world.cache.service(HELLO) is not None


async def test_namespaced_mode_reads_its_namespaces_only() -> None:
    world = World(scope=Scope(namespaces=("team", "lab"), cluster_runtimes=False))
    for namespace in ("team", "lab", "elsewhere"):
        world.store.create(INFERENCE_SERVICE, service("s", namespace))
    await prime(world.kube, world.scope, world.cache)
    assert world.cache.services() == [("team", "s"), ("lab", "s")]
    await world.sweep.once()
    assert {call.namespace for call in world.kube.calls} == {"team", "lab"}
    assert CLUSTER_SERVING_RUNTIME.plural not in {call.resource for call in world.kube.calls}


async def test_what_vanished_unseen_is_removed_and_its_service_queued() -> None:
    world = World()
    world.store.create(SERVICE, child("hello"))
    await world.primed()
    world.store.delete(SERVICE, "team", "hello")
    await world.sweep.once()
    assert world.names(SERVICE) == []
    assert await world.queued() == [HELLO]


async def test_a_service_that_vanished_unseen_is_queued_so_that_its_memory_goes() -> None:
    world = World()
    world.store.create(INFERENCE_SERVICE, service())
    await world.primed()
    world.store.delete(INFERENCE_SERVICE, *HELLO)
    await world.sweep.once()
    assert world.cache.services() == []
    assert await world.queued() == [HELLO]


async def test_what_was_made_unseen_is_read_after_a_while() -> None:
    world = World()
    await world.primed()
    world.store.create(SERVICE, child("hello"))
    await world.sweep.once()
    assert world.names(SERVICE) == ["hello"]
    assert await world.queued() == [HELLO]


async def test_what_changed_unseen_is_read_after_a_while() -> None:
    world = World()
    world.store.create(SERVICE, child("hello"))
    await world.primed()
    world.store.edit(SERVICE, "team", "hello", lambda obj: obj["spec"].update(externalName="x"))
    await world.sweep.once()
    known = world.cache.get(SERVICE, "team", "hello")
    assert known is not None
    assert known["spec"]["externalName"] == "x"
    assert await world.queued() == [HELLO]


async def test_a_watch_that_is_only_late_costs_no_read() -> None:
    world = World()
    await world.primed()
    made = world.store.create(SERVICE, child("hello"))
    asyncio.get_running_loop().call_later(1, world.cache.put, SERVICE, made)
    await world.sweep.once()
    assert "get" not in {call.verb for call in world.kube.calls}


async def test_what_was_deleted_and_made_again_unseen_is_the_new_one() -> None:
    world = World()
    old = world.store.create(SERVICE, child("hello"))
    await world.primed()
    world.store.delete(SERVICE, "team", "hello")
    new = world.store.create(SERVICE, child("hello"))
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    await world.sweep.once()
    known = world.cache.get(SERVICE, "team", "hello")
    assert known is not None
    assert known["metadata"]["uid"] == new["metadata"]["uid"]


class MadeMeanwhile(FakeKube):
    """Its list of Services is on its way when one is made."""

    async def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", metadata_only: bool = False
    ) -> list[Manifest]:
        listed = await super().list(kind, namespace, selector=selector, metadata_only=metadata_only)
        if metadata_only and kind == SERVICE:
            self.made(self.store.create(SERVICE, child("hello")))
        return listed

    made: Callable[[Manifest], object]


@pytest.mark.parametrize("before", [False, True], ids=["made", "made-again"])
async def test_what_is_made_while_the_list_is_on_its_way_is_not_taken_for_vanished(before: bool) -> None:
    kube = MadeMeanwhile()
    world = World(kube)
    kube.made = lambda service: world.cache.put(SERVICE, service)
    if before:
        world.store.create(SERVICE, child("hello"))
    await world.primed()
    if before:
        world.store.delete(SERVICE, "team", "hello")
    await world.sweep.once()
    assert world.names(SERVICE) == ["hello"]


async def test_a_kind_that_cannot_be_listed_does_not_stop_the_others() -> None:
    class NoPods(FakeKube):
        async def list(
            self, kind: Kind, namespace: str | None, *, selector: str = "", metadata_only: bool = False
        ) -> list[Manifest]:
            if kind == POD and metadata_only:
                raise NotFound("gone")
            return await super().list(kind, namespace, selector=selector, metadata_only=metadata_only)

    world = World(NoPods())
    world.store.create(INFERENCE_SERVICE, service())
    await world.primed()
    world.store.delete(INFERENCE_SERVICE, *HELLO)
    await world.sweep.once()
    assert world.cache.services() == []


async def test_a_steady_cluster_is_swept_without_a_read_and_without_waking_anybody() -> None:
    world = World()
    world.store.create(INFERENCE_SERVICE, service())
    world.store.create(SERVICE, child("hello"))
    await world.primed()
    await world.sweep.once()
    assert {call.verb for call in world.kube.calls} == {"list"}
    assert await world.queued() == []


async def test_every_service_is_reconciled_once_per_period_spread_over_it() -> None:
    world = World()
    for number in range(100):
        world.store.create(INFERENCE_SERVICE, service(f"s{number}"))
    await world.primed()
    loop = asyncio.get_running_loop()
    start = loop.time()
    running = asyncio.create_task(world.sweep.run(600.0))
    moments: dict[Key, float] = {}
    while len(moments) < 100:
        key = await asyncio.wait_for(world.queue.get(), 600)
        assert key is not None
        world.queue.done(key)
        assert key not in moments, "nobody comes twice before everybody came once"
        moments[key] = loop.time() - start
    running.cancel()
    assert max(moments.values()) <= 610, "the first sweep comes after ten seconds and spreads them over the next 600"
    assert sum(moment < 310 for moment in moments.values()) == pytest.approx(50, abs=30)
