"""The bodies of REST inference: JSON, or JSON followed by the bytes of tensors (the binary data extension).

Pure: bytes in, `InferRequest` out; `InferResponse` in, buffers out. Whether the tensors fit the model is not
judged here.

    request   {"id", "parameters": {"binary_data_output"}, "inputs": [{"name", "shape", "datatype",
               "data" | "parameters": {"binary_data_size"}}], "outputs": [{"name", "parameters": {"binary_data"}}]}
              and, with the header Inference-Header-Content-Length: N, N bytes of that and then the tensors' bytes
Source: Triton's extension_binary_data.md.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from slipway_runtime.errors import invalid
from slipway_runtime.tensors import (
    BINARY_ONLY,
    Array,
    InferRequest,
    InferResponse,
    OutputChoice,
    Tensor,
    bytes_of,
    checked_shape,
    from_bytes,
    from_values,
)

JsonObject = dict[str, Any]
# Extensions we do not serve must not be taken for served: the answer would be wrong, not absent.
_UNSERVED = ("shared_memory_region", "classification")


def parse(body: bytes, header_length: str | None) -> InferRequest:
    """Read an inference request. The tensors are views into `body`.

    Raises:
        RequestError: of kind INVALID, for anything the protocol does not allow.
    """
    view = memoryview(body)
    split = len(view) if header_length is None else _header_length(header_length, len(view))
    request = _object(_load(view[:split]), "request")
    parameters = _parameters(request, "request")
    inputs = _inputs(request.get("inputs"), view[split:])
    binary = _flag(parameters, "binary_data_output", default=False)
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise invalid("'id' must be a string")
    return InferRequest(inputs, request_id, _outputs(request.get("outputs"), binary), binary)


def render(response: InferResponse, request: InferRequest) -> tuple[list[bytes | memoryview], int | None]:
    """The buffers of the answer and the length of its JSON part (None = all of it)."""
    if request.outputs is None:
        choices = [request.binary] * len(response.outputs)
    else:
        choices = [choice.binary for choice in request.outputs]
    outputs, tail = [], []
    for tensor, binary in zip(response.outputs, choices, strict=True):
        output: JsonObject = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.data.shape}
        if binary:
            tail.append(bytes_of(tensor.data))
            output["parameters"] = {"binary_data_size": tensor.data.nbytes}
        else:
            output["data"] = _values(tensor)
        outputs.append(output)
    answer: JsonObject = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        answer["id"] = response.id
    answer["outputs"] = outputs
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return [head, *tail], len(head) if tail else None


def _load(view: memoryview) -> object:
    try:
        return orjson.loads(view)
    except orjson.JSONDecodeError as exc:
        raise invalid(f"failed to parse the request JSON: {exc}") from None


def _header_length(text: str, body_length: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= body_length):
        raise invalid(
            f"Inference-Header-Content-Length is '{text[:40]}', must be a number up to the body's {body_length} bytes"
        )
    if int(text) == 0:
        raise invalid("Inference-Header-Content-Length is 0: raw binary requests are not served, send the JSON part")
    return int(text)


def _inputs(items: object, tail: memoryview) -> list[Tensor]:
    if not isinstance(items, list) or not items:
        raise invalid("'inputs' must be a list with at least one tensor")
    tensors, offset = [], 0
    for index, item in enumerate(items):
        tensor, used = _input(_object(item, f"inputs[{index}]"), f"inputs[{index}]", tail[offset:])
        tensors.append(tensor)
        offset += used
    if offset != len(tail):
        raise invalid(f"unexpected additional input data: {len(tail) - offset} bytes belong to no input")
    return tensors


def _input(item: JsonObject, where: str, tail: memoryview) -> tuple[Tensor, int]:
    """One input and how many bytes of `tail` are its data."""
    name = _string(item, "name", where)
    datatype = _string(item, "datatype", where)
    shape = checked_shape(item.get("shape"), name)
    size = _parameters(item, where).get("binary_data_size")
    if size is None:
        values = item.get("data")
        if not isinstance(values, list):
            raise invalid(f"input '{name}' must have 'data' as an array, or 'binary_data_size' in its parameters")
        return from_values(name, datatype, shape, values), 0
    if "data" in item:
        raise invalid(f"input '{name}' has both 'data' and 'binary_data_size'")
    if type(size) is not int or not 0 <= size <= len(tail):
        raise invalid(
            f"input '{name}' has binary_data_size {str(size)[:40]}, the body has {len(tail)} bytes left for it"
        )
    return from_bytes(name, datatype, shape, tail[:size]), size


def _outputs(items: object, binary: bool) -> Sequence[OutputChoice] | None:
    if items is None or items == []:
        return None
    if not isinstance(items, list):
        raise invalid("'outputs' must be a list")
    choices = []
    for index, item in enumerate(items):
        where = f"outputs[{index}]"
        parameters = _parameters(_object(item, where), where)
        choices.append(OutputChoice(_string(item, "name", where), _flag(parameters, "binary_data", default=binary)))
    return choices


def _values(tensor: Tensor) -> Array | orjson.Fragment:
    """The flat values of a tensor as JSON. NaN and infinity are written as Python and Triton do, not as null."""
    if tensor.datatype in BINARY_ONLY:
        raise invalid(
            f"sending {tensor.datatype} data via JSON is not supported, ask for binary data of output '{tensor.name}'"
        )
    flat = tensor.data.reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return orjson.Fragment(json.dumps(flat.tolist()))
    return flat


def _object(value: object, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise invalid(f"{where} must be a JSON object")
    return value


def _string(item: JsonObject, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise invalid(f"{where} must have '{key}' as a string")
    return value


def _parameters(item: JsonObject, where: str) -> JsonObject:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    parameters = _object(parameters, f"{where}.parameters")
    for key in _UNSERVED:
        if parameters.get(key):
            raise invalid(f"{where}: the parameter '{key}' is not served")
    return parameters


def _flag(parameters: JsonObject, key: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise invalid(f"parameter '{key}' must be true or false")
    return value
