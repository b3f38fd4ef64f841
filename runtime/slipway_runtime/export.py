"""`slipway-runtime export MODULE:NAME FOLDER`: a module of PyTorch becomes a model that is served without its code.

The folder is there when all is well, and not before: what was exported has been loaded as `serve` loads it, and has
answered as the module does, alone and in a batch. The module's own code runs here, on the machine of whoever wrote it.
"""

import importlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from slipway_runtime.errors import BadConfig, BadModel, RequestError, cause
from slipway_runtime.export_options import FORMATS, ExportOptions
from slipway_runtime.models import description
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadOptions, load
from slipway_runtime.tensors import DTYPES, Array, TensorSpec, plain_values
from slipway_runtime.trial import spec_of

try:
    import torch
except ModuleNotFoundError as exc:
    raise BadConfig("to export a model takes torch: pip install 'slipway[export]'") from exc
from torch import Tensor, nn

_SEED = 1
_FEW_ROWS = 3
_MOST_VALUES = 4096
"""Of an example that is written down."""
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
"""What other kernels for the same arithmetic may make of it; `_ABSOLUTE` is in terms of the largest answer."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Of the module, by the names of its outputs."""

    names: tuple[str, ...]
    arrays: tuple[Array, ...]


def export(options: ExportOptions) -> None:
    """Write the folder, and say what is in it.

    Raises:
        BadConfig: an argument is wrong.  BadModel: the module cannot be exported, or answers otherwise afterwards.
    """
    if options.folder.exists():
        raise BadConfig(f"'{options.folder}' is there already; name a folder that is not, or remove it")
    inputs = _inputs(options)
    module = _module(options)
    rows = _rows(inputs, options)
    with torch.no_grad():
        answers = _asked(module, rows, options)
    options.folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, so that it can be renamed.
    with tempfile.TemporaryDirectory(dir=options.folder.parent, prefix=f".{options.folder.name}-") as made:
        place = Path(made) / "model"
        place.mkdir()
        _write(module, rows, answers.names, options, place / FORMATS[options.format])
        described = _described(inputs, answers, rows, options)
        (place / description.OWN_FILE).write_text(yaml.safe_dump(described, default_flow_style=None, sort_keys=False))
        worst = _compare(place, module, inputs, rows, options)
        shutil.move(place, options.folder)
    _tell(inputs, answers, worst, options)


def _inputs(options: ExportOptions) -> list[TensorSpec]:
    """With the batch, where the model has one."""
    specs = [spec_of(text) for text in options.inputs]
    for spec in specs:
        if spec.datatype in ("BYTES", "BF16"):
            raise BadConfig(f"--input '{spec.name}' is {spec.datatype}, which cannot be exported; use another type")
    return [
        spec if options.max_batch else TensorSpec(spec.name, spec.datatype, spec.shape[1:])
        for spec in specs
        if spec.shape
    ]


def _module(options: ExportOptions) -> nn.Module:
    sys.path.insert(0, "")  # as `python -m` has it: what lies where this is called
    try:
        found = getattr(importlib.import_module(options.module), options.name)
        made = found if isinstance(found, nn.Module) else found(**options.arguments)
    except Exception as exc:  # their own code
        raise BadConfig(f"'{options.source}' cannot be made: {type(exc).__name__}: {cause(exc)}") from exc
    if not isinstance(made, nn.Module):
        raise BadConfig(f"'{options.source}' is a {type(made).__name__}, must be or make a torch.nn.Module")
    if options.weights is not None:
        _fill(made, options.weights)
    return made.eval()


def _fill(module: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415 - where there are such weights

    try:
        safe = path.suffix == ".safetensors"
        module.load_state_dict(load_file(path) if safe else torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as exc:  # of several libraries
        raise BadConfig(f"the weights '{path}' do not fit: {cause(exc)}") from exc


def _rows(inputs: Sequence[TensorSpec], options: ExportOptions) -> list[Array]:
    """The example, or random numbers: more rows than one, or torch takes the batch for fixed."""
    if options.example is None:
        rng = np.random.default_rng(_SEED)
        return [_random(spec, options.max_batch, rng) for spec in inputs]
    try:
        given = json.loads(options.example.read_text())
        arrays = [np.array(given[spec.name], DTYPES[spec.datatype]) for spec in inputs]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BadConfig(f"the example '{options.example}' is not rows by the names of inputs: {exc!r}") from exc
    for spec, array in zip(inputs, arrays, strict=True):
        if not spec.accepts(array.shape) or not array.size:
            raise BadConfig(
                f"the example has shape {list(array.shape)} for '{spec.name}', not {list(spec.shape or ())}"
            )
    if options.max_batch > 1 and len(arrays[0]) == 1:
        arrays = [np.repeat(array, 2, axis=0) for array in arrays]
    return arrays


def _random(spec: TensorSpec, max_batch: int, rng: np.random.Generator) -> Array:
    dtype, shape = DTYPES[spec.datatype], spec.shape or ()
    shape = (min(_FEW_ROWS, max_batch), *shape[1:]) if max_batch else shape
    if dtype.kind == "f":
        return rng.normal(size=shape).round(3).astype(dtype)  # short to write down
    return rng.integers(0, 2, shape).astype(dtype)


def _tensors(rows: Sequence[Array]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array.copy()) for array in rows)


def _asked(module: nn.Module, rows: Sequence[Array], options: ExportOptions) -> Answers:
    try:
        result = module(*_tensors(rows))
    except Exception as exc:  # their own code
        raise BadModel(f"'{options.source}' cannot answer the example: {type(exc).__name__}: {cause(exc)}") from exc
    pairs = list(result.items()) if isinstance(result, dict) else []
    values = [value for _, value in pairs] or (list(result) if isinstance(result, tuple | list) else [result])
    if not all(isinstance(value, Tensor) for value in values):
        raise BadModel(f"'{options.source}' gives a {type(result).__name__}, must give tensors, by name or in a tuple")
    default = [str(name) for name, _ in pairs] or (["y"] if len(values) == 1 else [f"y{i}" for i in range(len(values))])
    names = options.outputs or tuple(default)
    if len(names) != len(values):
        raise BadConfig(f"--outputs names {len(names)}, but '{options.source}' gives {len(values)}")
    arrays = tuple(value.detach().numpy() for value in values)
    for name, array in zip(names, arrays, strict=True):
        if array.dtype not in DTYPES.values():
            raise BadModel(f"'{options.source}' gives '{name}' as {array.dtype}, which cannot be served")
        if options.max_batch and array.shape[:1] != rows[0].shape[:1]:
            raise BadModel(
                f"'{options.source}' gives '{name}' with shape {list(array.shape)} for {len(rows[0])} rows; the first "
                "dimension must be the batch, or give --max-batch 0"
            )
    return Answers(names, arrays)


def _write(module: nn.Module, rows: Sequence[Array], names: Sequence[str], options: ExportOptions, path: Path) -> None:
    given, logger = _tensors(rows), logging.getLogger("torch.onnx")
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # TorchScript is deprecated; users have what needs it
        try:
            match options.format:
                case "torchscript":
                    torch.jit.save(torch.jit.trace(module, given, check_trace=False), path)  # type: ignore[no-untyped-call]
                case "torch-export":
                    torch.export.save(torch.export.export(module, given, dynamic_shapes=_dynamic(given, options)), path)
                case _:
                    _write_onnx(module, given, names, options, path)
        except BadConfig:
            raise
        except Exception as exc:  # of torch, about their code
            others = ", ".join(name for name in FORMATS if name != options.format)
            raise BadModel(
                f"'{options.source}' cannot be exported as {options.format}: {type(exc).__name__}: {cause(exc)}; try "
                f"another format ({others})"
            ) from exc


def _dynamic(given: Sequence[Tensor], options: ExportOptions) -> Any:
    if options.max_batch < 2:
        return None
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    return tuple({0: batch} for _ in given)


def _write_onnx(
    module: nn.Module, given: tuple[Tensor, ...], names: Sequence[str], options: ExportOptions, path: Path
) -> None:
    try:
        importlib.import_module("onnxscript")
    except ModuleNotFoundError as exc:
        raise BadConfig("to export as ONNX takes onnxscript: pip install 'slipway[export]'") from exc
    torch.onnx.export(
        module,
        given,
        path,
        input_names=[text.rsplit(":", 2)[0] for text in options.inputs],
        output_names=list(names),
        dynamic_shapes=_dynamic(given, options),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _described(
    inputs: Sequence[TensorSpec], answers: Answers, rows: Sequence[Array], options: ExportOptions
) -> dict[str, Any]:
    datatypes = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
    outputs = [
        TensorSpec(name, datatypes[array.dtype], (-1, *array.shape[1:]) if options.max_batch else array.shape)
        for name, array in zip(answers.names, answers.arrays, strict=True)
    ]
    found: dict[str, Any] = {
        "format": options.format,
        "file": FORMATS[options.format],
        "maxBatchSize": options.max_batch,
        "inputs": [_spec(spec) for spec in inputs],
        "outputs": [_spec(spec) for spec in outputs],
    }
    one = [array[:1] if options.max_batch else array for array in rows]
    if sum(array.size for array in one) <= _MOST_VALUES and all(spec.shape for spec in inputs):
        values = [np.array(plain_values(array.reshape(-1)), object).reshape(array.shape).tolist() for array in one]
        found["example"] = dict(zip([spec.name for spec in inputs], values, strict=True))
    return found


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape or ())}


def _compare(
    place: Path, module: nn.Module, inputs: Sequence[TensorSpec], rows: list[Array], options: ExportOptions
) -> float:
    """The largest difference between the module and what was exported, as `serve` runs it, in terms of what it gives.

    Raises:
        BadModel: it is too large.
    """
    model = load(find(str(place)), LoadOptions(device="cpu"))
    try:
        model.warm_up()
        worst = 0.0
        for given in [rows, [array[:1] for array in rows]] if options.max_batch else [rows]:
            with torch.no_grad():
                wanted = _asked(module, given, options)
            (answer,) = model.runners[0].run([OwnCall(given, len(given[0]) if options.max_batch else 1)])
            if isinstance(answer, RequestError):
                raise BadModel(f"'{options.source}' as {options.format} cannot answer: {answer.message}")
            for name, theirs, ours in zip(wanted.names, wanted.arrays, answer, strict=True):
                worst = max(worst, _difference(name, theirs, ours, options))
        return worst
    finally:
        model.close()


def _difference(name: str, theirs: Array, ours: Array, options: ExportOptions) -> float:
    scale = float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)) if theirs.dtype.kind == "f" else 0.0
    alike = theirs.shape == ours.shape and np.allclose(theirs, ours, _RELATIVE, _ABSOLUTE * scale, equal_nan=True)
    if not alike:
        raise BadModel(
            f"'{options.source}' as {options.format} gives another '{name}' than the module does: it keeps a state, "
            "draws at random, or takes another path for other inputs; nothing was written. Try another format"
        )
    if theirs.dtype.kind != "f" or not scale:
        return 0.0
    return float(np.nanmax(np.abs(np.where(np.isfinite(theirs), theirs - ours, 0)))) / scale


def _tell(inputs: Sequence[TensorSpec], answers: Answers, worst: float, options: ExportOptions) -> None:
    rows = "on the example" if not options.max_batch else "alone and in a batch"
    taken = ", ".join(spec.name for spec in inputs)
    sys.stdout.write(
        f"{options.folder}: {options.source} as {options.format}, {taken} -> {', '.join(answers.names)}\n"
        f"it answers as the module does, {rows}: they differ by {worst:.1g} of the largest answer at most\n"
    )
