"""The requests a model answers for itself before anybody else's: every shape that has a cost of its own, once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slipway_runtime.errors import BadModel
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.config import ModelConfig, Warmup, WarmupInput
from slipway_runtime.tensors import DATATYPES, DTYPES, Array, Metadata, TensorSpec

_SEED = 1
# A sequence that begins and ends with the one request, so that no state stays behind.
_PARAMETERS = {"sequence_id": 0, "sequence_start": True, "sequence_end": True}


def calls(metadata: Metadata, config: ModelConfig, buckets: Sequence[int], folder: Path) -> list[OwnCall]:
    """Zeros for every bucket, then what model_warmup says; nothing where shapes are not known.

    Raises:
        BadModel: model_warmup does not fit the model.
    """
    known = all(spec.shape is not None and spec.datatype for spec in metadata.inputs)
    sizes: Sequence[int] = [1]
    if metadata.max_batch > 1 and not config.sequence_batching:
        # Two rows show whether the outputs follow the batch; one row would not.
        sizes = buckets or [1, 2]
    example = None if buckets else example_call(metadata, config)
    # An example is what the model was made for; zeros may be nothing that it can answer.
    plain = [example] if example else [_plain(metadata, rows, "zero") for rows in sizes] if known else []
    return plain + [
        call for item in config.warmup for call in [_call(item, metadata, folder)] for _ in range(item.count)
    ]


def example_call(metadata: Metadata, config: ModelConfig, rows: int = 0) -> OwnCall | None:
    """The example that lies beside the model, if one does; over and over for `rows`, unless that is 0.

    Raises:
        BadModel: it does not fit the model.
    """
    described = config.description
    if described is None or not described.example or not metadata.inputs:
        return None
    if any(spec.datatype not in DATATYPES or spec.datatype == "BF16" for spec in metadata.inputs):
        return None  # of no type that numbers could be read as
    given, names = dict(described.example), [spec.name for spec in metadata.inputs]
    if len(names) == 1 and len(given) == 1:
        given = dict.fromkeys(names, next(iter(given.values())))
    if sorted(given) != sorted(names):
        raise BadModel(
            f"the example in '{described.path}' is of {sorted(given)}, but the model takes {names}; correct it"
        )
    arrays = [_of_example(spec, given[spec.name], described.path) for spec in metadata.inputs]
    if not metadata.max_batch:
        return OwnCall(arrays, 1, _PARAMETERS)
    rows = rows or min(len(arrays[0]), metadata.max_batch)
    return OwnCall([np.resize(array, (rows, *array.shape[1:])) for array in arrays], rows, _PARAMETERS)


def _of_example(spec: TensorSpec, value: Any, path: Path) -> Array:
    try:
        if spec.datatype == "BYTES":
            array = np.array(value, object)
            array = np.array([str(one).encode() for one in array.reshape(-1)], object).reshape(array.shape)
        else:
            array = np.array(value, DTYPES.get(spec.datatype))
    except (ValueError, TypeError, OverflowError) as exc:
        raise BadModel(f"the example in '{path}' is no {spec.datatype} for '{spec.name}': {exc}; correct it") from exc
    if not array.ndim or not array.size or not spec.accepts(array.shape):
        raise BadModel(
            f"the example in '{path}' has shape {list(array.shape)} for '{spec.name}', but the model takes "
            f"{list(spec.shape or ())}; correct it"
        )
    return array


def first_call(metadata: Metadata, config: ModelConfig) -> OwnCall:
    """The example, else a row of zeros. Shapes are known. Raises BadModel."""
    return example_call(metadata, config) or _plain(metadata, 1, "zero")


def random_call(metadata: Metadata, rows: int) -> OwnCall | None:
    """One request of random numbers, if shapes are known and there are no strings."""
    if any(spec.shape is None or spec.datatype not in DTYPES for spec in metadata.inputs):
        return None
    return _plain(metadata, rows, "random")


def _plain(metadata: Metadata, rows: int, source: str) -> OwnCall:
    return OwnCall(
        [_data(spec.datatype, _shape(spec, rows, metadata), source) for spec in metadata.inputs], rows, _PARAMETERS
    )


def _shape(spec: TensorSpec, rows: int, metadata: Metadata) -> tuple[int, ...]:
    """A size that is not known is 1; the batch is the first of a model that batches."""
    shape = [1 if size == -1 else size for size in spec.shape or ()]
    return (rows, *shape[1:]) if metadata.max_batch else tuple(shape)


def _data(datatype: str, shape: tuple[int, ...], source: str) -> Array:
    """Random whole numbers are 0 and 1: others could be an index of something that is not there."""
    if datatype == "BYTES":
        return np.full(shape, b"" if source == "zero" else b"warm-up", object)
    dtype = DTYPES[datatype]
    if source == "zero":
        return np.zeros(shape, dtype)
    rng = np.random.default_rng(_SEED)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _call(item: Warmup, metadata: Metadata, folder: Path) -> OwnCall:
    given = {tensor.name: tensor for tensor in item.inputs}
    names = [spec.name for spec in metadata.inputs]
    if sorted(given) != sorted(names):
        raise BadModel(
            f"model_warmup '{item.name}' has inputs {sorted(given)}, but the model takes {names}; correct it"
        )
    rows = max(1, item.batch_size)
    if metadata.max_batch and rows > metadata.max_batch:
        raise BadModel(f"model_warmup '{item.name}' has batch_size {rows}, but max_batch_size is {metadata.max_batch}")
    lead = (rows,) if metadata.max_batch else ()
    inputs = []
    for spec in metadata.inputs:
        tensor = given[spec.name]
        shape = (*lead, *tensor.dims)
        if spec.datatype not in ("", tensor.datatype) or not spec.accepts(shape):
            raise BadModel(
                f"model_warmup '{item.name}' gives '{spec.name}' as {tensor.datatype} {list(shape)}, but the model "
                f"takes {spec.datatype} {list(spec.shape or ())}; correct it"
            )
        inputs.append(
            _of_file(tensor, shape, folder) if tensor.source == "file" else _data(tensor.datatype, shape, tensor.source)
        )
    return OwnCall(inputs, rows, _PARAMETERS)


def _of_file(tensor: WarmupInput, shape: tuple[int, ...], folder: Path) -> Array:
    """Raw little-endian numbers; the same for every row if the file has one."""
    path = folder / "warmup" / tensor.data
    if tensor.datatype == "BYTES":
        raise BadModel(f"model_warmup reads '{path}' for strings, which is not supported; use zero_data")
    try:
        data = np.fromfile(path, DTYPES[tensor.datatype])
        return np.ascontiguousarray(
            np.broadcast_to(data.reshape((-1, *tensor.dims)), shape) if tensor.dims != shape else data.reshape(shape)
        )
    except (OSError, ValueError) as exc:
        raise BadModel(f"model_warmup reads '{path}': {exc}; it must have the bytes of shape {list(shape)}") from exc
