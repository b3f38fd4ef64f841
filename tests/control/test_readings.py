"""When metrics are asked for, how old a number may be, and that nobody suffers by another's question."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from slipway.api.manifest import Key
from slipway.decide.release import Reading
from slipway.signals.answer import Answer
from slipway.signals.prometheus import Unreachable
from slipway.signals.readings import Readings

pytestmark = pytest.mark.looptime

HELLO: Key = ("team", "hello")


@dataclass
class World:
    """Answers by query, `{namespace="team"}` left out; each takes `takes_s`."""

    answers: dict[str, Answer] = field(default_factory=dict)
    takes_s: dict[str, float] = field(default_factory=dict)
    is_gone: bool = False
    asked: list[tuple[float, str]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    abreast: int = 0
    most_abreast: int = 0

    async def ask(self, query: str) -> Answer:
        name = query.partition("{")[0]
        self.asked.append((round(asyncio.get_running_loop().time(), 3), name))
        if self.is_gone:
            raise Unreachable("Prometheus cannot be reached: refused")
        self.abreast += 1
        self.most_abreast = max(self.most_abreast, self.abreast)
        await asyncio.sleep(self.takes_s.get(name, 0))
        self.abreast -= 1
        return self.answers.get(name, Answer(1.0))

    def times(self, name: str) -> list[float]:
        return [at for at, asked in self.asked if asked == name]

    @asynccontextmanager
    async def readings(self) -> AsyncIterator[Readings]:
        made = Readings(self.ask, observe=self.results.append, clock=asyncio.get_running_loop().time)
        running = asyncio.create_task(made.run())
        yield made
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def look(readings: Readings, *names: str, key: Key = HELLO) -> dict[str, Reading]:
    return readings.of(key, {name: name for name in names}, f"{key[1]}-a", f"{key[1]}-b")


async def keep_looking(readings: Readings, seconds: float, *names: str, key: Key = HELLO) -> dict[str, Reading]:
    """As a reconciler that comes each 5 s does; what it sees at last."""
    for _ in range(int(seconds // 5)):
        look(readings, *names, key=key)
        await asyncio.sleep(5)
    return look(readings, *names, key=key)


async def test_a_metric_is_asked_at_once_and_each_15_seconds_while_somebody_looks() -> None:
    world = World(answers={"errors": Answer(0.5, age_s=2)})
    async with world.readings() as readings:
        assert look(readings, "errors") == {}, "not answered yet"
        await asyncio.sleep(1)
        assert look(readings, "errors") == {"errors": Reading(0.5, "", age_s=3)}
        await keep_looking(readings, 40, "errors")
        assert world.times("errors") == [0, 15, 30]
        await asyncio.sleep(1000)
        assert world.times("errors") == [0, 15, 30, 45, 60, 75, 90], "a minute longer"
        assert not readings._lanes
        assert look(readings, "errors") == {}, "nothing of long ago"


async def test_nothing_is_asked_when_nobody_looks() -> None:
    world = World()
    async with world.readings():
        await asyncio.sleep(1000)
    assert world.asked == []


async def test_another_candidate_starts_without_the_numbers_of_the_one_before() -> None:
    async with World().readings() as readings:
        metrics = {"errors": 'errors{revision="$candidate"}'}
        readings.of(HELLO, metrics, "hello-a", "hello-b")
        await asyncio.sleep(1)
        assert readings.of(HELLO, metrics, "hello-a", "hello-b")
        assert readings.of(HELLO, metrics, "hello-a", "hello-c") == {}


async def test_a_metric_of_an_experiment_is_asked_of_each_revision() -> None:
    world = World()
    async with world.readings() as readings:
        metrics, revisions = {"clicks": 'clicks{revision="$revision"}'}, ["hello-a", "hello-b"]
        assert readings.of_each(HELLO, metrics, revisions) == {}
        await asyncio.sleep(1)
        found = readings.of_each(HELLO, metrics, revisions)
    assert {place: reading.value for place, reading in found.items()} == dict.fromkeys(
        [("clicks", "hello-a"), ("clicks", "hello-b")], 1.0
    )
    assert len(world.times("clicks")) == 2


async def test_a_lost_answer_leaves_the_last_number_for_a_while_and_then_says_why_there_is_none() -> None:
    world = World()
    async with world.readings() as readings:
        await keep_looking(readings, 5, "errors")
        world.answers["errors"] = Answer(None, "Prometheus answers with code 503", failed=True)
        (reading,) = (await keep_looking(readings, 30, "errors")).values()
        assert (reading.value, reading.age_s) == (1.0, 35)
        (reading,) = (await keep_looking(readings, 10, "errors")).values()
        assert reading == Reading(None, "Prometheus answers with code 503", failed=True)
        world.answers["errors"] = Answer(2.0)
        (reading,) = (await keep_looking(readings, 15, "errors")).values()
        assert reading.value == 2.0


async def test_nothing_measured_is_told_at_once() -> None:
    world = World()
    async with world.readings() as readings:
        await keep_looking(readings, 5, "errors")
        world.answers["errors"] = Answer(None, "no series: nothing was measured")
        found = await keep_looking(readings, 15, "errors")
    assert found == {"errors": Reading(None, "no series: nothing was measured", failed=False)}


async def test_a_dead_prometheus_costs_one_attempt_each_15_seconds_whoever_asks() -> None:
    world = World(is_gone=True)
    async with world.readings() as readings:
        teams: list[Key] = [(f"team-{i}", "hello") for i in range(50)]
        for _ in range(12):
            for key in teams:
                look(readings, "errors", "other", key=key)
            await asyncio.sleep(5)
        assert len(world.asked) <= 8 + 4, "those that were under way when it was found out, and one each period"
        found = look(readings, "errors", key=teams[7])
        assert found == {"errors": Reading(None, "Prometheus cannot be reached: refused", failed=True)}
        world.is_gone = False
        for _ in range(7):
            for key in teams:
                look(readings, "errors", "other", key=key)
            await asyncio.sleep(5)
        assert all(look(readings, "errors", key=key)["errors"].value == 1.0 for key in teams)
    assert set(world.results) == {"unreachable", "ok"}


async def test_the_slow_questions_of_one_namespace_delay_no_other() -> None:
    names = [f"slow_{i}" for i in range(8)]
    world = World(takes_s=dict.fromkeys(names, 5.0))
    async with world.readings() as readings:
        for _ in range(23):
            look(readings, *names)
            look(readings, "errors", key=("other", "quick"))
            await asyncio.sleep(5)
    assert world.times("errors") == [0, 15, 30, 45, 60, 75, 90, 105]
    assert world.most_abreast == 2
    spacing = world.times("slow_0")
    assert all(later - sooner >= 40 for sooner, later in itertools.pairwise(spacing)), spacing


async def test_no_more_than_eight_questions_are_under_way_at_once() -> None:
    world = World(takes_s={"errors": 1.0})
    async with world.readings() as readings:
        for i in range(30):
            look(readings, "errors", key=(f"team-{i}", "hello"))
        await asyncio.sleep(10)
        assert len(world.asked) == 30
    assert world.most_abreast == 8


async def test_a_question_that_cannot_be_put_is_not_asked() -> None:
    world = World()
    async with world.readings() as readings:
        found = readings.of(HELLO, {"a": 'a{namespace="other"}', "b": 'b{revision="$stable"}'}, "", "hello-b")
        await asyncio.sleep(1)
    assert [(each.value, each.failed) for each in found.values()] == [(None, True)] * 2
    assert "only the service's own" in found["a"].words
    assert "no revision for $stable" in found["b"].words
    assert world.asked == []


async def test_two_metrics_of_one_text_are_one_question() -> None:
    world = World()
    async with world.readings() as readings:
        readings.of(HELLO, {"a": "errors", "b": "errors"}, "hello-a", "hello-b")
        await asyncio.sleep(1)
        found = readings.of(HELLO, {"a": "errors", "b": "errors"}, "hello-a", "hello-b")
    assert found.keys() == {"a", "b"}
    assert len(world.asked) == 1
