"""Answers one after the other: bounded ahead of a slow client, ended by one that leaves, told what went wrong."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any

import numpy as np
import pytest
import uvloop

from slipway_runtime.engine.job import Call
from slipway_runtime.engine.streams import AHEAD, Streams
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Rows
from tests.runtime.engine import LONG_S, Asked, Model, policy, settle

LOOPS = {"uvloop": uvloop.new_event_loop}


class Counting(Model):
    """Answers 0, 1, 2 ... as many as it is asked for; ends badly for some numbers."""

    def __init__(self, *, closed: bool = False) -> None:
        super().__init__(closed=closed)
        self.given = 0
        self.ended = 0
        self.working = threading.Semaphore(0)

    def stream(self, call: Call) -> Iterator[Rows]:
        most = int(call.inputs[0][0, 0])
        try:
            self.working.release()
            assert self.gate.wait(LONG_S)
            for n in range(most):
                self.given += 1
                yield [np.full((1, 1), n)]
            if most == 3:
                raise RequestError(Kind.INVALID, "three is too many")
            if most == 4:
                raise ZeroDivisionError("by four")
            if most == 5:
                sys.exit(5)
        finally:
            self.ended += 1


@asynccontextmanager
async def streams_of(*models: Counting, max_queue: int = 10, **change: Any) -> AsyncIterator[Streams]:
    streams = Streams(models, policy(max_queue=max_queue, **change))
    try:
        yield streams
    finally:
        for model in models:
            model.gate.set()
        async with asyncio.timeout(LONG_S):
            await streams.close()


async def answers(streams: Streams, most: int, timeout_s: float = LONG_S, **of_job: Any) -> list[float]:
    job = Asked(most)
    for name, value in of_job.items():
        setattr(job, name, value)
    return [float(rows[0][0, 0]) async for rows in streams.run(job, timeout_s)]


async def works(model: Counting) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, model.working.acquire, True, LONG_S)


@pytest.mark.parametrize("most", [0, 1, 2, 100])
async def test_all_answers_come_in_order(most: int) -> None:
    model = Counting()
    async with streams_of(model) as streams:
        assert await answers(streams, most) == list(range(most))
        await settle(lambda: streams.running == 0)
    assert model.is_closed


async def test_a_slow_client_costs_no_memory() -> None:
    model = Counting()
    async with streams_of(model) as streams, aclosing(streams.run(Asked(10_000), LONG_S)) as stream:
        seen = [await anext(stream)]
        await settle(lambda: model.given >= AHEAD + 1)
        for _ in range(100):
            await asyncio.sleep(0.0001)
        # One has been taken and one is in the model's hand, beside those that wait.
        assert model.given <= AHEAD + 2
        seen += [await anext(stream) for _ in range(50)]
        assert [int(rows[0][0, 0]) for rows in seen] == list(range(51))
        assert model.given <= AHEAD + 52


async def test_a_client_that_leaves_ends_the_work_and_frees_the_instance() -> None:
    model = Counting()
    async with streams_of(model) as streams:
        async with aclosing(streams.run(Asked(10**9), LONG_S)) as stream:
            await anext(stream)
            assert streams.running == 1
        await settle(lambda: streams.running == 0)
        assert model.ended == 1
        assert model.given <= 2 * AHEAD
        assert await answers(streams, 2) == [0, 1]


async def test_a_client_that_leaves_before_the_first_answer_frees_the_instance_when_it_comes() -> None:
    model = Counting(closed=True)
    async with streams_of(model) as streams:
        task = asyncio.create_task(answers(streams, 10))
        await works(model)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert streams.running == 1
        model.gate.set()
        await settle(lambda: streams.running == 0)
        assert (model.given, model.ended) == (1, 1)


@pytest.mark.parametrize(
    ("most", "kind", "sentence", "logged"),
    [
        (3, Kind.INVALID, "three is too many", 0),
        (4, Kind.INTERNAL, "the model failed: by four", 1),
        (5, Kind.INTERNAL, "the model failed: 5", 1),
    ],
)
async def test_a_model_that_fails_midway_has_given_what_it_gave(
    most: int, kind: Kind, sentence: str, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    seen = list[float]()
    async with streams_of(Counting()) as streams:
        with pytest.raises(RequestError) as caught:  # noqa: PT012 - it is raised somewhere in the loop
            async for rows in streams.run(Asked(most), LONG_S):
                seen.append(float(rows[0][0, 0]))
        assert (caught.value.kind, str(caught.value)) == (kind, sentence)
        assert seen == list(range(most))
        assert await answers(streams, 2) == [0, 1]
    assert len(caplog.records) == logged


async def test_those_who_wait_for_an_instance_are_served_in_order_and_bounded() -> None:
    model = Counting(closed=True)
    order = list[int]()
    async with streams_of(model, max_queue=2) as streams:

        async def one(number: int) -> None:
            await answers(streams, 1)
            order.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(3)]
        await settle(lambda: streams.waiting == 2)
        with pytest.raises(RequestError, match="Exceeds maximum queue size: 2 requests wait already") as caught:
            await answers(streams, 1)
        assert caught.value.kind is Kind.FULL
        model.gate.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]
        assert streams.waiting == 0


async def order_of(model: Counting, streams: Streams, *waiting: tuple[str, dict[str, Any]]) -> list[str]:
    """In which order those who wait are served, by their names, when the one instance gets free."""
    order = list[str]()

    async def one(name: str, of_job: dict[str, Any]) -> None:
        await answers(streams, 1, **of_job)
        order.append(name)

    first = asyncio.create_task(answers(streams, 1))
    await works(model)
    tasks = [asyncio.create_task(one(name, of_job)) for name, of_job in waiting]
    await settle(lambda: streams.waiting == len(waiting))
    model.gate.set()
    await asyncio.gather(first, *tasks)
    return order


async def test_who_has_a_higher_priority_streams_before_who_came_earlier() -> None:
    model = Counting(closed=True)
    async with streams_of(model, levels=2) as streams:
        low, high = {"level": 1}, {"level": 0}
        assert await order_of(model, streams, ("a", low), ("b", low), ("c", high)) == ["c", "a", "b"]


async def test_a_tenant_with_many_streams_that_wait_does_not_keep_another_from_its_share() -> None:
    model = Counting(closed=True)
    async with streams_of(model, weights={"few": 2}) as streams:
        many = [(f"many {n}", {"tenant": "many"}) for n in range(4)]
        few = [(f"few {n}", {"tenant": "few"}) for n in range(2)]
        order = await order_of(model, streams, *many, *few)
        assert order.index("few 1") <= 2
        assert [name for name in order if name.startswith("many")] == [name for name, _ in many]


async def test_who_waits_for_a_stream_is_told_by_level_and_tenant() -> None:
    model = Counting(closed=True)
    async with streams_of(model, levels=2) as streams:
        task = asyncio.create_task(answers(streams, 1))
        await works(model)
        waits = asyncio.create_task(answers(streams, 1, level=1, tenant="a"))
        await settle(lambda: streams.waiting)
        assert streams.waiting_by_tenant() == {(2, "a"): 1}
        model.gate.set()
        await asyncio.gather(task, waits)


async def test_streams_that_wait_are_bounded_by_bytes_but_one_is_always_let_in() -> None:
    model = Counting(closed=True)
    async with streams_of(model, max_queue_bytes=100) as streams:
        tasks = [asyncio.create_task(answers(streams, 1, size_bytes=1000))]
        await works(model)
        tasks.append(asyncio.create_task(answers(streams, 1, size_bytes=60)))
        await settle(lambda: streams.waiting == 1)
        with pytest.raises(RequestError, match="Exceeds maximum queue size: 60 bytes wait already") as caught:
            await answers(streams, 1, size_bytes=41)
        assert caught.value.kind is Kind.FULL
        tasks.append(asyncio.create_task(answers(streams, 1, size_bytes=40)))
        await settle(lambda: streams.waiting == 2)
        model.gate.set()
        assert await asyncio.gather(*tasks) == [[0]] * 3


async def test_no_more_streams_run_than_may_be_with_the_model_at_once() -> None:
    models = [Counting(closed=True) for _ in range(3)]
    async with streams_of(*models, max_jobs=2) as streams:
        tasks = [asyncio.create_task(answers(streams, 1)) for _ in range(4)]
        await settle(lambda: streams.running == 2)
        assert (streams.waiting, streams.utilization) == (2, 2.0)
        for model in models:
            model.gate.set()
        assert await asyncio.gather(*tasks) == [[0]] * 4
        assert max(model.given for model in models) >= 1


async def test_whoever_leaves_at_whatever_moment_takes_no_instance_with_it() -> None:
    random = Random(1)  # noqa: S311 - repeatable
    models = [Counting() for _ in range(2)]
    async with streams_of(*models, max_queue=1000) as streams:
        tasks = [
            asyncio.create_task(answers(streams, 2, random.choice([LONG_S, random.uniform(0, 0.01)])))
            for _ in range(300)
        ]
        for task in tasks:
            if random.random() < 0.3:
                task.cancel()
            if random.random() < 0.2:
                await asyncio.sleep(0)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [0.0, 1.0] in ended
        assert {type(each) for each in ended} == {list, RequestError, asyncio.CancelledError}
        await settle(lambda: streams.running == 0)
        assert streams.waiting == 0
        assert await asyncio.gather(*(answers(streams, 1) for _ in range(2))) == [[0], [0]]


async def test_several_instances_stream_at_the_same_time() -> None:
    models = [Counting(closed=True) for _ in range(2)]
    async with streams_of(*models) as streams:
        tasks = [asyncio.create_task(answers(streams, 2)) for _ in range(2)]
        for model in models:
            await works(model)
        assert streams.running == 2
        for model in models:
            model.gate.set()
        assert await asyncio.gather(*tasks) == [[0, 1]] * 2


async def test_the_deadline_is_for_the_first_answer_whether_it_waits_or_runs() -> None:
    model = Counting(closed=True)
    async with streams_of(model) as streams:
        runs = asyncio.create_task(answers(streams, 1, 0.05))
        await works(model)
        waits = asyncio.create_task(answers(streams, 1, 0.01))
        for task, sentence in ((runs, "after 0.05 s"), (waits, "after 0.01 s")):
            with pytest.raises(RequestError, match=sentence) as caught:
                await task
            assert caught.value.kind is Kind.DEADLINE
        assert streams.waiting == 0
        model.gate.set()
        assert await answers(streams, 1) == [0]


async def test_a_stream_that_has_begun_may_take_longer_than_the_deadline() -> None:
    async with streams_of(Counting()) as streams, aclosing(streams.run(Asked(100), 0.5)) as stream:
        await anext(stream)
        await asyncio.sleep(0.51)
        assert len([rows async for rows in stream]) == 99


async def test_one_who_leaves_while_it_waits_takes_no_instance_with_it() -> None:
    model = Counting(closed=True)
    async with streams_of(model) as streams:
        first = asyncio.create_task(answers(streams, 1))
        await works(model)
        second, third = (asyncio.create_task(answers(streams, 1)) for _ in range(2))
        await settle(lambda: streams.waiting == 2)
        second.cancel()
        model.gate.set()
        assert await first == await third == [0]
        assert streams.waiting == 0


async def test_close_ends_what_runs_and_refuses_who_waits_and_who_comes() -> None:
    model = Counting(closed=True)
    async with streams_of(model) as streams:
        runs = asyncio.create_task(answers(streams, 20))
        await works(model)
        waits = [asyncio.create_task(answers(streams, 1)) for _ in range(2)]
        await settle(lambda: streams.waiting == 2)
        closing = asyncio.create_task(streams.close())
        await asyncio.sleep(0)
        for task in (*waits, asyncio.create_task(answers(streams, 1))):
            with pytest.raises(RequestError, match="is being unloaded") as caught:
                await task
            assert caught.value.kind is Kind.UNAVAILABLE
        assert not model.is_closed
        model.gate.set()
        with pytest.raises(RequestError, match="is being unloaded"):
            await runs
        await closing
        assert model.given == 1, "it is asked for nothing more"
    assert model.is_closed


async def test_many_streams_some_left_early_leave_nothing_behind() -> None:
    models = [Counting() for _ in range(3)]
    async with streams_of(*models, max_queue=1000) as streams:

        async def one(number: int) -> int:
            seen = 0
            async with aclosing(streams.run(Asked(100 + number), LONG_S)) as stream:
                async for _ in stream:
                    seen += 1
                    if number % 3 == 0 and seen == number:
                        break
            return seen

        seen = await asyncio.gather(*(one(number) for number in range(1, 100)))
        assert seen == [number if number % 3 == 0 else 100 + number for number in range(1, 100)]
        await settle(lambda: streams.running == 0)
        assert sum(model.ended for model in models) == 99


async def test_close_ends_a_stream_without_end_whose_client_is_slow() -> None:
    model = Counting()
    async with streams_of(model) as streams, aclosing(streams.run(Asked(1_000_000_000), LONG_S)) as stream:
        await anext(stream)
        await settle(lambda: model.given > AHEAD)  # it waits for room
        async with asyncio.timeout(LONG_S):
            await streams.close()
        with pytest.raises(RequestError, match="is being unloaded"):
            async for _ in stream:
                pass
    assert (model.is_closed, model.ended, streams.running) == (True, 1, 0)
