"""Which models there are, in which state, and what becomes of requests while that changes. No torch."""

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from slipway_runtime.errors import Failure, Kind, RequestError
from slipway_runtime.service import State
from tests.runtime.fake_source import FakeSource, Sum, World, first, settle


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


@pytest.fixture
async def two() -> AsyncIterator[World]:
    world = World(FakeSource("m", "other"))
    yield world
    await world.close()


def states(world: World) -> dict[str, str]:
    return {f"{row['name']}/{row.get('version', '')}": row["state"] for row in world.service.index(False)}


def refused(world: World, name: str = "m", version: str = "") -> RequestError:
    with pytest.raises(RequestError) as caught:
        world.service.entry(name, version)
    return caught.value


async def test_it_is_loading_then_ready_then_draining(world: World) -> None:
    world.source.gate.clear()
    assert (world.service.state, world.service.is_ready()) == (State.LOADING, False)
    starting = asyncio.create_task(world.start())
    await settle(lambda: states(world) == {"m/": "LOADING"})
    error = refused(world)
    assert (error.kind, error.message) == (Kind.UNAVAILABLE, "model 'm' is loading, try again shortly")
    assert not world.service.model_ready("m", "")
    world.source.gate.set()
    await starting
    assert (world.service.state, world.service.is_ready(), states(world)) == (State.READY, True, {"m/1": "READY"})
    world.service.set_draining()
    assert (world.service.state, world.service.is_ready()) == (State.DRAINING, False)
    assert first(await world.submit()) == [11, 12]


async def test_a_model_that_fails_does_not_take_the_others_down(two: World, caplog: pytest.LogCaptureFixture) -> None:
    two.source.failing["m"] = "model 'm' is damaged"
    await two.start()
    assert states(two) == {"m/": "UNAVAILABLE", "other/1": "READY"}
    assert next(row["reason"] for row in two.service.index(False) if row["name"] == "m") == "model 'm' is damaged"
    assert (two.service.state, two.service.is_ready()) == (State.READY, False), "ready is when all that is wanted is"
    assert first(await two.submit("other")) == [11, 12]
    error = refused(two)
    assert (error.kind, "unavailable: model 'm' is damaged" in error.message) == (Kind.UNAVAILABLE, True)
    assert any("could not be loaded" in record.message for record in caplog.records)
    two.source.failing.clear()
    await two.service.load("m", {})
    assert two.service.is_ready()


async def test_a_start_at_which_every_model_fails_is_a_failure(two: World) -> None:
    two.source.failing = {"m": "first", "other": "second"}
    with pytest.raises(Failure, match="first"):
        await two.start()
    assert two.service.state is State.FAILED


async def test_a_source_that_cannot_say_what_it_has_is_a_failure(world: World) -> None:
    def broken() -> list[str]:
        raise Failure("no such folder")

    world.source.initial = broken  # type: ignore[method-assign]
    with pytest.raises(Failure, match="no such folder"):
        await world.start()


async def test_a_repository_may_begin_with_no_model_at_all(world: World) -> None:
    world.source.at_start = []
    await world.start()
    assert (world.service.is_ready(), states(world)) == (True, {"m/": "UNAVAILABLE"})
    await world.service.load("m", {})
    assert first(await world.submit()) == [11, 12]


async def test_without_a_version_the_highest_number_answers(world: World) -> None:
    world.source.versions["m"] = {"9": partial(Sum, 9), "10": partial(Sum, 10), "2": partial(Sum, 2)}
    await world.start()
    assert world.service.versions("m") == ["2", "9", "10"]
    assert first(await world.submit()) == [21, 22]
    assert first(await world.submit(version="9")) == [20, 21]
    assert (refused(world, version="3").kind, refused(world, "nope").kind) == (Kind.NOT_FOUND, Kind.NOT_FOUND)
    assert [row["version"] for row in await world.service.statistics("m", "")] == ["2", "9", "10"]
    assert [row["inference_count"] for row in await world.service.statistics("m", "9")] == [1]


async def test_an_unload_finishes_what_waits_and_refuses_what_is_new(world: World) -> None:
    await world.start()
    world.model.hold.clear()
    answers = [world.submit(), world.submit()]
    await settle(lambda: world.service.in_flight == 2)
    unloading = asyncio.create_task(world.service.unload("m", {}))
    await settle(lambda: states(world) == {"m/1": "UNLOADING"})
    for version in ("", "1"):
        error = refused(world, version=version)
        assert (error.kind, error.message) == (Kind.UNAVAILABLE, "model 'm' is unloading, try again shortly")
    assert refused(world, version="7").kind is Kind.NOT_FOUND
    assert not world.service.model_ready("m", "1")
    assert world.service.index(True) == []
    world.model.hold.set()
    assert [first(await answer) for answer in answers] == [[11, 12], [11, 12]]
    await unloading
    assert world.model.closed
    assert world.source.released == [world.model]
    assert states(world) == {"m/": "UNAVAILABLE"}
    error = refused(world)
    assert (error.kind, error.message) == (Kind.UNAVAILABLE, "model 'm' is unavailable: unloaded, try again shortly")
    assert world.service.is_ready(), "nobody wants a model that was unloaded"


async def test_a_reload_loses_no_request_and_the_old_one_answers_what_it_has(world: World) -> None:
    await world.start()
    old = world.model
    old.hold.clear()
    before = [world.submit(), world.submit()]
    await settle(lambda: world.service.in_flight == 2)
    world.source.versions["m"] = {"1": partial(Sum, 100)}
    reloading = asyncio.create_task(world.service.load("m", {}))
    await settle(lambda: len(world.source.loaded) == 2 and world.service.entry("m", "").endpoint.in_flight == 0)
    assert first(await world.submit()) == [111, 112]
    assert not old.closed
    old.hold.set()
    assert [first(await answer) for answer in before] == [[11, 12], [11, 12]]
    await reloading
    assert (old.closed, world.source.released, states(world)) == (True, [old], {"m/1": "READY"})


async def test_while_a_reload_is_on_its_way_the_old_one_answers(world: World) -> None:
    await world.start()
    world.source.gate.clear()
    reloading = asyncio.create_task(world.service.load("m", {}))
    for _ in range(20):
        assert first(await world.submit()) == [11, 12]
    assert states(world) == {"m/1": "READY"}
    world.source.gate.set()
    await reloading


async def test_a_reload_that_fails_leaves_the_old_one_serving(world: World) -> None:
    await world.start()
    world.source.failing["m"] = "the file is cut short"
    with pytest.raises(RequestError, match="failed to load 'm', the file is cut short") as caught:
        await world.service.load("m", {})
    assert caught.value.kind is Kind.INVALID
    assert first(await world.submit()) == [11, 12]
    assert (states(world), world.service.is_ready()) == ({"m/1": "READY"}, True)


async def test_a_version_that_is_gone_after_a_reload_is_not_found(world: World) -> None:
    world.source.versions["m"] = {"1": Sum, "2": Sum}
    await world.start()
    del world.source.versions["m"]["1"]
    await world.service.load("m", {})
    assert (world.service.versions("m"), refused(world, version="1").kind) == (["2"], Kind.NOT_FOUND)


async def test_a_load_takes_the_config_it_is_given(world: World) -> None:
    await world.start()
    await world.service.load("m", {"config": '{"max_batch_size": 2}'})
    assert world.source.configs == [None, '{"max_batch_size": 2}']


async def test_loads_and_unloads_of_one_model_come_one_after_the_other(world: World) -> None:
    await world.start()
    await asyncio.gather(
        *(world.service.load("m", {}) for _ in range(3)),
        world.service.unload("m", {}),
        *(world.service.load("m", {}) for _ in range(3)),
    )
    assert first(await world.submit()) == [11, 12]
    assert [model.closed for model in world.source.loaded] == [True] * 6 + [False]
    assert world.source.released == world.source.loaded[:-1]


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_a_model_that_there_is_not_is_named(world: World, what: str) -> None:
    await world.start()
    with pytest.raises(RequestError, match=f"failed to {what} 'nope'") as caught:
        await getattr(world.service, what)("nope", {})
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_clients_may_not_load_unless_the_server_allows_it(what: str) -> None:
    world = await World(explicit=False).start()
    sentence = f"failed to {what} 'm': explicit model load / unload is not allowed; start the server with --model-co"
    with pytest.raises(RequestError, match=re.escape(sentence)) as caught:
        await getattr(world.service, what)("m", {})
    assert caught.value.kind is Kind.UNAVAILABLE
    assert first(await world.submit()) == [11, 12]
    await world.close()


async def test_what_still_waits_when_the_service_closes_is_refused(world: World) -> None:
    await world.start()
    world.model.hold.clear()
    running, waiting = world.submit(), world.submit()
    await settle(lambda: world.service.entry("m", "").endpoint.waiting == 1)
    closing = asyncio.create_task(world.service.close())
    error: Any = await waiting
    assert (error.kind, error.message) == (Kind.UNAVAILABLE, "the model is being unloaded, send the request again")
    world.model.hold.set()
    assert first(await running) == [11, 12]
    await closing


async def test_load_is_reported_for_balancers(world: World) -> None:
    await world.start()
    assert set(world.service.load_report().values()) == {0.0}
    world.model.hold.clear()
    answers = [world.submit(), world.submit()]
    await settle(lambda: world.service.entry("m", "").endpoint.waiting == 1)
    report = world.service.load_report()
    assert report["application_utilization"] == 2
    assert (report["named_metrics.queue_requests"], report["named_metrics.running_requests"]) == (1, 1)
    world.model.hold.set()
    await asyncio.gather(*answers)
    assert world.service.in_flight == 0


async def left(task: "asyncio.Task[None]") -> None:
    """Its client goes away."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_first_load_whose_client_goes_away_is_done_all_the_same(world: World) -> None:
    world.source.at_start = []
    await world.start()
    world.source.gate.clear()
    loading = asyncio.create_task(world.service.load("m", {}))
    await settle(lambda: states(world) == {"m/": "LOADING"})
    await left(loading)
    world.source.gate.set()
    await settle(lambda: states(world) == {"m/1": "READY"})
    await world.service.unload("m", {})
    assert world.source.released == world.source.loaded


@pytest.mark.parametrize("what", ["load", "unload"])
async def test_the_old_model_is_given_back_although_the_client_goes_away_meanwhile(world: World, what: str) -> None:
    await world.start()
    old = world.model
    old.hold.clear()
    answer = world.submit()
    changing = asyncio.create_task(getattr(world.service, what)("m", {}))
    await settle(lambda: len(world.source.loaded) == 2 or states(world) == {"m/1": "UNLOADING"})
    await left(changing)
    old.hold.set()
    assert first(await answer) == [11, 12]
    await settle(lambda: world.source.released == [old])
    assert old.closed


async def test_a_model_that_cannot_be_served_is_closed_and_says_why(world: World) -> None:
    world.source.versions["m"] = {"1": Sum, "2": partial(Sum, 2)}
    world.source.refused["2"] = "give it one instance"
    with pytest.raises(Failure, match="one instance"):
        await world.start()
    assert world.source.released == world.source.loaded
    assert world.source.loaded[0].closed
    assert "give it one instance" in refused(world).message


async def test_what_an_ensemble_needs_is_ready_before_it_is_and_loaded_once() -> None:
    world = World(FakeSource("a", "needed"))
    world.source.needs = {"a": ["needed"]}
    seen: list[dict[str, str]] = []
    load = world.source.load

    def watched(name: str, config: str | None) -> Any:
        seen.append({"asked": name} | states(world))
        return load(name, config)

    world.source.load = watched  # type: ignore[method-assign]
    await world.start()
    assert seen == [
        {"asked": "a", "a/": "LOADING", "needed/": "UNAVAILABLE"},
        {"asked": "needed", "a/": "LOADING", "needed/": "LOADING"},
        {"asked": "a", "a/": "LOADING", "needed/1": "READY"},
    ]
    assert states(world) == {"a/1": "READY", "needed/1": "READY"}
    await world.service.unload("needed", {})
    await world.service.load("a", {})
    assert states(world) == {"a/1": "READY", "needed/1": "READY"}, "one that was unloaded is loaded again"
    await world.close()


async def test_an_ensemble_whose_model_cannot_be_loaded_is_not_ready() -> None:
    world = World(FakeSource("a", "needed"))
    world.source.needs, world.source.failing = {"a": ["needed"]}, {"needed": "it is damaged"}
    with pytest.raises(Failure, match="it is damaged"):
        await world.start()
    assert states(world) == {"a/": "UNAVAILABLE", "needed/": "UNAVAILABLE"}
    assert "it is damaged" in refused(world, "a").message
    await world.close()


async def test_ensembles_that_need_each_other_are_loaded_at_the_same_time_without_a_deadlock() -> None:
    world = World(FakeSource("a", "b"))
    world.source.needs, world.source.at_start = {"a": ["b"], "b": ["a"]}, []
    await world.start()
    async with asyncio.timeout(20):
        await asyncio.gather(world.service.load("a", {}), world.service.load("b", {}))
    assert states(world) == {"a/1": "READY", "b/1": "READY"}
    await world.close()
