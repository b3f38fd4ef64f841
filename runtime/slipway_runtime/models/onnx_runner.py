"""Opens ONNX models by onnxruntime, which is an extra of the installation. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway_runtime.errors import BadConfig, BadModel, cause
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.tensors import Metadata, TensorSpec

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def open_session(path: Path, device: str, threads: int) -> Any:
    """Raises BadConfig without onnxruntime or the device, BadModel if the model cannot be read."""
    try:
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise BadConfig(
            f"model file '{path}' is ONNX, but onnxruntime is not installed; pip install 'slipway[onnx]'"
        ) from exc
    onnxruntime.set_default_logger_severity(3)  # its warnings are about its own optimisations
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between requests would take the CPU from the server's own.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(onnxruntime, device)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as exc:  # the reader meets foreign bytes; whatever it raises means they are bad
        raise BadModel(
            f"model file '{path}' cannot be loaded by onnxruntime {onnxruntime.__version__}: {cause(exc)}; "
            "it is damaged or made for a newer version, export it again"
        ) from exc


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device.startswith("cuda") and not has_gpu:
        raise BadConfig("the device asked for is cuda, but this onnxruntime has no CUDA; use --device cpu")
    if device == "cpu" or not has_gpu:
        return ["CPUExecutionProvider"]
    index = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def signature(session: Any, config: ModelConfig, path: Path) -> Metadata:
    """What the model says of itself, with the types and shapes of the config where there is one."""
    inputs, outputs = _specs(session.get_inputs(), path), _specs(session.get_outputs(), path)
    controls = {control.name for control in config.sequence_batching.controls} if config.sequence_batching else set()
    own = {spec.name: spec for spec in (*inputs, *outputs)}
    wanted = {spec.name for spec in inputs} - controls
    if config.inputs and {spec.name for spec in config.inputs} != wanted:
        raise BadModel(
            f"the config of '{path}' names inputs {[spec.name for spec in config.inputs]}, but the model takes "
            f"{sorted(wanted)}; correct it"
        )
    for spec in (*config.inputs, *config.outputs):
        if spec.name not in own or spec.datatype != own[spec.name].datatype:
            has = own[spec.name].datatype if spec.name in own else f"only {sorted(own)}"
            raise BadModel(f"the config of '{path}' says '{spec.name}' is {spec.datatype}, but the model has {has}")
    return Metadata(
        "onnxruntime_onnx",
        config.inputs or tuple(spec for spec in inputs if spec.name not in controls),
        config.outputs or outputs,
        config.max_batch,
        config.ignored,
    )


def _specs(nodes: Sequence[Any], path: Path) -> tuple[TensorSpec, ...]:
    for node in nodes:
        if node.type not in _DATATYPES:
            raise BadModel(f"model file '{path}' has '{node.name}' of type {node.type}, which cannot be served")
    return tuple(
        TensorSpec(node.name, _DATATYPES[node.type], tuple(s if isinstance(s, int) else -1 for s in node.shape))
        for node in nodes
    )
