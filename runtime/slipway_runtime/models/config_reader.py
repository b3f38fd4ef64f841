"""Reads a model's config: config.json (Triton's ModelConfig as JSON) or config.pbtxt (protobuf text).

Every field of Triton's ModelConfig is taken, named as ignored, or refused because answers would differ without it.
A field that ModelConfig does not have is refused, as Triton does: it is a slip of the pen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from slipway_runtime.errors import BadModel
from slipway_runtime.models import description as descriptions
from slipway_runtime.models.config import (
    Control,
    ControlKind,
    DynamicBatching,
    EnsembleStep,
    InstanceGroup,
    Kind,
    ModelConfig,
    QueuePolicy,
    SequenceBatching,
    VersionPolicy,
    Warmup,
    WarmupInput,
)
from slipway_runtime.models.description import Description
from slipway_runtime.models.fields import Fields, whole
from slipway_runtime.models.overrides import Overrides, applied
from slipway_runtime.tensors import DTYPES, TensorSpec

JSON_FILE = "config.json"
TEXT_FILE = "config.pbtxt"
DATATYPES = (*DTYPES, "BYTES")
NOTHING_SAID = Overrides()
_IGNORED = ("runtime", "optimization", "metric_tags", "model_metrics")
_CONTROLS: dict[str, ControlKind] = {
    "CONTROL_SEQUENCE_START": "START",
    "CONTROL_SEQUENCE_END": "END",
    "CONTROL_SEQUENCE_READY": "READY",
    "CONTROL_SEQUENCE_CORRID": "CORRID",
}


def read_config(folder: Path, said: Overrides = NOTHING_SAID) -> ModelConfig:
    """The config in a model's folder, an empty one if there is none, with what a service says over it.

    Raises:
        BadModel: it cannot be read, or asks for what is not served.  BadConfig: `said` does not go with it.
    """
    text, as_json = folder / TEXT_FILE, folder / JSON_FILE
    if text.exists() and as_json.exists():
        raise BadModel(f"folder '{folder}' has {JSON_FILE} and {TEXT_FILE}; keep one of them")
    description = descriptions.read(folder)
    batch = {} if description is None or description.max_batch is None else {"max_batch_size": description.max_batch}
    path = text if text.exists() else as_json
    if not path.exists():
        return _described(said_config(said, batch), description)
    data = path.read_bytes()
    raw = _from_text(data, path) if path is text else _from_json(data, path)
    config = config_of(applied({**batch, **raw}, said) if isinstance(raw, dict) else raw, str(path))
    return _described(_with_labels(config, folder), description)


def _described(config: ModelConfig, found: Description | None) -> ModelConfig:
    """With the tensors that the description names and the config, or the service, does not.

    Raises:
        BadModel: they contradict each other.
    """
    if found is None:
        return config
    fixed = [spec for spec in (*found.inputs, *found.outputs) if spec.shape and spec.shape[0] != -1]
    if config.max_batch and fixed:
        raise BadModel(
            f"'{found.path}' says {_shown(fixed[0])}, which has no batch, but the largest batch is {config.max_batch}; "
            "let the shape begin with -1, or the batch be 0"
        )
    for kind, own, others in (("input", config.inputs, found.inputs), ("output", config.outputs, found.outputs)):
        _check_alike(kind, own, others, found)
    named = [spec for spec in found.inputs if spec.name]
    return replace(
        config,
        inputs=config.inputs or tuple(named),
        outputs=config.outputs or found.outputs,
        filename=config.filename or found.file,
        description=found,
        ignored=(*config.ignored, *found.ignored),
    )


def _check_alike(kind: str, own: Sequence[TensorSpec], others: Sequence[TensorSpec], found: Description) -> None:
    if not own or not others:
        return
    theirs = {spec.name: spec for spec in others}
    for spec in own:
        # One without a name is the only one.
        other = theirs.get(spec.name) or (theirs.get("") if len(own) == 1 else None)
        if other is None or spec.datatype != other.datatype or not _is_alike(spec, other):
            raise BadModel(
                f"the service, or the config of the model, says {kind} {_shown(spec)}, but '{found.path}' says "
                f"{', '.join(map(_shown, others))}; correct one of them"
            )
    if len(own) != len(others):
        raise BadModel(
            f"the service, or the config of the model, says {len(own)} {kind}s, but '{found.path}' says {len(others)}; "
            "correct one of them"
        )


def _is_alike(left: TensorSpec, right: TensorSpec) -> bool:
    if left.shape is None or right.shape is None:
        return True
    sizes = zip(left.shape, right.shape, strict=False)
    return len(left.shape) == len(right.shape) and all(a == b or -1 in (a, b) for a, b in sizes)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name or 'one'} {spec.datatype} {list(spec.shape or ())}"


def said_config(said: Overrides, beneath: Mapping[str, Any] = MappingProxyType({})) -> ModelConfig:
    """Of a model that has none of its own."""
    return config_of(applied(beneath, said), "the options of the model")


def config_of(raw: Any, source: str) -> ModelConfig:
    """A config from JSON values, of a file or of a request that loads a model. `source` names it in sentences."""
    try:
        return _config(Fields(raw))
    except (TypeError, ValueError) as exc:
        raise BadModel(f"'{source}' is not a model config that can be served: {exc}; correct it") from exc


def _from_json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except ValueError as exc:
        raise BadModel(f"'{path}' is not JSON: {exc}; correct it") from exc


def _from_text(data: bytes, path: Path) -> Any:
    # Imported here: it brings gRPC along, which a server of JSON configs by REST does without.
    from google.protobuf import json_format, text_format  # noqa: PLC0415
    from tritonclient.grpc import model_config_pb2  # noqa: PLC0415

    try:
        message = text_format.Parse(data.decode(), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as exc:
        raise BadModel(f"'{path}' is not a ModelConfig in protobuf text form: {exc}; correct it") from exc
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _with_labels(config: ModelConfig, folder: Path) -> ModelConfig:
    for output, name in config.label_files.items():
        if Path(name).name != name:
            raise BadModel(f"label_filename '{name}' of output '{output}' must be a name without a folder")
        try:
            lines = (folder / name).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadModel(f"label_filename '{name}' of output '{output}' cannot be read: {exc}") from exc
        cast("dict[str, tuple[str, ...]]", config.labels)[output] = tuple(line.strip() for line in lines)
    return config


def _config(top: Fields) -> ModelConfig:
    max_batch = top.whole("max_batch_size", high=1 << 20)
    top.refuse("batch_input", "batch_output", "cc_model_filenames", "model_operations", "model_repository_agents")
    ignored = [*top.ignore(*_IGNORED)]
    outputs = top.children("output")
    labels = {item.text("name"): name for item in outputs if (name := item.text("label_filename"))}
    config = ModelConfig(
        name=top.text("name"),
        platform=top.text("platform"),
        backend=top.text("backend"),
        max_batch=max_batch,
        inputs=tuple(_spec(item, ignored, batched=max_batch > 0) for item in top.children("input")),
        outputs=tuple(_spec(item, ignored, batched=max_batch > 0) for item in outputs),
        label_files=labels,
        dynamic_batching=_dynamic(top.child("dynamic_batching"), ignored),
        sequence_batching=_sequence(top.child("sequence_batching"), ignored),
        ensemble=_ensemble(top.child("ensemble_scheduling"), ignored),
        instances=tuple(_instances(item, ignored) for item in top.children("instance_group")),
        version_policy=_versions(top.child("version_policy")),
        response_cache=_switch(top.child("response_cache"), "enable"),
        decoupled=_switch(top.child("model_transaction_policy"), "decoupled"),
        warmup=tuple(_warmup(item) for item in top.children("model_warmup")),
        filename=top.text("default_model_filename"),
        parameters=_parameters(top),
        ignored=tuple(sorted(ignored)),
    )
    top.end()
    _check(config)
    return config


def _check(config: ModelConfig) -> None:
    """What no field shows alone."""
    chosen = [config.dynamic_batching, config.sequence_batching, config.ensemble or None]
    if sum(choice is not None for choice in chosen) > 1:
        raise ValueError("only one of dynamic_batching, sequence_batching and ensemble_scheduling can be chosen")
    for kind, specs in (("input", config.inputs), ("output", config.outputs)):
        names = [spec.name for spec in specs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{kind} {min(twice)!r} is there twice")
    batching = config.dynamic_batching or config.sequence_batching
    if batching and (large := [size for size in batching.preferred_batch_size if size > config.max_batch]):
        raise ValueError(f"preferred_batch_size {large[0]} is larger than max_batch_size {config.max_batch}")
    if Path(config.filename).name != config.filename:
        raise ValueError(f"default_model_filename is {config.filename!r}, must be a name without a folder")
    if config.decoupled and config.response_cache:
        raise ValueError("response_cache cannot hold the streams of a decoupled model")


def _datatype(item: Fields) -> str:
    given = item.get("data_type")
    datatype = str(given).removeprefix("TYPE_").replace("STRING", "BYTES")
    if not str(given).startswith("TYPE_") or datatype not in DATATYPES or given == "TYPE_BYTES":
        raise ValueError(
            f"{item.path('data_type')} is {given!r}, must be TYPE_ and one of {', '.join(DTYPES)} or STRING"
        )
    return datatype


def _spec(item: Fields, ignored: list[str], *, batched: bool) -> TensorSpec:
    name = item.text("name")
    if not name:
        raise TypeError(f"{item.path('name')} must be a string that is not empty")
    item.refuse("reshape", "is_shape_tensor", "is_non_linear_format_io", "allow_ragged_batch", "optional")
    if item.get("format") not in (None, "FORMAT_NONE"):
        ignored.append(item.path("format"))
    item.get("label_filename")
    datatype, dims = _datatype(item), item.wholes("dims", low=-1)
    item.end()
    return TensorSpec(name, datatype, (-1, *dims) if batched else dims)


def _queue_policy(item: Fields | None) -> QueuePolicy | None:
    if item is None:
        return None
    policy = QueuePolicy(
        timeout_action=cast("Any", item.choice("timeout_action", ("REJECT", "DELAY"), "REJECT")),
        default_timeout_us=item.whole("default_timeout_microseconds"),
        allow_timeout_override=item.flag("allow_timeout_override"),
        max_queue_size=item.whole("max_queue_size"),
    )
    item.end()
    return policy


def _dynamic(item: Fields | None, ignored: list[str]) -> DynamicBatching | None:
    if item is None:
        return None
    ignored.extend(item.ignore("preserve_ordering"))
    policies = item.mapping("priority_queue_policy")
    where = item.path("priority_queue_policy")
    by_level = {
        whole(level, where, low=1): _queue_policy(Fields(raw, f"{where}[{level}]")) for level, raw in policies.items()
    }
    batching = DynamicBatching(
        preferred_batch_size=item.wholes("preferred_batch_size", low=1),
        max_queue_delay_us=item.whole("max_queue_delay_microseconds"),
        priority_levels=item.whole("priority_levels"),
        default_priority_level=item.whole("default_priority_level"),
        default_queue_policy=_queue_policy(item.child("default_queue_policy")),
        priority_queue_policy={level: policy for level, policy in by_level.items() if policy},
    )
    item.end()
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        raise ValueError(f"{item.path('default_priority_level')} is {default}, must be from 1 to {levels}")
    if by_level and max(by_level) > levels:
        raise ValueError(f"{where} has level {max(by_level)}, but priority_levels is {levels}")
    return batching


def _sequence(item: Fields | None, ignored: list[str]) -> SequenceBatching | None:
    if item is None:
        return None
    item.refuse("state", "iterative_sequence", why="which is not supported; keep the state in the model")
    direct, oldest = item.child("direct"), item.child("oldest")
    if direct is not None and oldest is not None:
        raise ValueError(f"{item.where} has direct and oldest; choose one")
    how = oldest or direct or Fields({}, item.path("direct"))
    ignored.extend(how.ignore("minimum_slot_utilization", "preserve_ordering"))
    batching = SequenceBatching(
        strategy="oldest" if oldest is not None else "direct",
        max_sequence_idle_us=item.whole("max_sequence_idle_microseconds") or 1_000_000,
        max_candidate_sequences=how.whole("max_candidate_sequences") if oldest is not None else 0,
        preferred_batch_size=how.wholes("preferred_batch_size", low=1) if oldest is not None else (),
        max_queue_delay_us=how.whole("max_queue_delay_microseconds"),
        controls=tuple(control for tensor in item.children("control_input") for control in _controls(tensor)),
    )
    how.end()
    item.end()
    return batching


def _controls(tensor: Fields) -> list[Control]:
    name, items = tensor.text("name"), tensor.children("control")
    if not name or len(items) != 1:
        raise ValueError(f"{tensor.where} must have a name and exactly one control")
    tensor.end()
    item = items[0]
    kind = _CONTROLS[item.choice("kind", _CONTROLS, "CONTROL_SEQUENCE_START")]
    if kind == "CORRID":
        control = Control(name, kind, _datatype(item))
        item.end()
        return [control]
    item.get("data_type")
    pairs = {"INT32": item.get("int32_false_true"), "FP32": item.get("fp32_false_true"), "BOOL": None}
    pairs["BOOL"] = item.get("bool_false_true")
    given = {datatype: pair for datatype, pair in pairs.items() if pair}
    item.end()
    if len(given) != 1 or any(not isinstance(pair, list) or len(pair) != 2 for pair in given.values()):
        raise ValueError(f"{item.where} must have one of int32_, fp32_ and bool_false_true, with two values")
    ((datatype, (off, on)),) = given.items()
    return [Control(name, kind, datatype, off, on)]


def _ensemble(item: Fields | None, ignored: list[str]) -> tuple[EnsembleStep, ...]:
    if item is None:
        return ()
    ignored.extend(item.ignore("max_inflight_requests"))
    steps = []
    for step in item.children("step"):
        step.refuse("model_namespace")
        model = step.text("model_name")
        version = step.whole("model_version", low=-1, default=-1)
        if not model:
            raise ValueError(f"{step.path('model_name')} is missing")
        steps.append(EnsembleStep(model, version, step.texts("input_map"), step.texts("output_map")))
        step.end()
    item.end()
    if not steps:
        raise ValueError(f"{item.where} has no step")
    return tuple(steps)


def _instances(item: Fields, ignored: list[str]) -> InstanceGroup:
    item.refuse("secondary_devices", "passive")
    ignored.extend(item.ignore("rate_limiter", "profile", "host_policy"))
    group = InstanceGroup(
        name=item.text("name"),
        kind=cast("Kind", item.choice("kind", ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"), "KIND_AUTO")),
        count=item.whole("count", high=256) or 1,
        gpus=item.wholes("gpus"),
    )
    item.end()
    if group.kind == "KIND_CPU" and group.gpus:
        raise ValueError(f"{item.where} has gpus, but its kind is KIND_CPU")
    return group


def _versions(item: Fields | None) -> VersionPolicy:
    if item is None:
        return VersionPolicy()
    latest, every, specific = item.child("latest"), item.child("all"), item.child("specific")
    item.end()
    if sum(choice is not None for choice in (latest, every, specific)) > 1:
        raise ValueError(f"{item.where} must have one of latest, all and specific")
    policy = VersionPolicy()
    if latest is not None:
        policy = VersionPolicy(latest=latest.whole("num_versions", default=0) or 1)
    elif every is not None:
        policy = VersionPolicy(latest=0)
    elif specific is not None:
        policy = VersionPolicy(latest=0, specific=specific.wholes("versions", low=1))
        if not policy.specific:
            raise ValueError(f"{specific.path('versions')} names no version")
    return policy


def _switch(item: Fields | None, key: str) -> bool:
    if item is None:
        return False
    on = item.flag(key)
    item.end()
    return on


def _warmup(item: Fields) -> Warmup:
    inputs = []
    for name, raw in item.mapping("inputs").items():
        tensor = Fields(raw, f"{item.where}.inputs[{name}]")
        zero, random, file = tensor.flag("zero_data"), tensor.flag("random_data"), tensor.text("input_data_file")
        if Path(file).name != file:
            raise ValueError(f"{tensor.path('input_data_file')} is {file!r}, must be a name without a folder")
        source: Literal["zero", "random", "file"] = "file" if file else "random" if random and not zero else "zero"
        inputs.append(WarmupInput(name, _datatype(tensor), tensor.wholes("dims", low=1), source, file))
        tensor.end()
    warmup = Warmup(item.text("name"), item.whole("batch_size", high=1 << 20), item.whole("count") or 1, tuple(inputs))
    item.end()
    if not inputs:
        raise ValueError(f"{item.where} has no inputs")
    return warmup


def _parameters(top: Fields) -> dict[str, str]:
    parameters = {}
    for key, raw in top.mapping("parameters").items():
        item = Fields(raw, f"parameters[{key}]")
        parameters[key] = item.text("string_value")
        item.end()
    return parameters
