"""Kubernetes Events: told once, in bounds, and never in the way of a reconcile."""

import asyncio

import pytest

from slipway.api.manifest import Manifest
from slipway.control.events import Events
from slipway.kube.errors import Forbidden, Unavailable
from slipway.kube.kinds import EVENT
from tests.fake import FakeKube, Fault, faults

pytestmark = pytest.mark.looptime

SERVICE: Manifest = {
    "apiVersion": "slipway.dev/v1alpha1",
    "kind": "InferenceService",
    "metadata": {"namespace": "team", "name": "hello", "uid": "u-1", "resourceVersion": "7"},
}


class Desk:
    """A recorder whose poster runs only when the test lets it."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube, self.dropped = kube, 0
        self.events = Events(
            kube,
            component="slipway.dev/operator",
            instance="pod-1",
            dropped=self._drop,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    def _drop(self) -> None:
        self.dropped += 1

    def tell(self, note: str = "it broke", *, reason: str = "ModelFailed", uid: str = "u-1", at: str = "") -> None:
        regarding = SERVICE | {"metadata": SERVICE["metadata"] | {"uid": uid}}
        self.events.record(regarding, "Warning", reason, note, "Reconcile", at=at)

    async def post(self) -> list[Manifest]:
        poster = asyncio.create_task(self.events.run())
        await self.events.flush()
        poster.cancel()
        return self.kube.store.list(EVENT, "team")


async def test_an_event_says_what_happened_to_which_object_and_who_says_so() -> None:
    desk = Desk(FakeKube())
    desk.tell("the sample is missing")
    [event] = await desk.post()
    assert event["type"] == "Warning"
    assert (event["reason"], event["note"], event["action"]) == ("ModelFailed", "the sample is missing", "Reconcile")
    assert (event["reportingController"], event["reportingInstance"]) == ("slipway.dev/operator", "pod-1")
    assert event["regarding"] == {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "InferenceService",
        "namespace": "team",
        "name": "hello",
        "uid": "u-1",
        "resourceVersion": "7",
    }


async def test_the_same_fact_is_told_once_in_ten_minutes() -> None:
    desk = Desk(FakeKube())
    for _ in range(5):
        desk.tell()
        await asyncio.sleep(100)
    assert len(await desk.post()) == 1
    await asyncio.sleep(101)  # 601 s since it was told
    desk.tell()
    assert len(await desk.post()) == 2


async def test_another_note_reason_or_object_is_another_fact() -> None:
    desk = Desk(FakeKube())
    desk.tell()
    desk.tell("it broke again")
    desk.tell(reason="Unschedulable")
    desk.tell(uid="u-2")
    assert len(await desk.post()) == 4


@pytest.mark.parametrize("error", [Forbidden("no"), Unavailable("down")], ids=["refused", "unreachable"])
async def test_an_event_that_cannot_be_posted_is_dropped_and_counted(error: Exception) -> None:
    desk = Desk(FakeKube(fault=faults.at(0, Fault(error))))
    desk.tell("first")
    desk.tell("second")
    assert [event["note"] for event in await desk.post()] == ["second"]
    assert desk.dropped == 1


async def test_recording_never_waits_and_never_grows_without_bound() -> None:
    desk = Desk(FakeKube())
    for number in range(2500):
        desk.tell(f"note {number}")
    assert desk.dropped == 1500
    assert len(await desk.post()) == 1000


async def test_a_note_is_cut_to_what_the_api_allows_without_breaking_a_character() -> None:
    desk = Desk(FakeKube())
    desk.tell("é" * 2000)
    [event] = await desk.post()
    assert event["note"] == "é" * 512


async def test_an_event_about_a_cluster_scoped_object_goes_to_the_default_namespace() -> None:
    kube = FakeKube()
    desk = Desk(kube)
    regarding = {"apiVersion": "slipway.dev/v1alpha1", "kind": "ClusterServingRuntime"}
    desk.events.record(regarding | {"metadata": {"name": "r", "uid": "u"}}, "Normal", "Used", "by a", "Reconcile")
    await desk.post()
    assert len(kube.store.list(EVENT, "default")) == 1


async def test_what_history_has_is_posted_once_however_many_processes_tell_it() -> None:
    kube = FakeKube()
    for _ in range(3):
        desk = Desk(kube)
        desk.tell("promoted", at="2030-01-01T00:00:00Z")
        assert len(await desk.post()) == 1
        assert desk.dropped == 0
    desk.tell("promoted", uid="u-2", at="2030-01-01T00:00:00Z")
    assert len(await desk.post()) == 2
