"""One instance of a model that takes numpy arrays by name: onnxruntime's sessions, and ours of tabular models."""

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np

from slipway_runtime.engine.job import Call, Spent
from slipway_runtime.errors import Kind, RequestError, cause
from slipway_runtime.models.gather import Gather, check_rows, each_pays_alone, split
from slipway_runtime.tensors import Array, Metadata, Rows


class Session(Protocol):
    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs of those names. Strings are `str`. Used by many threads; raises whatever it likes."""


class SessionRunner:
    """Instances share the session, which may be used by many threads; each has its own buffers."""

    may_run_inline = False  # it has threads of its own

    def __init__(self, session: Session, metadata: Metadata, input_names: Sequence[str]) -> None:
        self.spent = Spent()
        self._session = session
        self._batched = metadata.max_batch > 0
        self._inputs = tuple(input_names)
        self._outputs = [spec.name for spec in metadata.outputs]
        self._strings = [index for index, spec in enumerate(metadata.outputs) if spec.datatype == "BYTES"]
        self._has_strings = any(spec.datatype == "BYTES" for spec in metadata.inputs)
        self._gather: Gather[Array] = Gather(_allocate, _cut, max_rows=metadata.max_batch)

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        if not self._batched:
            return [self._alone(call) for call in batch]
        return each_pays_alone(batch, self._batch, self._alone)

    def stream(self, call: Call) -> Iterator[Rows]:
        answer = self._alone(call)
        if isinstance(answer, RequestError):
            raise answer
        yield answer

    def close(self) -> None:
        self._gather.clear()

    def _alone(self, call: Call) -> Rows | RequestError:
        try:
            if self._batched:
                (answer,) = self._batch([call])
                return answer
            return self._forward(call.inputs)
        except RequestError as error:
            return error

    def _batch(self, batch: Sequence[Call]) -> list[Rows | RequestError]:
        began_ns = perf_counter_ns()
        if len(batch) == 1:
            rows, given = batch[0].rows, batch[0].inputs  # sessions do not write to them
        else:
            rows = sum([call.rows for call in batch])
            if self._has_strings:  # kept buffers would keep the strings of requests that are long gone
                given = [np.concatenate([call.inputs[i] for call in batch]) for i in range(len(self._inputs))]
            else:
                given = self._gather.fill(batch, rows, rows)
        self.spent.input_ns += perf_counter_ns() - began_ns
        outputs = self._forward(given)
        began_ns = perf_counter_ns()
        check_rows(outputs, self._outputs, rows)
        answers = split(batch, outputs)
        self.spent.output_ns += perf_counter_ns() - began_ns
        return answers

    def _forward(self, given: Sequence[Array]) -> list[Array]:
        began_ns = perf_counter_ns()
        feeds = {
            name: decoded(array) if array.dtype == object else array
            for name, array in zip(self._inputs, given, strict=True)
        }
        filled_ns = perf_counter_ns()
        try:
            outputs: list[Array] = self._session.run(self._outputs, feeds)
        except Exception as exc:  # the model is foreign; whatever it raises is this request's answer
            raise RequestError(Kind.INTERNAL, f"the model failed: {cause(exc)}") from exc
        ran_ns = perf_counter_ns()
        for index in self._strings:
            outputs[index] = _encoded(outputs[index])
        own = [
            # An output that the graph hands through may be the input itself.
            output.copy() if any(np.may_share_memory(output, array) for array in given) else output
            for output in outputs
        ]
        self.spent.input_ns += filled_ns - began_ns
        self.spent.output_ns += perf_counter_ns() - ran_ns
        return own


def _allocate(index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Array]:
    array = np.empty(shape, dtype)
    return array, array


def _cut(array: Array, rows: int) -> Array:
    return array[:rows]


def decoded(array: Array) -> Array:
    """A session wants `str`."""
    try:
        flat = [item.decode() for item in array.reshape(-1)]
    except UnicodeDecodeError as exc:
        raise RequestError(Kind.INVALID, f"a string is not UTF-8, which the model needs: {exc}") from exc
    text = np.empty(len(flat), object)
    text[:] = flat
    return text.reshape(array.shape)


def _encoded(array: Array) -> Array:
    flat = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
    coded = np.empty(len(flat), object)
    coded[:] = flat
    return coded.reshape(array.shape)
