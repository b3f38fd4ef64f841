"""Requests of REST inference: JSON, or JSON followed by the bytes of tensors (the binary data extension).

Pure: bytes in, `InferRequest` out. Whether the tensors fit the model is judged here for large bodies only.

    request   {"id", "parameters": {"binary_data_output"}, "inputs": [{"name", "shape", "datatype",
               "data" | "parameters": {"binary_data_size"}}], "outputs": [{"name", "parameters": {"binary_data"}}]}
              and, with the header Inference-Header-Content-Length: N, N bytes of that and then the tensors' bytes.
              N = 0: all of the body is the one input of the model, whose shape follows from the model's metadata
Source: Triton's extension_binary_data.md.

This is the hot path: a request of four numbers takes about 4 us, half of it in orjson.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.protocol import parameters as request_parameters
from slipway_runtime.protocol.expected import EARLY_BYTES, Expected
from slipway_runtime.protocol.parameters import Regions, served
from slipway_runtime.tensors import (
    DTYPES,
    InferRequest,
    Metadata,
    OutputChoice,
    Region,
    Tensor,
    TensorSpec,
    checked_shape,
    from_bytes,
    from_values,
)

JsonObject = dict[str, Any]
MAX_JSON_BYTES = 8 << 20


def parse(
    body: bytes | memoryview,
    header_length: bytes | None,
    metadata: Metadata | None = None,
    regions: Regions | None = None,
    model: str = "",
) -> InferRequest:
    """Read an inference request. The tensors are views into `body`, or into shared memory.

    `metadata` is that of the model: without it raw binary requests are refused, and large ones read before they are.

    Raises:
        RequestError: mostly of kind INVALID, for anything the protocol does not allow.
    """
    head, split = body, len(body)
    if header_length is not None:
        split = _split(header_length, split)
        if split == 0:
            return _raw(body, metadata)
        head = memoryview(body)[:split]
    given = loads(head)
    if type(given) is not dict:
        raise invalid("request must be a JSON object")
    expected = Expected(metadata, model) if metadata is not None and len(body) > EARLY_BYTES else None
    request = InferRequest(_inputs(given.get("inputs"), body, split, regions, expected))
    if (request_id := given.get("id")) is not None:
        request.id = _id(request_id)
    if (parameters := given.get("parameters")) is not None:
        parameters = dict(_object(parameters, "request.parameters"))
        request.binary = _flag(parameters, "binary_data_output", default=False)
        parameters.pop("binary_data_output", None)
        if parameters:
            request_parameters.apply(request, parameters)
    if (outputs := given.get("outputs")) is not None:
        request.outputs = _outputs(outputs, request.binary, regions) or None
    return request


def loads(text: bytes | memoryview) -> Any:
    """JSON, and also the numbers NaN, Infinity and -Infinity, which it lacks and Python and Triton write.

    Raises:
        RequestError: INVALID, or TOO_LARGE: others wait while it is read.
    """
    if len(text) > MAX_JSON_BYTES:
        raise RequestError(
            Kind.TOO_LARGE,
            f"the JSON of the request has {len(text)} bytes, more than {MAX_JSON_BYTES} are not read; send tensors as "
            "binary data",
        )
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        problem = str(exc)
        raw = bytes(text)
        if b"NaN" in raw or b"Infinity" in raw:
            try:
                return _writable(json.loads(raw.decode()))
            except RecursionError:
                problem = "it is nested too deep"
            except (ValueError, TypeError) as again:
                problem = str(again)
    raise invalid(f"failed to parse the request JSON: {problem}")


def _writable(given: Any) -> Any:
    """What was read, unless no answer could hold it, as half of a surrogate pair."""
    orjson.dumps(given)
    return given


def _split(header: bytes, body_length: int) -> int:
    if not (header.isdigit() and len(header) < 16 and int(header) <= body_length):
        raise invalid(
            f"Inference-Header-Content-Length is '{header[:40].decode('latin-1')}', must be a number up to the body's "
            f"{body_length} bytes"
        )
    return int(header)


def _inputs(
    items: object, body: bytes | memoryview, offset: int, regions: Regions | None, expected: Expected | None
) -> list[Tensor]:
    if type(items) is not list or not items:
        raise invalid("'inputs' must be a list with at least one tensor")
    tensors = []
    for index, item in enumerate(items):
        if type(item) is not dict:
            raise invalid(f"inputs[{index}] must be a JSON object")
        name, datatype = item.get("name"), item.get("datatype")
        if type(name) is not str or type(datatype) is not str:
            raise invalid(f"inputs[{index}] must have '{'name' if type(name) is not str else 'datatype'}' as a string")
        shape = item.get("shape")
        shape = checked_shape(shape, name) if expected is None else expected.shape(shape, name, datatype)
        if (parameters := item.get("parameters")) is not None:
            size = _binary_size(_object(parameters, f"inputs[{index}].parameters"), item, len(body) - offset)
            if size >= 0:
                tensors.append(from_bytes(name, datatype, shape, body, slice(offset, offset + size)))
                offset += size
                continue
            if (region := request_parameters.region_of(parameters, name)) is not None:
                tensors.append(_shared(name, datatype, shape, region, regions))
                continue
        values = item.get("data")
        if type(values) is not list:
            raise invalid(f"input '{name}' must have 'data' as an array, or 'binary_data_size' in its parameters")
        tensors.append(from_values(name, datatype, shape, values))
    if offset != len(body):
        raise invalid(f"unexpected additional input data: {len(body) - offset} bytes belong to no input")
    return tensors


def _binary_size(parameters: JsonObject, item: JsonObject, left: int) -> int:
    """How many of the bytes after the JSON are this input's, -1 = it has its data elsewhere."""
    size = parameters.get("binary_data_size")
    if size is None:
        return -1
    name = item["name"]
    if "data" in item or "shared_memory_region" in parameters:
        raise invalid(f"input '{name}' has both 'binary_data_size' and its data in another place, give one of them")
    if type(size) is not int or not 0 <= size <= left:
        raise invalid(f"input '{name}' has binary_data_size {str(size)[:40]}, the body has {left} bytes left for it")
    return size


def _shared(name: str, datatype: str, shape: tuple[int, ...], region: Region, regions: Regions | None) -> Tensor:
    return from_bytes(name, datatype, shape, served(regions).read(region))


def _outputs(items: object, binary: bool, regions: Regions | None) -> list[OutputChoice]:
    if type(items) is not list:
        raise invalid("'outputs' must be a list")
    choices = []
    for index, item in enumerate(items):
        if type(item) is not dict or type(item.get("name")) is not str:
            raise invalid(f"outputs[{index}] must be a JSON object and must have 'name' as a string")
        parameters = item.get("parameters")
        if parameters is not None:
            choices.append(_choice(item["name"], _object(parameters, f"outputs[{index}].parameters"), binary, regions))
        else:
            choices.append(OutputChoice(item["name"], binary))
    if len(choices) > 1 and len({choice.name for choice in choices}) < len(choices):
        raise invalid(f"an output is asked for twice, got {[choice.name[:80] for choice in choices][:20]}")
    return choices


def _choice(name: str, parameters: JsonObject, binary: bool, regions: Regions | None) -> OutputChoice:
    choice = OutputChoice(name, _flag(parameters, "binary_data", default=binary))
    if len(parameters) > 1 or "binary_data" not in parameters:
        choice.classes = request_parameters.classes_of(parameters, name)
        choice.region = request_parameters.region_of(parameters, name)
        if choice.region is not None:
            served(regions).check(choice.region)
    return choice


def _raw(body: bytes | memoryview, metadata: Metadata | None) -> InferRequest:
    """All of the body is the one input, its outputs are binary. With batching, the batch is 1."""
    specs = metadata.inputs if metadata is not None else ()
    if metadata is None or len(specs) != 1:
        raise invalid(f"a raw binary request needs a model with exactly one input, this one has {len(specs)}")
    spec = specs[0]
    shape = _raw_shape(spec, len(body), batched=metadata.max_batch > 0)
    raw = body
    if spec.datatype == "BYTES":  # one text, without its length
        raw = len(body).to_bytes(4, "little") + bytes(body)
    return InferRequest([from_bytes(spec.name, spec.datatype, shape, raw)], binary=True)


def _raw_shape(spec: TensorSpec, size: int, *, batched: bool) -> tuple[int, ...]:
    if spec.shape is None or not spec.datatype:
        raise invalid(f"a raw binary request needs a model that says its shape, input '{spec.name}' has none")
    shape = [1, *spec.shape[1:]] if batched and spec.shape else list(spec.shape)
    if spec.datatype == "BYTES":
        return tuple(1 if dim < 0 else dim for dim in shape)
    unknown = [at for at, dim in enumerate(shape) if dim < 0]
    if len(unknown) > 1:
        raise invalid(f"the shape of input '{spec.name}' {list(spec.shape)} does not follow from {size} raw bytes")
    if unknown:
        per_one = DTYPES[spec.datatype].itemsize
        for dim in shape:
            per_one *= max(dim, 1) if dim < 0 else dim
        shape[unknown[0]] = size // per_one if per_one else 0
    return tuple(shape)


def _id(value: object) -> str:
    if type(value) is not str:
        raise invalid("'id' must be a string")
    return value


def _object(value: object, where: str) -> JsonObject:
    if type(value) is not dict:
        raise invalid(f"{where} must be a JSON object")
    return value


def _flag(parameters: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise invalid(f"parameter '{key}' must be true or false")
    return value
