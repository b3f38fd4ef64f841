"""The ways in front of the batcher: equal requests asked once, sequences in order; each job has its own end."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import uvloop

from slipway_runtime.engine.batcher import Batcher
from slipway_runtime.engine.cache import Cache
from slipway_runtime.engine.job import Call
from slipway_runtime.engine.sequences import Sequences
from slipway_runtime.engine.ways import Cached, Sequenced
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Rows
from tests.runtime.engine import LONG_S, Asked, Model, batcher_of, has_begun, settle

LOOPS = {"uvloop": uvloop.new_event_loop}


async def done(*jobs: Asked) -> None:
    await settle(lambda: all(job.answers for job in jobs))


# --- cached


class World:
    def __init__(self, model: Model, batcher: Batcher, max_bytes: int, timeout_s: float) -> None:
        self.model, self.batcher, self.stats = model, batcher, batcher.stats
        self.cache = Cache(max_bytes)
        self.cached = Cached(batcher, self.cache, batcher.stats, timeout_s)

    def ask(self, number: float, timeout_s: float | None = None, **parameters: Any) -> Asked:
        job = Asked(number, **parameters)
        self.cached.submit(job, timeout_s)
        return job

    @property
    def is_clean(self) -> bool:
        return not (self.cached._flights or self.cached._inner)


@asynccontextmanager
async def cached(
    *, closed: bool = False, max_bytes: int = 1 << 20, timeout_s: float = LONG_S, **change: Any
) -> AsyncIterator[World]:
    model = Model(closed=closed)
    async with batcher_of(model, timeout_s=timeout_s, **change) as batcher:
        world = World(model, batcher, max_bytes, timeout_s)
        yield world
    world.cached.close()
    assert world.is_clean


async def test_an_answer_is_asked_for_once_and_given_later_than_submit() -> None:
    async with cached() as world:
        first = world.ask(3)
        await done(first)
        again = world.ask(3)
        assert again.answers == []
        await done(again)
        assert (first.answer, again.answer, world.model.batches) == (6, 6, [[3]])
        assert (world.stats.cache_hits, world.stats.cache_misses) == (1, 1)
        assert world.stats.cache_hit_ns > 0
        assert world.stats.cache_miss_ns > 0


async def test_other_parameters_are_another_request() -> None:
    async with cached() as world:
        await done(world.ask(3, p=1), world.ask(3, p=2))
        assert world.model.batches == [[3, 3]]


async def test_equal_requests_at_the_same_time_fly_together() -> None:
    async with cached(closed=True) as world:
        jobs = [world.ask(3) for _ in range(5)]
        await has_begun(world.model)
        jobs += [world.ask(3), world.ask(4)]
        world.model.gate.set()
        await done(*jobs)
        assert [job.answer for job in jobs] == [6] * 6 + [8]
        assert world.model.batches == [[3], [4]]


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_one_of_those_who_fly_together_may_leave(gone: int) -> None:
    async with cached(closed=True) as world:
        jobs = [world.ask(3) for _ in range(3)]
        await has_begun(world.model)
        left = jobs.pop(gone)
        assert world.cached.cancel(left)
        assert not world.cached.cancel(left)
        world.model.gate.set()
        await done(*jobs)
        assert [job.answer for job in jobs] == [6, 6]
        assert left.answers == []


@pytest.mark.parametrize("runs", [True, False])
async def test_when_all_have_left_it_is_not_asked_any_more(runs: bool) -> None:
    async with cached(closed=True) as world:
        other = world.ask(1)
        await has_begun(world.model)
        jobs = [world.ask(1 if runs else 2) for _ in range(3)]
        for job in (*jobs, other):
            world.cached.cancel(job)
        assert world.is_clean
        assert world.batcher.waiting == 0
        again = world.ask(1)  # does not join what has been given up
        world.model.gate.set()
        await done(again)
        assert world.model.batches == [[1], [1]]


async def test_each_has_its_own_deadline() -> None:
    async with cached(closed=True) as world:
        leader, follower = world.ask(3, 0.01), world.ask(3)
        third = world.ask(3, 0.03)
        await done(leader, third)
        assert [str(job.answers[0]) for job in (leader, third)] == [
            "Request timeout expired after 0.01 s",
            "Request timeout expired after 0.03 s",
        ]
        world.model.gate.set()
        await done(follower)
        assert (leader.answer, third.answer, follower.answer) == (Kind.DEADLINE, Kind.DEADLINE, 6)


async def test_who_joins_late_has_as_long_as_alone() -> None:
    async with cached(closed=True, timeout_s=1.0) as world:
        leader = world.ask(3)
        await asyncio.sleep(0.5)
        follower = world.ask(3)
        await done(leader)
        assert (leader.answer, follower.answers) == (Kind.DEADLINE, [])
        world.model.gate.set()
        await done(follower)
        assert follower.answer == 6


async def test_when_the_time_of_all_is_up_it_leaves_the_queue() -> None:
    async with cached(closed=True) as world:
        world.ask(1)
        await has_begun(world.model)
        jobs = [world.ask(2, 0.01), world.ask(2, 0.02)]
        await done(*jobs)
        assert world.batcher.waiting == 0
        assert list(world.cached._flights.values()) == list(world.cached._inner.values())


async def test_a_hit_may_be_cancelled_before_it_is_given() -> None:
    async with cached() as world:
        await done(world.ask(3))
        hit, other = world.ask(3), world.ask(3)
        assert world.cached.cancel(hit)
        assert not world.cached.cancel(hit)
        await done(other)
        assert hit.answers == []
        assert not world.cached.cancel(other)


async def test_an_error_is_for_all_who_fly_together_and_is_not_kept() -> None:
    class Fails(Model):
        fails = True

        def answers(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
            if self.fails:
                raise RequestError(Kind.INTERNAL, "no")
            return super().answers(batch)

    model = Fails()
    async with batcher_of(model) as batcher:
        world = World(model, batcher, 1 << 20, LONG_S)
        jobs = [world.ask(3), world.ask(3)]
        await done(*jobs)
        assert {job.answer for job in jobs} == {Kind.INTERNAL}
        model.fails = False
        await done(after := world.ask(3))
        assert after.answer == 6


async def test_a_full_queue_refuses_what_is_not_known_and_leaves_nothing() -> None:
    async with cached(closed=True, max_queue=1) as world:
        world.ask(0)
        await has_begun(world.model)
        waits = world.ask(1)
        with pytest.raises(RequestError, match="Exceeds maximum queue size"):
            world.ask(2)
        follower = world.ask(1)
        assert len(world.cached._flights) == 2
        world.model.gate.set()
        await done(waits, follower)


async def test_an_answer_may_cancel_those_who_fly_with_it() -> None:
    """As when a connection is lost while the first of its requests is answered."""
    async with cached(closed=True) as world:
        first, second, third, fourth = (world.ask(3) for _ in range(4))
        cancelled = list[bool]()
        first.then = lambda: cancelled.extend(world.cached.cancel(job) for job in (first, second, third))
        world.model.gate.set()
        await done(first, fourth)
        assert cancelled == [False, True, True]
        assert second.answers == third.answers == []


async def test_an_answer_that_cannot_be_given_leaves_the_others_theirs(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError

    async with cached(closed=True) as world:
        jobs = [world.ask(3) for _ in range(3)]
        jobs[0].then = fail
        world.model.gate.set()
        await done(*jobs)
        hit = world.ask(3)
        hit.then = fail
        late = [world.ask(n, 0.0) for n in (4, 5)]
        late[0].then = fail
        await done(hit, *late)
    assert [record.getMessage() for record in caplog.records] == ["an answer could not be given"] * 3


async def test_one_whose_time_is_up_may_cancel_another_whose_time_is_up_too() -> None:
    async with cached(closed=True) as world:
        jobs, cancelled = [world.ask(n, 0.01) for n in range(3)], list[bool]()
        jobs[0].then = lambda: cancelled.append(world.cached.cancel(jobs[1]))
        await done(jobs[0], jobs[2])
        assert (cancelled, jobs[1].answers) == ([True], [])


async def test_who_is_answered_may_ask_again_at_once() -> None:
    async with cached() as world:
        again = list[Asked]()
        first = world.ask(3)
        first.then = lambda: again.append(world.ask(3))
        await done(first)
        await done(*again)
        assert (again[0].answer, world.model.batches) == (6, [[3]])


async def test_what_is_unloaded_is_said_to_all_who_wait() -> None:
    async with cached(closed=True) as world:
        running = world.ask(1)
        await has_begun(world.model)
        waiting = [world.ask(2), world.ask(2)]
        closing = asyncio.create_task(world.batcher.close())
        await done(*waiting)
        world.model.gate.set()
        await closing
        assert [job.answer for job in (running, *waiting)] == [2, Kind.UNAVAILABLE, Kind.UNAVAILABLE]


# --- sequences


class Counter(Model):
    """Adds up each sequence; answers the sum so far."""

    def __init__(self, *, closed: bool = False) -> None:
        super().__init__(closed=closed)
        self.sums: dict[object, float] = {}
        self.order: list[tuple[object, float]] = []

    def answers(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        return [[np.full((1, 1), self.add(call))] for call in batch]

    def add(self, call: Call) -> float:
        number, value = call.parameters["sequence_id"], float(call.inputs[0][0, 0])
        if call.parameters.get("sequence_start"):
            self.sums[number] = 0.0
        self.sums[number] += value
        self.order.append((number, value))
        return self.sums[number]


class SequenceWorld:
    def __init__(self, models: Sequence[Counter], batcher: Batcher) -> None:
        self.models, self.batcher = models, batcher
        self.sequences = Sequences("m", idle_s=1000, most=100)
        self.way = Sequenced(batcher, self.sequences, LONG_S)

    @property
    def model(self) -> Counter:
        return self.models[0]

    def ask(
        self, number: int, value: float, timeout_s: float | None = None, *, start: bool = False, end: bool = False
    ) -> Asked:
        job = Asked(value, sequence_id=number, sequence_start=start, sequence_end=end)
        self.way.submit(job, timeout_s)
        return job


@asynccontextmanager
async def sequenced(*, closed: bool = False, instances: int = 1, **change: Any) -> AsyncIterator[SequenceWorld]:
    models = [Counter(closed=closed) for _ in range(instances)]
    async with batcher_of(*models, **change) as batcher:
        world = SequenceWorld(models, batcher)
        yield world
    world.way.close()
    assert not world.way._inner
    assert batcher.waiting == 0


async def test_a_sequence_is_worked_on_in_order_one_at_a_time() -> None:
    async with sequenced(closed=True) as world:
        jobs = [world.ask(1, n, start=n == 1, end=n == 10) for n in range(1, 11)]
        assert world.batcher.waiting == 10
        world.model.gate.set()
        await done(*jobs)
        assert [job.answer for job in jobs] == [1, 3, 6, 10, 15, 21, 28, 36, 45, 55]
        assert world.model.batches == [[n] for n in range(1, 11)]
        assert len(world.sequences) == 0


async def test_several_sequences_share_batches_and_instances() -> None:
    async with sequenced(instances=3) as world:
        for model in world.models:  # a state that all instances know
            model.sums = world.model.sums
        jobs = [world.ask(number, n, start=n == 1, end=n == 10) for n in range(1, 11) for number in range(1, 40)]
        await done(*jobs)
        assert [job.answer for job in jobs] == [n * (n + 1) / 2 for n in range(1, 11) for _ in range(39)]
        assert max(len(batch) for model in world.models for batch in model.batches) > 1


async def test_one_that_waits_may_be_cancelled() -> None:
    async with sequenced(closed=True) as world:
        jobs = [world.ask(1, n, start=n == 1) for n in (1, 2, 4)]
        await has_begun(world.model)
        assert world.way.cancel(jobs[1])
        assert not world.way.cancel(jobs[1])
        assert world.batcher.waiting == 1
        world.model.gate.set()
        await done(jobs[0], jobs[2])
        assert (jobs[2].answer, jobs[1].answers) == (5, [])


async def test_one_that_is_next_in_the_queue_may_be_cancelled() -> None:
    async with sequenced(closed=True) as world:
        busy = world.ask(2, 0, start=True)
        await has_begun(world.model)
        jobs = [world.ask(1, n, start=n == 1) for n in (1, 2)]
        assert world.way.cancel(jobs[0])
        world.model.gate.set()
        jobs += [world.ask(1, 4, start=True)]
        await done(busy, jobs[2])
        assert jobs[0].answers == []
        assert world.model.order[-1] == (1, 4)


async def test_what_the_model_has_keeps_its_turn_although_nobody_waits_for_it() -> None:
    """Otherwise the next one could be worked on by another instance at the same time."""
    async with sequenced(closed=True, instances=2) as world:
        jobs = [world.ask(1, n, start=n == 1) for n in (1, 2)]
        await settle(lambda: world.batcher.running == 1)
        assert world.way.cancel(jobs[0])
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.batcher.running == 1
        for model in world.models:
            model.sums = world.model.sums
            model.gate.set()
        await done(jobs[1])
        assert (jobs[1].answer, jobs[0].answers) == (3, [])


async def test_deadlines_hold_where_one_waits_for_the_one_before() -> None:
    async with sequenced(closed=True) as world:
        jobs = [world.ask(1, 1, start=True), world.ask(1, 2, 0.01), world.ask(1, 4)]
        await done(jobs[1])
        assert jobs[1].answer is Kind.DEADLINE
        world.model.gate.set()
        await done(*jobs)
        assert [job.answer for job in jobs] == [1, Kind.DEADLINE, 5]


async def test_what_waits_for_the_one_before_counts_for_the_bound() -> None:
    async with sequenced(closed=True, max_queue=2) as world:
        jobs = [world.ask(1, 1, start=True)]
        await has_begun(world.model)
        jobs += [world.ask(1, 2), world.ask(1, 4)]
        for number, start in ((1, False), (2, True)):
            with pytest.raises(RequestError, match="Exceeds maximum queue size: 2 requests wait") as caught:
                world.ask(number, 8, start=start)
            assert caught.value.kind is Kind.FULL
        assert len(world.sequences) == 1
        world.model.gate.set()
        await done(*jobs)
        assert [job.answer for job in jobs] == [1, 3, 7]
        await done(last := world.ask(1, 8, end=True))
        assert last.answer == 15


async def test_an_end_that_was_refused_can_be_sent_again() -> None:
    async with sequenced(closed=True, max_queue=1) as world:
        jobs = [world.ask(1, 1, start=True)]
        await has_begun(world.model)
        jobs += [world.ask(2, 1, start=True)]
        with pytest.raises(RequestError, match="Exceeds maximum queue size"):
            world.ask(1, 2, end=True)
        world.model.gate.set()
        await done(*jobs)
        await done(end := world.ask(1, 2, end=True))
        assert end.answer == 3


async def test_what_waits_in_a_sequence_is_refused_when_the_model_is_unloaded() -> None:
    async with sequenced(closed=True) as world:
        jobs = [world.ask(1, n, start=n == 1) for n in range(1, 5)]
        jobs += [world.ask(2, n, start=n == 1) for n in range(1, 3)]
        await has_begun(world.model)
        closing = asyncio.create_task(world.batcher.close())
        await asyncio.sleep(0)
        world.model.gate.set()
        await closing
        await done(*jobs)
        assert [job.answer for job in jobs[1:4]] == [Kind.UNAVAILABLE] * 3
        assert jobs[0].answer == 1


async def test_the_client_may_send_the_next_when_it_has_the_answer() -> None:
    async with sequenced() as world:
        jobs = [world.ask(1, 1, start=True)]

        def next_one() -> None:
            if len(jobs) < 50:
                jobs.append(world.ask(1, 1, end=len(jobs) == 49))
                jobs[-1].then = next_one

        jobs[0].then = next_one
        await settle(lambda: len(jobs) == 50 and jobs[-1].answers)
        assert [job.answer for job in jobs] == list(range(1, 51))
        assert len(world.sequences) == 0


# --- all of it together


async def one_mix(seed: int) -> None:
    randomly = random.Random(seed)  # noqa: S311 - it is to be the same every time
    jobs, cancelled = list[Asked](), set[Asked]()
    async with cached(max_queue=randomly.choice([3, 1000]), max_bytes=randomly.choice([0, 3000, 1 << 20])) as world:
        for _ in range(60):
            try:
                jobs.append(world.ask(randomly.randrange(6), randomly.choice([None, None, 0.0, 0.001])))
            except RequestError:
                continue
            if randomly.random() < 0.3 and world.cached.cancel(one := randomly.choice(jobs)):
                cancelled.add(one)
            if randomly.random() < 0.5:
                await asyncio.sleep(randomly.choice([0, 0.0003]))
        await settle(lambda: all(job.answers or job in cancelled for job in jobs))
    for job in jobs:
        assert bool(job.answers) == (job not in cancelled)
        assert job.answer in (None, Kind.DEADLINE, job.inputs[0][0, 0] * 2)


async def test_100_random_mixes_of_equal_requests_cancels_and_deadlines() -> None:
    for seed in range(100):
        await one_mix(seed)


async def one_mix_of_sequences(seed: int) -> int:
    randomly = random.Random(seed)  # noqa: S311 - it is to be the same every time
    sent, refused = list[Asked](), 0
    async with sequenced(instances=randomly.choice([1, 3]), max_queue=randomly.choice([10, 1000])) as world:
        for model in world.models:
            model.sums = world.model.sums
            model.order = world.model.order
        begun = set[int]()
        for n in range(60):
            number = randomly.randrange(1, 5)
            try:
                sent.append(world.ask(number, n, randomly.choice([None, None, 0.001]), start=number not in begun))
                begun.add(number)
            except RequestError:
                refused += 1
            if sent and randomly.random() < 0.1:
                world.way.cancel(randomly.choice(sent))
            if randomly.random() < 0.5:
                await asyncio.sleep(randomly.choice([0, 0.0003]))
        await settle(lambda: not world.way._inner and not world.batcher.running)
        for number in range(1, 5):
            done_in = [value for one, value in world.model.order if one == number]
            assert done_in == sorted(done_in)
        assert not [sequence for sequence in world.sequences._live.values() if sequence.running or sequence.waiting]
    return refused


async def test_in_100_random_mixes_sequences_stay_in_order() -> None:
    assert sum([await one_mix_of_sequences(seed) for seed in range(100)]) > 20
