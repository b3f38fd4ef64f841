"""What the tests of the engine share: jobs that note their answer, models that are Python functions."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from slipway_runtime.engine.batcher import Batcher
from slipway_runtime.engine.job import Call, Job, Runner
from slipway_runtime.engine.policy import Policy
from slipway_runtime.engine.stats import Stats
from slipway_runtime.errors import RequestError
from slipway_runtime.tensors import Parameter, Rows

LONG_S = 45.0  # of patience, on a machine that does other things too


def policy(**change: Any) -> Policy:
    return Policy(
        **({"max_rows": 8, "max_jobs": 8, "max_queue": 1000, "max_queue_bytes": 1 << 30, "timeout_s": LONG_S} | change)
    )


class Asked(Job):
    """A request for a number; the answers it has had, of which there must be one."""

    def __init__(self, number: float = 0, rows: int = 1, key: object = None, **parameters: Parameter) -> None:
        super().__init__([np.full((rows, 1), number)], rows)
        self.key = key
        if parameters:
            self.parameters = parameters
        self.answers: list[Rows | RequestError] = []
        self.answered_s = 0.0
        self.then: Callable[[], None] = lambda: None

    def finished(self) -> None:
        answer = self.error if self.error is not None else self.outputs
        assert answer is not None
        self.answers.append(answer)
        self.answered_s = time.monotonic()
        self.then()

    @property
    def answer(self) -> object:
        """The number, the kind of the error, or None: not yet."""
        if not self.answers:
            return None
        (answer,) = self.answers
        if isinstance(answer, RequestError):
            return answer.kind
        (data,) = answer
        assert data.shape == (self.rows, 1)
        assert (data == data[0]).all()
        return float(data[0, 0])


class Model:
    """Answers the number it is asked for, doubled, while it is let."""

    def __init__(self, *, inline: bool = False, closed: bool = False) -> None:
        self.may_run_inline = inline
        self.batches: list[list[float]] = []
        self.threads: set[int] = set()
        self.is_closed = False
        self.at_once = 0
        self.gate = threading.Event()
        self.began = threading.Semaphore(0)
        if not closed:
            self.gate.set()

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        self.at_once += 1
        assert self.at_once == 1, "two batches in one instance"
        self.batches.append([float(call.inputs[0][0, 0]) for call in batch])
        self.threads.add(threading.get_ident())
        self.began.release()
        assert self.gate.wait(LONG_S)
        try:
            return self.answers(batch)
        finally:
            self.at_once -= 1

    def answers(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        return [[call.inputs[0] * 2] for call in batch]

    def stream(self, call: Call) -> Iterator[Rows]:
        raise NotImplementedError

    def close(self) -> None:
        self.is_closed = True


async def settle(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def has_begun(model: Model) -> None:
    """A batch has, that no other call of this has told of."""
    assert await asyncio.get_running_loop().run_in_executor(None, model.began.acquire, True, LONG_S)


@asynccontextmanager
async def batcher_of(*runners: Runner, **change: Any) -> AsyncIterator[Batcher]:
    made = Batcher(runners, policy(**change), Stats())
    try:
        yield made
    finally:
        for runner in runners:
            if isinstance(runner, Model):
                runner.gate.set()
        async with asyncio.timeout(LONG_S):
            await made.close()


def submit(batcher: Batcher, *jobs: Asked) -> Sequence[Asked]:
    for job in jobs:
        batcher.submit(job)
    return jobs


async def done(*jobs: Asked) -> None:
    await settle(lambda: all(job.answers for job in jobs))


async def done_first(batcher: Batcher, model: Model) -> None:
    """Give the model a batch that it keeps."""
    batcher.submit(Asked(-1))
    await has_begun(model)
