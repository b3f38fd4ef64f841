"""Reading Triton's ModelConfig from JSON and protobuf text, and saying it again as Triton's clients expect it."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2

from slipway_runtime.errors import BadModel
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
    WarmupInput,
)
from slipway_runtime.models.config_reader import config_of, read_config
from slipway_runtime.models.config_writer import to_proto, to_triton_json
from slipway_runtime.models.options import Options, options_of
from slipway_runtime.tensors import Metadata, TensorSpec

TEXT = """
name: "all"
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4, -1 ] format: FORMAT_NONE } ]
input { name: "s" data_type: TYPE_STRING dims: 1 }
output { name: "y" data_type: TYPE_BF16 dims: [ 3 ] label_filename: "labels.txt" }
version_policy { specific { versions: [ 3, 1 ] } }
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0, 1 ] } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 7 allow_timeout_override: true }
  priority_queue_policy { key: 1 value { max_queue_size: 5 } }
}
response_cache { enable: true }
model_warmup {
  name: "w" batch_size: 2 count: 3
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [4, 2] random_data: true } }
}
parameters { key: "device" value { string_value: "cpu" } }
parameters { key: "mine" value { string_value: "1" } }
optimization { cuda { graphs: true } }
"""
ALL = ModelConfig(
    name="all",
    backend="python",
    max_batch=8,
    inputs=(TensorSpec("x", "FP32", (-1, 4, -1)), TensorSpec("s", "BYTES", (-1, 1))),
    outputs=(TensorSpec("y", "BF16", (-1, 3)),),
    label_files={"y": "labels.txt"},
    labels={"y": ("cat", "dog")},
    dynamic_batching=DynamicBatching(
        preferred_batch_size=(4, 8),
        max_queue_delay_us=100,
        priority_levels=3,
        default_priority_level=2,
        default_queue_policy=QueuePolicy("DELAY", 7, allow_timeout_override=True),
        priority_queue_policy={1: QueuePolicy(max_queue_size=5)},
    ),
    instances=(InstanceGroup("", "KIND_CPU", 2), InstanceGroup("", "KIND_GPU", 1, (0, 1))),
    version_policy=VersionPolicy(latest=0, specific=(3, 1)),
    response_cache=True,
    warmup=(Warmup("w", 2, 3, (WarmupInput("x", "FP32", (4, 2), "random"),)),),
    parameters={"device": "cpu", "mine": "1"},
    ignored=("optimization",),
)


def test_protobuf_text_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(TEXT)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert read_config(tmp_path) == ALL


def test_json_and_protobuf_text_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(TEXT)
    (tmp_path / "labels.txt").write_text("cat\ndog")
    metadata = Metadata("python", ALL.inputs, ALL.outputs, ALL.max_batch)
    again = config_of(to_triton_json(read_config(tmp_path), metadata), "the answer")
    written_out = {"labels": {}, "platform": "python"}
    for name in ModelConfig.__slots__:
        if name not in ("instances", "ignored", *written_out):
            assert getattr(again, name) == getattr(ALL, name), name


SEQUENCE: dict[str, Any] = {
    "max_batch_size": 4,
    "sequence_batching": {
        "oldest": {"max_candidate_sequences": 16, "preferred_batch_size": [4], "max_queue_delay_microseconds": "50"},
        "max_sequence_idle_microseconds": 5000,
        "control_input": [
            {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "int32_false_true": [0, 1]}]},
            {"name": "READY", "control": [{"kind": "CONTROL_SEQUENCE_READY", "fp32_false_true": [0, 2]}]},
            {"name": "ID", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_UINT64"}]},
        ],
    },
}


def test_sequences_and_their_control_inputs_are_read() -> None:
    assert config_of(SEQUENCE, "c").sequence_batching == SequenceBatching(
        "oldest",
        5000,
        16,
        (4,),
        50,
        (
            Control("START", "START", "INT32"),
            Control("READY", "READY", "FP32", 0, 2),
            Control("ID", "CORRID", "UINT64"),
        ),
    )


STEP = {"model_name": "a", "model_version": -1, "input_map": {"x": "IN"}, "output_map": {"y": "OUT"}}


def test_ensembles_are_read() -> None:
    config = config_of({"platform": "ensemble", "ensemble_scheduling": {"step": [STEP, {"model_name": "b"}]}}, "c")
    assert config.ensemble == (EnsembleStep("a", -1, {"x": "IN"}, {"y": "OUT"}), EnsembleStep("b", -1, {}, {}))


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        pytest.param(VersionPolicy(), (4,), id="the latest, if nothing is said"),
        pytest.param(VersionPolicy(latest=2), (3, 4), id="the latest two"),
        pytest.param(VersionPolicy(latest=0), (1, 3, 4), id="all"),
        pytest.param(VersionPolicy(latest=0, specific=(3, 2)), (3,), id="of those named the ones that are there"),
    ],
)
def test_a_policy_chooses_versions(policy: VersionPolicy, served: tuple[int, ...]) -> None:
    assert policy.choose((4, 1, 3)) == served


CONTROL = {"name": "S", "control": [{"kind": "CONTROL_SEQUENCE_START"}]}
X = {"name": "x", "data_type": "TYPE_FP32", "dims": [4]}


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        pytest.param({"maxBatchSize": 3}, "it has 'maxBatchSize', which no model config has", id="unknown field"),
        pytest.param({"input": [{**X, "optional": True}]}, r"input\[0\] has optional, which is not", id="optional"),
        pytest.param({"input": [{**X, "shap": [1]}]}, r"input\[0\] has 'shap', which no", id="slip of the pen"),
        pytest.param({"input": [X, X]}, "input 'x' is there twice", id="twice"),
        pytest.param({"batch_input": [{}]}, "it has batch_input, which is not supported", id="batch_input"),
        pytest.param({"max_batch_size": 2**31}, "must be at most 1048576", id="huge batch"),
        pytest.param({"dynamic_batching": {}, "sequence_batching": {}}, "only one of dynamic_batching", id="two ways"),
        pytest.param({"dynamic_batching": {"priority_levels": 2}}, "is 0, must be from 1 to 2", id="default level"),
        pytest.param(
            {"dynamic_batching": {"priority_queue_policy": {"1": {}}}}, "level 1, but priority_levels is 0", id="level"
        ),
        pytest.param(
            {"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}}, "8 is larger than", id="preferred"
        ),
        pytest.param(
            {"dynamic_batching": {"default_queue_policy": {"timeout_action": "WAIT"}}}, "'WAIT', must be", id="action"
        ),
        pytest.param({"sequence_batching": {"state": [{}, {}]}}, "keep the state in the model", id="implicit state"),
        pytest.param({"sequence_batching": {"direct": {}, "oldest": {}}}, "choose one", id="two strategies"),
        pytest.param({"sequence_batching": {"control_input": [CONTROL]}}, "must have one of int32_", id="control"),
        pytest.param({"ensemble_scheduling": {"step": []}}, "ensemble_scheduling has no step", id="no step"),
        pytest.param({"ensemble_scheduling": {"step": [{}]}}, r"step\[0\].model_name is missing", id="step"),
        pytest.param({"instance_group": [{"kind": "KIND_CPU", "gpus": [0]}]}, "its kind is KIND_CPU", id="gpus"),
        pytest.param({"instance_group": [{"passive": True}]}, "has passive, which is not supported", id="passive"),
        pytest.param({"instance_group": {}}, "instance_group must be a list", id="no list"),
        pytest.param({"version_policy": {"latest": {}, "all": {}}}, "must have one of latest, all", id="versions"),
        pytest.param({"version_policy": {"specific": {}}}, "names no version", id="no version"),
        pytest.param({"response_cache": {"enable": 1}}, "enable is 1, must be true or false", id="flag"),
        pytest.param({"default_model_filename": "../a.pt"}, "must be a name without a folder", id="climbs"),
        pytest.param({"model_warmup": [{"name": "w"}]}, r"model_warmup\[0\] has no inputs", id="warm-up"),
        pytest.param({"parameters": {"a": "b"}}, r"parameters\[a\] is a str, must be an object", id="parameter"),
        pytest.param(
            {"response_cache": {"enable": True}, "model_transaction_policy": {"decoupled": True}},
            "cannot hold the streams",
            id="cached streams",
        ),
    ],
)
def test_what_would_change_answers_is_refused(raw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        config_of(raw, "config.json")


@pytest.mark.parametrize("text", ['nam: "x"', "\xff", 'name: "x" name'], ids=["field", "bytes", "syntax"])
def test_wrong_protobuf_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.pbtxt").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadModel, match="is not a ModelConfig in protobuf text form"):
        read_config(tmp_path)


def test_two_configs_or_no_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"output": [{**X, "label_filename": "no.txt"}]}))
    with pytest.raises(BadModel, match=r"label_filename 'no.txt' of output 'x' cannot be read"):
        read_config(tmp_path)
    (tmp_path / "config.pbtxt").write_text("")
    with pytest.raises(BadModel, match="keep one of them"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(ModelConfig(), id="nothing said"),
        pytest.param(ALL, id="everything"),
        pytest.param(config_of(SEQUENCE, "c"), id="sequences"),
        pytest.param(config_of({"ensemble_scheduling": {"step": [STEP]}}, "c"), id="an ensemble"),
        pytest.param(config_of({"version_policy": {"all": {}}, "max_batch_size": 2}, "c"), id="all versions"),
    ],
)
def test_the_answer_is_what_protobuf_prints_with_every_default(config: ModelConfig) -> None:
    """The oracle is protobuf's own printer on the message that gRPC clients get."""
    metadata = Metadata("python", config.inputs, (*config.outputs, TensorSpec("unknown")), config.max_batch)
    said = to_triton_json(config, metadata, "m")
    message = to_proto(config, metadata, "m")
    assert isinstance(message, model_config_pb2.ModelConfig)
    printed = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    assert _numbers_as_text(said) == _numbers_as_text(_without_empty_messages(printed, said))
    assert json.loads(json.dumps(said)) == said


def _without_empty_messages(printed: Any, said: Any) -> Any:
    """What protobuf adds for lists of messages that Triton has at their place and we have nothing for."""
    for key in ("model_metrics",):
        if key not in said:
            printed.pop(key, None)
    for missing in printed.keys() - said.keys():
        assert printed[missing] in ([], {}), missing
    return {key: value for key, value in printed.items() if key in said}


def _numbers_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers_as_text(item) for item in value]
    return (
        str(float(value))
        if isinstance(value, int | float) and not isinstance(value, bool)
        else (str(float(value)) if isinstance(value, str) and value.removeprefix("-").isdecimal() else value)
    )


def test_the_answer_says_the_scheduling_that_is_really_there() -> None:
    batched = Metadata("pytorch_export", (TensorSpec("x", "FP32", (-1, 4)),), (), 8)
    said = to_triton_json(ModelConfig(max_batch=8), batched, "m")
    assert said["dynamic_batching"]["preferred_batch_size"] == []
    assert (said["backend"], said["input"][0]["dims"]) == ("pytorch", [4])
    assert "dynamic_batching" not in to_triton_json(ModelConfig(), Metadata("python", (), ()), "m")


def with_parameters(max_batch: int = 0, **parameters: str) -> ModelConfig:
    return ModelConfig(max_batch=max_batch, parameters=parameters)


def test_our_own_options_are_read_from_the_parameters() -> None:
    assert options_of(ModelConfig()) == Options()
    assert options_of(with_parameters(12, compile="on")).buckets == (1, 2, 4, 8, 12)
    assert options_of(with_parameters(12, compile="on", buckets="3, 6")).buckets == (3, 6, 12)
    options = options_of(
        ModelConfig(parameters={"class": "a.b:C", "class_args": '{"n": 3}', "dtype": "bfloat16", "z": ""})
    )
    assert (options.class_name, options.class_args, options.dtype, options.others) == (
        "a.b:C",
        {"n": 3},
        "bfloat16",
        ("z",),
    )


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        pytest.param({"dtype": "int4"}, "'dtype' is 'int4', must be one of float32, bfloat16, float16", id="dtype"),
        pytest.param({"compile": "true"}, "'compile' is 'true', must be one of off, on", id="compile"),
        pytest.param({"buckets": "1,2"}, "without compile=on", id="buckets alone"),
        pytest.param({"compile": "on", "buckets": "1,9"}, "must be numbers from 1 to 8", id="large bucket"),
        pytest.param({"quantization": "int8"}, "must be one of none, dynamic-int8, static-int8", id="quantization"),
        pytest.param({"device": "tpu"}, "must be auto, cpu, cuda or cuda:N", id="device"),
        pytest.param({"class": "os.system"}, "must be MODULE:CLASS", id="class"),
        pytest.param({"class_args": "[]"}, "must be a JSON object", id="arguments"),
        pytest.param({"class_args": "{"}, "is not JSON", id="arguments that are no JSON"),
        pytest.param({"shards": "0"}, "'shards' is '0', must be a whole number from 1 to 64", id="no shards"),
        pytest.param({"shards": "65"}, "'shards' is '65', must be a whole number from 1 to 64", id="many shards"),
        pytest.param({"shards": "2", "compile": "on"}, "'compile' is not there for a model in shards", id="compiled"),
        pytest.param(
            {"shards": "2", "quantization": "dynamic-int8"}, "'quantization' is not there for", id="int8 shards"
        ),
        pytest.param({"shards": "2", "instances": "threads"}, "'instances' is 'threads', but shards", id="threads"),
    ],
)
def test_wrong_options_are_refused(parameters: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        options_of(with_parameters(8, **parameters))
