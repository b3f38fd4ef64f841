"""A model loaded for a look, by the loader that `serve` has: what `check` and `bench` share.

Nothing is listened on and nobody else's requests are answered.
"""

import importlib
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from slipway_runtime.engine.job import Call
from slipway_runtime.errors import BadConfig, BadModel, MissingModel, RequestError
from slipway_runtime.models import warmup
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.config_reader import DATATYPES, JSON_FILE, TEXT_FILE
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.repository import ModelFiles
from slipway_runtime.settings import Settings
from slipway_runtime.tensors import Rows, TensorSpec

TRIED_BATCH = 64
"""Rows of a batch where nobody says how many."""
_ENGINES: dict[str, tuple[tuple[str, ...], str]] = {
    "onnx": (("onnxruntime",), "onnx"),
    "python": ((), ""),
    "sklearn": (("sklearn", "skops.io"), "sklearn"),
    "xgboost": (("xgboost",), "sklearn"),
    "lightgbm": (("lightgbm",), "sklearn"),
}
"""What runs a format, and the extra that brings it; torch where it is not here."""


@dataclass(slots=True)
class Trial:
    """`engine_*` is what torch or onnxruntime took before the model was there, the others are the model's own."""

    model: LoadedModel
    engine_s: float
    engine_bytes: int
    load_s: float = 0.0
    warm_s: float = 0.0
    warmed: bool = False
    memory_bytes: int = 0
    gpu_bytes: int = 0


def models(settings: Settings, inputs: Sequence[str]) -> tuple[str, list[Artifact]]:
    """The name of the model and its versions that `serve` would load.

    Raises:
        MissingModel, BadModel, BadConfig.
    """
    try:
        name, versions = ModelFiles(settings).one()
    except MissingModel as failure:
        folder = Path(settings.model)
        inner = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        if inner and not any((folder / file).exists() for file in (JSON_FILE, TEXT_FILE)):
            hint = f"if it is a repository of models, name one of them, like {folder / inner[0]}"
            raise MissingModel(f"{failure}; {hint}") from failure
        raise
    return name, [replace(artifact, config=_with_inputs(artifact, inputs)) for _, artifact in versions]


def _with_inputs(artifact: Artifact, inputs: Sequence[str]) -> ModelConfig:
    config = artifact.config
    if not inputs:
        return config
    if config.inputs:
        names = [spec.name for spec in config.inputs]
        raise BadConfig(f"--input is given, but the config of '{artifact.path}' names the inputs already: {names}")
    specs = tuple(spec_of(text) for text in inputs)
    return replace(config, inputs=specs, max_batch=config.max_batch or TRIED_BATCH)


def spec_of(text: str) -> TensorSpec:
    """Of NAME:DATATYPE:DIMS, with the batch. Raises BadConfig."""
    name, datatype, dims = (*text.rsplit(":", 2), "", "")[:3]
    sizes = dims.split("x") if dims else []
    if not name or datatype not in DATATYPES or not all(size.isdecimal() and int(size) for size in sizes):
        raise BadConfig(f"--input is '{text[:80]}', must be like x:FP32:4 or image:FP32:3x224x224, without the batch")
    return TensorSpec(name, datatype, (-1, *map(int, sizes)))


@contextmanager
def opened(artifact: Artifact, options: LoadOptions) -> Iterator[Trial]:
    """The model, loaded and warmed up; closed at the end.

    Raises:
        BadModel, BadConfig: as `serve` would end with.
    """
    if artifact.format == "ensemble":
        steps = ", ".join(step.model for step in artifact.config.ensemble)
        raise BadConfig(f"model '{artifact.default_name}' is an ensemble: look at its models one by one: {steps}")
    began_s = time.perf_counter()
    modules, extra = _ENGINES.get(artifact.format, (("torch", "slipway_runtime.models.torch_load"), "runtime"))
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as exc:
            raise BadConfig(f"model file '{artifact.path}' needs {module}: pip install 'slipway[{extra}]'") from exc
    engine_s, before_bytes = time.perf_counter() - began_s, memory_bytes()
    began_s = time.perf_counter()
    trial = Trial(load(artifact, options), engine_s, before_bytes)
    try:
        trial.load_s = time.perf_counter() - began_s
        trial.warmed = trial.model.warm_up()
        trial.warm_s = time.perf_counter() - began_s - trial.load_s
        trial.memory_bytes = max(0, memory_bytes() - before_bytes)
        trial.gpu_bytes = _gpu_bytes()
        yield trial
    finally:
        trial.model.close()


def request(model: LoadedModel, rows: int) -> OwnCall | None:
    """The example beside the model, else random numbers where possible, else what the config warms up with, else zeros.

    None if shapes are not known.
    """
    metadata, config = model.metadata, model.config
    if (call := warmup.example_call(metadata, config, rows)) is not None:
        return call
    if (call := warmup.random_call(metadata, rows)) is not None:
        return call
    own = warmup.calls(replace(metadata, inputs=(TensorSpec(""),)), config, (), model.artifact.folder)
    plain = warmup.calls(metadata, replace(config, warmup=()), (rows,), model.artifact.folder)
    return next((call for call in (*own, *plain) if call.rows == rows), None)


def answers(model: LoadedModel, batch: Sequence[Call]) -> list[Rows]:
    """Of the first instance; for a decoupled model all answers of all calls.

    Raises:
        RequestError: the model fails.
    """
    runner = model.runners[0]
    if model.decoupled:
        return [rows for call in batch for rows in runner.stream(call)]
    found = []
    for answer in runner.run(batch):
        if isinstance(answer, RequestError):
            raise answer
        found.append(answer)
    return found


def memory_bytes() -> int:
    """What this process and those it started, for instances of a model, have in memory now."""
    pids = ["self"]
    with suppress(OSError):  # not every kernel tells the children
        pids += Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    pages = 0
    for pid in pids:
        with suppress(OSError):  # it has ended meanwhile
            pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _gpu_bytes() -> int:
    """What torch has taken of its GPU; 0 without one."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.memory_allocated()) if torch is not None and torch.cuda.is_available() else 0


def machine() -> str:
    """In a few words, for whoever reads the figures later."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else ""
    parts = [f"{len(os.sched_getaffinity(0))} CPUs", gpu, f"torch {torch.__version__}" if torch is not None else ""]
    return ", ".join(part for part in parts if part)


def source(artifact: Artifact) -> str:
    return f"{artifact.path} ({artifact.format})"


def unknown_shapes(artifact: Artifact) -> BadModel:
    return BadModel(
        f"model file '{artifact.path}' does not tell the shapes of its inputs, so no request can be made up; write "
        f"them into a {JSON_FILE} beside it, or give --input NAME:DATATYPE:DIMS for each"
    )
