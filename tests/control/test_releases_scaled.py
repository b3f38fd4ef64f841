"""Releases of a service whose load changes under way: the rules hold in every version that is ever written."""

import random
from typing import Any

import pytest

from slipway.api.scaled import ScalingState
from slipway.decide.demand import Demand
from slipway.decide.scaling.types import Code, Reason
from slipway.kube.kinds import DEPLOYMENT
from tests.control.releases import BAD, NEW, Behaviour, Releases, released
from tests.control.world import Demanded
from tests.fake import faults

pytestmark = pytest.mark.timeout(300)  # each takes up to 10 s of CPU, and a machine may do other things

MOVING = {"Provisioning", "Shadowing", "Progressing", "Promoting", "RollingBack"}
SHORT = [{"weight": "10%", "hold": "5s"}, {"weight": "65%", "hold": "10s"}]
MOST = 8


def _scaled(uri: str, *, least: int = 1, **rollout: Any) -> Any:
    wanted = released(uri, **rollout)
    wanted["spec"]["scaling"] = {"minReplicas": least, "maxReplicas": MOST}
    return wanted


class Load:
    """What scaling asks for: for whoever answers, and never less while a release is under way."""

    def __init__(self, world: Releases) -> None:
        self.world = world

    async def ask(self, replicas: int) -> None:
        world = self.world
        assert isinstance(world.scaling, Demanded)
        is_moving = world.status.get("rollout", {}).get("phase") in MOVING
        world.replicas = max(1, replicas, world.replicas) if is_moving and replicas < world.replicas else replicas
        code = Code.OBJECTIVE if world.replicas else Code.IDLE
        state = ScalingState(at=world.store.now.timestamp())
        reasons = (Reason(code, "so many"),)
        world.scaling.of[""] = Demand(world.status.get("stable", ""), world.replicas, reasons, state)
        world.rate = 200.0 if world.replicas else 0.0
        world.is_due = True
        await world.wake()

    def look(self) -> None:
        """While one is under way all revisions together never have more than twice what is needed."""
        if self.world.phase in MOVING:
            total = sum(one["spec"]["replicas"] for one in self.world.store.list(DEPLOYMENT, "team"))
            assert total <= 2 * max(1, self.world.replicas), f"{total} for {self.world.replicas}"


async def _begun(**rollout: Any) -> tuple[Releases, Load]:
    world = Releases()
    world.replicas = 1
    least = rollout.pop("least", 1)
    world.user_applies(_scaled("sample://hello", least=least, **rollout))
    await world.live(8)
    load = Load(world)
    await load.ask(1)
    world.every_second.append(load.look)
    return world, load


@pytest.mark.parametrize("capacity", ["Surge", "Borrow"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_load_that_changes_under_way_breaks_no_rule_and_keeps_no_release_from_its_end(
    seed: int, capacity: str
) -> None:
    rng = random.Random(seed)  # noqa: S311
    world, load = await _begun(steps=SHORT, capacity=capacity)
    await load.ask(rng.randint(1, 4))
    await world.live(5)
    world.user_applies(_scaled(NEW, steps=SHORT, capacity=capacity))
    for _ in range(20):
        await world.live(rng.randint(1, 8))
        await load.ask(rng.randint(1, MOST))
    await world.live(200, until=lambda: world.phase == "Healthy" and world.share(world.revision(NEW)) == 10_000)
    await world.live(15)
    assert world.witness.faults == []
    live = {one["metadata"]["name"]: one["spec"]["replicas"] for one in world.store.list(DEPLOYMENT, "team")}
    assert live == {world.revision(NEW): world.replicas}


async def test_a_bad_version_goes_back_while_the_load_grows() -> None:
    world, load = await _begun(steps=SHORT)
    world.models[BAD] = Behaviour(errors=0.5)
    world.user_applies(_scaled(BAD, steps=[{"weight": "50%", "hold": "60s"}]))
    for replicas in (2, 3, 5, 8):
        await world.live(8)
        await load.ask(replicas)
    await world.live(120, until=lambda: world.phase == "RolledBack")
    await world.live(45)
    assert world.witness.faults == []
    assert [one["spec"]["replicas"] for one in world.store.list(DEPLOYMENT, "team")] == [8]


async def test_a_load_that_grows_brings_stable_its_replicas_though_it_has_lent_some() -> None:
    """By `Borrow` the two share what is needed; more of it is stable's, which answers most."""
    world, load = await _begun(steps=[{"weight": "10%", "gate": True}], capacity="Borrow")
    await load.ask(3)
    await world.live(5)
    world.user_applies(_scaled(NEW, steps=[{"weight": "10%", "gate": True}], capacity="Borrow"))
    await world.live(20)
    await load.ask(6)
    await world.live(5)
    stable = world.status["stable"]
    assert world.get(DEPLOYMENT, stable)["spec"]["replicas"] >= 5
    assert world.witness.faults == []


async def _asleep(fault: faults.Faults = faults.none) -> Releases:
    """To sleep, a release meanwhile, to sleep again, and awake."""
    world, load = await _begun(steps=SHORT, least=0)
    world.break_at(fault)
    await load.ask(0)
    await world.live(6)
    world.user_applies(_scaled(NEW, steps=SHORT, least=0))
    await world.live(12)
    await load.ask(0)
    await world.live(10)
    assert [one["spec"]["replicas"] for one in world.store.list(DEPLOYMENT, "team")] == [0]
    assert world.condition("Ready")["reason"] == "ScaledToZero"
    await load.ask(2)
    await world.live(10)
    return world


async def test_a_release_asleep_takes_no_steps_and_breaks_no_rule() -> None:
    world = await _asleep()
    assert world.witness.faults == []
    assert world.told("RolloutStepped") == []
    assert world.status["stable"] == world.revision(NEW)


@pytest.mark.parametrize("fault", [faults.crash_before, faults.crash_after, faults.lost, faults.conflict])
async def test_whatever_happens_to_any_write_of_falling_asleep_and_waking_the_end_is_the_same(fault: Any) -> None:
    undisturbed = await _asleep()
    for k in range(len(undisturbed.kube.writes) - undisturbed.unbroken):
        world = await _asleep(fault(k))
        assert world.witness.faults == [], f"write {k}"
        live = {one["metadata"]["name"]: one["spec"]["replicas"] for one in world.store.list(DEPLOYMENT, "team")}
        assert live == {world.revision(NEW): 2}, f"write {k}"
        assert world.condition("Ready")["reason"] == "Serving", f"write {k}"
