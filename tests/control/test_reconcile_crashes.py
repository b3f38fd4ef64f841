"""Crashes, conflicts and lost answers at any write: the end is the same."""

import contextlib
from typing import Any

import pytest

from slipway.kube.kinds import DEPLOYMENT
from tests.control.releases import BAD, NEW, Behaviour, Releases, released
from tests.control.world import KEY, World, service
from tests.fake import controllers, faults

pytestmark = pytest.mark.timeout(300)  # each takes up to 15 s of CPU, and a machine may do other things


async def _story(world: World) -> None:
    """Create, change the version, make a mistake, mend it."""
    world.user_applies(service())
    await world.converge()
    world.user_applies(service("sample://hello-v2", replicas=2))
    await world.converge()
    world.user_applies(service("sample://hello", model={"runtime": "nope"}))
    await world.converge()
    world.user_applies(service("sample://hello", replicas=2))
    await world.converge()


async def _writes_of_the_story() -> tuple[int, dict[str, Any]]:
    world = World()
    await _story(world)
    return len(world.kube.writes), world.picture()


@pytest.mark.parametrize(
    "fault", [faults.crash_before, faults.crash_after, faults.lost, faults.reply_lost, faults.conflict]
)
async def test_whatever_happens_to_any_write_the_end_is_the_same(fault: Any) -> None:
    count, expected = await _writes_of_the_story()
    for k in range(count):
        world = World()
        pending = fault(k)
        seen = 0

        def once(index: int, call: faults.Call, pending: faults.Faults = pending) -> faults.Fault | None:
            nonlocal seen
            seen += 1
            return pending(seen - 1, call)

        world.kube.fault = once
        world_restart = world.restart

        def restart(world: World = world, once: Any = once, original: Any = world_restart) -> None:
            original()
            world.kube.fault = once

        await _story_with_restarts(world, restart)
        assert world.picture() == expected, f"write {k} of {count}"


async def _story_with_restarts(world: World, restart: Any) -> None:
    operate = world.operate

    async def survive(key: Any = KEY, **more: Any) -> None:
        try:
            await operate(key, **more)
        except faults.Crash:
            restart()
            await operate(key, **more)

    world.operate = survive  # type: ignore[method-assign]
    await _story(world)


async def test_an_operator_that_dies_at_every_single_write_still_comes_to_the_end() -> None:
    """Nothing that one life began is begun again by each of the next: a drain that was over would never be."""
    world = World()
    world.user_applies(service())
    await world.converge()
    (old,) = world.names(DEPLOYMENT)
    world.user_applies(service("sample://hello-v2"))
    for _ in range(60):  # lives, each of which lasts a second
        world.restart()
        world.kube.fault = faults.crash_after(0)
        with contextlib.suppress(faults.Crash):
            await world.reconciler(KEY)
        world.gateways.take()
        controllers.settle(world.store)
        world.wait(1)
    controllers.gc(world.store)
    assert old not in world.names(DEPLOYMENT)
    world.restart()
    await world.converge()
    assert world.kube.writes == []


SHORT = [{"weight": "10%", "hold": "5s"}, {"weight": "50%", "hold": "5s"}]
FAULTS = [faults.crash_before, faults.crash_after, faults.lost, faults.reply_lost, faults.conflict]
CASES = [pytest.param(fault, NEW, "RevisionPromoted", id=f"good-{fault.__name__}") for fault in FAULTS] + [
    pytest.param(fault, BAD, "RolledBack", id=f"bad-{fault.__name__}") for fault in FAULTS[1:4:2]
]


async def _release(uri: str, fault: faults.Faults = faults.none) -> Releases:
    """A release by two steps, during which something happens; until nothing moves any more."""
    world = Releases()
    world.models[BAD] = Behaviour(starts_in_s=1, errors=0.5)
    world.models[NEW] = Behaviour(starts_in_s=1)
    world.user_applies(released())
    await world.live(8)
    world.break_at(fault)
    wanted = released(uri, replicas=2, steps=SHORT, scaleDownDelay="2s")
    wanted["spec"]["rollout"]["steps"][0]["hold"] = "5s" if uri == NEW else "60s"
    world.user_applies(wanted)
    await world.live(5)
    await world.live(90, until=lambda: world.phase in ("Healthy", "RolledBack"))
    await world.live(45 if uri == BAD else 10)
    assert world.witness.faults == []
    return world


def _count(told: list[str], word: str) -> int:
    return sum(entry.startswith(word) for entry in told)


@pytest.mark.parametrize(("fault", "uri", "end"), CASES)
async def test_whatever_happens_to_any_write_of_a_release_it_ends_alike_and_tells_so_once(
    fault: Any, uri: str, end: str
) -> None:
    """Scenario 17: rules 1 to 3 hold in every version written, and there is one event that tells of the end."""
    undisturbed = await _release(uri)
    expected, ends = _end(undisturbed), _count(undisturbed.told(), end)
    for k in range(len(undisturbed.kube.writes) - undisturbed.unbroken):
        world = await _release(uri, fault(k))
        assert _end(world) == expected, f"write {k}"
        assert _count(world.told(), end) == ends, f"write {k}"
        assert world.recorder.reasons.count(end) == ends, f"write {k}"
        judged = (
            (undisturbed.release.get("abort") or {}).get("reason"),
            (world.release.get("abort") or {}).get("reason"),
        )
        assert judged[0] == judged[1], f"write {k}"


def _end(world: Releases) -> dict[str, Any]:
    """What counts, without counts that depend on when somebody looked."""
    picture = world.picture()
    status = picture["status"]
    status["revisions"] = [{k: v for k, v in each.items() if k != "measured"} for each in status["revisions"]]
    status["conditions"] = [{k: v for k, v in each.items() if k != "message"} for each in status["conditions"]]
    return picture
