"""The messages of gRPC inference as the same values that REST uses. Pure but for what is put into shared memory.

Input bytes come in `raw_input_contents`, one for every input that is not in shared memory, or typed in `contents`;
answers are always raw, as Triton's are. The message classes are tritonclient's own, so both sides share one schema.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slipway_runtime.errors import invalid
from slipway_runtime.protocol import parameters as request_parameters
from slipway_runtime.protocol.api import Entry
from slipway_runtime.protocol.classification import as_classes
from slipway_runtime.protocol.expected import EARLY_BYTES, Expected
from slipway_runtime.protocol.parameters import Regions, served
from slipway_runtime.protocol.schema import pb
from slipway_runtime.tensors import (
    BINARY_ONLY,
    Buffer,
    InferRequest,
    InferResponse,
    Metadata,
    OutputChoice,
    Region,
    Tensor,
    bytes_of,
    checked_shape,
    count_of,
    from_bytes,
    from_values,
    texts_array,
    texts_count_of,
)

EMPTY_FINAL = "triton_enable_empty_final_response"
FINAL = "triton_final_response"
MAX_TYPED_VALUES = 1 << 22  # of one tensor: others wait while each becomes an object

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
_Response = pb.ModelInferResponse


def parse(message: Any, regions: Regions | None = None, metadata: Metadata | None = None) -> InferRequest:
    """A ModelInferRequest as an InferRequest; raw tensors are views into the message.

    `triton_enable_empty_final_response` is left to the stream it is about. `metadata` is that of the model, by which
    large values are refused before they are read.
    """
    raws = list(message.raw_input_contents)
    if metadata is not None and _is_large(message.inputs, raws):
        expected = Expected(metadata, message.model_name)
        for item in message.inputs:
            expected.shape(tuple(item.shape), item.name, item.datatype)
    inputs = _raw_inputs(message.inputs, raws, regions) if raws else _typed_inputs(message.inputs, regions)
    request = InferRequest(inputs, message.id or None, binary=True)
    if message.parameters:
        given = values_of(message.parameters)
        given.pop(EMPTY_FINAL, None)
        request_parameters.apply(request, given)
    if message.outputs:
        request.outputs = _outputs(message.outputs, regions)
    return request


def _is_large(items: Any, raws: list[bytes]) -> bool:
    if raws:
        return any(len(raw) > EARLY_BYTES for raw in raws)
    return any(math.prod(item.shape) > EARLY_BYTES // 8 for item in items)


def values_of(parameters: Any) -> dict[str, Any]:
    """A map of InferParameter as plain values. One without a value is refused."""
    values = {}
    for key, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise invalid(f"parameter '{key[:80]}' has no value")
        values[key] = getattr(parameter, choice)
    return values


def _raw_inputs(items: Any, given: list[bytes], regions: Regions | None) -> list[Tensor]:
    tensors = []
    used = 0
    for item in items:
        name, datatype, shape = item.name, item.datatype, checked_shape(tuple(item.shape), item.name)
        if item.HasField("contents") and _filled(item.contents):
            raise invalid(f"input '{name}' has contents although the request has raw_input_contents")
        if item.parameters and (shared := _shared(item, shape, regions)) is not None:
            tensors.append(shared)
            continue
        if used == len(given):
            break
        tensors.append(from_bytes(name, datatype, shape, given[used]))
        used += 1
    if len(tensors) < len(items) or used < len(given):
        raise invalid(
            f"expected {len(items) - len(tensors) + used} raw_input_contents, one per input not in shared memory, "
            f"got {len(given)}"
        )
    return tensors


def _typed_inputs(items: Any, regions: Regions | None) -> list[Tensor]:
    if not items:
        raise invalid("'inputs' must have at least one tensor")
    return [_typed_input(item, regions) for item in items]


def _typed_input(item: Any, regions: Regions | None) -> Tensor:
    name, datatype, shape = item.name, item.datatype, checked_shape(tuple(item.shape), item.name)
    if item.parameters and (shared := _shared(item, shape, regions)) is not None:
        return shared
    if datatype in BINARY_ONLY:
        raise invalid(f"input '{name}' has datatype {datatype}, which must come in raw_input_contents")
    values = _typed(item)
    count = texts_count_of(shape, name) if datatype == "BYTES" else count_of(shape, name)
    # Before each of them becomes an object.
    if len(values) != count:
        raise invalid(f"input '{name}' has {len(values)} values, its shape {list(shape)} needs {count}")
    if datatype != "BYTES":
        return from_values(name, datatype, shape, list(values))
    return Tensor(name, datatype, texts_array(list(values), shape))


def _shared(item: Any, shape: tuple[int, ...], regions: Regions | None) -> Tensor | None:
    region = request_parameters.region_of(values_of(item.parameters), item.name)
    if region is None:
        return None
    if item.HasField("contents") and _filled(item.contents):
        raise invalid(f"input '{item.name}' has contents although it is in shared memory region '{region.name[:80]}'")
    return from_bytes(item.name, item.datatype, shape, served(regions).read(region))


def _typed(item: Any) -> Sequence[Any]:
    wanted = _CONTENTS.get(item.datatype)
    filled = _filled(item.contents)
    if wanted is not None and filled not in ([], [wanted]):
        raise invalid(f"input '{item.name}' is {item.datatype} but has its values in {', '.join(filled)}, not {wanted}")
    values: Sequence[Any] = getattr(item.contents, wanted) if wanted else ()
    if len(values) > MAX_TYPED_VALUES:
        raise invalid(
            f"input '{item.name}' has {len(values)} values in {wanted}, more than {MAX_TYPED_VALUES} are not read; use "
            "raw_input_contents"
        )
    return values


def _filled(contents: Any) -> list[str]:
    return [descriptor.name for descriptor, values in contents.ListFields() if len(values)]


def _outputs(items: Any, regions: Regions | None) -> list[OutputChoice]:
    choices = []
    for item in items:
        choice = OutputChoice(item.name, True)
        if item.parameters:
            given = values_of(item.parameters)
            choice.classes = request_parameters.classes_of(given, choice.name)
            choice.region = request_parameters.region_of(given, choice.name)
            if choice.region is not None:
                served(regions).check(choice.region)
        choices.append(choice)
    if len({choice.name for choice in choices}) < len(choices):
        raise invalid(f"an output is asked for twice, got {[choice.name[:80] for choice in choices][:20]}")
    return choices


def render(
    response: InferResponse,
    request: InferRequest | None = None,
    entry: Entry | None = None,
    regions: Regions | None = None,
) -> Any:
    """The ModelInferResponse. `request` says which outputs are wanted as classes or in shared memory."""
    message = _Response()
    message.model_name = response.model_name
    message.model_version = response.model_version
    if response.id:
        message.id = response.id
    if response.parameters:
        set_parameters(message.parameters, response.parameters)
    choices = request.outputs if request is not None else None
    raws = []
    for index, each in enumerate(response.outputs):
        tensor = each
        output = message.outputs.add()
        raw: Buffer | None = None
        if choices:
            choice = choices[index]
            if choice.classes:
                tensor = as_classes(tensor, choice, entry)
            elif choice.region is not None:
                raw = _share(tensor, choice.region, output, regions)
        output.name = tensor.name
        output.datatype = tensor.datatype
        output.shape.extend(tensor.data.shape)
        if raw is None:
            raw = bytes_of(tensor)
        raws.append(raw if type(raw) is bytes else bytes(raw))
    message.raw_output_contents.extend(raws)
    return message


def _share(tensor: Tensor, region: Region, output: Any, regions: Regions | None) -> Buffer:
    """Put the tensor where it was asked for. What is left to send: nothing, in the place where its bytes would be."""
    raw = bytes_of(tensor)
    served(regions).write(region, raw, tensor.name)
    where = {
        "shared_memory_region": region.name,
        "shared_memory_offset": region.offset,
        "shared_memory_byte_size": len(raw),
    }
    set_parameters(output.parameters, where)
    return b""


def set_parameters(target: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if type(value) is bool:
            target[key].bool_param = value
        elif type(value) is int:
            if value < 2**63:
                target[key].int64_param = value
            else:
                target[key].uint64_param = value
        elif type(value) is float:
            target[key].double_param = value
        else:
            target[key].string_param = str(value)
