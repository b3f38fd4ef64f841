"""The process of one instance, or of a shard of it: `python -m slipway_runtime.models.worker FD FD FD [shared]`.

It loads and warms up the model, says so, and answers batches until the other end of its socket is closed; of several
ranks that hold a model together the first one answers, and all say when they are done. Signals are left to the server:
it is the one that drains.
"""

import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from slipway_runtime.engine.job import Spent
from slipway_runtime.errors import Failure, RequestError
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.channel import Channel
from slipway_runtime.models.config import InstanceGroup
from slipway_runtime.models.load import LoadedModel, load
from slipway_runtime.models.task import Forget, Result, Task
from slipway_runtime.tensors import Array, Rows


def main(argv: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    socket, written, read = map(int, argv[:3])
    # Shards read their batches from the same memory; nothing that one of them does to its inputs may reach another.
    channel = Channel((socket, written, read), shared="shared" in argv)
    try:
        task, _ = channel.receive()
        if task.cores:
            os.sched_setaffinity(0, task.cores)
        try:
            model = _loaded(task)
        except Failure as failure:
            channel.send(failure, [])
            return 0
        channel.send((model.metadata, model.config, model.options, model.decoupled), [])
        try:
            _serve(channel, model, answers=not task.options.shard or task.options.shard.rank == 0)
        finally:
            model.close()
            if task.options.shard:
                _leave()
    except (EOFError, OSError):  # the server is gone
        return 0
    return 0


def _loaded(task: Task) -> LoadedModel:
    alone = replace(task.artifact.config, instances=(InstanceGroup(kind="KIND_CPU"),))
    model = load(replace(task.artifact, config=alone), task.options)
    model.warm_up()
    return replace(model, config=replace(model.config, instances=task.artifact.config.instances))


def _leave() -> None:
    from slipway_runtime.models.ranks import leave  # noqa: PLC0415 - imports torch

    leave()


def _serve(channel: Channel, model: LoadedModel, *, answers: bool) -> None:
    (runner,) = model.runners
    told = model.metadata
    spent: Spent = getattr(runner, "spent", None) or Spent()
    spent.taken()  # the warm-up's
    while True:
        work, arrays = channel.receive()
        if isinstance(work, Forget):
            if forget := getattr(runner, "forget", None):
                forget(work.sequence)
            continue
        calls, start = [], 0
        for rows, parameters, count in work.calls:
            calls.append(OwnCall(arrays[start : start + count], rows, parameters))
            start += count
        if work.stream:
            _stream(channel, runner.stream(calls[0]), answers=answers)
            continue
        try:
            result, outputs = packed(runner.run(calls) if answers else runner.run(calls)[:0])
        except RequestError as error:
            result, outputs = failed(error, len(calls))
        if model.broken:  # the GPU is lost to this process, not to the next one; nothing can be tidied up any more
            sys.stderr.write(f"the GPU is lost: {model.broken}\n")
            sys.stderr.flush()
            os._exit(1)
        news = None if model.metadata is told else model.metadata
        told = model.metadata
        channel.send(replace(result, metadata=news, spent=spent.taken()), outputs)


def _stream(channel: Channel, stream: Any, *, answers: bool) -> None:
    """One answer for each time the server asks, so that it may stop in between."""
    go_on = True
    while go_on:
        try:
            rows = next(stream, None)
        except RequestError as error:
            channel.send(*failed(error, 1))
            return
        if rows is None:
            channel.send(Result(()), [])
            return
        result, outputs = packed([rows] if answers else [])
        channel.send(replace(result, more=True), outputs)
        go_on, _ = channel.receive()
    stream.close()


def failed(error: RequestError, calls: int) -> tuple[Result, list[Array]]:
    return replace(packed([error] * calls)[0], failed=True), []


def packed(answers: Iterable[Rows | RequestError]) -> tuple[Result, list[Array]]:
    said: list[int | tuple[str, str]] = []
    arrays: list[Array] = []
    for answer in answers:
        if isinstance(answer, RequestError):
            said.append((answer.kind.value, answer.message))
        else:
            said.append(len(answer))
            arrays += answer
    return Result(tuple(said)), arrays


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
