"""`generate` and `generate_stream`: an object of plain values becomes a request, an answer becomes such a one. Pure.

    {"id": "1", "text_input": "hello", "parameters": {"temperature": 0.5}}  →  {"model_name", .., "text_output": "..."}

A key that is the name of an input is its value, one or a list; what is in "parameters" counts as if it stood beside it;
every other key is a parameter of the request. An output of one value is that value, else a flat list.
Source: Triton's extension_generate.md.
"""

import math
from typing import Any

from slipway_runtime.errors import invalid
from slipway_runtime.protocol import parameters as request_parameters
from slipway_runtime.protocol.rest import loads
from slipway_runtime.protocol.rest_answers import dumps, texts_of
from slipway_runtime.tensors import (
    InferRequest,
    InferResponse,
    Metadata,
    Tensor,
    TensorSpec,
    from_values,
    guessed,
    numbers_of,
)

JsonObject = dict[str, Any]


def parse(body: bytes | memoryview, metadata: Metadata) -> InferRequest:
    """Raises RequestError INVALID."""
    body_values = loads(body)
    if type(body_values) is not dict:
        raise invalid("request must be a JSON object")
    nested = body_values.pop("parameters", None) or {}
    if type(nested) is not dict:
        raise invalid("'parameters' must be a JSON object")
    values = {**body_values, **nested}
    request_id = values.pop("id", None)
    if request_id is not None and type(request_id) is not str:
        raise invalid("'id' must be a string")
    given = [spec for spec in metadata.inputs if spec.name in values]
    inputs = [_tensor(spec, values.pop(spec.name), batched=metadata.max_batch > 0) for spec in given]
    request = InferRequest(inputs, request_id)
    if values:
        request_parameters.apply(request, values)
    return request


def _tensor(spec: TensorSpec, value: object, *, batched: bool) -> Tensor:
    values = value if type(value) is list else [value]
    return from_values(spec.name, spec.datatype or guessed(values), _shape(spec, len(values), batched=batched), values)


def _shape(spec: TensorSpec, count: int, *, batched: bool) -> tuple[int, ...]:
    """The batch is 1, the last size that is free takes what is given, others that are free are 1."""
    if spec.shape is None:
        return (1, count) if batched else (count,)
    shape = [1, *spec.shape[1:]] if batched and spec.shape else list(spec.shape)
    free = [at for at, size in enumerate(shape) if size < 0]
    for at in free:
        shape[at] = 1
    if free:
        shape[free[-1]] = count // (math.prod(shape) or 1)
    return tuple(shape)


def render(response: InferResponse) -> bytes:
    answer: JsonObject = {} if response.id is None else {"id": response.id}
    answer |= {"model_name": response.model_name, "model_version": response.model_version}
    answer |= response.parameters
    for tensor in response.outputs:
        values = _json_values(tensor)
        answer[tensor.name] = values[0] if len(values) == 1 else values
    return dumps(answer)


def event(body: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + body + b"\n\n"


def _json_values(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        return texts_of(tensor.name, tensor.data.reshape(-1).tolist())
    values: list[Any] = numbers_of(tensor).reshape(-1).tolist()
    return values
