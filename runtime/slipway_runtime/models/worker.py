"""The process of one instance: `python -m slipway_runtime.models.worker FD FD FD`, started by processes.py.

It loads and warms up the model, says so, and answers batches until the other end of its socket is closed. Signals are
left to the server: it is the one that drains.
"""

import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from slipway_runtime.errors import Failure, RequestError
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.channel import Channel
from slipway_runtime.models.config import InstanceGroup
from slipway_runtime.models.load import LoadedModel, load
from slipway_runtime.models.task import Result, Task
from slipway_runtime.tensors import Array, Rows


def main(argv: list[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    socket, written, read = map(int, argv)
    channel = Channel((socket, written, read))
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
            _serve(channel, model)
        finally:
            model.close()
    except (EOFError, OSError):  # the server is gone
        return 0
    return 0


def _loaded(task: Task) -> LoadedModel:
    alone = replace(task.artifact.config, instances=(InstanceGroup(kind="KIND_CPU"),))
    model = load(replace(task.artifact, config=alone), task.options)
    model.warm_up()
    return replace(model, config=replace(model.config, instances=task.artifact.config.instances))


def _serve(channel: Channel, model: LoadedModel) -> None:
    (runner,) = model.runners
    told = model.metadata
    while True:
        work, arrays = channel.receive()
        calls, start = [], 0
        for rows, parameters, count in work.calls:
            calls.append(OwnCall(arrays[start : start + count], rows, parameters))
            start += count
        if work.stream:
            _stream(channel, runner.stream(calls[0]))
            continue
        try:
            answers = runner.run(calls)
        except RequestError as error:
            answers = [error] * len(calls)
        result, outputs = packed(answers)
        if model.metadata is not told:
            told = model.metadata
            result = replace(result, metadata=told)
        channel.send(result, outputs)


def _stream(channel: Channel, answers: Any) -> None:
    """One answer for each time the server asks, so that it may stop in between."""
    go_on = True
    while go_on:
        try:
            rows = next(answers, None)
        except RequestError as error:
            channel.send(packed([error])[0], [])
            return
        if rows is None:
            channel.send(Result(()), [])
            return
        result, outputs = packed([rows])
        channel.send(replace(result, more=True), outputs)
        go_on, _ = channel.receive()
    answers.close()


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
