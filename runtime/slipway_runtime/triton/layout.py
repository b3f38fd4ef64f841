"""Which models were fetched, each with its versions and its own config. Reads names and configs; changes nothing.

    model.onnx                                   a file: one model, version 1
    model.onnx, weights.bin, config.pbtxt        a folder: one model, version 1
    1/model.onnx, 3/model.onnx, config.pbtxt     its versions
    embed/..., rank/..., shop/config.pbtxt       a repository: several models, perhaps an ensemble of them

Requests come for the service's name, so one model of a repository is the service's: the only one, the one of that name,
else the only ensemble that is no step of another. It takes the service's name; the others keep theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slipway_runtime.errors import BadConfig, BadModel, MissingModel
from slipway_runtime.models.artifacts import format_of
from slipway_runtime.triton.messages import CONFIGS, Config, backend_of, read_config

BACKENDS = {
    "onnx": "onnxruntime",
    "tensorrt": "tensorrt",
    "torchscript": "pytorch",
    "torch-export": "pytorch",
    "python": "python",
    "ensemble": "ensemble",
}
"""Format of a file -> the backend that Triton has for it."""
WANTED = {
    **{name: (name,) for name in BACKENDS},
    "pytorch": ("torchscript", "torch-export"),
    "triton": (),
    "auto": (),
}
"""Format that a service names -> formats of a file that do; none: whatever there is."""
SUFFIXES = (".onnx", ".plan", ".engine", ".pt", ".pth", ".pt2")
CODE = "model.py"
MOST_MODELS, MOST_DIGITS = 100, 18


@dataclass(frozen=True, slots=True)
class Model:
    """`versions` are files or folders. `filename` is that of the model in each of them; empty where none is known.

    `format` is one of BACKENDS, or the name of another backend.
    """

    name: str
    folder: Path
    config: Config
    format: str
    versions: Mapping[int, Path]
    filename: str = ""


def models(root: Path, service: str, wanted: str) -> list[Model]:
    """All models below `root`, that of the service first and by the service's name.

    Raises:
        MissingModel: there is none.  BadModel: what there is cannot be told apart.  BadConfig: it is not `wanted`.
    """
    found = [_of_file(root)] if root.is_file() else _of_folder(root)
    chosen = _chosen(found, service)
    others = [model for model in found if model is not chosen]
    if any(model.name == service for model in others):
        raise BadModel(f"the repository has two models '{service}', the service's and a step of it; rename the step")
    formats = WANTED[wanted]
    if formats and chosen.format not in formats:
        raise BadConfig(f"model '{chosen.name}' is {chosen.format}, but the format asked for is {wanted}; correct it")
    return [replace(chosen, name=service), *others]


def _of_file(path: Path) -> Model:
    kind = _format(path)
    return Model(path.stem, path.parent, Config(), kind, {1: path}, path.name)


def _of_folder(root: Path) -> list[Model]:
    if _is_model(root):
        return [_model(root)]
    folders = [entry for entry in _entries(root) if entry.is_dir() and _is_model(entry)]
    if not folders:
        found = ", ".join(entry.name for entry in _entries(root))[:200] or "nothing"
        raise MissingModel(
            f"'{root}' holds no model (found: {found}); give a model file, a folder with one, versions, or a repository"
        )
    if len(folders) > MOST_MODELS:
        raise BadModel(f"'{root}' has {len(folders)} models, {MOST_MODELS} are the most")
    return [_model(folder) for folder in folders]


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _is_model(folder: Path) -> bool:
    entries = _entries(folder)
    return any(entry.name in (*CONFIGS, CODE) or _version(entry) or _is_model_file(entry) for entry in entries)


def _is_model_file(entry: Path) -> bool:
    return entry.suffix in SUFFIXES and entry.is_file()


def _version(entry: Path) -> int:
    """The number that a folder's name is, as Triton takes it; 0 for any other."""
    name = entry.name
    is_number = name.isascii() and name.isdecimal() and not name.startswith("0") and len(name) <= MOST_DIGITS
    return int(name) if is_number and entry.is_dir() else 0


def _model(folder: Path) -> Model:
    config = read_config(folder)
    versions = {number: entry for entry in _entries(folder) if (number := _version(entry))}
    backend = backend_of(config)
    if backend == "ensemble" or config.HasField("ensemble_scheduling"):
        return Model(folder.name, folder, config, "ensemble", dict.fromkeys(versions or (1,), folder))
    versions = versions or {1: folder}
    if backend not in ("", *BACKENDS.values()):  # what its files are only that backend knows
        return Model(folder.name, folder, config, backend, versions)
    path = _file(versions[max(versions)], config, backend)
    kind = _format(path)
    if backend and BACKENDS[kind] != backend:
        raise BadModel(f"the config of model '{folder.name}' has backend '{backend}', but '{path.name}' is {kind}")
    for number, place in versions.items():
        if not (place / path.name).is_file():
            raise MissingModel(f"version {number} of model '{folder.name}' has no '{path.name}'; put it there")
    return Model(folder.name, folder, config, kind, versions, path.name)


def is_plain(name: str) -> bool:
    """Whether it names something in a folder, and nothing elsewhere."""
    return Path(name).name == name and name not in (".", "..")


def _file(folder: Path, config: Config, backend: str) -> Path:
    """The model of a version."""
    if name := str(config.default_model_filename):
        if not is_plain(name):
            raise BadModel(f"default_model_filename is {name[:80]!r}, must be a name without a folder")
        if not (folder / name).is_file():
            raise MissingModel(f"folder '{folder}' has no '{name}' (default_model_filename); put it there")
        return folder / name
    files = [entry for entry in _entries(folder) if _is_model_file(entry)]
    # A model.py is the model even where weights lie beside it: they are what it loads.
    if (folder / CODE).is_file() and backend in ("", "python"):
        return folder / CODE
    named = [entry for entry in files if entry.stem == "model"] or files
    if len(named) == 1:
        return named[0]
    found = ", ".join(entry.name for entry in files or _entries(folder))[:200] or "nothing"
    if named:
        raise BadModel(f"folder '{folder}' holds more than one model ({found}); keep one, or name it model.*")
    raise MissingModel(f"folder '{folder}' holds no model file (found: {found}); put model.onnx or the like there")


def _format(path: Path) -> str:
    if path.suffix in (".plan", ".engine"):
        return "tensorrt"  # no magic number says so
    kind = format_of(path)
    if kind not in BACKENDS:  # safetensors, aotinductor
        raise BadModel(f"model file '{path}' is {kind}, which Triton does not serve; name another runtime")
    return kind


def _chosen(found: Sequence[Model], service: str) -> Model:
    if len(found) == 1:
        return found[0]
    if named := [model for model in found if model.name == service]:
        return named[0]
    steps = set(_steps(found))
    ensembles = [model for model in found if model.format == "ensemble" and model.name not in steps]
    if len(ensembles) == 1:
        return ensembles[0]
    names = ", ".join(model.name for model in found)[:300]
    raise BadModel(
        f"the repository has models {names}, and none that is clearly the service's: name one '{service}', "
        "or make one ensemble of them"
    )


def _steps(found: Iterable[Model]) -> Iterable[str]:
    return (step.model_name for model in found for step in model.config.ensemble_scheduling.step)
