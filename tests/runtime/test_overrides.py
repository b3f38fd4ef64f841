"""What a service says over a model's own config: read as it is written, put in place of the config's own word."""

import json
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime.errors import BadConfig
from slipway_runtime.models.config import InstanceGroup, ModelConfig, VersionPolicy
from slipway_runtime.models.config_reader import read_config
from slipway_runtime.models.options import options_of
from slipway_runtime.models.overrides import read
from slipway_runtime.repository import ModelFiles
from slipway_runtime.settings import read_settings
from slipway_runtime.tensors import TensorSpec

FILE: dict[str, Any] = {
    "max_batch_size": 8,
    "input": [{"name": "old", "data_type": "TYPE_FP32", "dims": [4]}],
    "dynamic_batching": {
        "preferred_batch_size": [4],
        "max_queue_delay_microseconds": 100,
        "priority_levels": 2,
        "default_priority_level": 1,
    },
    "instance_group": [{"count": 3, "kind": "KIND_CPU"}],
    "response_cache": {"enable": True},
    "parameters": {"dtype": {"string_value": "float16"}, "mine": {"string_value": "kept"}},
}


def config(folder: Path, own: dict[str, Any] | None, **said: Any) -> ModelConfig:
    if own is not None:
        (folder / "config.json").write_text(json.dumps(own))
    return read_config(folder, read(json.dumps(said)))


def test_nothing_said_changes_nothing(tmp_path: Path) -> None:
    assert config(tmp_path, FILE) == read_config(tmp_path)
    assert read("") == read("{}")


def test_what_is_said_goes_before_the_file_and_the_rest_of_it_stays(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        FILE,
        maxBatchSize=16,
        maxQueueDelayMicroseconds=2000,
        inputs=[{"name": "x", "datatype": "BYTES", "shape": [-1]}],
        instances=2,
        versions="2,5",
        responseCache=False,
        dtype="bfloat16",
        compile=True,
        batchBuckets=[1, 4, 16],
    )
    batching = found.dynamic_batching
    assert found.max_batch == 16
    assert batching is not None
    assert (batching.preferred_batch_size, batching.max_queue_delay_us, batching.priority_levels) == ((4,), 2000, 2)
    assert found.inputs == (TensorSpec("x", "BYTES", (-1, -1)),)
    assert found.instances == (InstanceGroup(kind="KIND_CPU", count=2),)
    assert found.version_policy == VersionPolicy(latest=0, specific=(2, 5))
    assert not found.response_cache
    assert found.parameters["mine"] == "kept"
    own = options_of(found)
    assert (own.dtype, own.compile, own.buckets) == ("bfloat16", True, (1, 4, 16))


@pytest.mark.parametrize(
    ("said", "policy"),
    [("all", VersionPolicy(latest=0)), ("latest:3", VersionPolicy(latest=3)), ("1", VersionPolicy(0, (1,)))],
)
def test_versions_are_a_policy(tmp_path: Path, said: str, policy: VersionPolicy) -> None:
    assert config(tmp_path, None, versions=said).version_policy == policy


def test_a_device_is_that_of_every_instance_there_is(tmp_path: Path) -> None:
    assert config(tmp_path, FILE, device="gpu").instances == (InstanceGroup(kind="KIND_GPU", count=3),)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"maxBatchSize": -1}, "maxBatchSize is -1, must be a whole number >= 0"),
        ({"maxBatchSize": True}, "maxBatchSize is True, must be"),
        ({"instances": 257}, "instances is 257, must be at most 256"),
        ({"maxQueueDelayMicroseconds": 10_000_001}, "maxQueueDelayMicroseconds is 10000001, must be at most 10000000"),
        ({"maxQueueDelayMicroseconds": "2ms"}, "must be a whole number >= 0"),
        ({"device": "tpu"}, "device is 'tpu', must be one of cpu, gpu"),
        ({"dtype": "int4"}, "dtype is 'int4', must be one of float32"),
        ({"versions": "newest"}, "versions is 'newest', must be all, latest:N"),
        ({"warmUp": "yes"}, "warmUp is 'yes', must be true or false"),
        ({"inputs": [{"name": "x", "shape": [1]}]}, r"inputs\[0\] must have a name and a datatype"),
        ({"inputs": [{"name": "x", "datatype": "FP32"}] * 2}, "inputs names 'x' twice"),
        ({"max_batch_size": 1}, "has 'max_batch_size'"),
        ([], "must be an object"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(said: Any, words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        read(json.dumps(said))


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(BadConfig, match="SLIPWAY_MODEL_OPTIONS"):
        read("{")


@pytest.mark.parametrize("field", ["ensemble_scheduling", "sequence_batching"])
def test_what_a_model_that_batches_itself_cannot_have_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(BadConfig, match=f"option maxQueueDelayMicroseconds is not for a model with {field}"):
        config(tmp_path, {field: {}}, maxQueueDelayMicroseconds=1)


@pytest.mark.timeout(300)
def test_a_model_is_loaded_as_was_said(samples: Path) -> None:
    said = {"maxBatchSize": 2, "instances": 1, "device": "cpu", "responseCache": True}
    for place in ("hello", "hello/model.pt2"):
        model = next((samples / "hello").glob("model.*")) if "/" in place else samples / place
        env = {"SLIPWAY_MODEL_PATH": str(model), "SLIPWAY_MODEL_OPTIONS": json.dumps(said)}
        files = ModelFiles(read_settings(["serve"], env))
        (name,) = files.initial()
        (version,) = files.load(name, None)
        try:
            assert version.config()["max_batch_size"] == 2
            assert version.config()["response_cache"] == {"enable": True}
        finally:
            version.close()


def test_warm_up_is_not_said_to_a_server_that_always_does_it(samples: Path) -> None:
    settings = read_settings(["serve", "--model", str(samples / "hello"), "--model-options", '{"warmUp": false}'], {})
    with pytest.raises(BadConfig, match="option warmUp of the model is not for slipway-runtime"):
        ModelFiles(settings).initial()


def test_options_are_of_one_model() -> None:
    with pytest.raises(BadConfig, match="--model-options are of one model"):
        read_settings(["serve", "--repository", "/m", "--model-options", "{}"], {})
