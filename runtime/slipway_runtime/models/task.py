"""What the server and the process of an instance say to each other. A module of its own, so that both name it alike."""

from dataclasses import dataclass

from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.load import LoadOptions
from slipway_runtime.tensors import Metadata, Parameter


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is for. `cores` empty = wherever the kernel puts it."""

    artifact: Artifact
    options: LoadOptions
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """A batch: per call its rows, its parameters and how many arrays are its."""

    calls: tuple[tuple[int, dict[str, Parameter], int], ...]
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """A sequence ended without its last request. Nothing is said to it."""

    sequence: Parameter


@dataclass(frozen=True, slots=True)
class Result:
    """Per call the number of its arrays, or its error. `metadata` is there when it is news. `more`: of a stream.

    `failed`: the model failed, so that is the answer of all calls; all ranks of a model in shards must have it alike.

    `spent` are the nanoseconds of the batch that its instance needed before and after its model.
    """

    answers: tuple[int | tuple[str, str], ...]
    metadata: Metadata | None = None
    more: bool = False
    failed: bool = False
    spent: tuple[int, int] = (0, 0)
