"""The queue before the model: order, bounds, deadlines, cancellation. The work is held by events, not by time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from slipway_runtime.engine.executor import Executor
from slipway_runtime.errors import Kind, RequestError

LONG_S = 30.0


class Gate:
    """Work that runs until it is let go, and notes its turn."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self._open = threading.Event()

    def work(self, name: str) -> Callable[[], str]:
        def run() -> str:
            self.order.append(name)
            assert self._open.wait(LONG_S)
            return name

        return run

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


async def settle(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


def ask(executor: Executor, work: Callable[[], str], timeout_s: float = LONG_S) -> "asyncio.Task[str]":
    async def answer() -> str:
        return (await executor.infer(work, timeout_s)).value

    return asyncio.create_task(answer())


async def test_first_in_first_out(gate: Gate) -> None:
    executor = Executor(slots=1, max_queue=10)
    tasks = [ask(executor, gate.work(name)) for name in "abcd"]
    gate.open()
    assert await asyncio.gather(*tasks) == list("abcd")
    assert gate.order == list("abcd")


async def test_a_full_queue_refuses_and_takes_again_when_there_is_room(gate: Gate) -> None:
    executor = Executor(slots=1, max_queue=2)
    tasks = [ask(executor, gate.work(name)) for name in "abc"]
    await settle(lambda: executor.waiting == 2)
    with pytest.raises(RequestError, match="Exceeds maximum queue size") as caught:
        await executor.infer(gate.work("d"), LONG_S)
    assert caught.value.kind is Kind.UNAVAILABLE
    gate.open()
    await asyncio.gather(*tasks)
    assert (await executor.infer(gate.work("e"), LONG_S)).value == "e"
    assert gate.order == list("abce")


async def test_no_queue_at_all_still_runs_one(gate: Gate) -> None:
    executor = Executor(slots=1, max_queue=0)
    gate.open()
    assert (await executor.infer(gate.work("a"), LONG_S)).value == "a"


async def test_a_deadline_fires_while_the_request_waits_and_it_never_runs(gate: Gate) -> None:
    executor = Executor(slots=1, max_queue=10)
    first = ask(executor, gate.work("first"))
    late = ask(executor, gate.work("late"), timeout_s=0.01)
    with pytest.raises(RequestError, match="timeout expired") as caught:
        await late
    assert caught.value.kind is Kind.DEADLINE
    assert executor.waiting == 0
    gate.open()
    await first
    assert gate.order == ["first"]


async def test_a_deadline_fires_while_the_request_runs_and_the_next_is_served(gate: Gate) -> None:
    executor = Executor(slots=1, max_queue=10)
    with pytest.raises(RequestError, match="timeout expired"):
        await executor.infer(gate.work("late"), 0.01)
    gate.open()
    assert (await executor.infer(gate.work("next"), LONG_S)).value == "next"


async def test_a_cancelled_request_leaves_the_queue_and_never_runs(gate: Gate) -> None:
    executor = Executor(slots=2, max_queue=10)  # "b" is past the queue already, next in line for the thread
    tasks = [ask(executor, gate.work(name)) for name in "abcd"]
    await settle(lambda: gate.order == ["a"] and executor.waiting == 2)
    for task in tasks[1:3]:
        task.cancel()
    await asyncio.gather(*tasks[1:3], return_exceptions=True)
    assert executor.waiting == 1
    gate.open()
    assert [await tasks[0], await tasks[3]] == ["a", "d"]
    assert gate.order == ["a", "d"]


async def test_a_failure_is_its_own_requests_alone(gate: Gate) -> None:
    executor = Executor(slots=1, max_queue=10)
    gate.open()

    def broken() -> str:
        raise RequestError(Kind.INTERNAL, "no")

    results = await asyncio.gather(
        ask(executor, gate.work("a")), ask(executor, broken), ask(executor, gate.work("b")), return_exceptions=True
    )
    assert [str(result) for result in results] == ["a", "no", "b"]


async def test_the_wait_and_the_work_are_timed_apart(gate: Gate) -> None:
    executor = Executor(slots=1, max_queue=10)
    gate.open()
    timed = await executor.infer(gate.work("a"), LONG_S)
    assert timed.queue_ns > 0
    assert timed.compute_ns > 0
