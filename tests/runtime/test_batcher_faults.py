"""Batches when something is wrong or ends: every request still gets its own answer or the right error, once."""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import uvloop

from slipway_runtime.engine.batcher import Batcher
from slipway_runtime.engine.job import Call, JobState
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Rows
from tests.runtime.engine import Asked, Model, batcher_of, done, done_first, has_begun, settle, submit

# The server's own: its clock and timers differ from asyncio's.
LOOPS = {"uvloop": uvloop.new_event_loop}


# --- models that misbehave


class Broken(Model):
    def __init__(self, what: Callable[[Sequence[Call]], Sequence[Rows | RequestError]]) -> None:
        super().__init__()
        self.answers = what  # type: ignore[assignment]


def exits(batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
    sys.exit(3)


def fails(batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
    raise ZeroDivisionError


def refuses(batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
    raise RequestError(Kind.INVALID, "not today")


@pytest.mark.parametrize(
    ("what", "kind", "sentence", "logged"),
    [
        pytest.param(refuses, Kind.INVALID, "not today", 0, id="refuses all"),
        pytest.param(fails, Kind.INTERNAL, "internal error; the server's log says more", 1, id="raises"),
        pytest.param(exits, Kind.INTERNAL, "internal error; the server's log says more", 1, id="exits"),
        pytest.param(lambda _: [[]], Kind.INTERNAL, "the model gave 1 answers for 2 requests", 0, id="too few"),
        pytest.param(lambda _: [[]] * 3, Kind.INTERNAL, "the model gave 3 answers for 2 requests", 0, id="too many"),
        pytest.param(lambda _: None, Kind.INTERNAL, "internal error; the server's log says more", 1, id="nothing"),
    ],
)
async def test_a_batch_that_fails_is_answered_and_the_next_is_run(
    what: Callable[[Sequence[Call]], Sequence[Rows | RequestError]],
    kind: Kind,
    sentence: str,
    logged: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Broken(what)
    async with batcher_of(model) as batcher:
        jobs = submit(batcher, Asked(1), Asked(2))
        await done(*jobs)
        assert [(job.answer, str(job.answers[0])) for job in jobs] == [(kind, sentence)] * 2
        assert len(caplog.records) == logged
        model.answers = lambda batch: [[call.inputs[0]] for call in batch]  # type: ignore[method-assign]
        await done(*submit(batcher, after := Asked(3)))
        assert after.answer == 3


async def test_one_request_of_a_batch_can_fail_alone() -> None:
    def some(batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        return [
            RequestError(Kind.INVALID, "odd") if call.inputs[0][0, 0] % 2 else [call.inputs[0] * 2] for call in batch
        ]

    async with batcher_of(Broken(some)) as batcher:
        jobs = submit(batcher, *(Asked(n) for n in range(4)))
        await done(*jobs)
        assert [job.answer for job in jobs] == [0, Kind.INVALID, 4, Kind.INVALID]


async def test_an_answer_that_cannot_be_given_does_not_hurt_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("the client is gone")

    async with batcher_of(Model()) as batcher:
        jobs = [Asked(n) for n in range(3)]
        jobs[0].then = fail
        submit(batcher, *jobs)
        await done(*jobs)
    assert [record.getMessage() for record in caplog.records] == ["an answer could not be given"]


async def test_one_whose_time_is_up_may_cancel_another_whose_time_is_up_too() -> None:
    model = Model(closed=True)
    async with batcher_of(model) as batcher:
        await done_first(batcher, model)
        first, second, third = (Asked(n) for n in range(3))
        first.then = lambda: assert_(batcher.cancel(second))
        for job in (first, second, third):
            batcher.submit(job, 0.01)
        await done(first, third)
        assert second.answers == []


def assert_(truth: bool) -> None:
    assert truth


# --- the end


@pytest.mark.parametrize("waiting", [0, 5])
async def test_close_ends_after_what_runs_and_refuses_what_waits(waiting: int) -> None:
    model = Model(closed=True)
    async with batcher_of(model, max_rows=1) as batcher:
        await done_first(batcher, model)
        jobs = [Asked(n) for n in range(waiting)]
        late = Asked(9)
        if jobs:
            jobs[0].then = lambda: assert_raises_unavailable(batcher, late)
        submit(batcher, *jobs)
        threads = [instance._thread for instance in batcher._instances]
        closing = asyncio.create_task(batcher.close())
        await settle(lambda: batcher._closed)
        assert_raises_unavailable(batcher, late)
        closed = [model.is_closed]
        model.gate.set()
        await closing
        assert [*closed, model.is_closed] == [False, True]
        assert [job.answer for job in jobs] == [Kind.UNAVAILABLE] * waiting
        assert (batcher.waiting, batcher.running, late.answers) == (0, 0, [])
    assert [thread.is_alive() for thread in threads] == [False]


def assert_raises_unavailable(batcher: Batcher, job: Asked) -> None:
    with pytest.raises(RequestError, match="is being unloaded") as caught:
        batcher.submit(job)
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_what_runs_at_the_end_is_still_answered() -> None:
    model = Model(closed=True)
    async with batcher_of(model) as batcher:
        job, *_ = submit(batcher, Asked(4))
        await has_begun(model)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        model.gate.set()
        await closing
        assert job.answer == 8


async def test_a_model_that_cannot_be_closed_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Model):
        def close(self) -> None:
            raise OSError

    last = Model()
    async with batcher_of(Stuck(), last):
        pass
    assert last.is_closed
    assert [record.getMessage() for record in caplog.records] == ["a model could not be closed"]


# --- all of it together


@pytest.fixture
def often_switched() -> Iterator[None]:
    """Threads take turns much more often than they would, so that races have their chance."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Odd(Model):
    """Answers each with its own number, some with an error; takes some time, differing."""

    def __init__(self, seed: int, *, inline: bool) -> None:
        super().__init__(inline=inline)
        self._random = random.Random(seed)  # noqa: S311 - it is to be the same every time

    def answers(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        if self._random.random() < 0.05:
            raise RequestError(Kind.INTERNAL, "by chance")
        if self._random.random() < 0.3:
            time.sleep(self._random.random() * 0.0005)
        assert len({call.inputs[0].shape[1:] for call in batch}) == 1
        assert sum(call.rows for call in batch) <= 8
        stacked = np.concatenate([call.inputs[0] for call in batch]) * 2
        cuts = np.cumsum([call.rows for call in batch])[:-1]
        return [[part] for part in np.split(stacked, cuts)]


async def one_mix(seed: int) -> Counter[object]:
    randomly = random.Random(seed)  # noqa: S311 - it is to be the same every time
    models = [Odd(seed * 10 + n, inline=randomly.random() < 0.5) for n in range(randomly.choice([1, 1, 2, 3]))]
    jobs, cancelled = list[Asked](), set[Asked]()
    outcome = Counter[object]()
    async with batcher_of(
        *models,
        max_queue=randomly.choice([4, 20, 1000]),
        max_jobs=randomly.choice([1, 2, 3, 1000]),
        preferred=randomly.choice([(), (4,), (2, 8)]),
        levels=3,
        delay_s=randomly.choice([0.0, 0.0, 0.0005]),
    ) as batcher:
        for n in range(60):
            job = Asked(seed * 1000 + n, rows=randomly.randint(1, 8), key=randomly.choice([None, "s"]))
            job.level, job.tenant = randomly.randrange(3), randomly.choice("ab")
            try:
                batcher.submit(job, randomly.choice([None, None, 5.0, 0.0, 0.001, 0.003]))
            except RequestError as error:
                outcome[error.kind] += 1
                continue
            jobs.append(job)
            if randomly.random() < 0.2 and batcher.cancel(one := randomly.choice(jobs)):
                cancelled.add(one)
            if randomly.random() < 0.5:
                await asyncio.sleep(randomly.choice([0, 0, 0.0005]))
        if randomly.random() < 0.7:
            await settle(lambda: all(job.answers or job in cancelled for job in jobs))
            assert (batcher.waiting, batcher.running) == (0, 0) or await drained(batcher)
    for job in jobs:
        assert job.state is JobState.DONE
        assert bool(job.answers) == (job not in cancelled)
        if isinstance(job.answer, float):
            assert job.answer == job.inputs[0][0, 0] * 2
        outcome[job.answer if isinstance(job.answer, Kind | None) else "right"] += 1
    return outcome


async def drained(batcher: Batcher) -> bool:
    """What was cancelled or late may still run."""
    await settle(lambda: not batcher.running)
    return batcher.waiting == 0


@pytest.mark.timeout(300)  # 7 s of work, of which a machine that does other things may make minutes
@pytest.mark.usefixtures("often_switched")
async def test_500_random_mixes_of_sizes_cancels_deadlines_and_priorities() -> None:
    outcome = Counter[object]()
    for seed in range(500):
        outcome += await one_mix(seed)
    for what in ("right", None, Kind.FULL, Kind.DEADLINE, Kind.INTERNAL, Kind.UNAVAILABLE):
        assert outcome[what] > 20, outcome


@pytest.mark.usefixtures("often_switched")
@pytest.mark.parametrize("inline", [False, True])
async def test_of_many_distinct_requests_none_gets_anothers_answer(inline: bool) -> None:
    most = 500_000 if os.environ.get("SLIPWAY_FULL") else 50_000

    asked = right = 0

    class Checked(Asked):
        def finished(self) -> None:
            nonlocal right
            assert self.outputs is not None
            assert self.outputs[0][0, 0] == self.inputs[0][0, 0] * 2
            right += 1
            ask()

    async with batcher_of(Model(inline=inline), max_rows=64, max_jobs=64, timeout_s=600) as batcher:

        def ask() -> None:
            nonlocal asked
            if asked < most:
                asked += 1
                batcher.submit(Checked(asked))

        for _ in range(200):
            ask()
        async with asyncio.timeout(most / 1000):  # 20 times what it takes
            while right < most:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
    assert right == asked == most
