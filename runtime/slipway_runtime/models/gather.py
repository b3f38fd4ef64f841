"""From the requests of a batch to one set of arrays, and back: what every runner does around its model.

    request's bytes -> view -> rows of a kept buffer -> [model] -> array -> views of it, one per request

Buffers are kept by the shape of a row and reused, so nothing in here allocates once the shapes have been seen. Nobody
outside may keep a view of them: an answer that lies in a buffer would be overwritten by the next batch, so runners
look it up in `addresses` and copy.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from slipway_runtime.engine.job import Call
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import Array, Rows

T = TypeVar("T")
KEPT_BYTES = 256 << 20
KEPT_SHAPES = 64  # each has a view per batch size, of less than a kilobyte

Key = tuple[object, ...]
Views = tuple[list[Array], list[T]]


class _Buffers(Generic[T]):
    """Arrays for `capacity` rows of one shape, and views of them by the number of rows that were asked for."""

    __slots__ = ("addresses", "arrays", "capacity", "natives", "size_bytes", "views")

    def __init__(self, arrays: list[Array], natives: list[T], capacity: int) -> None:
        self.arrays = arrays
        self.natives = natives
        self.capacity = capacity
        self.size_bytes = sum(array.nbytes for array in arrays)
        self.addresses = frozenset(array.ctypes.data for array in arrays)
        self.views: dict[int, Views[T]] = {}


class Gather(Generic[T]):
    """`allocate` makes the array of an input and, over the same memory, what the model takes; `cut` its first rows."""

    def __init__(
        self,
        allocate: Callable[[int, tuple[int, ...], np.dtype[Any]], tuple[Array, T]],
        cut: Callable[[T, int], T],
        *,
        max_rows: int,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._allocate = allocate
        self._cut = cut
        self._max_rows = max_rows
        self._kept_bytes = kept_bytes
        self._size_bytes = 0
        self.addresses: frozenset[int] = frozenset()
        """Where the kept buffers begin."""
        self._kept: dict[Key, _Buffers[T]] = {}  # the one used last stands last

    def fill(self, batch: Sequence[Call], rows: int, padded: int) -> list[T]:
        """The inputs of all calls one under the other, `rows` in all, and zeros up to `padded` rows.

        What comes back is overwritten by the next call.
        """
        arrays, natives = self._views(batch[0].inputs, padded)
        for index, array in enumerate(arrays):
            target = array
            if padded > rows:
                target = array[:rows]
                array[rows:] = 0  # not the rows of earlier requests: some models mix the rows of a batch
            if len(batch) == 1:
                np.copyto(target, batch[0].inputs[index])
            else:
                np.concatenate([call.inputs[index] for call in batch], out=target)
        return natives

    def fill_one(self, call: Call) -> list[T]:
        """The inputs of a call to a model that does not batch: a copy in the shapes they have."""
        inputs = call.inputs
        key: Key = ("whole", *[(array.shape, array.dtype) for array in inputs])
        kept = self._kept.get(key)
        if kept is None:
            kept = self._keep(key, [array.shape for array in inputs], [array.dtype for array in inputs], 1)
        for array, target in zip(inputs, kept.arrays, strict=True):
            np.copyto(target, array)
        return kept.natives

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def clear(self) -> None:
        self._kept.clear()
        self.addresses = frozenset()
        self._size_bytes = 0

    def _views(self, inputs: Rows, rows: int) -> Views[T]:
        key: Key = tuple([(array.shape[1:], array.dtype) for array in inputs])
        kept = self._kept.get(key)
        if kept is not None and rows in kept.views:
            if len(self._kept) > 1:
                self._kept[key] = self._kept.pop(key)
            return kept.views[rows]
        if kept is None or kept.capacity < rows:
            # Up to the next power of two, so that a shape that is seen once does not take max_batch_size rows.
            capacity = max(rows, min(self._max_rows, 1 << (rows - 1).bit_length()))
            shapes = [(capacity, *array.shape[1:]) for array in inputs]
            kept = self._keep(key, shapes, [array.dtype for array in inputs], capacity)
        views = kept.views[rows] = (
            [array[:rows] for array in kept.arrays],
            [self._cut(native, rows) for native in kept.natives],
        )
        return views

    def _keep(self, key: Key, shapes: list[tuple[int, ...]], dtypes: list[np.dtype[Any]], capacity: int) -> _Buffers[T]:
        """New buffers under `key`; those that were not used for longest go when there are too many."""
        if (old := self._kept.pop(key, None)) is not None:
            self._size_bytes -= old.size_bytes
        made = [
            self._allocate(index, shape, dtype) for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
        ]
        buffers = self._kept[key] = _Buffers([array for array, _ in made], [native for _, native in made], capacity)
        self._size_bytes += buffers.size_bytes
        while len(self._kept) > 1 and (self._size_bytes > self._kept_bytes or len(self._kept) > KEPT_SHAPES):
            self._size_bytes -= self._kept.pop(next(iter(self._kept))).size_bytes
        self.addresses = frozenset().union(*(kept.addresses for kept in self._kept.values()))
        return buffers


def each_pays_alone(
    batch: Sequence[Call],
    together: Callable[[Sequence[Call]], Sequence[Rows | RequestError]],
    alone: Callable[[Call], Rows | RequestError],
) -> Sequence[Rows | RequestError]:
    """A batch's answers; if it fails, those of each call alone: one may have spoilt it (an index out of range)."""
    try:
        return together(batch)
    except RequestError as error:
        if len(batch) == 1:
            return [error]
    return [alone(call) for call in batch]


def split(batch: Sequence[Call], outputs: list[Array]) -> list[Rows | RequestError]:
    """For each call its rows of the outputs, as views."""
    if len(batch) == 1:
        return [outputs]
    answers: list[Rows | RequestError] = []
    start = 0
    if len(outputs) == 1:  # most models; half the time of the general way
        only = outputs[0]
        for call in batch:
            end = start + call.rows
            answers.append([only[start:end]])
            start = end
        return answers
    for call in batch:
        end = start + call.rows
        answers.append([output[start:end] for output in outputs])
        start = end
    return answers


def check_rows(outputs: list[Array], names: Sequence[str], rows: int) -> None:
    """Every output has one row for each row given, or nobody could say whose they are."""
    for index, output in enumerate(outputs):
        if not output.ndim or output.shape[0] != rows:
            raise wrong_rows(names[index] if index < len(names) else f"OUTPUT__{index}", output.shape, rows)


def wrong_rows(name: str, shape: Sequence[int], rows: int) -> RequestError:
    return RequestError(
        Kind.INTERNAL,
        f"the model gave output '{name}' with shape {list(shape)} for a batch of {rows}; its first dimension must be "
        "the batch, or max_batch_size must be 0",
    )
