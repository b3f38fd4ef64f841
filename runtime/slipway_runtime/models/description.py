"""What was written beside a model about it: `slipway.yaml`, or the `MLmodel` that MLflow writes.

    format: xgboost
    file: model.ubj
    maxBatchSize: 64
    inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]     # with the batch; -1 is any size
    outputs: [{name: predict, datatype: FP32, shape: [-1]}]
    example: {x: [[5.1, 3.5, 1.4, 0.2]]}

It stands beneath the model's config: what that or the service says of the same must agree. Anybody may have written it:
the YAML is read without tags and aliases, and up to a size.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from slipway_runtime.errors import BadModel, cause
from slipway_runtime.models.fields import Fields
from slipway_runtime.models.formats import FORMATS
from slipway_runtime.tensors import DATATYPES, TensorSpec

OWN_FILE, MLFLOW_FILE = "slipway.yaml", "MLmodel"
MOST_BYTES = 1 << 18
"""Of YAML, which takes 20 s to read a MiB."""
MOST_EXAMPLE_BYTES = 1 << 20
MOST_BATCH = 1 << 20
MOST_EXAMPLES = 4
"""Rows of an example that MLflow kept; it may be a whole data set."""
_FLAVOURS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("data",),
    "sklearn": ("pickled_model", "model_path"),
    "xgboost": ("data",),
    "lightgbm": ("data", "lgb_data"),
    "pytorch": ("model_data",),
}
"""Of MLflow -> where it names the file."""
_TYPES: Mapping[str, str] = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "str": "BYTES",
    "object": "BYTES",
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
"""Of MLflow's columns, and of numpy."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is empty was not said. An input without a name is the model's only one, whatever the model calls it.

    `example` are nested lists by the names of inputs; shapes begin with the batch.
    """

    path: Path
    format: str = ""
    file: str = ""
    max_batch: int | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def read(folder: Path) -> Description | None:
    """What lies in a model's folder; slipway.yaml where both do.

    Raises:
        BadModel: it cannot be understood.
    """
    for name, reader in ((OWN_FILE, _own), (MLFLOW_FILE, _mlflow)):
        if (path := folder / name).is_file():
            try:
                return reader(Fields(_yaml(path)), path)
            except (TypeError, ValueError) as exc:
                raise BadModel(f"'{path}' cannot be understood: {exc}; correct or remove it") from exc
    return None


def _yaml(path: Path) -> Any:
    import yaml  # noqa: PLC0415 - for models that have such a file

    class Loader(yaml.SafeLoader):
        """No aliases: a few of them make gigabytes of one page."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias (*), which is not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(_text(path, MOST_BYTES), Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as exc:
        raise ValueError(f"it is not YAML ({cause(exc)})") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc


def _text(path: Path, most_bytes: int) -> str:
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes >> 10} KiB")
    return data.decode()


def _own(top: Fields, path: Path) -> Description:
    found = Description(
        path,
        format=top.choice("format", FORMATS, ""),
        file=_file(top.text("file")),
        max_batch=None if top.get("maxBatchSize") is None else top.whole("maxBatchSize", high=MOST_BATCH),
        inputs=_tensors(top, "inputs"),
        outputs=_tensors(top, "outputs"),
        example=dict(top.mapping("example")),
    )
    top.end("slipway.yaml")
    names = {spec.name for spec in found.inputs}
    if names and found.example and found.example.keys() != names:
        raise ValueError(f"example is of {sorted(found.example)}, but the inputs are {sorted(names)}")
    return found


def _file(name: str) -> str:
    place = PurePosixPath(name)
    if name and (place.is_absolute() or ".." in place.parts or "\0" in name):
        raise ValueError(f"file is {name[:80]!r}, must be a name in the model's folder")
    return name


def _tensors(top: Fields, key: str) -> tuple[TensorSpec, ...]:
    found = []
    for item in top.children(key):
        name, datatype = item.text("name"), item.choice("datatype", sorted(DATATYPES), "")
        shape = item.wholes("shape", low=-1)
        if not name or not datatype or not shape:
            raise ValueError(f"{item.where} must have a name, a datatype and a shape")
        item.end("slipway.yaml")
        found.append(TensorSpec(name, datatype, shape))
    names = [spec.name for spec in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{key} names '{twice[0]}' twice")
    return tuple(found)


# --- MLflow. Source: its documentation, "MLflow Models", the MLmodel file; what it says beyond that is for MLflow.


def _mlflow(top: Fields, path: Path) -> Description:
    flavours = top.mapping("flavors")
    known = [name for name in _FLAVOURS if name in flavours]
    if not known:
        raise ValueError(f"its flavors are {', '.join(flavours) or 'none'}; served are {', '.join(_FLAVOURS)}")
    flavour = Fields(flavours[known[0]], f"flavors.{known[0]}")
    names = [flavour.text(key) for key in _FLAVOURS[known[0]] if flavour.get(key) is not None]
    file = _file(names[0]) if names else ""
    # What is in the file says it: a model of PyTorch's is one of several, an estimator of LightGBM's is scikit-learn's.
    own = known[0] in FORMATS and not file.endswith((".skops", ".pkl"))
    found = Description(
        path,
        format=known[0] if own else "",
        file=file,
        inputs=_signature(top),
    )
    about = top.child("saved_input_example_info")
    return found if about is None else _with_example(found, path.parent, about.text("artifact_path"))


def _signature(top: Fields) -> tuple[TensorSpec, ...]:
    """Of the inputs; what MLflow's function answers is not what the model answers, so outputs are not taken."""
    signature = top.child("signature")
    text = signature.text("inputs") if signature is not None else ""
    if not text:
        return ()
    columns = json.loads(text)
    if not isinstance(columns, list):
        raise TypeError("signature.inputs must be a list")
    return tuple(
        _column(Fields(item, f"signature.inputs[{index}]"), len(columns)) for index, item in enumerate(columns)
    )


def _column(item: Fields, count: int) -> TensorSpec:
    name, kind = item.text("name"), item.text("type")
    if not name and count > 1:
        raise ValueError(f"{item.where} has no name")
    if kind != "tensor":
        return TensorSpec(name, _datatype(kind, item.where), (-1, 1))
    tensor = item.child("tensor-spec") or Fields({}, item.where)
    return TensorSpec(name, _datatype(tensor.text("dtype"), item.where), tensor.wholes("shape", low=-1))


def _datatype(kind: str, where: str) -> str:
    if kind not in _TYPES:
        raise ValueError(f"{where} has the type {kind[:40]!r}, which cannot be served")
    return _TYPES[kind]


def _with_example(found: Description, folder: Path, name: str) -> Description:
    """An example helps and is not needed: one of another form than we know is told as ignored."""
    try:
        given = json.loads(_text(folder / _file(name), MOST_EXAMPLE_BYTES))
        return replace(found, example=_example(given, found.inputs))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return replace(found, ignored=(name[:200],))


def _example(given: Any, inputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """{"columns": [...], "data": [rows]} of a table; {"inputs": array or arrays by name}, or the array itself."""
    if isinstance(given, dict) and "dataframe_split" in given:
        given = given["dataframe_split"]
    if isinstance(given, dict) and "columns" in given:
        rows = [list(row) for row in given["data"][:MOST_EXAMPLES]]
        if len(inputs) == 1 and not inputs[0].name:
            return {"": rows}
        return {str(name): [[row[index]] for row in rows] for index, name in enumerate(given["columns"])}
    given = given["inputs"] if isinstance(given, dict) else given
    if isinstance(given, dict):
        return {str(name): value[:MOST_EXAMPLES] for name, value in given.items()}
    return {inputs[0].name if len(inputs) == 1 else "": given[:MOST_EXAMPLES]}
