"""A model's config as clients read it: GET /v2/models/M/config and gRPC's ModelConfig. Pure.

Said is what is served, not what the file said: signatures that the model told itself are filled in, ignored fields are
left out. Every field has its default written out, 64-bit numbers are numbers: this is how Triton answers, and its
clients index into the answer without asking whether a field is there.
"""

from typing import Any

from slipway_runtime.models.config import (
    Control,
    DynamicBatching,
    EnsembleStep,
    InstanceGroup,
    ModelConfig,
    QueuePolicy,
    SequenceBatching,
    VersionPolicy,
    Warmup,
)
from slipway_runtime.models.formats import TABULAR
from slipway_runtime.tensors import Metadata, TensorSpec

Json = dict[str, Any]
BACKENDS = {
    "pytorch_torchscript": "pytorch",
    "pytorch_export": "pytorch",
    "pytorch_aotinductor": "pytorch",
    "pytorch_eager": "pytorch",
    "onnxruntime_onnx": "onnxruntime",
    "python": "python",
    **{name: name for name in TABULAR},
    "ensemble": "",
}


def to_triton_json(config: ModelConfig, metadata: Metadata, name: str = "") -> Json:
    """`name` is what the model is called here, where that is not in the config."""
    name = name or config.name
    batched = metadata.max_batch > 0
    body: Json = {
        "name": name,
        "platform": config.platform or metadata.platform,
        "backend": config.backend or BACKENDS.get(metadata.platform, ""),
        "runtime": "",
        "version_policy": _versions(config.version_policy),
        "max_batch_size": metadata.max_batch,
        "input": [_input(spec, batched=batched) for spec in metadata.inputs],
        "output": [_output(spec, config, batched=batched) for spec in metadata.outputs],
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
        **_scheduling(config, metadata),
        "instance_group": _instances(config, name),
        "default_model_filename": config.filename,
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {key: {"string_value": value} for key, value in config.parameters.items()},
        "model_warmup": [_warmup(item) for item in config.warmup],
        "model_transaction_policy": {"decoupled": config.decoupled},
    }
    if config.response_cache:
        body["response_cache"] = {"enable": True}
    return body


def to_proto(config: ModelConfig, metadata: Metadata, name: str = "") -> Any:
    """The same as a `ModelConfig` message of tritonclient's."""
    from google.protobuf import json_format  # noqa: PLC0415 - it and gRPC are loaded when somebody asks by gRPC
    from tritonclient.grpc import model_config_pb2  # noqa: PLC0415

    return json_format.ParseDict(to_triton_json(config, metadata, name), model_config_pb2.ModelConfig())


def _data_type(datatype: str) -> str:
    return f"TYPE_{datatype.replace('BYTES', 'STRING') or 'INVALID'}"


def _dims(spec: TensorSpec, *, batched: bool) -> list[int]:
    if spec.shape is None:
        return [-1]
    return list(spec.shape[1:] if batched else spec.shape)


def _input(spec: TensorSpec, *, batched: bool) -> Json:
    return {
        "name": spec.name,
        "data_type": _data_type(spec.datatype),
        "format": "FORMAT_NONE",
        "dims": _dims(spec, batched=batched),
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": False,
        "is_non_linear_format_io": False,
    }


def _output(spec: TensorSpec, config: ModelConfig, *, batched: bool) -> Json:
    return {
        "name": spec.name,
        "data_type": _data_type(spec.datatype),
        "dims": _dims(spec, batched=batched),
        "label_filename": config.label_files.get(spec.name, ""),
        "is_shape_tensor": False,
        "is_non_linear_format_io": False,
    }


def _versions(policy: VersionPolicy) -> Json:
    if policy.specific:
        return {"specific": {"versions": list(policy.specific)}}
    return {"latest": {"num_versions": policy.latest}} if policy.latest else {"all": {}}


def _scheduling(config: ModelConfig, metadata: Metadata) -> Json:
    """A model that takes more than one row is batched whether its config says so or not, and this is said here."""
    if config.ensemble:
        return {"ensemble_scheduling": {"step": [_step(step) for step in config.ensemble], "max_inflight_requests": 0}}
    if config.sequence_batching:
        return {"sequence_batching": _sequence(config.sequence_batching)}
    if config.dynamic_batching or metadata.max_batch > 1:
        return {"dynamic_batching": _dynamic(config.dynamic_batching or DynamicBatching())}
    return {}


def _queue_policy(policy: QueuePolicy) -> Json:
    return {
        "timeout_action": policy.timeout_action,
        "default_timeout_microseconds": policy.default_timeout_us,
        "allow_timeout_override": policy.allow_timeout_override,
        "max_queue_size": policy.max_queue_size,
    }


def _dynamic(batching: DynamicBatching) -> Json:
    body: Json = {
        "preferred_batch_size": list(batching.preferred_batch_size),
        "max_queue_delay_microseconds": batching.max_queue_delay_us,
        "preserve_ordering": False,
        "priority_levels": batching.priority_levels,
        "default_priority_level": batching.default_priority_level,
        "priority_queue_policy": {
            str(level): _queue_policy(policy) for level, policy in batching.priority_queue_policy.items()
        },
    }
    if batching.default_queue_policy:
        body["default_queue_policy"] = _queue_policy(batching.default_queue_policy)
    return body


def _sequence(batching: SequenceBatching) -> Json:
    direct: Json = {"max_queue_delay_microseconds": batching.max_queue_delay_us, "minimum_slot_utilization": 0.0}
    oldest: Json = {
        "max_candidate_sequences": batching.max_candidate_sequences,
        "preferred_batch_size": list(batching.preferred_batch_size),
        "max_queue_delay_microseconds": batching.max_queue_delay_us,
        "preserve_ordering": False,
    }
    return {
        batching.strategy: direct if batching.strategy == "direct" else oldest,
        "max_sequence_idle_microseconds": batching.max_sequence_idle_us,
        "control_input": [{"name": control.name, "control": [_control(control)]} for control in batching.controls],
        "state": [],
        "iterative_sequence": False,
    }


def _control(control: Control) -> Json:
    pair = [] if control.kind == "CORRID" else [control.off, control.on]
    return {
        "kind": f"CONTROL_SEQUENCE_{control.kind}",
        "int32_false_true": pair if control.datatype == "INT32" else [],
        "fp32_false_true": pair if control.datatype == "FP32" else [],
        "bool_false_true": pair if control.datatype == "BOOL" else [],
        "data_type": _data_type(control.datatype if control.kind == "CORRID" else ""),
    }


def _step(step: EnsembleStep) -> Json:
    return {
        "model_name": step.model,
        "model_version": step.version,
        "input_map": dict(step.input_map),
        "output_map": dict(step.output_map),
        "model_namespace": "",
    }


def _instances(config: ModelConfig, name: str) -> list[Json]:
    groups = config.instances or (InstanceGroup(name=name),)
    return [
        {
            "name": group.name or (name if index == 0 else f"{name}_{index}"),
            "kind": group.kind,
            "count": group.count,
            "gpus": list(group.gpus),
            "secondary_devices": [],
            "profile": [],
            "passive": False,
            "host_policy": "",
        }
        for index, group in enumerate(groups)
    ]


def _warmup(warmup: Warmup) -> Json:
    return {
        "name": warmup.name,
        "batch_size": warmup.batch_size,
        "inputs": {
            item.name: {
                "data_type": _data_type(item.datatype),
                "dims": list(item.dims),
                **({"input_data_file": item.data} if item.source == "file" else {f"{item.source}_data": True}),
            }
            for item in warmup.inputs
        },
        "count": warmup.count,
    }
