"""What moves between the parts of the engine: a request as a job, a model's instance as a runner."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Protocol

from slipway_runtime.errors import RequestError
from slipway_runtime.tensors import Parameter, Rows

log = logging.getLogger("slipway.engine")


class JobState(Enum):
    QUEUED = 0
    RUNNING = 1
    DONE = 2
    """Answered, expired or cancelled."""


# Looking up a member of an enumeration costs several times as much as a global.
QUEUED, RUNNING, DONE = JobState


class Call(Protocol):
    """What a runner sees of a job. It must not change the arrays, which may be views into the request's bytes."""

    @property
    def inputs(self) -> Rows: ...
    @property
    def rows(self) -> int:
        """The first dimension of every input; 1 for a model that does not batch."""

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...


class Spent:
    """Nanoseconds that a runner has spent beside its model: on the batch it makes, on the answers it cuts."""

    __slots__ = ("input_ns", "output_ns")

    def __init__(self) -> None:
        self.input_ns = self.output_ns = 0

    def taken(self) -> tuple[int, int]:
        """Since the last call of this."""
        taken = self.input_ns, self.output_ns
        self.input_ns = self.output_ns = 0
        return taken


class Runner(Protocol):
    """One instance of a loaded model. Called by one thread at a time, not always by the same.

    It may also have `attach()`, called on every thread that will call `run`, before it does;
    `forget(sequence_id)`, called before a `run`: a sequence was given up without its last request, its state can go;
    `spent`, one object for as long as it lives: without it all its time counts as the model's; and `metrics`, a
    registry of what its code wants to have told.
    """

    @property
    def may_run_inline(self) -> bool:
        """Whether it only computes, on the CPU: then it may be run on the loop's thread while it is quick."""

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        """For every call its outputs, in the order of the metadata, or why it alone has none.

        All calls have the same shapes but for the first dimension; their rows add up to at most max_batch_size. The
        arrays that come back are not written to any more: no view of a buffer that the next run fills.

        Raises:
            RequestError: that is the answer for all of them.
        """

    def stream(self, call: Call) -> Iterator[Rows]:
        """The answers of a decoupled model, one after the other. Raises RequestError."""

    def close(self) -> None: ...


class Job:
    """One request for a model, from the moment it is accepted until `finished` was called, exactly once."""

    __slots__ = (
        "deadline_s",
        "depth",
        "error",
        "inputs",
        "key",
        "level",
        "limit_s",
        "outputs",
        "parameters",
        "priority",
        "queued_ns",
        "rows",
        "size_bytes",
        "started_ns",
        "state",
        "tenant",
    )

    def __init__(self, inputs: Rows, rows: int) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key: object = None  # only jobs with equal keys go into one batch
        self.parameters: Mapping[str, Parameter] = NO_PARAMETERS
        self.tenant = ""
        self.level = 0
        self.priority = 0  # as the request has it, for the steps of an ensemble, whose models have levels of their own
        self.depth = 0  # in how many ensembles it is a step
        self.limit_s = 0.0  # how long it may take, and until when on the loop's clock
        self.deadline_s = 0.0
        self.size_bytes = 0
        self.queued_ns = 0
        self.started_ns = 0
        self.state = QUEUED
        self.outputs: Rows | None = None
        self.error: RequestError | None = None

    watched = False
    """Whoever submits it sees to its deadline: it is not to expire in the queue."""

    def finished(self) -> None:
        """There are `outputs`, or an `error`. On the loop's thread."""
        raise NotImplementedError


def finish(job: Job) -> None:
    """Tell a job that it is answered; one that cannot bear it is not to hurt those that are told after it."""
    try:
        job.finished()
    except Exception:
        log.exception("an answer could not be given")


def size_of(rows: Rows) -> int:
    """In bytes. BYTES tensors hold pointers; what they point to counts too, with what every Python object costs."""
    size = 0
    for data in rows:
        size += data.nbytes
        if data.dtype.hasobject:
            size += 40 * data.size + sum(map(len, data.ravel()))
    return size


NO_PARAMETERS: Mapping[str, Parameter] = {}
