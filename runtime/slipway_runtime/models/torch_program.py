"""A PyTorch model as a function of tensors with a signature, whatever kind of file it was.

Nothing here unpickles: TorchScript archives are read by torch's C++ reader, exported programs with
TORCH_FORCE_WEIGHTS_ONLY_LOAD, because torch.export.load otherwise falls back to full unpickling for parts of
an archive (torch 2.15, export/pt2_archive/_package.py). What torch takes for data and runs all the same has been
looked for before (screening.py). What is code, an AOTInductor library or a class by name, is loaded only where the
administrator allowed it; that is decided in load.py.
"""

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# Before torch is imported: it reads them when a file is loaded, and refuses both at once.
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

import torch
from torch.export.graph_signature import TensorArgument

from slipway_runtime.errors import BadModel, cause
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.description import Description
from slipway_runtime.tensors import TensorSpec

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "FP32": torch.float32,
    "FP64": torch.float64,
    "BF16": torch.bfloat16,
}
DATATYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Program:
    """`call` takes one tensor per input, in their order. Empty `outputs` = known only from a result.

    `module` has the weights, where there is one.
    `own` are the addresses of the storages that the program keeps from one call to the next. `private` says that it
    may keep others that nobody can list, so its outputs have to be copied.
    """

    call: Function
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    module: torch.nn.Module | None = None
    own: frozenset[int] = field(default_factory=frozenset)
    private: bool = False


def read(artifact: Artifact, device: torch.device) -> Program:
    """The program of a TorchScript archive, an exported program or an AOTInductor package, with the config's names.

    Raises:
        BadModel: it cannot be read, or its config does not fit it.
    """
    reader = {"torchscript": _torchscript, "torch-export": _exported, "aotinductor": _compiled}[artifact.format]
    try:
        with warnings.catch_warnings():
            # torch.jit warns that it is deprecated; users still have such files.
            warnings.simplefilter("ignore", FutureWarning)
            program = reader(artifact.path, device)
    except BadModel:
        raise
    except Exception as exc:  # the reader meets foreign bytes; whatever it raises means they are bad
        raise BadModel(
            f"model file '{artifact.path}' cannot be loaded by torch {torch.__version__}: {cause(exc)}; "
            "it is damaged or made by another version, save it again"
        ) from exc
    return configured(program, artifact.config, artifact.path)


def storages(tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)


def _torchscript(path: Path, device: torch.device) -> Program:
    module = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    arguments = [argument for argument in module.forward.schema.arguments[1:] if not argument.has_default_value()]
    for argument in arguments:
        if str(argument.type) != "Tensor":
            raise BadModel(
                f"model file '{path}' takes '{argument.name}' of type {argument.type}; only tensors can be sent"
            )
    names = [argument.name for argument in arguments]
    call: Function = module
    if names != [argument.name for argument in module.forward.schema.arguments[1 : 1 + len(names)]]:

        def call(*tensors: torch.Tensor) -> Any:
            return module(**dict(zip(names, tensors, strict=True)))

    return Program(
        call=call,
        platform="pytorch_torchscript",
        inputs=tuple(TensorSpec(name) for name in names),
        outputs=(),
        module=module,
        own=storages([*module.parameters(), *module.buffers()]),
    )


def _exported(path: Path, device: torch.device) -> Program:
    _refuse_opaque(path)
    # Not torch.export.load: when this fails it takes the file for one of an older format, and reads other parts of it.
    from torch.export.pt2_archive._package import load_pt2  # noqa: PLC0415 - as torch.export.load does

    exported = load_pt2(str(path)).exported_programs["model"]
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass  # noqa: PLC0415 - costs 0.3 s, needed on a GPU only

        exported = move_to_device_pass(exported, device)
    module, spec = exported.module(), exported.call_spec
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    names = exported.graph_signature.user_inputs
    if not all(isinstance(name, str) and isinstance(values.get(name), torch.Tensor) for name in names):
        raise BadModel(f"model file '{path}' takes inputs that are not tensors ({names}); export it with tensors only")
    nodes = [s.arg.name for s in exported.graph_signature.output_specs if isinstance(s.arg, TensorArgument)]
    keys = spec.out_spec.context if spec.out_spec.type is dict and len(spec.out_spec.context) == len(nodes) else nodes
    kept = [*exported.state_dict.values(), *exported.constants.values(), *module.parameters(), *module.buffers()]
    return Program(
        call=_flat(module, spec.in_spec),
        platform="pytorch_export",
        inputs=tuple(_spec_of(name, values[name]) for name in names),
        outputs=tuple(_spec_of(key, values[node]) for key, node in zip(keys, nodes, strict=True)),
        module=module,
        own=storages(value for value in kept if isinstance(value, torch.Tensor)),
    )


def _flat(module: torch.fx.GraphModule, in_spec: Any) -> Function:
    """The graph as a function from tensors to a tuple of tensors, without packing them into the trees it was made with.

    That takes half the time of a small model (64 -> 29 us on one CPU). The graph checks its own inputs where this
    torch puts its guards into the graph; where it does not, the module's own way with its hooks is kept.
    """
    if not any(node.target == "_guards_fn" for node in module.graph.nodes):

        def call(*tensors: torch.Tensor) -> Any:
            args, kwargs = in_spec.unflatten(list(tensors))
            return module(*args, **kwargs)

        return call
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    forward: Function = module.forward
    return forward


def _refuse_opaque(path: Path) -> None:
    """Torch unpickles opaque constants without any check. Its own reader is used here, so both see the same."""
    from torch.export.pt2_archive._package import PT2ArchiveReader  # noqa: PLC0415 - as torch.export.load does

    with PT2ArchiveReader(str(path)) as archive:
        names = archive.get_file_names()
    if any("opaque_obj_" in name for name in names):
        raise BadModel(f"model file '{path}' holds pickled objects, which can run any code; export it without them")


def _compiled(path: Path, device: torch.device) -> Program:
    """An AOTInductor package. Its names are not the model's own, so the config tells the signature."""
    _refuse_opaque(path)
    index = device.index if device.type == "cuda" and device.index is not None else -1
    package = torch._inductor.aoti_load_package(str(path), device_index=index)
    in_spec, _ = (torch.utils._pytree.treespec_loads(text) for text in package.loader.get_call_spec())
    runner = package.loader
    return Program(
        call=lambda *tensors: tuple(runner.boxed_run(list(tensors))),
        platform="pytorch_aotinductor",
        inputs=tuple(TensorSpec(f"INPUT__{index}") for index in range(in_spec.num_leaves)),
        outputs=(),
    )


def _spec_of(name: str, value: torch.Tensor) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name, DATATYPES.get(value.dtype, ""), shape)


def configured(program: Program, config: ModelConfig, path: Path) -> Program:
    """The program with the names, types and shapes of its config; by name where all match, else by position."""
    names = [spec.name for spec in program.inputs]
    given = [spec.name for spec in config.inputs]
    controls = [control.name for control in config.sequence_batching.controls] if config.sequence_batching else []
    outputs = _outputs(program, config, path)
    if not given:
        return replace(program, inputs=_told(program.inputs, config.description), outputs=outputs)
    if any(spec.datatype == "BYTES" for spec in (*config.inputs, *config.outputs)):
        raise BadModel(f"the config of '{path}' has a tensor of strings, which PyTorch does not have; correct it")
    # Control inputs follow the model's own in what a runner gives.
    all_given = [*given, *controls]
    if len(all_given) != len(names):
        raise BadModel(f"the config of '{path}' names inputs {all_given}, but the model takes {names}; correct it")
    by_name = sorted(all_given) == sorted(names)
    order = [all_given.index(name) for name in names] if by_name else list(range(len(names)))
    own = {all_given[place]: spec for place, spec in zip(order, program.inputs, strict=True)}
    for spec in config.inputs:
        _check_fits(spec, own[spec.name], path)
    if order == sorted(order):
        return replace(program, inputs=config.inputs, outputs=outputs)
    call = program.call
    return replace(program, call=lambda *t: call(*[t[i] for i in order]), inputs=config.inputs, outputs=outputs)


def _told(inputs: tuple[TensorSpec, ...], said: Description | None) -> tuple[TensorSpec, ...]:
    """A model's only input, of which it does not tell the shape, as MLflow does without a name."""
    if said is None or len(inputs) != 1 or len(said.inputs) != 1 or inputs[0].shape is not None:
        return inputs
    return inputs if said.inputs[0].datatype == "BYTES" else (replace(said.inputs[0], name=inputs[0].name),)


def _outputs(program: Program, config: ModelConfig, path: Path) -> tuple[TensorSpec, ...]:
    if config.outputs and program.outputs:
        by_name = {spec.name: spec for spec in program.outputs}
        if all(spec.name in by_name for spec in config.outputs):
            pairs = [(spec, by_name[spec.name]) for spec in config.outputs]
        else:
            pairs = list(zip(config.outputs, program.outputs, strict=False))
        for spec, own in pairs:
            _check_fits(spec, own, path)
    return config.outputs or program.outputs


def _check_fits(spec: TensorSpec, own: TensorSpec, path: Path) -> None:
    """What an exported program knows of itself stands; a config that says otherwise would fail at the first request."""
    wrong_type = own.datatype not in ("", spec.datatype)
    if wrong_type or (own.shape is not None and not _compatible(spec.shape or (), own.shape)):
        raise BadModel(
            f"the config of '{path}' says '{spec.name}' is {spec.datatype} {list(spec.shape or ())}, but the model "
            f"has {own.datatype} {list(own.shape or ())}; correct it"
        )


def _compatible(said: tuple[int, ...], own: tuple[int, ...]) -> bool:
    return len(said) == len(own) and all(-1 in (a, b) or a == b for a, b in zip(said, own, strict=True))
