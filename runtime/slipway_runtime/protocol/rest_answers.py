"""Answers of REST inference as buffers: JSON, and after it the bytes of the outputs asked for as binary. Pure but for
what is put into shared memory.

This is the hot path: an answer of three numbers takes about 2 us.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from slipway_runtime.errors import invalid
from slipway_runtime.protocol.api import Entry
from slipway_runtime.protocol.classification import as_classes
from slipway_runtime.protocol.parameters import Regions, served
from slipway_runtime.tensors import (
    BINARY_ONLY,
    Array,
    Buffer,
    InferRequest,
    InferResponse,
    Tensor,
    bytes_of,
)

JsonObject = dict[str, Any]


def render(
    response: InferResponse, request: InferRequest, entry: Entry | None = None, regions: Regions | None = None
) -> tuple[list[Buffer], int | None]:
    """The buffers of the answer and the length of its JSON part (None = all of it).

    `entry` is the model, needed for classes only.

    Raises:
        RequestError: INVALID, when an output cannot be given in the form that was asked for.
    """
    answer: JsonObject = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        answer["id"] = response.id
    if response.parameters:
        answer["parameters"] = response.parameters
    answer["outputs"] = outputs = []
    tail: list[Buffer] = []
    choices, binary = request.outputs, request.binary
    for index, each in enumerate(response.outputs):
        tensor, region = each, None
        if choices:
            choice = choices[index]
            binary, region = choice.binary, choice.region
            if choice.classes:
                tensor = as_classes(tensor, choice, entry)
        output: JsonObject = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.data.shape}
        if region is not None:
            # Without parameters, as Triton: its C++ client takes any for those of binary data, and fails.
            served(regions).write(region, bytes_of(tensor), tensor.name)
        elif binary:
            raw = bytes_of(tensor)
            tail.append(raw)
            output["parameters"] = {"binary_data_size": len(raw)}
        else:
            output["data"] = _values(tensor)
        outputs.append(output)
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if len(head) > FEW_BYTES or b"null" in head:
        head = _with_nan(answer, head)
    return [head, *tail], len(head) if tail else None


# orjson writes NaN and infinity as null. To look for that in a short text costs less than to look at the values.
FEW_BYTES = 16 * 1024


def _values(tensor: Tensor) -> Array | orjson.Fragment | list[str]:
    """The flat values of a tensor as JSON. NaN and infinity are written as Python and Triton do, not as null."""
    if tensor.datatype in BINARY_ONLY:
        raise invalid(
            f"sending {tensor.datatype} data via JSON is not supported, ask for binary data of output '{tensor.name}'"
        )
    flat = tensor.data.reshape(-1)
    if tensor.datatype == "BYTES":
        return texts_of(tensor.name, flat.tolist())
    return flat


def _is_finite(flat: Array) -> bool:
    return flat.dtype.kind != "f" or bool(np.isfinite(flat).all())


def texts_of(name: str, texts: Sequence[bytes]) -> list[str]:
    try:
        return [text.decode() for text in texts]
    except UnicodeDecodeError:
        raise invalid(
            f"output '{name}' has bytes that are not UTF-8, which JSON cannot hold; ask for binary data"
        ) from None


def _with_nan(answer: JsonObject, head: bytes) -> bytes:
    """The text of the answer, written again if it lost a number; null may also have been part of a name or a text."""
    lost = False
    for output in answer["outputs"]:
        values = output.get("data")
        if isinstance(values, np.ndarray) and not _is_finite(values):
            output["data"] = orjson.Fragment(json.dumps(values.tolist()))
            lost = True
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY) if lost else head


def dumps(answer: JsonObject) -> bytes:
    """JSON of plain values, with NaN and infinity as Python and Triton write them."""
    text = orjson.dumps(answer)
    if b"null" in text:
        text = json.dumps(answer).encode()
    return text
