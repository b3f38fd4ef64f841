"""A PyTorch program that can be run: loading, its signature, one forward pass. The only module with torch.

Nothing here unpickles: TorchScript archives are read by torch's C++ reader, exported programs with
TORCH_FORCE_WEIGHTS_ONLY_LOAD, because torch.export.load otherwise falls back to full unpickling for parts of
an archive (torch 2.15, export/pt2_archive/_package.py).

All functions are called on the one thread that runs the model.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Before torch is imported: it reads them when a file is loaded, and refuses both at once.
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
from torch.export.graph_signature import TensorArgument

from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError, cause, invalid
from slipway_runtime.models.artifacts import Artifact, ModelConfig
from slipway_runtime.tensors import DTYPES, Metadata, Tensor, TensorSpec

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


@dataclass(frozen=True, slots=True)
class Program:
    """`call` takes the tensors in the order of `inputs`. Empty `outputs` = known only from a result."""

    call: Callable[[list[torch.Tensor]], Any]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class TorchModel:
    """A loaded model. `run` is not thread-safe."""

    def __init__(self, program: Program, config: ModelConfig, device: torch.device) -> None:
        self._program = program
        self._device = device
        self.metadata = Metadata(
            program.platform, program.inputs, program.outputs, config.max_batch, ignored=config.ignored
        )

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All outputs for `inputs`, which are in the order of the metadata and are not changed.

        Raises:
            RequestError: INTERNAL with the model's own message when it fails; INVALID where an exported
                program says that an input is outside of what it was exported for.
        """
        try:
            with torch.inference_mode():
                result = self._program.call([_to_torch(tensor, self._device) for tensor in inputs])
                return self._named(list(_leaves(result, "")))
        except RequestError:
            raise
        except Exception as exc:  # the model is foreign code; whatever it raises is this request's answer
            if isinstance(exc, AssertionError) and "Guard failed" in str(exc):
                raise invalid(f"the input is outside of what the model was exported for: {cause(exc)}") from exc
            raise RequestError(Kind.INTERNAL, f"the model failed: {cause(exc)}") from exc

    def warm_up(self) -> bool:
        """One forward pass of zeros, if all shapes are known. Returns whether there was one."""
        if any(spec.shape is None for spec in self.metadata.inputs):
            return False
        self.run([_zeros(spec) for spec in self.metadata.inputs])
        return True

    def _named(self, leaves: list[tuple[str, torch.Tensor]]) -> list[Tensor]:
        specs = self._program.outputs
        if not specs:
            return [_from_torch(key or f"OUTPUT__{index}", value) for index, (key, value) in enumerate(leaves)]
        keyed = dict(leaves)
        if all(spec.name in keyed for spec in specs):
            return [_from_torch(spec.name, keyed[spec.name]) for spec in specs]
        if len(leaves) != len(specs):
            raise RequestError(Kind.INTERNAL, f"the model gave {len(leaves)} outputs, its config names {len(specs)}")
        return [_from_torch(spec.name, value) for spec, (_, value) in zip(specs, leaves, strict=True)]


def load(artifact: Artifact, device: str, threads: int) -> TorchModel:
    """Read the model from disk onto the device.

    Raises:
        BadModel: it cannot be read, or its config does not fit it.  BadConfig: there is no such device.
    """
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise BadConfig("the device asked for is cuda, but this container has no usable GPU; use --device cpu")
    target = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    read = _torchscript if artifact.format == "torchscript" else _exported
    try:
        with warnings.catch_warnings():
            # torch.jit warns that it is deprecated; users still have such files.
            warnings.simplefilter("ignore", FutureWarning)
            program = read(artifact.path, target)
    except BadModel:
        raise
    except Exception as exc:  # the reader meets foreign bytes; whatever it raises means they are bad
        raise BadModel(
            f"model file '{artifact.path}' cannot be loaded by torch {torch.__version__}: {cause(exc)}; "
            "it is damaged or made by another version, save it again"
        ) from exc
    return TorchModel(_configured(program, artifact), artifact.config, target)


def _torchscript(path: Path, device: torch.device) -> Program:
    module = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    arguments = [argument for argument in module.forward.schema.arguments[1:] if not argument.has_default_value()]
    for argument in arguments:
        if str(argument.type) != "Tensor":
            raise BadModel(
                f"model file '{path}' takes '{argument.name}' of type {argument.type}; only tensors can be sent"
            )
    names = [argument.name for argument in arguments]
    return Program(
        call=lambda tensors: module(**dict(zip(names, tensors, strict=True))),
        platform="pytorch_torchscript",
        inputs=tuple(TensorSpec(name) for name in names),
        outputs=(),
    )


def _exported(path: Path, device: torch.device) -> Program:
    _refuse_opaque(path)
    exported = torch.export.load(path)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass  # noqa: PLC0415 - costs 0.3 s, needed on a GPU only

        exported = move_to_device_pass(exported, device)
    module, spec = exported.module(), exported.call_spec
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    names = exported.graph_signature.user_inputs
    if not all(isinstance(name, str) and isinstance(values.get(name), torch.Tensor) for name in names):
        raise BadModel(f"model file '{path}' takes inputs that are not tensors ({names}); export it with tensors only")

    def call(tensors: list[torch.Tensor]) -> Any:
        args, kwargs = spec.in_spec.unflatten(tensors)
        return module(*args, **kwargs)

    nodes = [s.arg.name for s in exported.graph_signature.output_specs if isinstance(s.arg, TensorArgument)]
    keys = spec.out_spec.context if spec.out_spec.type is dict and len(spec.out_spec.context) == len(nodes) else nodes
    return Program(
        call=call,
        platform="pytorch_export",
        inputs=tuple(_spec_of(name, values[name]) for name in names),
        outputs=tuple(_spec_of(key, values[node]) for key, node in zip(keys, nodes, strict=True)),
    )


def _refuse_opaque(path: Path) -> None:
    """Torch unpickles opaque constants without any check. Its own reader is used here, so both see the same."""
    from torch.export.pt2_archive._package import PT2ArchiveReader  # noqa: PLC0415 - as torch.export.load does

    with PT2ArchiveReader(str(path)) as archive:
        names = archive.get_file_names()
    if any("opaque_obj_" in name for name in names):
        raise BadModel(f"model file '{path}' holds pickled objects, which can run any code; export it without them")


def _spec_of(name: str, value: torch.Tensor) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name, DATATYPES.get(value.dtype, ""), shape)


def _configured(program: Program, artifact: Artifact) -> Program:
    """The program with the names, types and shapes of config.json; by name where all match, else by position."""
    config, names = artifact.config, [spec.name for spec in program.inputs]
    outputs = config.outputs or program.outputs
    if not config.inputs:
        return replace(program, outputs=outputs)
    given = [spec.name for spec in config.inputs]
    if len(given) != len(names):
        raise BadModel(
            f"config.json of '{artifact.path}' names inputs {given}, but the model takes {names}; correct it"
        )
    if sorted(given) != sorted(names) or given == names:
        return replace(program, inputs=config.inputs, outputs=outputs)
    order, call = [given.index(name) for name in names], program.call
    return replace(program, call=lambda t: call([t[i] for i in order]), inputs=config.inputs, outputs=outputs)


def _leaves(result: Any, key: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a result in order, with their key where they stand in a dict."""
    if isinstance(result, torch.Tensor):
        yield key, result
    elif isinstance(result, dict):
        for name, value in result.items():
            yield from _leaves(value, str(name))
    elif isinstance(result, tuple | list):
        for value in result:
            yield from _leaves(value, "")
    else:
        raise RequestError(Kind.INTERNAL, f"the model gave a {type(result).__name__} where tensors are served")


def _to_torch(tensor: Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device. The copy also aligns the bytes, and keeps a model from writing into the request."""
    row = torch.empty(tensor.data.shape, dtype=TORCH_DTYPES[tensor.datatype])
    target = row.view(torch.uint16) if tensor.datatype == "BF16" else row
    np.copyto(target.numpy(), tensor.data)
    return row.to(device)


def _from_torch(name: str, value: torch.Tensor) -> Tensor:
    datatype = DATATYPES.get(value.dtype)
    if datatype is None:
        raise RequestError(Kind.INTERNAL, f"output '{name}' is {value.dtype}, which the protocol cannot carry")
    value = value.detach().cpu().resolve_neg().contiguous()
    return Tensor(name, datatype, (value.view(torch.uint16) if datatype == "BF16" else value).numpy())


def _zeros(spec: TensorSpec) -> Tensor:
    shape = tuple(1 if size == -1 else size for size in spec.shape or ())
    return Tensor(spec.name, spec.datatype, np.zeros(shape, DTYPES[spec.datatype]))
