"""One instance of an ONNX model, run by onnxruntime, which is an extra of the installation. Imports no torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from slipway_runtime.engine.job import Call, Spent
from slipway_runtime.errors import BadConfig, BadModel, Kind, RequestError, cause
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.gather import Gather, check_rows, each_pays_alone, split
from slipway_runtime.tensors import Array, Metadata, Rows, TensorSpec

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


class OnnxRunner:
    """Instances share the session, which may be used by many threads; each has its own buffers."""

    may_run_inline = False  # it has threads of its own

    def __init__(self, session: Any, metadata: Metadata, input_names: Sequence[str]) -> None:
        self.spent = Spent()
        self._session = session
        self._batched = metadata.max_batch > 0
        self._inputs = tuple(input_names)
        self._outputs = [spec.name for spec in metadata.outputs]
        self._strings = [index for index, spec in enumerate(metadata.outputs) if spec.datatype == "BYTES"]
        self._has_strings = any(spec.datatype == "BYTES" for spec in metadata.inputs)
        self._gather: Gather[Array] = Gather(_allocate, _cut, max_rows=metadata.max_batch)

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        if not self._batched:
            return [self._alone(call) for call in batch]
        return each_pays_alone(batch, self._batch, self._alone)

    def stream(self, call: Call) -> Iterator[Rows]:
        answer = self._alone(call)
        if isinstance(answer, RequestError):
            raise answer
        yield answer

    def close(self) -> None:
        self._gather.clear()

    def _alone(self, call: Call) -> Rows | RequestError:
        try:
            if self._batched:
                (answer,) = self._batch([call])
                return answer
            return self._forward(call.inputs)
        except RequestError as error:
            return error

    def _batch(self, batch: Sequence[Call]) -> list[Rows | RequestError]:
        began_ns = perf_counter_ns()
        if len(batch) == 1:
            rows, given = batch[0].rows, batch[0].inputs  # onnxruntime does not write to them
        else:
            rows = sum([call.rows for call in batch])
            if self._has_strings:  # kept buffers would keep the strings of requests that are long gone
                given = [np.concatenate([call.inputs[i] for call in batch]) for i in range(len(self._inputs))]
            else:
                given = self._gather.fill(batch, rows, rows)
        self.spent.input_ns += perf_counter_ns() - began_ns
        outputs = self._forward(given)
        began_ns = perf_counter_ns()
        check_rows(outputs, self._outputs, rows)
        answers = split(batch, outputs)
        self.spent.output_ns += perf_counter_ns() - began_ns
        return answers

    def _forward(self, given: Sequence[Array]) -> list[Array]:
        began_ns = perf_counter_ns()
        feeds = {
            name: _text(array) if array.dtype == object else array
            for name, array in zip(self._inputs, given, strict=True)
        }
        filled_ns = perf_counter_ns()
        try:
            outputs: list[Array] = self._session.run(self._outputs, feeds)
        except Exception as exc:  # the model is foreign; whatever it raises is this request's answer
            raise RequestError(Kind.INTERNAL, f"the model failed: {cause(exc)}") from exc
        ran_ns = perf_counter_ns()
        for index in self._strings:
            outputs[index] = _encoded(outputs[index])
        own = [
            # An output that the graph hands through may be the input itself.
            output.copy() if any(np.may_share_memory(output, array) for array in given) else output
            for output in outputs
        ]
        self.spent.input_ns += filled_ns - began_ns
        self.spent.output_ns += perf_counter_ns() - ran_ns
        return own


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


def _allocate(index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Array]:
    array = np.empty(shape, dtype)
    return array, array


def _cut(array: Array, rows: int) -> Array:
    return array[:rows]


def _text(array: Array) -> Array:
    """Onnxruntime wants `str`."""
    try:
        flat = [item.decode() for item in array.reshape(-1)]
    except UnicodeDecodeError as exc:
        raise RequestError(Kind.INVALID, f"a string for an ONNX model is not UTF-8: {exc}") from exc
    text = np.empty(len(flat), object)
    text[:] = flat
    return text.reshape(array.shape)


def _encoded(array: Array) -> Array:
    flat = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
    coded = np.empty(len(flat), object)
    coded[:] = flat
    return coded.reshape(array.shape)
