"""Which file of a folder is the model, what kind of file it is, and what its config.json says.

Looks at bytes and names only; loads nothing, imports no torch. What is a pickle is refused here: unpickling
runs whatever code the file's author wanted.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway_runtime.errors import BadConfig, BadModel, MissingModel
from slipway_runtime.models.sources import locate
from slipway_runtime.tensors import DTYPES, TensorSpec

Format = Literal["torchscript", "torch-export"]
SUFFIXES = (".pt", ".pth", ".pt2")
NAMES = tuple(f"model{suffix}" for suffix in SUFFIXES)
CONFIG = "config.json"
_CONFIG_KEYS = frozenset({"name", "platform", "backend", "max_batch_size", "input", "output"})


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What we use of Triton's ModelConfig; `ignored` names the rest, so that nobody thinks it works."""

    name: str = ""
    max_batch: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Artifact:
    path: Path
    format: Format
    config: ModelConfig
    default_name: str


def find(model: str, wanted: str) -> Artifact:
    """The model at a path or a URI. `wanted` is a Format or "auto".

    Raises:
        MissingModel: nothing is there.  BadModel: it is nothing we load.  BadConfig: it is not `wanted`.
    """
    place = locate(model).path if "://" in model else Path(model)
    if not place.exists():
        raise MissingModel(f"model path '{model}' does not exist; check --model")
    path = _file_in(place) if place.is_dir() else place
    found = format_of(path)
    if wanted not in ("auto", found):
        raise BadConfig(f"model file '{path}' is {found}, but the format asked for is {wanted}; correct the format")
    config = read_config(path.parent / CONFIG) if place.is_dir() else ModelConfig()
    return Artifact(path, found, config, place.name if place.is_dir() else place.stem)


def _file_in(folder: Path) -> Path:
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file())
    models = [entry for entry in entries if entry.name in NAMES]
    models = models or [entry for entry in entries if entry.suffix in SUFFIXES]
    if len(models) == 1:
        return models[0]
    found = ", ".join(entry.name for entry in models or entries)[:200] or "nothing"
    if models:
        raise BadModel(f"folder '{folder}' holds more than one model ({found}); keep one, or name the file itself")
    raise MissingModel(f"folder '{folder}' holds no model.pt or model.pt2 (found: {found}); put the model there")


def format_of(path: Path) -> Format:
    """The kind of a model file by what is in it, not by its name."""
    with path.open("rb") as file:
        magic = file.read(2)
    if magic != b"PK":
        if magic[:1] == b"\x80":
            raise _pickled(path)
        raise BadModel(f"model file '{path}' is not a PyTorch model (no zip archive); save it with torch.export.save")
    try:
        with zipfile.ZipFile(path) as archive:
            # Every record lies under one folder named after the file.
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as exc:
        raise BadModel(f"model file '{path}' is damaged or cut short ({exc}); upload it again") from exc
    if "archive_format" in names:
        if any(name.startswith("data/aotinductor/") for name in names):
            raise BadModel(
                f"model file '{path}' is an AOTInductor package, which is not served yet; use torch.export.save"
            )
        return "torch-export"
    if "constants.pkl" in names:
        return "torchscript"
    if "data.pkl" in names:
        raise _pickled(path)
    raise BadModel(f"model file '{path}' is a zip archive, but no PyTorch model; save it with torch.export.save")


def _pickled(path: Path) -> BadModel:
    return BadModel(
        f"model file '{path}' is a pickle made by torch.save, which can run any code when it is loaded; "
        "save the model with torch.export.save (or torch.jit.save) instead"
    )


def read_config(path: Path) -> ModelConfig:
    """Triton's ModelConfig as JSON. A missing file is an empty config."""
    if not path.exists():
        return ModelConfig()
    try:
        raw = json.loads(path.read_bytes())
    except ValueError as exc:
        raise BadModel(f"'{path}' is not JSON: {exc}; correct it") from exc
    try:
        return _config(raw)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise BadModel(f"'{path}' is not a model config: {exc}; correct it") from exc


def _config(raw: Any) -> ModelConfig:
    max_batch = _whole(raw.get("max_batch_size", 0), "max_batch_size", low=0)
    name = raw.get("name", "")
    if not isinstance(name, str):
        raise TypeError("name must be a string")
    return ModelConfig(
        name=name,
        max_batch=max_batch,
        inputs=_specs(raw, "input", batched=max_batch > 0),
        outputs=_specs(raw, "output", batched=max_batch > 0),
        ignored=tuple(sorted(raw.keys() - _CONFIG_KEYS)),
    )


def _specs(raw: Any, key: str, *, batched: bool) -> tuple[TensorSpec, ...]:
    return tuple(_spec(item, f"{key}[{index}]", batched=batched) for index, item in enumerate(raw.get(key, [])))


def _spec(item: Any, where: str, *, batched: bool) -> TensorSpec:
    unknown = item.keys() - {"name", "data_type", "dims"}
    if unknown:
        raise ValueError(f"{where} has {', '.join(sorted(unknown))}, which is not supported")
    name, data_type, dims = item.get("name"), item.get("data_type"), item.get("dims")
    datatype = str(data_type).removeprefix("TYPE_")
    if not isinstance(name, str) or not name:
        raise TypeError(f"{where}.name must be a string")
    if data_type != f"TYPE_{datatype}" or datatype not in DTYPES:
        raise ValueError(f"{where}.data_type is {data_type!r}, must be TYPE_ and one of {', '.join(DTYPES)}")
    if not isinstance(dims, list):
        raise TypeError(f"{where}.dims must be a list of numbers")
    shape = tuple(_whole(size, f"{where}.dims", low=-1) for size in dims)
    return TensorSpec(name, datatype, (-1, *shape) if batched else shape)


def _whole(value: Any, where: str, *, low: int) -> int:
    if type(value) is not int or value < low:
        raise TypeError(f"{where} is {value!r}, must be a whole number >= {low}")
    return value
