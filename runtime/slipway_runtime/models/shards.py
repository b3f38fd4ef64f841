"""A model in several processes that hold a part of it each: where each part is, and how the processes are one.

    server ── a batch, written once ──▶ rank 0 ──▶ its answer is the answer
                                   └──▶ rank 1 ──▶ says that it is done
                 the model's own collectives (NCCL, gloo) go between the ranks

Ranks are only right together: when one ends, fails where others do not, or is late, all of them are ended, and the
next start is one of all. Knows nothing of torch; what a rank does with its part is in ranks.py.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from slipway_runtime.errors import BadConfig, BadModel, Failure, Kind, RequestError
from slipway_runtime.models.child import Child, Told
from slipway_runtime.models.config import InstanceGroup, ModelConfig
from slipway_runtime.models.load import Shard
from slipway_runtime.models.task import Result, Task
from slipway_runtime.tensors import Array

_LATE_S = 60.0
"""A rank may take longer than the first one that is done; they wait for each other at their collectives anyway."""
_LATE_FAILED_S = 5.0
"""The same when the first one failed: the others fail at the same place, or wait for it in a collective for good."""


def placement(config: ModelConfig, shards: int, device: str) -> list[tuple[str, ...]]:
    """For every instance the devices of its shards; "auto" is for them to find out. `device` is for all that say none.

    Raises:
        BadModel: GPUs are named that do not make whole instances.
    """
    places: list[tuple[str, ...]] = []
    for group in config.instances or (InstanceGroup(),):
        if group.kind == "KIND_CPU":
            sets = [("cpu",) * shards]
        elif group.kind == "KIND_GPU" or group.gpus:
            sets = _gpu_sets(group.gpus or tuple(range(shards)), shards)
        elif device.startswith("cuda:"):
            raise BadModel(
                f"parameter 'device' is '{device}', but each of the {shards} shards needs a GPU of its own; "
                "say cuda, or name as many GPUs in instance_group"
            )
        else:
            sets = _gpu_sets(tuple(range(shards)), shards) if device == "cuda" else [(device,) * shards]
        places += sets * group.count
    return places


def _gpu_sets(gpus: Sequence[int], shards: int) -> list[tuple[str, ...]]:
    sets = [tuple(f"cuda:{gpu}" for gpu in gpus[start : start + shards]) for start in range(0, len(gpus), shards)]
    if any(len(set(devices)) != shards for devices in sets):
        raise BadModel(
            f"instance_group names GPUs {list(gpus)} for a model of {shards} shards, each on a GPU of its own; "
            f"name {shards} different ones for each instance"
        )
    return sets


def device_of(shard: Shard, gpus: int) -> str:
    """Where a shard goes on a machine with so many GPUs. All shards of an instance refuse alike.

    Raises:
        BadConfig: there are not as many as the shards need.
    """
    devices = shard.devices
    if devices[0] == "auto":
        devices = tuple(f"cuda:{rank}" if gpus else "cpu" for rank in range(len(devices)))
    wanted = [int(device.partition(":")[2]) for device in devices if device != "cpu"]
    if wanted and max(wanted) >= gpus:
        raise BadConfig(
            f"the model's {len(devices)} shards need a GPU each ({', '.join(devices)}), but this container has {gpus}; "
            "lower parameter 'shards', or give it more GPUs"
        )
    return devices[shard.rank]


class OutOfStep(Exception):
    """The ranks did not do the same, so nothing they say is worth anything any more. `error` is the batch's answer."""

    def __init__(self, error: RequestError) -> None:
        super().__init__(error.message)
        self.error = error


class Shards:
    """One run of all ranks, from their start to their end: a `Child` to whoever gives it batches."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """One task for each rank, in their order."""
        self.started_s = time.monotonic()
        self.ready = False
        self._in_step = True
        store, inputs = os.memfd_create("slipway-store"), os.memfd_create("slipway-inputs")
        self._ranks: list[Child] = []
        try:
            self._ranks.extend(Child(_through(task, store), inputs) for task in tasks)
        except BaseException:
            self.close(0)
            raise
        finally:
            for fd in (store, inputs):  # each child has its own
                os.close(fd)

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._ranks]

    def is_alive(self) -> bool:
        return all(child.is_alive() for child in self._ranks)

    def send(self, message: object, arrays: list[Array]) -> None:
        """To all of them. Raises OSError only if none was given it."""
        first, *others = self._ranks
        packed = first.channel.packed(message, arrays)
        first.channel.post(packed)
        for child in others:
            with suppress(OSError):  # it is found gone when it should answer
                child.channel.post(packed)

    def loaded(self) -> Told:
        """Raises Failure, and EOFError when one of them died."""
        said = {rank: message for rank, (message, _) in self._answers(float("inf")).items()}
        failures = {rank: failure for rank, failure in said.items() if isinstance(failure, Failure)}
        if not failures:
            told: Told = said[0]
            return told
        self._in_step = False
        rank, failure = next(iter(failures.items()))  # the first one; others may fail because it did
        if len({str(other) for other in failures.values()}) == 1 and len(failures) == len(self._ranks):
            raise failure
        raise type(failure)(f"rank {rank} of the model's {len(self._ranks)} shards: {failure}")

    def result(self) -> tuple[Result, list[Array]]:
        """What rank 0 says, once all are done. Raises EOFError when one of them died, OutOfStep."""
        answers = self._answers(_LATE_S)
        results: dict[int, Result] = {rank: found for rank, (found, _) in answers.items()}
        late = [rank for rank in range(len(self._ranks)) if rank not in results]
        if not late and len({(found.failed, found.more) for found in results.values()}) == 1:
            return answers[0]
        self._in_step = False
        for rank, found in results.items():
            if found.failed:
                message = f"the model failed on rank {rank} only: {_reason(found)}; its shards are started again"
                raise OutOfStep(RequestError(Kind.INTERNAL, message))
        if late:
            message = (
                f"rank {late[0]} of the model was not done {_LATE_S:.0f} s after another; its shards are started again"
            )
            raise OutOfStep(RequestError(Kind.UNAVAILABLE, message))
        message = "the model's ranks yielded different numbers of answers; its shards are started again"
        raise OutOfStep(RequestError(Kind.INTERNAL, message))

    def close(self, wait_s: float) -> str:
        """Let all go; by force after `wait_s`, or at once if they cannot go on together. Returns how it ended."""
        lost = next((rank for rank, child in enumerate(self._ranks) if not child.is_alive()), None)
        ends_s = time.monotonic() + (wait_s if lost is None and self._in_step else 0)
        for child in self._ranks:
            child.channel.close()
        ended = [child.close(max(0.0, ends_s - time.monotonic())) for child in self._ranks]
        return ", ".join(dict.fromkeys(ended)) if lost is None else f"rank {lost}, {ended[lost]}"

    def _answers(self, late_s: float) -> dict[int, tuple[Any, list[Array]]]:
        """What each rank says, as they come, without those that are late. Raises EOFError when one of them died."""
        said: dict[int, tuple[Any, list[Array]]] = {}
        ends_s = float("inf")
        while waiting := {child.channel.connection: rank for rank, child in enumerate(self._ranks) if rank not in said}:
            ready = wait(list(waiting), _timeout_s(ends_s))
            if not ready:
                break
            for connection in ready:
                rank = waiting[connection]  # type: ignore[index]
                said[rank] = self._heard(rank)
                may_s = _LATE_FAILED_S if _has_failed(said[rank][0]) else late_s
                ends_s = min(ends_s, time.monotonic() + may_s)
        return said

    def _heard(self, rank: int) -> tuple[Any, list[Array]]:
        child = self._ranks[rank]
        try:
            return child.channel.receive()
        except (EOFError, OSError) as exc:
            child.close(_LATE_FAILED_S)  # its socket is closed a little before it has ended
            raise EOFError from exc


def _through(task: Task, store: int) -> Task:
    shard = task.options.shard
    assert shard is not None  # noqa: S101 - a task of ours
    return replace(task, options=replace(task.options, shard=replace(shard, store=store)))


def _timeout_s(ends_s: float) -> float | None:
    return None if ends_s == float("inf") else max(0.0, ends_s - time.monotonic())


def _has_failed(said: object) -> bool:
    return isinstance(said, Failure) or (isinstance(said, Result) and said.failed)


def _reason(result: Result) -> str:
    return next((said[1] for said in result.answers if isinstance(said, tuple)), "it does not say why")
