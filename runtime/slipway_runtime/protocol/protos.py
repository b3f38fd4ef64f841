"""The messages of gRPC inference as the same values that REST uses. Pure.

Input bytes come in `raw_input_contents`, all or none, or typed in `contents`; answers are always raw, as
Triton's are. The message classes are tritonclient's own, so both sides share one schema.
"""

from typing import Any

from tritonclient.grpc import service_pb2 as pb

from slipway_runtime.errors import invalid
from slipway_runtime.tensors import (
    BINARY_ONLY,
    InferRequest,
    InferResponse,
    OutputChoice,
    Tensor,
    bytes_of,
    checked_shape,
    from_bytes,
    from_values,
)

# Which field of InferTensorContents holds the values of a datatype.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_UNSERVED = ("shared_memory_region", "classification")


def parse(message: Any) -> InferRequest:
    """A ModelInferRequest as an InferRequest; raw tensors are views into the message."""
    raws = message.raw_input_contents
    if not message.inputs:
        raise invalid("'inputs' must have at least one tensor")
    if raws and len(raws) != len(message.inputs):
        raise invalid(f"expected {len(message.inputs)} raw_input_contents, one per input, got {len(raws)}")
    for item in (*message.inputs, *message.outputs):
        _refuse_unserved(item)
    inputs = [_input(item, raws[index] if raws else None) for index, item in enumerate(message.inputs)]
    outputs = [OutputChoice(item.name, binary=True) for item in message.outputs] or None
    return InferRequest(inputs, message.id or None, outputs, binary=True)


def render(response: InferResponse) -> Any:
    message = pb.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id or ""
    )
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.data.shape)
        message.raw_output_contents.append(bytes(bytes_of(tensor.data)))
    return message


def _input(item: Any, raw: bytes | None) -> Tensor:
    shape = checked_shape(list(item.shape), item.name)
    given = item.HasField("contents") and _has_values(item.contents)
    if raw is not None:
        if given:
            raise invalid(f"input '{item.name}' has contents although the request has raw_input_contents")
        return from_bytes(item.name, item.datatype, shape, raw)
    if item.datatype in BINARY_ONLY:
        raise invalid(f"input '{item.name}' has datatype {item.datatype}, which must come in raw_input_contents")
    return from_values(item.name, item.datatype, shape, _typed(item))


def _typed(item: Any) -> list[Any]:
    wanted = _CONTENTS.get(item.datatype)
    filled = [descriptor.name for descriptor, values in item.contents.ListFields() if len(values)]
    if wanted is not None and filled not in ([], [wanted]):
        raise invalid(f"input '{item.name}' is {item.datatype} but has its values in {', '.join(filled)}, not {wanted}")
    return list(getattr(item.contents, wanted)) if wanted else []


def _has_values(contents: Any) -> bool:
    return any(len(values) for _, values in contents.ListFields())


def _refuse_unserved(item: Any) -> None:
    for key in _UNSERVED:
        if key in item.parameters:
            raise invalid(f"tensor '{item.name}': the parameter '{key}' is not served")
