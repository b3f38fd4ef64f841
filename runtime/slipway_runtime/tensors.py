"""Tensors of the Open Inference Protocol as numpy views, and what a request and an answer are made of.

A view points into the bytes of the request; nothing is copied before the model's own input is filled.
numpy has no bfloat16, so BF16 travels as uint16 with the same bits; `datatype` says what the bits mean.
BYTES are an object array of `bytes`; on the wire each is its length as u32 and then itself.
"""

import math
import struct
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
DATATYPES = frozenset(DTYPES) | {"BYTES"}
MAX_DIMS = 32  # of a shape, and of how deep JSON values may be nested
MAX_VALUES = 2**31 - 1  # of one tensor; refused by the shape alone, before memory is taken for it
MAX_TEXTS = 1 << 20  # BYTES elements of one tensor: each is an object, and others wait while they are made
FEW = 64  # up to so many values the way that costs least to begin is taken, above it the one that costs least per value


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

    `priority` 0 = the model's default, 1 = highest. `timeout_s` is what the request says, which a model's config may
    rule out; `patience_s` how long its client waits in any case; both from now. `parameters` are the rest of the
    request's: sequence_id and the like, and what the model alone understands. `depth` = in how many ensembles it is
    a step.
    """

    inputs: Sequence[Tensor]
    id: str | None = None
    outputs: Sequence[OutputChoice] | None = None
    binary: bool = False
    priority: int = 0
    timeout_s: float | None = None
    patience_s: float | None = None
    tenant: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    depth: int = 0


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
    example: tuple[Array, ...] = field(default=(), compare=False)
    """A request that the model was made for, input by input; empty where nobody gave one."""


def dtype_of(datatype: str, name: str) -> np.dtype[Any]:
    """The numpy type of any datatype but BYTES."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise invalid(f"tensor '{name}' has datatype '{datatype[:40]}', must be one of {', '.join(DTYPES)}, BYTES")
    return dtype


def checked_shape(shape: object, name: str) -> tuple[int, ...]:
    """`shape` as it came from a client, as a tuple of sizes. O(dims)."""
    if type(shape) is not list and type(shape) is not tuple:
        raise _bad_shape(shape, name)
    for size in shape:
        if type(size) is not int or size < 0:
            raise _bad_shape(shape, name)
    if len(shape) > MAX_DIMS:
        raise invalid(f"tensor '{name}' has {len(shape)} dimensions, at most {MAX_DIMS} are allowed")
    return tuple(shape)


def _bad_shape(shape: object, name: str) -> Exception:
    return invalid(f"tensor '{name}' has shape {str(shape)[:80]}, must be a list of integers >= 0")


def count_of(shape: tuple[int, ...], name: str) -> int:
    """How many values a tensor of this shape has."""
    count = math.prod(shape)
    # A size of 0 hides the others, which numpy multiplies all the same.
    if count > MAX_VALUES or (count == 0 and math.prod(size for size in shape if size) > MAX_VALUES):
        raise invalid(
            f"tensor '{name}' has shape {str(list(shape))[:200]}, more than {MAX_VALUES} values are not served"
        )
    return count


def texts_count_of(shape: tuple[int, ...], name: str) -> int:
    count = count_of(shape, name)
    if count > MAX_TEXTS:
        raise invalid(f"tensor '{name}' has {count} BYTES elements, more than {MAX_TEXTS} are not served")
    return count


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: Buffer, span: slice | None = None) -> Tensor:
    """A view on `raw`, or on that part of it, which must have exactly the bytes of the shape.

    `raw` has to outlive the tensor. BOOL and BYTES are copied.
    """
    start, stop = (0, len(raw)) if span is None else (span.start, span.stop)
    size = stop - start
    if datatype == "BYTES":
        return Tensor(name, datatype, _texts(memoryview(raw)[start:stop], shape, name))
    dtype = dtype_of(datatype, name)
    expected = count_of(shape, name) * dtype.itemsize
    if size != expected:
        raise invalid(f"tensor '{name}' has {size} bytes, its shape {list(shape)} and {datatype} need {expected}")
    if not size:
        return Tensor(name, datatype, np.empty(shape, dtype))
    if datatype == "BOOL":
        # Any other bit pattern than 0 and 1 in a bool array is undefined behaviour further down.
        return Tensor(name, datatype, np.ndarray(shape, np.uint8, raw, start) != 0)
    return Tensor(name, datatype, np.ndarray(shape, dtype, raw, start))


def _texts(raw: memoryview, shape: tuple[int, ...], name: str) -> Array:
    """O(bytes). The count is checked against the bytes there are before memory is taken for it."""
    count, size = count_of(shape, name), len(raw)
    if count * 4 > size:
        raise invalid(
            f"tensor '{name}' has {size} bytes, too few for the {count} BYTES elements of its shape {list(shape)}"
        )
    texts_count_of(shape, name)
    data = bytes(raw)
    texts: list[bytes] = []
    offset = 0
    for _ in range(count):
        begin = offset + 4
        offset = begin + int.from_bytes(data[offset:begin], "little")
        if offset > size or begin > size:
            raise invalid(f"tensor '{name}' is cut short: BYTES element {len(texts)} ends beyond its {size} bytes")
        texts.append(data[begin:offset])
    if offset != size:
        raise invalid(f"tensor '{name}' has {size - offset} bytes more than its {count} BYTES elements take")
    return texts_array(texts, shape)


def texts_array(texts: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """BYTES as numpy holds them. There must be as many as the shape has."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)


def from_values(name: str, datatype: str, shape: tuple[int, ...], values: list[Any]) -> Tensor:
    """Numbers and texts as JSON has them, nested or flat: nothing is rounded to fit, no text is a number."""
    if datatype in BINARY_ONLY:
        raise invalid(f"receiving {datatype} data via JSON is not supported, use binary data for input '{name}'")
    kind = "BYTES" if datatype == "BYTES" else dtype_of(datatype, name).kind
    try:
        flat = _leaves(values, _LEAVES[kind])
        if len(flat) != count_of(shape, name):
            raise invalid(f"input '{name}' has {len(flat)} values, its shape {list(shape)} needs {math.prod(shape)}")
        data = _encoded(flat, shape, name) if datatype == "BYTES" else _array(flat, datatype, shape)
    except (ValueError, TypeError, OverflowError, FloatingPointError, struct.error):
        raise invalid(f"input '{name}' has data that is not an even array of {datatype} values") from None
    return Tensor(name, datatype, data)


# Which Python types the JSON values of each kind of numpy dtype may have.
_LEAVES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
    "BYTES": frozenset({str, bytes}),
}


def _leaves(values: list[Any], allowed: frozenset[type]) -> list[Any]:
    """O(values). The types are looked at first: numpy would read text as numbers, and pad it to the longest."""
    types = set(map(type, values))
    depth = 1
    while types == {list}:
        depth += 1
        if depth > MAX_DIMS or len(set(map(len, values))) > 1:
            raise ValueError
        values = list(chain.from_iterable(values))
        types = set(map(type, values))
    if not types <= allowed:
        raise TypeError
    return values


def guessed(values: list[Any]) -> str:
    """The datatype of values, nested or flat, where the model names none."""
    types = set(map(type, values))
    while types == {list}:
        values = list(chain.from_iterable(values))
        types = set(map(type, values))
    if types & {str, bytes}:
        return "BYTES"
    if bool in types:
        return "BOOL"
    return "FP32" if float in types else "INT64"


# The letters of the datatypes in `struct`.
_LETTERS = dict(zip((name for name in DTYPES if name != "BF16"), "?BHIQbhiqefd", strict=True))


def _array(values: list[Any], datatype: str, shape: tuple[int, ...]) -> Array:
    if 0 < len(values) <= FEW:
        # Refuses what does not fit into the type, as numpy does only inside an errstate, which costs more than this.
        packed = struct.pack(f"<{len(values)}{_LETTERS[datatype]}", *values)
        return np.ndarray(shape, DTYPES[datatype], packed)
    with np.errstate(over="raise"):
        return np.array(values, DTYPES[datatype]).reshape(shape)


def _encoded(values: list[str | bytes], shape: tuple[int, ...], name: str) -> Array:
    texts_count_of(shape, name)
    return texts_array([value.encode() if isinstance(value, str) else value for value in values], shape)


def numbers_of(tensor: Tensor) -> Array:
    """The values as numpy knows them: BF16, which it does not know, as float32."""
    if tensor.datatype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    return tensor.data


def plain_values(flat: Array) -> list[Any]:
    """Values for people and JSON: of a float32 the digits that it has, 5.1 and not 5.099999904632568."""
    if flat.dtype.kind == "f":
        return [float(str(value)) for value in flat]
    return [value.decode() if isinstance(value, bytes) else value for value in flat.tolist()]


def bytes_of(tensor: Tensor) -> Buffer:
    """The bytes of a tensor as the wire has them; many bytes in order are not copied."""
    data = tensor.data
    if tensor.datatype == "BYTES":
        return b"".join([piece for text in data.reshape(-1).tolist() for piece in (_LENGTH.pack(len(text)), text)])
    if data.nbytes < 4096 or not data.flags.c_contiguous:
        return data.tobytes()
    return data.reshape(-1).view(np.uint8).data


_LENGTH = struct.Struct("<I")
