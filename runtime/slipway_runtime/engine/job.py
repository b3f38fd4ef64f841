"""What moves between the parts of the engine: a request as a job, a model's instance as a runner."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from slipway_runtime.errors import RequestError
from slipway_runtime.tensors import Parameter, Rows


class Call(Protocol):
    """What a runner sees of a job. It must not change the arrays, which may be views into the request's bytes."""

    @property
    def inputs(self) -> Rows: ...
    @property
    def rows(self) -> int:
        """The first dimension of every input; 1 for a model that does not batch."""

    @property
    def parameters(self) -> Mapping[str, Parameter]: ...


class Runner(Protocol):
    """One instance of a loaded model. Called by one thread at a time, not always by the same."""

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
        "error",
        "finished",
        "inputs",
        "key",
        "level",
        "outputs",
        "parameters",
        "queued_ns",
        "rows",
        "size_bytes",
        "started_ns",
        "state",
        "tenant",
    )

    def __init__(self, inputs: Rows, rows: int, finished: "Callable[[Job], None]") -> None:
        self.inputs = inputs
        self.rows = rows
        self.finished = finished
        self.key: object = None  # only jobs with equal keys go into one batch
        self.parameters: Mapping[str, Parameter] = {}
        self.tenant = ""
        self.level = 0
        self.deadline_s = 0.0
        self.size_bytes = 0
        self.queued_ns = 0
        self.started_ns = 0
        self.state = 0
        self.outputs: Rows | None = None
        self.error: RequestError | None = None
