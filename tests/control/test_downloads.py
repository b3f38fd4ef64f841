"""How far a model's download is: asked of few pods, believed in numbers alone, told seldom, gone when it is done."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_REVISION, LABEL_SERVICE
from slipway.api.schema import timestamp
from slipway.control.cache import Cache
from slipway.control.downloads import EACH, KNOWN_S, MOST, Downloads
from slipway.control.workqueue import Lane
from slipway.decide.fetching import PROGRESS_PORT
from slipway.decide.types import Fetched
from slipway.kube.kinds import POD
from slipway.signals.downloads import parse
from slipway.signals.pods import Silent
from slipway_runtime.fetch.board import Board
from slipway_runtime.fetch.progress import Progress
from tests.control.world import World, service
from tests.fake import controllers

MIB = 1 << 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=3
)


def test_what_a_fetcher_says_is_understood() -> None:
    board, progress = Board(), Progress("s3://m", 200, 1)
    progress.add(50)
    board.show(progress)
    head, _, body = board.answer().partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    found = parse(body)
    assert (found.done, found.total) == (50, 200)


@given(st.dictionaries(st.sampled_from(["done", "total", "bytesPerSecond"]), JSON) | JSON)
def test_whatever_is_said_there_are_sound_numbers_or_none(said: Any) -> None:
    try:
        found = parse(json.dumps(said).encode())
    except Silent:
        return
    assert 0 <= found.done <= (found.total if found.total is not None else 1 << 60)
    assert 0 <= found.per_second <= 1 << 60


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[" * 4000, b'{"done": true, "total": 1, "bytesPerSecond": 1}', b"9" * 4000]
)
def test_what_no_fetcher_would_say_is_nothing(body: bytes) -> None:
    with pytest.raises(Silent):
        parse(body)


class Pods:
    """Pods that fetch, by address; each says what `said` has for it."""

    def __init__(self) -> None:
        self.now, self.version = 100.0, 0
        self.cache = Cache()
        self.said: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.told: list[Key] = []
        self.downloads = Downloads(self.cache, self._ask, self._add, clock=lambda: self.now)

    async def _ask(self, address: str, port: int) -> bytes:
        assert port == PROGRESS_PORT
        self.asked.append(address)
        if address not in self.said:
            raise Silent(address)
        return self.said[address]

    def _add(self, key: Key, lane: Lane) -> None:
        assert lane is Lane.BACKGROUND
        self.told.append(key)

    def put(self, name: str, owner: str, *, state: str = "running", **more: Any) -> None:
        """A pod at the address that is its name."""
        self.version += 1
        fetch = {"name": "fetch", "restartCount": 0, "state": {state: {"exitCode": 0}}}
        ports = [{"name": "progress", "containerPort": PROGRESS_PORT}]
        meta: Manifest = {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "resourceVersion": str(self.version),
            "labels": {LABEL_SERVICE: owner, LABEL_REVISION: "r"},
            "ownerReferences": [{"controller": True, "kind": "ReplicaSet", "name": "r-1"}],
            "creationTimestamp": f"2026-01-01T00:00:{self.version % 60:02}Z",
        }
        spec = {"initContainers": [{"name": "fetch", "ports": ports} | more], "containers": []}
        self.cache.put(POD, {"metadata": meta, "spec": spec, "status": status(name, fetch)})


def status(address: str, fetch: Manifest) -> Manifest:
    return {"podIP": address, "initContainerStatuses": [fetch]}


def saying(done: int, total: int | None = 100) -> bytes:
    return json.dumps({"done": done, "total": total, "bytesPerSecond": 10}).encode()


@pytest.fixture
def pods() -> Pods:
    return Pods()


async def test_who_fetches_is_asked_and_its_service_told_what_is_new(pods: Pods) -> None:
    pods.put("a", "hello")
    pods.put("done", "hello", state="terminated")
    pods.put("old", "hello", ports=[])
    pods.put("mute", "other")
    pods.said["a"] = saying(40)
    for _ in range(2):
        await pods.downloads.look()
        pods.now += 5
    assert sorted(pods.asked) == ["a", "a", "mute", "mute"]
    assert pods.told == [("team", "hello")], "the same again is no news"
    assert pods.downloads.of(("team", "hello")) == {"a": Fetched(40, 100, 10, age_s=5.0)}
    assert pods.downloads.of(("team", "other")) == {}


async def test_what_is_done_or_silent_for_long_is_shown_no_longer(pods: Pods) -> None:
    pods.put("a", "hello")
    pods.said["a"] = saying(40)
    await pods.downloads.look()
    pods.said.clear()
    pods.now += KNOWN_S
    await pods.downloads.look()
    assert pods.downloads.of(("team", "hello"))
    pods.now += 1
    assert pods.downloads.of(("team", "hello")) == {}
    pods.said["a"] = saying(60)
    await pods.downloads.look()
    assert pods.downloads.of(("team", "hello"))["a"].done == 60
    pods.put("a", "hello", state="terminated")
    assert pods.downloads.of(("team", "hello")) == {}
    asked = len(pods.asked)
    await pods.downloads.look()
    assert len(pods.asked) == asked


async def test_few_are_asked_however_many_fetch_and_everybody_in_turn(pods: Pods) -> None:
    for number in range(50):
        pods.put(f"crowd-{number:02}", "crowd")
    for number in range(MOST):
        pods.put(f"single-{number:03}", f"single-{number:03}")
    for rounds in range(1, 3):
        await pods.downloads.look()
        assert len(pods.asked) == rounds * MOST
        pods.now += 5
    assert len({name for name in pods.asked if name.startswith("crowd")}) == EACH
    assert len({name for name in pods.asked if name.startswith("single")}) == MOST


# In status


async def loading() -> tuple[World, str]:
    """A service whose one pod fetches its model, and that pod's name."""
    world = World()
    world.user_applies(service("s3://models/hello"))
    await world.operate()
    controllers.settle(world.store, ready=False)
    await world.operate()
    [pod] = world.store.list(POD)
    return world, pod["metadata"]["name"]


async def test_a_download_is_told_with_its_share_speed_and_end_and_hidden_when_it_is_done() -> None:
    world, pod = await loading()
    world.wait(30)
    world.downloads.pods = {pod: Fetched(43 * MIB, 100 * MIB, 2 * MIB, age_s=1.5)}
    await world.operate()
    [revision] = world.status["revisions"]
    at = timestamp(world.store.now + timedelta(seconds=57 / 2 - 1.5))
    assert revision["download"] == {"percent": 43, "mibPerSecond": 2.0, "doneAt": at}
    said = world.condition("ModelLoaded")
    assert (said["status"], said["reason"]) == ("False", "Loading")
    words = f"the model is being loaded, 43 % is there, 2.0 MiB/s, all of it at about {at[11:19]} UTC"
    assert said["message"].endswith(words), said["message"]
    world.downloads.pods = {}
    controllers.settle(world.store)
    await world.converge()
    assert "download" not in world.status["revisions"][0]
    assert world.condition("ModelLoaded")["message"].endswith("the model is loaded")


async def test_of_an_unknown_size_there_is_the_speed_alone() -> None:
    world, pod = await loading()
    world.downloads.pods = {pod: Fetched(43 * MIB, None, 0)}
    await world.operate()
    assert world.status["revisions"][0]["download"] == {"mibPerSecond": 0.0}
    assert world.condition("ModelLoaded")["message"].endswith("the model is being loaded, 0.0 MiB/s")


async def test_that_it_has_begun_is_told_at_once_and_how_far_it_is_each_thirty_seconds() -> None:
    world, pod = await loading()
    writes: list[int] = []
    for second in range(1, 121):
        world.wait(1)
        world.downloads.pods = {pod: Fetched(second * MIB, 1000 * MIB, MIB)}
        before = len(world.kube.writes)
        await world.operate()
        if len(world.kube.writes) > before:
            writes.append(second)
    assert writes == [1, 31, 61, 91]
