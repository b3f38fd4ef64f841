"""Which file of a folder is the model, what kind of file it is, which versions there are, what its config says.

    NAME/model.pt, NAME/config.json        one model, version 1
    NAME/1/model.pt, NAME/2/model.pt       versions as Triton lays them out; the config lies in NAME

Looks at bytes and names only; loads nothing, imports no torch. What is a pickle is refused here: unpickling
runs whatever code the file's author wanted.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from slipway_runtime.errors import BadConfig, BadModel, MissingModel
from slipway_runtime.models.config import ModelConfig, VersionPolicy
from slipway_runtime.models.config_reader import NOTHING_SAID, read_config, said_config
from slipway_runtime.models.description import MLFLOW_FILE
from slipway_runtime.models.formats import MLFLOW, TABULAR, Format
from slipway_runtime.models.overrides import Overrides
from slipway_runtime.models.sources import locate

# A model.py is the model even where weights lie beside it: they are what it loads.
SUFFIXES = (".pt", ".pth", ".pt2", ".onnx", ".safetensors", ".skops", ".ubj", ".xgb", ".lgb")
NAMES = tuple(f"model{suffix}" for suffix in SUFFIXES)
PICKLES = (".pkl", ".pickle", ".joblib")
ELSE = tuple(f"model{suffix}" for suffix in (".json", ".txt", *PICKLES))
"""Names that many a file beside a model has: they count where there is nothing else."""
CODE = "model.py"
_BACKENDS: dict[str, tuple[str, ...]] = {
    "pytorch": ("torchscript", "torch-export", "aotinductor", "safetensors"),
    "onnxruntime": ("onnx",),
    "python": ("python",),
    "ensemble": ("ensemble",),
    **{name: (name,) for name in TABULAR},
}
_XGBOOST = re.compile(rb'\s*\{\s*"(learner|version)"|\{L\0{7}\x07(learner|version)')
"""How XGBoost's JSON and UBJSON begin."""
_HEAD_BYTES = 64


@dataclass(frozen=True, slots=True)
class Artifact:
    """`folder` is where the config and other files of the model lie: the one above a version's own folder."""

    path: Path
    format: Format
    config: ModelConfig
    default_name: str
    folder: Path
    version: int = 1


def find(model: str, wanted: str = "auto", said: Overrides = NOTHING_SAID) -> Artifact:
    """The model at a path or a URI, in its newest version. `wanted` is a Format or "auto"; `said` goes over its config.

    Raises:
        MissingModel: nothing is there.  BadModel: it is nothing we load.  BadConfig: it is not `wanted`.
    """
    place = place_of(model)
    if not place.is_dir():
        return _artifact(place, said_config(said), wanted, place.stem, place.parent, 1)
    return versions(place, wanted=wanted, given=read_config(place, said))[-1][1]


def versions(
    folder: Path, policy: VersionPolicy | None = None, wanted: str = "auto", given: ModelConfig | None = None
) -> list[tuple[int, Artifact]]:
    """The versions to serve of the model in a folder, ascending: `policy`, or else the config's own, chooses.

    `given` is taken for the config that lies there.

    Raises:
        MissingModel: no version is there, or none that the policy wants.  BadModel, BadConfig: as `find`.
    """
    config = given or read_config(folder)
    name = folder.resolve().name
    found = {int(entry.name): entry for entry in folder.iterdir() if _is_version(entry)}
    if config.ensemble:
        found = found or {1: folder}
        chosen = (policy or config.version_policy).choose(tuple(found))
        return [(one, Artifact(folder, "ensemble", config, name, folder, one)) for one in chosen]
    if not found:
        return [(1, _artifact(_file_in(folder, config), config, wanted, name, folder, 1))]
    chosen = (policy or config.version_policy).choose(tuple(found))
    if not chosen:
        raise MissingModel(
            f"folder '{folder}' has versions {sorted(found)}, but its version policy wants none of them; correct it"
        )
    paths = {one: _file_in(found[one], config) for one in chosen}
    return [(one, _artifact(path, config, wanted, name, folder, one)) for one, path in paths.items()]


def _is_version(entry: Path) -> bool:
    """Triton takes folders named by a number without a leading zero."""
    return entry.name.isdecimal() and entry.name.isascii() and not entry.name.startswith("0") and entry.is_dir()


def place_of(model: str) -> Path:
    """The file or folder at a path or a URI. Raises MissingModel."""
    place = locate(model).path if "://" in model else Path(model)
    if not place.exists():
        raise MissingModel(f"model path '{model}' does not exist; check --model")
    return place


def _artifact(path: Path, config: ModelConfig, wanted: str, name: str, folder: Path, version: int) -> Artifact:  # noqa: PLR0917
    _check_described(config, wanted)
    found = format_of(path)
    described = config.description
    if described is not None and described.format not in ("", found):
        raise BadModel(
            f"'{described.path}' says that the model is {described.format}, but '{path}' is {found}; correct one"
        )
    if wanted not in ("auto", MLFLOW, found):
        raise BadConfig(f"model file '{path}' is {found}, but the format asked for is {wanted}; correct the format")
    if config.backend and found not in _BACKENDS.get(config.backend, ()):
        raise BadModel(
            f"the config of '{path}' has backend '{config.backend}', but the file is {found}; correct or remove it "
            f"(served are {', '.join(_BACKENDS)})"
        )
    return Artifact(path, found, config, name, folder, version)


def _check_described(config: ModelConfig, wanted: str) -> None:
    """What a service says of the format against what lies beside the model."""
    described = config.description
    if wanted == MLFLOW:
        if described is None or described.path.name != MLFLOW_FILE:
            raise BadModel(f"the service says that its format is mlflow, but no {MLFLOW_FILE} lies beside the model")
    elif described is not None and described.format and wanted not in ("auto", described.format):
        raise BadModel(
            f"the service says that its format is {wanted}, but '{described.path}' says {described.format}; "
            "correct one of them"
        )


def _file_in(folder: Path, config: ModelConfig) -> Path:
    if config.filename and (folder / config.filename).is_dir():
        folder /= config.filename  # MLflow keeps a model of PyTorch so
    elif config.filename:
        if not (folder / config.filename).is_file():
            by = "default_model_filename" if config.description is None else config.description.path.name
            raise MissingModel(f"folder '{folder}' has no '{config.filename}' ({by}); put it there")
        return folder / config.filename
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file())
    if (folder / CODE) in entries and "class" not in config.parameters:
        return folder / CODE
    models = [entry for entry in entries if entry.name in NAMES]
    models = models or [entry for entry in entries if entry.suffix in SUFFIXES]
    models = models or [entry for entry in entries if entry.name in ELSE]
    if len(models) == 1:
        return models[0]
    found = ", ".join(entry.name for entry in models or entries)[:200] or "nothing"
    if models:
        raise BadModel(f"folder '{folder}' holds more than one model ({found}); keep one, or name the file itself")
    raise MissingModel(f"folder '{folder}' holds no model.pt or model.pt2 (found: {found}); put the model there")


def format_of(path: Path) -> Format:
    """The kind of a model file by what is in it; only ONNX, Python and pickles are told by their names."""
    if path.suffix == ".py":
        return "python"
    if path.suffix in PICKLES:
        return "sklearn"  # whoever loads it asks whether code is allowed
    with path.open("rb") as file:
        magic = file.read(_HEAD_BYTES)
    if magic[:2] == b"PK":
        return _archive_format(path)
    return _format_by(magic, path)


def _format_by(magic: bytes, path: Path) -> Format:
    if path.suffix == ".onnx" and magic[:1] == b"\x08":  # the first field of the message is the format's version
        return "onnx"
    if magic[8:9] == b"{" and int.from_bytes(magic[:8], "little") < path.stat().st_size:
        return "safetensors"
    if _XGBOOST.match(magic):
        return "xgboost"
    if magic.startswith((b"tree\n", b"tree\r\n")):
        return "lightgbm"
    if magic[:1] == b"\x80":
        raise _pickled(path)
    raise BadModel(f"model file '{path}' is not a PyTorch model (no zip archive); save it with torch.export.save")


def _archive_format(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.namelist()
            # Every record of torch's lies under one folder named after the file.
            names = {name.partition("/")[2] for name in whole}
    except (zipfile.BadZipFile, OSError, ValueError) as exc:
        raise BadModel(f"model file '{path}' is damaged or cut short ({exc}); upload it again") from exc
    if "archive_format" in names:
        native = any(name.startswith("data/aotinductor/") for name in names)
        return "aotinductor" if native else "torch-export"
    if "constants.pkl" in names:
        return "torchscript"
    if "schema.json" in whole:
        return "sklearn"
    if "data.pkl" in names:
        raise _pickled(path)
    raise BadModel(f"model file '{path}' is a zip archive, but no PyTorch model; save it with torch.export.save")


def _pickled(path: Path) -> BadModel:
    return BadModel(
        f"model file '{path}' is a pickle made by torch.save, which can run any code when it is loaded; "
        "save the model with torch.export.save (or torch.jit.save) instead"
    )
