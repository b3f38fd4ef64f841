"""Does a request fit the model? Pure; the sentences are Triton's, so that people find them on the web.

What can be known of a model before its first request is worked out once, in `Signature`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.tensors import DTYPES, Array, InferRequest, Metadata, OutputChoice, Rows, Tensor, TensorSpec

_DATATYPES: dict[np.dtype[Any], str] = {dtype: datatype for datatype, dtype in DTYPES.items() if datatype != "BF16"} | {
    np.dtype(object): "BYTES"
}


class Signature:
    """Of a loaded model: checks requests and puts their tensors in the model's order."""

    def __init__(self, metadata: Metadata, model: str) -> None:
        self._model = model
        self._specs = metadata.inputs
        self._max_batch = metadata.max_batch
        self._usual = [(spec.name, spec.datatype, _after_batch(spec), spec) for spec in self._specs]
        self._is_fixed = not self._max_batch or all(
            spec.datatype and _after_batch(spec) is not None for spec in self._specs
        )

    def fit(self, tensors: Sequence[Tensor]) -> tuple[Rows, int]:
        """The arrays in the model's order, and how many rows of a batch they are.

        Raises:
            RequestError: INVALID, naming the first tensor that does not fit.
        """
        rows: Rows = []
        for tensor, (name, datatype, after_batch, spec) in zip(tensors, self._usual, strict=False):
            data = tensor.data
            if tensor.name != name or (tensor.datatype != datatype if datatype else tensor.datatype == "BF16"):
                break
            shape = data.shape
            if (not shape or shape[1:] != after_batch) and not spec.accepts(shape):
                break
            rows.append(data)
        if len(rows) != len(self._specs) or len(rows) != len(tensors):
            rows = self._fit_by_name(tensors)
        return rows, self._batch(rows) if self._max_batch else 1

    def key(self, rows: Rows) -> object:
        """Equal for requests that can be in one batch."""
        if self._is_fixed:
            return None
        return tuple([(data.dtype, data.shape[1:]) for data in rows])

    def _batch(self, rows: Rows) -> int:
        try:
            sizes = {data.shape[0] for data in rows} or {1}
        except IndexError:
            raise invalid(
                f"inputs for model '{self._model}' have a first dimension, that of the batch; got a scalar"
            ) from None
        if len(sizes) > 1:
            raise invalid(f"inputs of one request for model '{self._model}' have different batch sizes {sorted(sizes)}")
        size: int = sizes.pop()
        check_batch(size, self._max_batch, self._model)
        return size

    def _fit_by_name(self, tensors: Sequence[Tensor]) -> Rows:
        """In another order than the model's, or with a type or shape that the model leaves open, or wrong."""
        ordered = self._in_order(tensors)
        for tensor, spec in zip(ordered, self._specs, strict=True):
            check_tensor(tensor.datatype, tensor.data.shape, spec, self._model)
        return [tensor.data for tensor in ordered]

    def _in_order(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        given = {tensor.name: tensor for tensor in tensors}
        if len(given) < len(tensors):
            raise invalid(f"an input is given twice for model '{self._model}', got {_names(tensors)}")
        wanted = {spec.name for spec in self._specs}
        for name in given:
            if name not in wanted:
                raise unexpected(name, self._specs, self._model)
        missing = [spec.name for spec in self._specs if spec.name not in given]
        if missing:
            raise invalid(
                f"expected {len(wanted)} inputs but got {len(given)} inputs for model '{self._model}'. Got input(s) "
                f"{sorted(given)}, but missing required input(s) {missing}. Please provide all required input(s)."
            )
        return [given[spec.name] for spec in self._specs]


def check_tensor(datatype: str, shape: Sequence[int], spec: TensorSpec, model: str) -> None:
    if spec.datatype and datatype != spec.datatype:
        raise invalid(
            f"inference input '{spec.name}' data-type is '{datatype[:40]}', but model '{model}' expects "
            f"'{spec.datatype}'"
        )
    if not spec.datatype and datatype == "BF16":
        raise invalid(
            f"inference input '{spec.name}' data-type is 'BF16', but nobody knows what model '{model}' takes, and the "
            "bits would be read as UINT16; write the input into its config"
        )
    if not spec.accepts(shape):
        raise invalid(
            f"unexpected shape for input '{spec.name}' for model '{model}'. Expected {list(spec.shape or ())}, "
            f"got {list(shape)}."
        )


def check_batch(size: int, max_batch: int, model: str) -> None:
    if not 1 <= size <= max_batch:
        raise invalid(f"inference request batch-size must be <= {max_batch} for '{model}' and at least 1, got {size}")


def unexpected(name: str, specs: Iterable[TensorSpec], model: str) -> RequestError:
    return invalid(f"unexpected inference input '{name[:200]}' for model '{model}', it takes {_names(specs)}")


def check_outputs(choices: Sequence[OutputChoice], names: Sequence[str], model: str) -> None:
    """`names` are what the model gives."""
    asked = [choice.name for choice in choices]
    for name in asked:
        if name not in names:
            raise invalid(f"unexpected inference output '{name}' for model '{model}', it gives {list(names)}")
    if len(set(asked)) < len(asked):
        raise invalid(f"an output is asked for twice of model '{model}'")


def chosen(outputs: Sequence[Tensor], request: InferRequest) -> Sequence[Tensor]:
    """The outputs the request asked for, in its order. `check_outputs` has passed."""
    if request.outputs is None:
        return outputs
    by_name = {tensor.name: tensor for tensor in outputs}
    return [by_name[choice.name] for choice in request.outputs]


def datatype_of(data: Array) -> str:
    """Of an output whose metadata does not say. BF16 cannot be told from UINT16 here: that must be in the metadata."""
    datatype = _DATATYPES.get(data.dtype)
    if datatype is None:
        raise RequestError(Kind.INTERNAL, f"the model gave a tensor of {data.dtype}, which the protocol cannot carry")
    return datatype


def _after_batch(spec: TensorSpec) -> tuple[int, ...] | None:
    """The shape without its first dimension, if that may be anything and the others are known."""
    if not spec.shape or spec.shape[0] != -1 or -1 in spec.shape[1:]:
        return None
    return spec.shape[1:]


def _names(items: Iterable[Tensor | TensorSpec]) -> list[str]:
    return [item.name for item in items]
