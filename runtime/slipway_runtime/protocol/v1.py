"""The V1 protocol (`:predict`, as of TensorFlow Serving and KServe) on top of the same requests and answers. Pure.

    {"instances": [row, ...]}                   one input: each row is its value
    {"instances": [{"a": .., "b": ..}, ...]}    several inputs, by name        → {"predictions": [row, ...]}
    {"inputs": value | {"a": .., "b": ..}}      by column                      → {"outputs": value | {...}}

V1 has no datatypes and no shapes: types are the model's where it names them, else those of the values; shapes are how
the lists are nested. {"b64": text} is bytes.
"""

import base64
import binascii
from typing import Any

from slipway_runtime.errors import invalid
from slipway_runtime.protocol.rest import loads
from slipway_runtime.protocol.rest_answers import dumps
from slipway_runtime.tensors import (
    MAX_DIMS,
    InferRequest,
    InferResponse,
    Metadata,
    Tensor,
    from_values,
    guessed,
    numbers_of,
)

JsonObject = dict[str, Any]


def parse(body: bytes | memoryview, metadata: Metadata) -> tuple[InferRequest, str]:
    """The request, and which of "instances" and "inputs" it is, which `render` needs to know.

    Raises:
        RequestError: INVALID.
    """
    given = loads(body)
    if type(given) is not dict or ("instances" in given) == ("inputs" in given):
        raise invalid("a V1 request must be a JSON object with either 'instances' or 'inputs'")
    form = "instances" if "instances" in given else "inputs"
    columns = _columns(given[form], metadata) if form == "instances" else _by_name(given[form], metadata)
    return InferRequest([_tensor(name, values, metadata) for name, values in columns.items()]), form


def _columns(rows: object, metadata: Metadata) -> JsonObject:
    if type(rows) is not list or not rows:
        raise invalid("'instances' must be a list with at least one row")
    if not _is_named(rows[0]):
        return {_only_input(metadata): rows}
    names = rows[0].keys()
    if any(type(row) is not dict or row.keys() != names for row in rows):
        raise invalid(f"every row of 'instances' must name the same inputs, the first has {list(names)[:20]}")
    return {name: [row[name] for row in rows] for name in names}


def _by_name(values: object, metadata: Metadata) -> JsonObject:
    if isinstance(values, dict) and _is_named(values):
        return values
    return {_only_input(metadata): values}


def _is_named(value: object) -> bool:
    return type(value) is dict and value.keys() != {"b64"}


def _only_input(metadata: Metadata) -> str:
    if len(metadata.inputs) != 1:
        names = [spec.name for spec in metadata.inputs]
        raise invalid(f"the model has {len(names)} inputs, so each row must be an object that names them: {names}")
    return metadata.inputs[0].name


def _tensor(name: str, values: object, metadata: Metadata) -> Tensor:
    datatype = next((spec.datatype for spec in metadata.inputs if spec.name == name), "")
    values = _plain(values)
    shape = _shape(values)
    listed = values if type(values) is list else [values]
    return from_values(name, datatype or guessed(listed), shape, listed)


def _plain(value: object, depth: int = 0) -> Any:
    """Texts instead of {"b64": ..}. O(values)."""
    if depth > MAX_DIMS:
        raise invalid(f"values are nested more than {MAX_DIMS} deep")
    if type(value) is list:
        return [_plain(item, depth + 1) if type(item) in (list, dict) else item for item in value]
    if type(value) is not dict:
        return value
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise invalid("an object among the values must be {'b64': text in base64}") from None


def _shape(value: object) -> tuple[int, ...]:
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def render(response: InferResponse, form: str) -> bytes:
    """The body of the answer, in the form of the request."""
    values = {tensor.name: _json_values(tensor) for tensor in response.outputs}
    only = next(iter(values.values())) if len(values) == 1 else None
    if form == "inputs":
        return dumps({"outputs": values if only is None else only})
    if only is not None:
        return dumps({"predictions": only})
    sizes = {len(value) if type(value) is list else -1 for value in values.values()}
    if len(sizes) == 1 and -1 not in sizes:
        names = list(values)
        rows = [dict(zip(names, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return dumps({"predictions": rows})
    return dumps({"predictions": values})


def _json_values(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        return _texts(tensor.data.tolist())
    return numbers_of(tensor).tolist()


def _texts(value: Any) -> Any:
    if type(value) is list:
        return [_texts(item) for item in value]
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
