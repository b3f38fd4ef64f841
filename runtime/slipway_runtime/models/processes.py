"""Instances of a model in processes: one for each on CPUs, or one for each shard, on CPUs or GPUs.

A process that dies fails the batch it had, and nobody else's: it is started again at once, with the other shards of its
instance, and batches that come meanwhile wait for it. A batch that it had not been given yet is given to the next one.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from slipway_runtime.cpus import cpu_limit
from slipway_runtime.engine.job import Call, Runner, Spent
from slipway_runtime.errors import BadModel, Failure, Kind, RequestError
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.child import Child
from slipway_runtime.models.load import LoadedModel, LoadOptions, Shard
from slipway_runtime.models.shards import OutOfStep, Shards
from slipway_runtime.models.task import Forget, Result, Task, Work
from slipway_runtime.tensors import Array, Parameter, Rows

log = logging.getLogger("slipway.model")
_CLOSE_S = 5.0
_AGAIN_S = 1.0  # one that dies sooner after its start is started again only when there is a batch for it


def load_processes(artifact: Artifact, count: int, options: LoadOptions) -> LoadedModel:
    """The model in `count` processes, warmed up. Raises BadModel, BadConfig as `load`."""
    share = max(1, options.threads // count)
    tasks = [
        Task(artifact, replace(options, threads=share, instance=index), cores)
        for index, cores in enumerate(core_shares(count, share) if options.own_cores else [()] * count)
    ]
    return _started(artifact, [partial(Child, task) for task in tasks])


def load_shards(artifact: Artifact, places: Sequence[tuple[str, ...]], options: LoadOptions) -> LoadedModel:
    """The model in instances of several processes, one for each device of a place. Raises BadModel, BadConfig."""
    count = sum(map(len, places))
    share = max(1, options.threads // count)
    cores = iter(core_shares(count, share) if options.own_cores else [()] * count)
    starts = []
    for instance, devices in enumerate(places):
        own = replace(options, threads=share, instance=instance)
        shards = [replace(own, shard=Shard(rank, devices)) for rank in range(len(devices))]
        starts.append(partial(Shards, [Task(artifact, shard, next(cores)) for shard in shards]))
    return _started(artifact, starts)


def _started(artifact: Artifact, starts: Sequence[Callable[[], Child | Shards]]) -> LoadedModel:
    """One instance for each of `starts`, which start its process or its processes."""
    workers: list[Runner] = []
    model = LoadedModel.empty(artifact)
    try:
        workers.extend(ProcessRunner(start, model) for start in starts)  # they start side by side
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


class ProcessRunner:
    may_run_inline = False  # it waits for the other process

    def __init__(self, start: Callable[[], Child | Shards], model: LoadedModel) -> None:
        self.spent = Spent()
        self._start = start
        self._model = model
        self._process: Child | Shards | None = start()

    @property
    def pids(self) -> list[int]:
        """None while there is no process."""
        return self._process.pids if self._process else []

    def wait_ready(self) -> Child | Shards:
        """Raises Failure for what is wrong with the model, RequestError when the process died."""
        process = self._process = self._process or self._start()
        if process.ready:
            return process
        try:
            told = process.loaded()
        except (EOFError, OSError) as exc:
            raise self._died("while it loaded") from exc
        except Failure:
            self._process = None
            process.close(_CLOSE_S)
            raise
        self._model.metadata, self._model.config, self._model.options, self._model.decoupled = told
        process.ready = True
        return process

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        result, answers = self._answers(batch)
        if result.failed and len(batch) > 1 and isinstance(self._process, Shards) and self._model.is_torch:
            # As each_pays_alone, which a shard cannot do by itself: the others would still be at the batch.
            return [self._alone(call) for call in batch]
        return answers

    def _alone(self, call: Call) -> Rows | RequestError:
        try:
            return self._answers([call])[1][0]
        except RequestError as error:
            return error

    def _answers(self, batch: Sequence[Call]) -> tuple[Result, list[Rows | RequestError]]:
        began_ns = time.perf_counter_ns()
        process = self._given(batch, stream=False)
        self.spent.input_ns += time.perf_counter_ns() - began_ns
        result, arrays = self._result(process)
        began_ns = time.perf_counter_ns()
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
        self.spent.input_ns += result.spent[0]
        self.spent.output_ns += result.spent[1] + time.perf_counter_ns() - began_ns
        return result, answers

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
                process.send(True, [])
        except GeneratorExit:
            if reading:
                process.send(False, [])
            raise

    def forget(self, sequence: Parameter) -> None:
        if self._process is not None and self._process.ready:
            with suppress(OSError):  # with the process its sequences are gone
                self._process.send(Forget(sequence), [])

    def close(self) -> None:
        if self._process is not None:
            self._process.close(_CLOSE_S)
            self._process = None

    def _given(self, batch: Sequence[Call], *, stream: bool) -> Child | Shards:
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
                if process.is_alive():
                    process.send(work, arrays)
                    return process
            except OSError:
                log.debug("a process was gone before it was given a batch")
            self._died("while it waited")
        raise RequestError(Kind.UNAVAILABLE, "the model's process died twice while it waited; try again")

    def _result(self, process: Child | Shards) -> tuple[Result, list[Array]]:
        try:
            return process.result()
        except (EOFError, OSError) as exc:
            raise self._died("with this batch") from exc
        except OutOfStep as exc:
            self._died(f"by our hand: {exc}")
            raise exc.error from exc

    def _died(self, when: str) -> RequestError:
        """Tidy up after the process and start the next one."""
        process, self._process = self._process, None
        ended = process.close(_CLOSE_S) if process else "before"
        log.error("a model's process died", extra={"f": {"when": when, "ended": ended}})
        if process and time.monotonic() - process.started_s > _AGAIN_S:
            self._process = self._start()
        return RequestError(Kind.UNAVAILABLE, f"the model's process died {when} ({ended}); it is started again")
