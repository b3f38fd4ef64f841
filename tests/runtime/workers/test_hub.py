"""Changes and figures of several workers, over links, without a process."""

import asyncio
import socket
from typing import Any

import pytest
import uvloop

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.workers.hub import Member, Patience
from slipway_runtime.workers.journal import Models, Past
from slipway_runtime.workers.link import Link
from tests.runtime.workers.stand_ins import MADE, Members, Worker, linked, of

LOOPS = {"uvloop": uvloop.new_event_loop}


async def test_an_answer_and_a_refusal_come_back_as_they_were_whatever_their_size() -> None:
    async def answer(what: str, about: Any) -> Any:
        if what == "refuse":
            raise RequestError(Kind.EXISTS, "it is there")
        return about

    one, other = await linked(answer)
    large = {"config": "x" * 3_000_000}
    assert [*await asyncio.gather(one.ask("same", large), one.ask("same", 2))] == [large, 2]
    with pytest.raises(RequestError, match="it is there") as refused:
        await one.ask("refuse")
    assert refused.value.kind is Kind.EXISTS
    await one.close()
    await other.close()


async def test_who_waits_for_a_process_that_dies_is_told() -> None:
    async def never(what: str, about: Any) -> Any:
        await asyncio.Event().wait()

    one, other = await linked(never)
    asking = asyncio.create_task(one.ask("anything"))
    await asyncio.sleep(0)
    await other.close()
    with pytest.raises(ConnectionError):
        await asking
    with pytest.raises(ConnectionError, match="'more'"):
        await one.ask("more")
    await one.close()


async def test_who_died_is_not_answered_any_more() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def answer(what: str, about: Any) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    one, other = await linked(answer)
    asking = asyncio.create_task(one.ask("anything"))
    await began.wait()
    one.abort()
    await ended.wait()
    with pytest.raises(ConnectionError):
        await asking
    await other.close()


async def test_counters_do_not_fall_when_a_worker_dies_and_its_gauges_go_with_it() -> None:
    crew = Members()
    await crew.join(0, Worker(5))
    await crew.join(1, Worker(7))
    assert await crew.rows() == [12]
    assert [row["inference_count"] for row in await crew.hub.statistics()] == [12]
    crew.leave(1)
    assert await crew.rows() == [12]
    assert of(list(await crew.hub.metrics()), "slipway_runtime_running_requests") == [1]
    await crew.join(1, Worker(1))
    assert await crew.rows() == [13]
    assert [row["inference_count"] for row in await crew.hub.statistics()] == [13]
    await crew.close()


async def test_a_change_is_made_by_all_and_by_who_comes_later() -> None:
    crew = Members()
    first, second = await crew.join(0, Worker(1)), await crew.join(1, Worker(2))
    assert await crew.hub.change({"what": "load", "arguments": ["m", None]}) == 1
    assert first.made == second.made == ["load m None"]
    crew.leave(1)
    again = await crew.join(1, Worker(3))
    assert (list(again.loaded), again.made) == (["first", "m"], []), "what it loads at the start it need not load again"
    await crew.close()


async def test_a_model_that_was_unloaded_is_not_loaded_by_a_worker_that_comes_again() -> None:
    crew = Members()
    await crew.join(0, Worker(1))
    await crew.hub.change({"what": "unload", "arguments": ["first"]})
    past = crew.hub.past(await crew.connect(1, Worker(2)))
    assert past == Past(Models(["first"], [], {"first": "unloaded"}), {})
    await crew.close()


async def test_a_worker_that_comes_again_has_what_an_ensemble_brought_along_and_left() -> None:
    crew = Members()
    first = await crew.join(0, Worker(1))
    first.brings = {"ensemble": ["inner"]}
    await crew.hub.change({"what": "load", "arguments": ["ensemble", None]})
    await crew.hub.change({"what": "unload", "arguments": ["ensemble"]})
    assert list((await crew.join(1, Worker(2))).loaded) == list(first.loaded) == ["first", "inner"]
    first.brings, first.refuses = {"bad": ["other"]}, "its step is wrong"
    crew.leave(1)
    with pytest.raises(RequestError, match="its step is wrong"):
        await crew.hub.change({"what": "load", "arguments": ["bad", None]})
    assert list((await crew.join(1, Worker(2))).loaded) == list(first.loaded) == ["first", "inner", "other"]
    await crew.close()


async def test_a_worker_makes_before_it_serves_what_was_changed_while_it_loaded() -> None:
    crew = Members()
    await crew.join(0, Worker(1))
    member = await crew.connect(1, late := Worker(2))
    late.brought_up(crew.hub.past(member))
    for what, arguments in MADE:
        await crew.hub.change({"what": what, "arguments": arguments})
    await crew.hub.join(member)
    assert late.made == ["unload m", "unregister ", "register s /k 0 8", "log  {'log_verbose_level': 0}"]
    await crew.close()


async def test_a_worker_joins_while_another_is_slow_to_make_a_change_and_makes_it_too() -> None:
    crew = Members()
    slow = await crew.join(0, Worker(1))
    slow.hears.clear()
    changing = asyncio.create_task(crew.hub.change({"what": "load", "arguments": ["m", None]}))
    second = await crew.join(1, Worker(2))
    assert not changing.done()
    slow.hears.set()
    await changing
    assert slow.made == second.made == ["load m None"]
    await crew.close()


async def test_a_worker_that_does_not_make_a_change_in_time_is_killed_and_the_others_made_it() -> None:
    crew = Members(Patience(models=0.25))
    (await crew.join(0, Worker(1))).hears.clear()
    second = await crew.join(1, Worker(2))
    assert await crew.hub.change({"what": "load", "arguments": ["m", None]}) == 2
    assert (crew.killed, second.made) == ([0], ["load m None"])
    await crew.close()


async def test_a_question_of_a_run_that_died_does_not_let_the_next_run_join() -> None:
    crew = Members()
    await crew.join(0, Worker(1))
    await crew.hub.change({"what": "load", "arguments": ["m", None]})
    old = await crew.connect(1, stuck := Worker(2))
    stuck.hears.clear()
    joining = asyncio.create_task(crew.hub.join(old))
    await asyncio.sleep(0)
    crew.leave(1)
    old.link.abort()
    new = await crew.connect(1, Worker(3))
    await joining
    assert (old.joined, new.joined) == (False, False)
    await crew.close()


async def test_a_worker_that_does_not_hear_is_passed_over_then_killed() -> None:
    crew = Members(Patience(ping=0.001, late=0.01, hung=0.25))
    ours, theirs = socket.socketpair()  # nobody reads the other end
    link = await Link.over(ours, Worker(1).answer)

    def kill() -> None:
        crew.killed.append(0)
        link.abort()

    await crew.hub.watch(Member(0, link, kill, crew.away.append))
    assert (crew.away, crew.killed) == ([True], [0])
    theirs.close()


async def test_a_worker_that_hears_again_in_time_is_left_alone() -> None:
    crew = Members(Patience(ping=0.001, late=0.01, hung=60))
    ours, theirs = socket.socketpair()
    link = await Link.over(ours, Worker(1).answer)
    told = {True: asyncio.Event(), False: asyncio.Event()}

    def tell(is_away: bool) -> None:
        crew.away.append(is_away)
        told[is_away].set()

    watching = asyncio.create_task(crew.hub.watch(Member(0, link, lambda: crew.killed.append(0), tell)))
    await told[True].wait()
    other = await Link.over(theirs, Worker(1).answer)
    await told[False].wait()
    assert (crew.away[:2], crew.killed) == ([True, False], [])
    await other.close()
    await watching


async def test_figures_do_not_wait_for_who_has_not_come_yet_nor_twice_for_who_is_busy() -> None:
    crew = Members(Patience(figures=0.25, quiet=1000))
    await crew.join(0, Worker(5))
    ours, theirs = socket.socketpair()
    link = await Link.over(ours, Worker(1).answer)
    member = Member(1, link, crew.members.clear, crew.away.append)
    crew.hub.connect(member)
    clock = asyncio.get_running_loop().time
    began_s = clock()
    assert (await crew.rows(), member.quiet_until_s) == ([5], 0)
    member.asked = True
    assert await crew.rows() == [5]
    assert began_s + 1000 <= (until_s := member.quiet_until_s), "it was asked"
    assert (await crew.rows(), member.quiet_until_s) == ([5], until_s), "it was asked again"
    theirs.close()
    await crew.close()


async def test_counters_do_not_fall_when_a_model_is_loaded_again() -> None:
    crew = Members()
    first, second = await crew.join(0, Worker(5)), await crew.join(1, Worker(7))
    assert await crew.rows() == [12]
    first.rows = 1  # loaded again, it counts from the beginning
    assert await crew.rows() == [13]
    second.rows = 2
    assert await crew.rows() == [15]
    assert [row["inference_count"] for row in await crew.hub.statistics()] == [3], "statistics were not asked before"
    first.rows = 0
    assert [row["inference_count"] for row in await crew.hub.statistics()] == [3]
    crew.leave(0)
    assert await crew.rows() == [15]
    await crew.close()


async def test_a_change_is_made_to_its_end_though_who_asked_for_it_is_gone() -> None:
    crew = Members()
    slow = await crew.join(0, Worker(1))
    slow.hears.clear()
    asking = asyncio.create_task(crew.hub.change({"what": "load", "arguments": ["m", None]}))
    await asyncio.sleep(0)
    asking.cancel()
    slow.hears.set()
    assert await crew.hub.change({"what": "log", "arguments": ["", {}]}) == 1
    assert list((await crew.join(1, Worker(2))).loaded) == ["first", "m"]
    await crew.close()


async def test_a_change_that_one_worker_refuses_is_refused() -> None:
    crew = Members()
    await crew.join(0, Worker(1))
    second = await crew.join(1, Worker(2))
    second.refuses = "no room"
    with pytest.raises(RequestError, match="no room"):
        await crew.hub.change({"what": "load", "arguments": ["m", None]})
    await crew.close()


async def test_a_change_before_anybody_has_loaded_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot unload yet: the server is still loading"):
        await Members().hub.change({"what": "unload", "arguments": ["m"]})
