"""Arguments: what is taken, what is refused with a sentence, and what a service cannot take back from its runtime."""

import json
import re
from pathlib import Path

import pytest

from slipway_runtime.errors import BadConfig
from slipway_runtime.models.overrides import Tensor
from slipway_runtime.triton import wishes
from slipway_runtime.triton.layout import WANTED
from slipway_runtime.triton.wishes import read
from tests.runtime.triton.process import REPOSITORY

ENV = {"SLIPWAY_MODEL_PATH": "/mnt/models", "SLIPWAY_MODEL_NAME": "shop", "SLIPWAY_MODEL_FORMAT": "onnx"}
RUNTIME = ("--http-port", "8080", "serve")
"""As the chart's runtime has them, before those of the service."""


def test_the_operators_environment_is_enough() -> None:
    found = read((), ENV | {"SLIPWAY_CONTAINER_CONCURRENCY": "4", "SLIPWAY_TIMEOUT_S": "2.5"})
    assert (found.model, found.name, found.format) == (Path("/mnt/models"), "shop", "onnx")
    assert (found.concurrency, found.timeout_s, found.allow_code, found.http_port) == (4, 2.5, False, 8080)


def test_tensors_are_read_as_people_write_them() -> None:
    found = read(("--input", "image:FP32:3x-1x-1", "--input", "id:BYTES:1", "--output", "y:INT64:5"), ENV).wishes
    assert found.inputs == (Tensor("image", "FP32", (3, -1, -1)), Tensor("id", "BYTES", (1,)))
    assert found.outputs == (Tensor("y", "INT64", (5,)),)


@pytest.mark.parametrize(
    "argv",
    [
        ("--allow-code", "true"),
        ("--allow-code=true",),
        ("--triton", "/mnt/models"),
        ("--model=/etc",),
        ("--http-port", "9000"),
        ("--max-queue", "0"),
        ("--versions", "all", "--work", "/mnt"),
    ],
    ids=" ".join,
)
def test_what_is_the_runtimes_to_say_a_service_cannot(argv: tuple[str, ...]) -> None:
    with pytest.raises(BadConfig, match="is the runtime's to give, not a service's"):
        read((*RUNTIME, *argv), ENV)
    assert read(argv, ENV)  # without `serve` they are the runtime's own


def test_what_is_a_services_to_say_it_can_over_its_runtime() -> None:
    argv = ("--max-batch-size", "4", "--allow-code", "true", "serve", "--max-batch-size", "8", "--warm-up=true")
    found = read(argv, ENV)
    assert (found.wishes.max_batch_size, found.wishes.warm_up, found.allow_code) == (8, True, True)


@pytest.mark.parametrize(
    "flag",
    [
        "--model-repository=/etc",
        "--model-control-mode=explicit",
        "--http-restricted-api=",
        "--backend-directory=/mnt/models",
        "--trace-config=triton,file=/x",
        "--allow-c=true",
        "--log-file=/x",
        "extra",
    ],
)
def test_tritons_own_flags_and_abbreviations_are_refused(flag: str) -> None:
    with pytest.raises(BadConfig, match="unrecognized arguments"):
        read((*RUNTIME, flag), ENV)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--max-batch-size", "-1"), "'-1' must be a whole number from 0"),
        (("--max-batch-size", "many"), "'many' must be"),
        (("--instances", "1000"), "must be a whole number from 1 to 256"),
        (("--input", "x:FP32"), "must be NAME:DATATYPE:SIZES"),
        (("--input", "x:FLOAT:4"), "must be NAME:DATATYPE:SIZES"),
        (("--input", "x:FP32:0"), "must be NAME:DATATYPE:SIZES"),
        (("--versions", "newest"), "must be all, latest:N"),
        (("--max-queue-delay", "nan"), "must be a number of seconds"),
        (("--preferred-batch-sizes", "4,,8"), "must be sizes with commas"),
        (("--device", "tpu"), "must be auto, cpu or gpu"),
        (("--name", "a/b"), "must be letters"),
        (("--format", "pickle"), "must be one of onnx"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        read(argv, ENV)


def test_options_and_arguments_that_say_the_same_are_refused_together() -> None:
    env = ENV | {"SLIPWAY_MODEL_OPTIONS": json.dumps({"maxBatchSize": 8, "warmUp": True})}
    for argv in (("serve", "--max-batch-size", "8"), ("--max-batch-size=8",)):
        with pytest.raises(BadConfig, match="option maxBatchSize of the model and argument --max-batch-size say the"):
            read(argv, env)
    found = read(("--max-batch-size", "4", "--warm-up", "false", "serve", "--instances", "2"), env).wishes
    assert (found.max_batch_size, found.warm_up, found.instances) == (8, True, 2)  # a runtime's arguments are defaults


@pytest.mark.parametrize("name", ["dtype", "compile", "quantization", "batchBuckets"])
def test_an_option_that_triton_has_not_is_refused(name: str) -> None:
    value = {"dtype": "float16", "compile": True, "quantization": "none", "batchBuckets": [1]}[name]
    with pytest.raises(BadConfig, match=f"option {name} of the model is not for Triton; leave it out, or change"):
        read((), ENV | {"SLIPWAY_MODEL_OPTIONS": json.dumps({name: value})})


def test_the_page_has_every_argument_of_a_service() -> None:
    page = (REPOSITORY / "docs" / "triton.md").read_text()
    table = page.partition("| argument of a service")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)`", table, re.MULTILINE)) == wishes._service_flags()
    formats = page.partition("| `modelFormat`")[2].partition("\n\n")[0]
    named = re.findall(r"`([a-z-]+)`", " ".join(line.split("|")[1] for line in formats.splitlines()[1:]))
    assert set(named) == set(WANTED) - {"auto"}


@pytest.mark.parametrize("lack", ["SLIPWAY_MODEL_PATH", "SLIPWAY_MODEL_NAME"])
def test_a_model_has_to_be_named(lack: str) -> None:
    with pytest.raises(BadConfig, match="no model is named"):
        read((), {name: value for name, value in ENV.items() if name != lack})
