"""Waiting for a fact instead of a time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TypeVar

WAIT_S = 20.0
T = TypeVar("T")


async def until(condition: Callable[[], object], what: str, wait_s: float = WAIT_S) -> None:
    try:
        async with asyncio.timeout(wait_s):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


async def first(count: int, asked: Iterable[Coroutine[object, object, T]]) -> tuple[list[T], list[asyncio.Task[T]]]:
    """Of what is asked at once: so many that ended, and the others, which go on."""
    tasks = [asyncio.create_task(each) for each in asked]
    await until(lambda: sum(task.done() for task in tasks) >= count, f"{count} of {len(tasks)} are answered")
    return [task.result() for task in tasks if task.done()], [task for task in tasks if not task.done()]
