"""Whose word counts in config.pbtxt, and that it is written for each backend as reviewed."""

import json
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime.errors import BadConfig
from slipway_runtime.triton import config
from slipway_runtime.triton.__main__ import prepare
from slipway_runtime.triton.install import Home
from slipway_runtime.triton.messages import parse, to_text
from tests import golden
from tests.runtime.triton.folders import CODE, ENSEMBLE, INPUT, ONNX, OUTPUT, put, settings, torchscript

FULL = ("onnxruntime", "tensorrt", "pytorch", "python")
OPERATOR = {"MAX_QUEUE": "1000", "TIMEOUT_S": "10"}
TENSORS = ("--input", "x:FP32:3x-1x-1", "--output", "y:INT64:5")


def settled(folder: Path, files: dict[str, str | bytes], *argv: str, backends: Any = FULL, **env: str) -> list[Any]:
    for name in backends:
        (folder / "triton" / "backends" / name).mkdir(parents=True)
    asked = settings(put(folder / "m", files), "--allow-code", "true", *argv, **env)
    return [one.config for one in prepare(asked, Home(folder / "triton"))]


GOLDEN: dict[str, tuple[dict[str, str | bytes], tuple[str, ...], tuple[str, ...]]] = {
    "onnx": ({"model.onnx": ONNX}, (), FULL),
    "onnx-adapted": ({"net.onnx": ONNX}, ("--max-batch-size", "8"), ("python",)),
    "tensorrt": (
        {"model.plan": b"plan"},
        ("--max-batch-size", "32", "--instances", "2", "--device", "gpu", "--preferred-batch-sizes", "8,16"),
        FULL,
    ),
    "pytorch": ({"model.pt": torchscript()}, (*TENSORS, "--max-batch-size", "16", "--warm-up", "true"), FULL),
    "python": (
        {"1/model.py": CODE, "2/model.py": CODE, "config.pbtxt": f"max_batch_size: 8 {INPUT} {OUTPUT}"},
        ("--versions", "1,2", "--cache-bytes", "1048576", "--max-queue-delay", "0.005"),
        FULL,
    ),
    "ensemble": (
        {"double/1/model.py": CODE, "increase/1/model.onnx": ONNX, "chain/config.pbtxt": ENSEMBLE},
        ("--versions", "latest:2"),
        FULL,
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_each_backend_gets_the_reviewed_config(tmp_path: Path, name: str) -> None:
    files, argv, backends = GOLDEN[name]
    texts = [to_text(one) for one in settled(tmp_path, files, *argv, backends=backends, **OPERATOR)]
    golden.check(f"triton/{name}.pbtxt", "\n".join(texts))


OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "shape": (
        (*TENSORS, "--max-batch-size", "16", "--warm-up", "true"),
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [3, -1, -1]}],
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [5]}],
            "maxBatchSize": 16,
            "warmUp": True,
        },
    ),
    "batches and instances": (
        (*("--preferred-batch-sizes", "4,8", "--max-queue-delay", "0.002"), *("--instances", "2", "--device", "gpu")),
        {"preferredBatchSizes": [4, 8], "maxQueueDelayMicroseconds": 2000, "instances": 2, "device": "gpu"},
    ),
    "cache": (("--cache-bytes", "1048576"), {"responseCache": True}),
    "the latest two": (("--versions", "latest:2"), {"versions": "latest:2"}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_the_api_says_what_the_argument_says(tmp_path: Path, name: str) -> None:
    argv, options = OPTIONS[name]
    files: dict[str, str | bytes] = {"model.onnx": ONNX, "config.pbtxt": FILE}
    assert settled(tmp_path / "a", files, MODEL_OPTIONS=json.dumps(options)) == settled(tmp_path / "b", files, *argv)


def test_an_option_can_also_take_away_what_the_file_says(tmp_path: Path) -> None:
    file = f'{INPUT} response_cache {{ enable: true }} model_warmup {{ name: "own" batch_size: 1 }}'
    said = json.dumps({"responseCache": False, "warmUp": False})
    [one] = settled(tmp_path, {"model.onnx": ONNX, "config.pbtxt": file}, MODEL_OPTIONS=said)
    assert (one.response_cache.enable, len(one.model_warmup)) == (False, 0)


def test_names_with_quotes_and_braces_stay_names(tmp_path: Path) -> None:
    name = 'x" } instance_group { count: 9'
    [one] = settled(tmp_path, {"model.onnx": ONNX}, "--input", f"{name}:FP32:4")
    again = parse(to_text(one).encode(), "text", is_json=False)
    assert again == one
    assert (again.input[0].name, len(again.instance_group)) == (name, 0)


FILE = f"""
max_batch_size: 8 {INPUT} {OUTPUT}
instance_group {{ count: 3 kind: KIND_CPU }}
version_policy {{ latest {{ num_versions: 2 }} }}
dynamic_batching {{ preferred_batch_size: 4 max_queue_delay_microseconds: 100
                    default_queue_policy {{ max_queue_size: 5 default_timeout_microseconds: 7 }} }}
"""


def test_the_file_wins_over_the_operator(tmp_path: Path) -> None:
    [one] = settled(tmp_path, {"model.onnx": ONNX, "config.pbtxt": FILE}, **OPERATOR)
    policy = one.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds, policy.allow_timeout_override) == (5, 7, False)
    assert (one.max_batch_size, one.instance_group[0].count, one.version_policy.latest.num_versions) == (8, 3, 2)


def test_arguments_win_over_the_file_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    argv = ("--max-batch-size", "16", "--device", "gpu", "--max-queue-delay", "0.002", "--versions", "all", *TENSORS)
    [one] = settled(tmp_path, {"model.onnx": ONNX, "config.pbtxt": FILE}, *argv)
    assert one.max_batch_size == 16
    assert [(group.count, group.kind) for group in one.instance_group] == [(3, 1)]  # KIND_GPU
    batching = one.dynamic_batching
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([4], 2000)
    assert one.version_policy.WhichOneof("policy_choice") == "all"
    assert [(list(tensor.dims), tensor.name) for tensor in one.input] == [([3, -1, -1], "x")]


def test_the_operator_counts_where_nobody_else_has_said_a_word(tmp_path: Path) -> None:
    [one] = settled(tmp_path, {"model.onnx": ONNX}, **OPERATOR)
    policy = one.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (1000, 10_000_000)
    assert policy.allow_timeout_override


@pytest.mark.parametrize(
    "text",
    ["sequence_batching { direct {} }", "model_transaction_policy { decoupled: true }"],
    ids=["sequence", "stream"],
)
def test_models_that_keep_order_themselves_get_no_queue_of_ours(tmp_path: Path, text: str) -> None:
    [one] = settled(tmp_path, {"model.onnx": ONNX, "config.pbtxt": f"{text} {INPUT}"}, **OPERATOR)
    assert not one.HasField("dynamic_batching")


def test_a_full_queue_inside_an_ensemble_would_lose_requests_so_steps_get_no_limit(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "double/1/model.py": CODE,
        "increase/1/model.py": CODE,
        "chain/config.pbtxt": ENSEMBLE,
    }
    ensemble, *steps = settled(tmp_path, files, **OPERATOR)
    assert ensemble.name == "shop"
    assert not any(step.HasField("dynamic_batching") for step in steps)


@pytest.mark.parametrize(
    ("argv", "file", "allowed"),
    [
        pytest.param((), "", True, id="nobody says how many"),
        pytest.param(("--max-batch-size", "8"), "", True, id="a batch of as many"),
        pytest.param(("--max-batch-size", "4", "--instances", "2"), "", True, id="two instances of half"),
        pytest.param(("--max-batch-size", "9"), "", False, id="a larger batch"),
        pytest.param(("--instances", "2"), "max_batch_size: 8", False, id="more instances"),
        pytest.param((), "instance_group { count: 3 gpus: [0, 1, 2] }", False, id="instances on each of three GPUs"),
    ],
)
def test_container_concurrency_is_kept_or_refused(
    tmp_path: Path, argv: tuple[str, ...], file: str, allowed: bool
) -> None:
    files: dict[str, str | bytes] = {"model.onnx": ONNX, "config.pbtxt": file}
    if not allowed:
        with pytest.raises(BadConfig, match="containerConcurrency is 8, but Triton takes up to"):
            settled(tmp_path, files, *argv, CONTAINER_CONCURRENCY="8")
        return
    [one] = settled(tmp_path, files, *argv, CONTAINER_CONCURRENCY="8")
    assert sum(group.count for group in one.instance_group) * max(1, one.max_batch_size) <= 8


def test_triton_completes_a_batch_no_larger_than_the_concurrency(tmp_path: Path) -> None:
    assert config.default_max_batch(settings(tmp_path)) == config.DEFAULT_MAX_BATCH
    assert config.default_max_batch(settings(tmp_path, CONTAINER_CONCURRENCY="2")) == 2


@pytest.mark.parametrize("argv", [("--instances", "2"), ("--warm-up", "true"), ("--max-queue-delay", "0.1")])
def test_arguments_that_an_ensemble_cannot_have_are_refused_by_name(tmp_path: Path, argv: tuple[str, ...]) -> None:
    with pytest.raises(BadConfig, match=f"{argv[0]} is given, but 'shop' is an ensemble"):
        settled(tmp_path, {"shop/config.pbtxt": ENSEMBLE}, *argv)


def test_warming_up_needs_inputs(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="--warm-up needs to know the inputs"):
        settled(tmp_path, {"model.onnx": ONNX}, "--warm-up", "true")
