"""Loads PyTorch models of every kind into runners: device, weights into a class, dtype, quantization, compilation."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from slipway_runtime.engine.job import Runner
from slipway_runtime.errors import BadConfig, BadModel, cause
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.load import LoadedModel, LoadOptions
from slipway_runtime.models.options import Options
from slipway_runtime.models.quantize import quantized
from slipway_runtime.models.screening import screen
from slipway_runtime.models.torch_program import TORCH_DTYPES, Program, configured, read, storages
from slipway_runtime.models.torch_runner import TorchRunner
from slipway_runtime.tensors import Metadata, TensorSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_torch(artifact: Artifact, own: Options, devices: list[str], options: LoadOptions) -> LoadedModel:
    """Raises BadModel, BadConfig."""
    torch.set_num_threads(options.threads)
    config = artifact.config
    if not options.allow_code:
        screen(artifact)
    if options.shard:
        from slipway_runtime.models.ranks import join  # noqa: PLC0415 - for models in shards only

        devices = [join(options.shard, options.threads)]
    targets = [resolve(device) for device in devices]
    # Instances on one device share the weights.
    programs = {device: _program(artifact, own, device, options) for device in dict.fromkeys(targets)}
    program = programs[targets[0]]
    ignored = (*config.ignored, *(f"parameters.{name}" for name in own.others))
    metadata = Metadata(program.platform, program.inputs, program.outputs, config.max_batch, ignored)
    model = LoadedModel(artifact, config, metadata, own, [], config.decoupled)

    def learned(specs: tuple[TensorSpec, ...]) -> None:
        model.metadata = replace(model.metadata, outputs=specs)

    model.runners.extend(_runner(programs[device], device, config.max_batch, own, learned) for device in targets)
    return model


def resolve(device: str) -> torch.device:
    """Raises BadConfig if there is no such device."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadConfig("the device asked for is cuda, but this container has no usable GPU; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    target = torch.device(device)
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise BadConfig(f"the device asked for is {device}, but there are {torch.cuda.device_count()} GPUs")
    return target


def _runner(
    program: Program,
    device: torch.device,
    max_batch: int,
    own: Options,
    learned: Callable[[tuple[TensorSpec, ...]], None],
) -> Runner:
    if device.type == "cpu":
        return TorchRunner(program, max_batch, buckets=own.buckets, learned=learned, in_step=own.shards > 1)
    from slipway_runtime.models.cuda_runner import CudaRunner  # noqa: PLC0415 - it opens streams

    return CudaRunner(program, max_batch, device, buckets=own.buckets, learned=learned, in_step=own.shards > 1)


def _program(artifact: Artifact, own: Options, device: torch.device, options: LoadOptions) -> Program:
    eager = artifact.format == "safetensors"
    program = _of_class(artifact, own, device, options) if eager else read(artifact, device)
    if own.dtype:
        program = _in_dtype(program, _DTYPES[own.dtype], artifact.path)
    if own.compile:
        program = _compiled(program, own, artifact.path)
    return program


def _compiled(program: Program, own: Options, path: Path) -> Program:
    """Each bucket becomes a program of its own when the warm-up asks for it; no request ever waits for the compiler."""
    if any(spec.shape is None or -1 in spec.shape[bool(own.buckets) :] for spec in program.inputs):
        raise BadModel(
            f"model file '{path}' has inputs of no fixed shape, so compile=on would compile while requests wait; "
            "write the dims into its config"
        )
    # torch goes back to eager without a word when one function has more programs than this.
    limit = len(own.buckets) + torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = limit
    return replace(program, call=torch.compile(program.call, dynamic=False), private=True)


def _of_class(artifact: Artifact, own: Options, device: torch.device, options: LoadOptions) -> Program:
    """The class with the weights of the file in it; every weight has its place and every place its weight."""
    from safetensors.torch import load_file  # noqa: PLC0415 - needed for such files only

    made = _constructed(artifact.path, own, options)
    try:
        weights = _part_of(made, artifact.path) if options.shard else load_file(artifact.path)
        # Copied, not assigned: weights that the class ties together stay tied.
        missing, unexpected = made.load_state_dict(weights, strict=False)
    except BadModel:
        raise
    except Exception as exc:  # the reader meets foreign bytes; whatever it raises means they are bad
        raise BadModel(f"model file '{artifact.path}' cannot be loaded: {cause(exc)}; save it again") from exc
    # Weights that share memory are saved once; those of them that are there already are not missing.
    missing = [name for name in missing if not _is_tied(made, name, weights)]
    if missing or unexpected:
        raise BadModel(
            f"model file '{artifact.path}' does not fit class {own.class_name}: it lacks {missing[:5]} and has "
            f"{list(unexpected)[:5]} too many; correct parameters.class or class_args"
        )
    if own.quantization != "none" and device.type != "cpu":
        raise BadConfig(f"parameter quantization of '{artifact.path}' is for CPUs; use device=cpu or another dtype")
    names = [spec.name for spec in artifact.config.inputs]
    module = quantized(made.eval().requires_grad_(False), own.quantization, artifact.folder, names).to(device)
    program = Program(
        call=module,
        platform="pytorch_eager",
        inputs=tuple(TensorSpec(spec.name) for spec in artifact.config.inputs),
        outputs=(),
        module=module,
        private=True,
    )
    if not artifact.config.inputs:
        raise BadModel(f"'{artifact.path}' needs a config with input and output: a class does not tell its own")
    controls = artifact.config.sequence_batching.controls if artifact.config.sequence_batching else ()
    taken = (*program.inputs, *(TensorSpec(control.name) for control in controls))
    return configured(replace(program, inputs=taken), artifact.config, artifact.path)


def _is_tied(module: torch.nn.Module, name: str, weights: dict[str, torch.Tensor]) -> bool:
    tensors = module.state_dict(keep_vars=True)
    return any(other in weights and tensors[other] is tensors[name] for other in tensors if other != name)


def _constructed(path: Path, own: Options, options: LoadOptions) -> torch.nn.Module:
    if not any(fnmatchcase(own.class_name, pattern) for pattern in options.allowed_classes):
        raise BadConfig(
            f"model file '{path}' wants class {own.class_name}, which is not allowed; allow it with --allowed-classes"
        )
    module_name, _, name = own.class_name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
        made = found(**own.class_args, **_together(options))
    except Exception as exc:  # the class's own code
        raise BadModel(
            f"class {own.class_name} of '{path}' cannot be made: {type(exc).__name__}: {cause(exc)}"
        ) from exc
    if not isinstance(made, torch.nn.Module):
        raise BadModel(f"class {own.class_name} of '{path}' is not a torch.nn.Module")
    return made


def _together(options: LoadOptions) -> dict[str, Any]:
    if options.shard is None:
        return {}
    from slipway_runtime.models.ranks import group  # noqa: PLC0415 - for models in shards only

    return {"group": group()}


def _part_of(made: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    from slipway_runtime.models.ranks import part_of  # noqa: PLC0415 - for models in shards only

    return part_of(made, path)


def _in_dtype(program: Program, dtype: torch.dtype, path: Path) -> Program:
    """Weights and arithmetic in `dtype`; the tensors that come and go keep the types that the config says."""
    module = program.module
    assert module is not None  # noqa: S101 - load.py lets only such kinds through
    try:
        module.to(dtype)
    except Exception as exc:  # whatever the module's own code raises
        raise BadModel(f"model file '{path}' cannot be used in {dtype}: {cause(exc)}; remove parameter dtype") from exc
    outer, call = [TORCH_DTYPES.get(spec.datatype) for spec in program.outputs], program.call

    def cast(*tensors: torch.Tensor) -> Any:
        given = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        return _restored(call(*given), outer, [spec.name for spec in program.outputs])

    return replace(program, call=cast, own=storages([*module.parameters(), *module.buffers()]))


def _restored(result: Any, outer: list[torch.dtype | None], names: list[str]) -> Any:
    """Outputs of floating point as the config says; all others are as they are."""

    def one(value: Any, index: int) -> Any:
        wanted = outer[index] if index < len(outer) else None
        return value.to(wanted) if wanted and torch.is_tensor(value) and value.is_floating_point() else value

    if torch.is_tensor(result):
        return one(result, 0)
    if isinstance(result, dict):
        return {
            key: one(value, names.index(key) if key in names else index)
            for index, (key, value) in enumerate(result.items())
        }
    return tuple(one(value, index) for index, value in enumerate(result))
