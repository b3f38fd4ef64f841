"""Tensors of the Open Inference Protocol as numpy views, and what a request and an answer are made of.

A view points into the bytes of the request; nothing is copied before the model's own input is filled.
numpy has no bfloat16, so BF16 travels as uint16 with the same bits; `datatype` says what the bits mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from slipway_runtime.errors import invalid

Array = np.ndarray[Any, np.dtype[Any]]
Buffer = bytes | bytearray | memoryview

# Little endian as the protocol wants it; every machine we run on is.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}
BINARY_ONLY = frozenset({"FP16", "BF16"})  # the protocol gives them no JSON form
MAX_DIMS = 32


Parameter = str | int | float | bool
Rows = list[Array]
"""The tensors of one request in the model's order; with batching, the first dimension of each is the batch."""


# Not frozen, although nothing changes them: making a frozen instance costs three times as much, per tensor.
@dataclass(slots=True)
class Tensor:
    """BYTES are an object array of `bytes`."""

    name: str
    datatype: str
    data: Array


@dataclass(slots=True)
class OutputChoice:
    """One output as the request wants it. `classes` > 0: the top so many as "value:index[:label]"."""

    name: str
    binary: bool
    classes: int = 0
    region: "Region | None" = None


@dataclass(frozen=True, slots=True)
class Region:
    """Where in a registered shared memory region a tensor lies, or is to be put."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class InferRequest:
    """`outputs` None = all of them, each binary if `binary` says so. `id` None = not given, not echoed.

    `priority` 0 = the model's default, 1 = highest. `timeout_s` is the client's own, from now. `parameters` are the
    rest of the request's: sequence_id and the like, and what the model alone understands.
    """

    inputs: Sequence[Tensor]
    id: str | None = None
    outputs: Sequence[OutputChoice] | None = None
    binary: bool = False
    priority: int = 0
    timeout_s: float | None = None
    tenant: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)


@dataclass(slots=True)
class InferResponse:
    """`outputs` are those asked for, in the order asked."""

    model_name: str
    model_version: str
    outputs: Sequence[Tensor]
    id: str | None = None
    parameters: dict[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives. -1 = any size, the batch dimension included; shape None = anything.

    `datatype` "" = not known: TorchScript records neither types nor shapes.
    """

    name: str
    datatype: str = ""
    shape: tuple[int, ...] | None = None

    def accepts(self, shape: Sequence[int]) -> bool:
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Metadata:
    """The signature of a loaded model. `max_batch` 0 = no limit that we know."""

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int = 0
    ignored: tuple[str, ...] = field(default=())


def dtype_of(datatype: str, name: str) -> np.dtype[Any]:
    dtype = DTYPES.get(datatype)
    if dtype is not None:
        return dtype
    if datatype == "BYTES":
        raise invalid(f"tensor '{name}' has datatype BYTES, which a PyTorch model cannot take")
    raise invalid(f"tensor '{name}' has datatype '{datatype}', must be one of {', '.join(DTYPES)}")


def checked_shape(shape: object, name: str) -> tuple[int, ...]:
    """`shape` as it came from a client, as a tuple of sizes. O(dims)."""
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise invalid(f"tensor '{name}' has shape {str(shape)[:80]}, must be a list of integers >= 0")
    if len(shape) > MAX_DIMS:
        raise invalid(f"tensor '{name}' has {len(shape)} dimensions, at most {MAX_DIMS} are allowed")
    return tuple(shape)


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: Buffer) -> Tensor:
    """A view on `raw`, which must have exactly the bytes of the shape; `raw` has to outlive the tensor."""
    dtype = dtype_of(datatype, name)
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise invalid(f"tensor '{name}' has {len(raw)} bytes, its shape {list(shape)} and {datatype} need {expected}")
    if datatype == "BOOL":
        # Any other bit pattern than 0 and 1 in a bool array is undefined behaviour further down.
        return Tensor(name, datatype, (np.frombuffer(raw, np.uint8) != 0).reshape(shape))
    return Tensor(name, datatype, np.frombuffer(raw, dtype).reshape(shape))


def from_values(name: str, datatype: str, shape: tuple[int, ...], values: list[Any]) -> Tensor:
    """Numbers as JSON has them, nested or flat, as a tensor: nothing is rounded to fit, no text is a number."""
    dtype = dtype_of(datatype, name)
    if datatype in BINARY_ONLY:
        raise invalid(f"receiving {datatype} data via JSON is not supported, use binary data for input '{name}'")
    try:
        data = _array(values, dtype)
    except (ValueError, TypeError, OverflowError, FloatingPointError):
        raise invalid(f"input '{name}' has data that is not an even array of {datatype} values") from None
    if data.size != math.prod(shape):
        raise invalid(f"input '{name}' has {data.size} values, its shape {list(shape)} needs {math.prod(shape)}")
    return Tensor(name, datatype, data.reshape(shape))


# Which Python types the JSON values of each kind of numpy dtype may have.
_LEAVES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}


def _array(values: list[Any], dtype: np.dtype[Any]) -> Array:
    """O(values). The types are looked at first: numpy would read text as numbers, and pad it to the longest."""
    types = set(map(type, values))
    while types == {list}:
        if len(set(map(len, values))) > 1:
            raise ValueError
        values = list(chain.from_iterable(values))
        types = set(map(type, values))
    if not types <= _LEAVES[dtype.kind]:
        raise TypeError
    with np.errstate(over="raise"):
        return np.array(values, dtype)


def bytes_of(data: Array) -> memoryview:
    """The bytes of a C-contiguous array, without copying."""
    return data.reshape(-1).view(np.uint8).data
