"""Instances of a model on CPUs, each in a process of its own with cores of its own.

A process that dies fails the batch it had, and nobody else's: it is started again at once, and batches that come
meanwhile wait for it. A batch that it had not been given yet is given to the next one.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from slipway_runtime.cpus import cpu_limit
from slipway_runtime.engine.job import Call, Runner
from slipway_runtime.errors import BadModel, Failure, Kind, RequestError
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.channel import Channel
from slipway_runtime.models.load import LoadedModel, LoadOptions
from slipway_runtime.models.task import Result, Task, Work
from slipway_runtime.tensors import Array, Rows

log = logging.getLogger("slipway.model")
_CLOSE_S = 5.0
_AGAIN_S = 1.0  # one that dies sooner after its start is started again only when there is a batch for it


def load_processes(artifact: Artifact, count: int, options: LoadOptions) -> LoadedModel:
    """The model in `count` processes, warmed up. Raises BadModel, BadConfig as `load`."""
    share = max(1, options.threads // count)
    tasks = [
        Task(artifact, replace(options, threads=share, instance=index), cores)
        for index, cores in enumerate(core_shares(count, share))
    ]
    workers: list[Runner] = []
    model = LoadedModel.empty(artifact)
    try:
        workers.extend(ProcessRunner(task, model) for task in tasks)  # they start side by side
        for worker in workers:
            worker.wait_ready()  # type: ignore[attr-defined]
    except RequestError as error:
        for worker in workers:
            worker.close()
        raise BadModel(
            f"model file '{artifact.path}': {error.message.partition(';')[0]}; give it more memory"
        ) from error
    except BaseException:
        for worker in workers:
            worker.close()
        raise
    model.runners.extend(workers)
    return model


def core_shares(count: int, share: int) -> list[tuple[int, ...]]:
    """Cores of their own for each, or none to anybody if they are not ours alone.

    With a quota of CPU time instead of a set of cores, all pods of a node see all its cores and would pick the same.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > cpu_limit() or count * share > len(cores):
        return [()] * count
    return [tuple(cores[index * share : (index + 1) * share]) for index in range(count)]


class _Process:
    """One run of the worker, from its start to its end."""

    def __init__(self, task: Task) -> None:
        self.started_s = time.monotonic()
        ours, theirs = socket.socketpair()
        inputs, outputs = os.memfd_create("slipway-inputs"), os.memfd_create("slipway-outputs")
        self._fds = (inputs, outputs)
        child = (theirs.fileno(), outputs, inputs)
        command = [sys.executable, "-P", "-m", "slipway_runtime.models.worker", *map(str, child)]
        # The path by which we were found, installed or not; never the folder the server happens to run in.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs:
            self.popen = subprocess.Popen(command, pass_fds=child, env=environment, stdin=subprocess.DEVNULL)  # noqa: S603
        self.channel = Channel((ours.detach(), inputs, outputs))
        self.ready = False
        self.channel.send(task, [])

    def close(self, wait_s: float) -> str:
        """Let it go, by force after `wait_s`. Returns how it ended."""
        self.channel.close()
        try:
            code = self.popen.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            code = self.popen.wait()
        for fd in self._fds:
            os.close(fd)
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"


class ProcessRunner:
    may_run_inline = False  # it waits for the other process

    def __init__(self, task: Task, model: LoadedModel) -> None:
        self._task = task
        self._model = model
        self._process: _Process | None = _Process(task)

    @property
    def pid(self) -> int:
        """0 while there is no process."""
        return self._process.popen.pid if self._process else 0

    def wait_ready(self) -> _Process:
        """Raises Failure for what is wrong with the model, RequestError when the process died."""
        process = self._process = self._process or _Process(self._task)
        if process.ready:
            return process
        try:
            said, _ = process.channel.receive()
        except (EOFError, OSError) as exc:
            raise self._died("while it loaded") from exc
        if isinstance(said, Failure):
            self._process = None
            process.close(_CLOSE_S)
            raise said
        self._model.metadata, self._model.config, self._model.options, self._model.decoupled = said
        process.ready = True
        return process

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        process = self._given(batch, stream=False)
        result, arrays = self._result(process)
        if result.metadata is not None:
            self._model.metadata = result.metadata
        answers: list[Rows | RequestError] = []
        start = 0
        for said in result.answers:
            if isinstance(said, tuple):
                answers.append(RequestError(Kind(said[0]), said[1]))
                continue
            answers.append([np.array(array) for array in arrays[start : start + said]])
            start += said
        return answers

    def stream(self, call: Call) -> Iterator[Rows]:
        process = self._given([call], stream=True)
        reading = True
        try:
            while True:
                result, arrays = self._result(process)
                reading = result.more
                for said in result.answers:
                    if isinstance(said, tuple):
                        raise RequestError(Kind(said[0]), said[1])
                    yield [np.array(array) for array in arrays]
                if not result.more:
                    return
                process.channel.send(True, [])
        except GeneratorExit:
            if reading:
                process.channel.send(False, [])
            raise

    def close(self) -> None:
        if self._process is not None:
            self._process.close(_CLOSE_S)
            self._process = None

    def _given(self, batch: Sequence[Call], *, stream: bool) -> _Process:
        """The process that has the batch now. One that is found dead had not been given it, so the next one gets it."""
        work = Work(tuple((call.rows, dict(call.parameters), len(call.inputs)) for call in batch), stream)
        arrays: list[Array] = [array for call in batch for array in call.inputs]
        for _ in range(2):
            try:
                process = self.wait_ready()
            except Failure as failure:
                raise RequestError(
                    Kind.UNAVAILABLE, f"the model's process cannot be started again: {failure}"
                ) from failure
            try:
                if process.popen.poll() is None:
                    process.channel.send(work, arrays)
                    return process
            except OSError:
                log.debug("a process was gone before it was given a batch")
            self._died("while it waited")
        raise RequestError(Kind.UNAVAILABLE, "the model's process died twice while it waited; try again")

    def _result(self, process: _Process) -> tuple[Result, list[Array]]:
        try:
            result, arrays = process.channel.receive()
        except (EOFError, OSError) as exc:
            raise self._died("with this batch") from exc
        return result, arrays

    def _died(self, when: str) -> RequestError:
        """Tidy up after the process and start the next one."""
        process, self._process = self._process, None
        ended = process.close(_CLOSE_S) if process else "before"
        log.error("a model's process died", extra={"f": {"when": when, "ended": ended}})
        if process and time.monotonic() - process.started_s > _AGAIN_S:
            self._process = _Process(self._task)
        return RequestError(Kind.UNAVAILABLE, f"the model's process died {when} ({ended}); it is started again")
