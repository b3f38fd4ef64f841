"""Experiments as the operator carries them: what is counted, when it is written, and what a restart leaves."""

from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.control.trials import Trials
from slipway.decide.release import Reading, Sample, Window
from tests.control.releases import GOOD, NEW, Releases
from tests.control.world import KEY, Measured, split
from tests.fake.gateways import FakeGateways
from tests.fake.store import Store

STEP_S, RATE = 15, 20
CLICKS = [{"name": "clicks", "promql": 'clicks{revision="$revision"}', "goal": "Higher"}]


def compared(**policy: Any) -> Manifest:
    wanted = split(NEW, "50%")
    wanted["spec"]["predictor"]["model"]["storageUri"] = GOOD
    wanted["spec"]["traffic"]["experiment"] = policy
    return wanted


async def begun(**policy: Any) -> Releases:
    """Both answer, and nothing is told yet."""
    world = Releases()
    world.replicas, world.rate = 1, 0
    world.user_applies(compared(**policy))
    await world.live(60, until=lambda: bool(world.status.get("experiment")))
    return world


async def live(world: Releases, minutes: float, *, errors: float = 0.0) -> int:
    """Let users come to both alike; so many errors at the variant. How many came."""
    sent, owed, step = 0, 0.0, STEP_S * RATE
    for _ in range(round(minutes * 60 / STEP_S)):
        world.wait(STEP_S)
        owed += step * errors
        for uri, failed in ((GOOD, 0), (NEW, int(owed))):
            world.gateways.count(KEY, world.revision(uri), Sample(step, failed))
        owed -= int(owed)
        sent += 2 * step
        world.is_due = world.gateways.take() or world.is_due
        await world.wake()
    return sent


def arms(world: Releases) -> dict[str, Any]:
    return {arm["name"]: arm for arm in world.status["experiment"]["arms"]}


def requests(world: Releases) -> int:
    return sum(arm["requests"] for arm in arms(world).values())


def status_writes(world: Releases) -> int:
    return sum(call.subresource == "status" for call in world.kube.writes)


async def test_all_that_was_counted_is_told_each_minute_and_changes_no_weight() -> None:
    world = await begun()
    assert {name: arm["revision"] for name, arm in arms(world).items()} == {
        "stable": world.revision(GOOD),
        "b": world.revision(NEW),
    }
    weights, writes = world.weights, status_writes(world)
    sent = await live(world, 10, errors=0.01)
    assert requests(world) == sent
    assert arms(world)["b"]["errors"] == sent // 200
    low, high = arms(world)["b"]["errorRate"][1:]
    assert low < 0.01 < high
    assert status_writes(world) - writes <= 12, "one each minute, and the measured share"
    assert world.weights == weights


async def test_without_requests_nothing_is_written() -> None:
    world = await begun()
    before = world.status
    for _ in range(240):
        world.wait(STEP_S)
        await world.wake()
    assert world.status == before
    assert world.reconciles < 100


async def test_a_restart_loses_the_present_stretch_at_most() -> None:
    world = await begun()
    sent = await live(world, 5)
    assert requests(world) == sent
    await live(world, 0.5)
    since = world.status["experiment"]["since"]
    world.restart()
    world.gateways.forget_stretches(KEY)
    await world.wake()
    more = await live(world, 5)
    assert (requests(world), world.status["experiment"]["since"]) == (sent + more, since)


async def test_who_leads_is_told_once() -> None:
    world = await begun()
    await live(world, 40, errors=0.2)
    assert (world.status["experiment"]["outcome"], world.status["experiment"]["leader"]) == ("Leader", "stable")
    assert world.recorder.reasons.count("ExperimentDecided") == 1
    (told,) = world.told("ExperimentDecided")
    assert told.startswith("ExperimentDecided: stable leads; points less failed over stable: b -20 (")
    world.restart()
    await live(world, 10, errors=0.2)
    assert len(world.told("ExperimentDecided")) == 1


async def test_another_version_of_the_variant_begins_anew_and_no_experiment_is_told_no_more() -> None:
    world = await begun()
    await live(world, 3)
    wanted = compared()
    wanted["spec"]["traffic"]["variants"][0]["model"]["storageUri"] = "sample://hello-v3"
    world.user_applies(wanted)
    await world.live(60, until=lambda: requests(world) == 0)
    assert arms(world)["b"]["revision"] == world.revision("sample://hello-v3")
    del wanted["spec"]["traffic"]["experiment"]
    world.user_applies(wanted)
    await world.live(5)
    assert "experiment" not in world.status
    assert KEY not in world.gateways.stretches


async def test_a_refused_spec_leaves_an_experiment_as_it_is() -> None:
    world = await begun()
    await live(world, 3)
    before = world.status["experiment"]
    world.user_applies(compared(objective="p99"))
    await world.live(2)
    assert world.status["experiment"] == before
    (accepted,) = (each for each in world.status["conditions"] if each["type"] == "Accepted")
    assert "experiment.objective p99 is none of errorRate, p50, p95" in accepted["message"]


async def test_metrics_are_asked_of_each_arm() -> None:
    world = await begun(objective="clicks", metrics=CLICKS)
    for number in range(30):
        for uri, value in ((GOOD, 5.0), (NEW, 6.0 + number % 3 / 10)):
            found = Reading(value, age_s=5)
            world.metrics.each["clicks", world.revision(uri)] = found
        await live(world, 1.25)
    assert arms(world)["b"]["metrics"]["clicks"][0] == pytest.approx(6.1, abs=0.02)
    assert arms(world)["b"]["gain"][0] == pytest.approx(1.1, abs=0.02)


def _told(memory: object) -> Manifest:
    status = {"experiment": {"memory": memory, "arms": []}}
    return {"spec": {"traffic": {"experiment": {}}}, "status": status}


def test_a_stretch_whose_answer_was_lost_counts_once_if_it_was_written_and_is_kept_if_not() -> None:
    for written in (True, False):
        gateways = FakeGateways(Store())
        trials = Trials(gateways, Measured())
        assert trials.window(KEY, _told("before")) == Window(0, 0, {}, {})
        gateways.count(KEY, "hello-a", Sample(7, 1))
        sent = trials.window(KEY, _told("before"))
        assert sent is not None
        trials.sends(KEY, _told("after"), sent)
        gateways.count(KEY, "hello-a", Sample(2))
        next_ = trials.window(KEY, _told("after" if written else "before"))
        assert next_ is not None
        assert next_.samples["hello-a"].requests == (2 if written else 9)
