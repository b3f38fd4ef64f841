"""Repositories that want more than to be served: each is refused by its own sentence, before Triton sees any of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_runtime.errors import BadModel
from slipway_runtime.triton import files as survey
from slipway_runtime.triton.__main__ import prepare, screen
from slipway_runtime.triton.install import Home
from tests.runtime import malicious
from tests.runtime.triton.folders import CODE, ENSEMBLE, ONNX, put, settings

FULL = ("onnxruntime", "tensorrt", "pytorch", "python")
WARM = 'model_warmup { name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 FIELD } } }'
STATE = 'sequence_batching { state { input_name: "i" output_name: "o" initial_state { data_file: "../s" name: "s" } } }'

# Of the config of a model that is else well.
CONFIGS = {
    "model_repository_agents { agents { name: 'mine' } }": "model_repository_agents, which load libraries",
    "runtime: 'libtriton_mine.so'": "has runtime, which loads code",
    "runtime: 'model.py'": "has runtime, which loads code",
    "model_operations { op_library_filename: 'ops.so' }": "has model_operations, which loads code",
    "parameters { key: 'EXECUTION_ENV_PATH' value { string_value: '/tmp/env.tar.gz' } }": "has EXECUTION_ENV_PATH",
    "backend: 'mine'": r"model 'shop' is code \(backend 'mine'\)",
    "backend: 'vllm'": r"model 'shop' is code \(backend 'vllm'\)",
    "backend: '../../mnt/models/1'": "which is no name",
    "backend: 'a\\nb'": "which is no name",
    "default_model_filename: '../../../etc/passwd'": "must be a name without a folder",
    "default_model_filename: '..'": "must be a name without a folder",
    "cc_model_filenames { key: '7.5' value: '/etc/passwd' }": "cc_model_filenames is '/etc/passwd'",
    "output { name: 'y' data_type: TYPE_FP32 dims: 4 label_filename: '../../labels' }": "label_filename is",
    WARM.replace("FIELD", "input_data_file: '../../../proc/self/environ'"): "input_data_file is",
    STATE: "data_file is '../s'",
    "max_batch_size: 2000000000": "max_batch_size is 2000000000",
    "max_batch_size: -5": "max_batch_size is -5",
    "instance_group { count: 100000 }": "instance_group.count is 100000",
    WARM.replace("FIELD", "zero_data: true").replace(
        "batch_size: 1", "batch_size: 1 count: 999999"
    ): "model_warmup.count",
    "instance_group { count: 99999999999 }": "is not a model config",
    "no_such_field: 1": "is not a model config",
    "input {": "is not a model config",
    "\x00\x01\x02": "is not a model config",
    "name: 'x' " * 70_000 + "#" * 700_000: "larger than 1 MiB",
}


@pytest.fixture
def triton(tmp_path: Path) -> Home:
    for name in FULL:
        (tmp_path / "triton" / "backends" / name).mkdir(parents=True)
    return Home(tmp_path / "triton")


@pytest.mark.parametrize(("text", "words"), CONFIGS.items(), ids=[text[:40] for text in CONFIGS])
def test_a_config_that_leads_out_or_loads_code_or_has_no_bounds_is_refused(
    tmp_path: Path, triton: Home, text: str, words: str
) -> None:
    model = put(tmp_path / "m", {"1/model.onnx": ONNX, "config.pbtxt": text})
    with pytest.raises(BadModel, match=words):
        prepare(settings(model), triton)


def test_the_same_of_a_step_of_an_ensemble_is_refused(tmp_path: Path, triton: Home) -> None:
    files: dict[str, str | bytes] = {
        "double/1/model.onnx": ONNX,
        "double/config.pbtxt": "runtime: 'libtriton_mine.so'",
        "increase/1/model.onnx": ONNX,
        "chain/config.pbtxt": ENSEMBLE,
    }
    with pytest.raises(BadModel, match="config of model 'double' has runtime"):
        prepare(settings(put(tmp_path / "m", files)), triton)


def test_code_is_refused_unless_the_administrator_allows_it(tmp_path: Path, triton: Home) -> None:
    model = put(tmp_path / "m", {"1/model.py": CODE})
    with pytest.raises(BadModel, match=r"is code \(backend 'python'\), which the administrator has not allowed"):
        prepare(settings(model, "--allow-code", "false"), triton)
    assert prepare(settings(model, "--allow-code", "true"), triton)


def _library(folder: Path) -> None:
    put(folder, {"1/libtriton_onnxruntime.so": "code"})


def _link(to: str, at: str = "1/weights.bin") -> Callable[[Path], None]:
    return lambda folder: (folder / at).symlink_to(to)


def _deep(folder: Path) -> None:
    (folder / "/".join("d" * (survey.DEEPEST + 2))).mkdir(parents=True)


def _many(folder: Path) -> None:
    for number in range(500):
        (folder / f"f{number}").touch()


# What lies beside a model that is else well.
BESIDE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a library that Triton would take for its backend": (_library, "a backend of its own"),
    "a link to a file outside": (_link("/etc/passwd"), "leaves the model's folder"),
    "a link that climbs": (_link("../../outside"), "leaves the model's folder"),
    "a link to the process's environment": (_link("/proc/self/environ"), "leaves the model's folder"),
    "a folder that is a link outside": (_link("/etc", "2"), "leaves the model's folder"),
    "a link to nowhere": (_link("gone"), "leads nowhere"),
    "a link to itself": (_link("weights.bin"), "leads nowhere"),
    "a folder that is a link to the one it is in": (_link("..", "1/again"), "is a link to a folder that it is in"),
    "a pipe": (lambda folder: os.mkfifo(folder / "1" / "pipe"), "neither a file nor a folder"),
    "a device": (_link("/dev/zero"), "leaves the model's folder"),
    "a name that breaks lines": (lambda folder: (folder / "1" / "a\nb").touch(), "cannot be shown"),
    "folders without end": (_deep, "folders deep"),
    "files without end": (_many, "has more than 500 files"),
}


@pytest.mark.parametrize(("put_there", "words"), BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_a_model_may_not_lead_elsewhere(
    tmp_path: Path,
    triton: Home,
    monkeypatch: pytest.MonkeyPatch,
    put_there: Callable[[Path], None],
    words: str,
) -> None:
    monkeypatch.setattr(survey, "MOST_FILES", 500)
    (tmp_path / "outside").touch()
    model = put(tmp_path / "m", {"1/model.onnx": ONNX})
    put_there(model)
    with pytest.raises(BadModel, match=words):
        prepare(settings(model), triton)


@pytest.mark.parametrize("file", ["model.pt", "1/model.pt"])
def test_a_script_that_triton_itself_would_load_is_looked_through(tmp_path: Path, triton: Home, file: str) -> None:
    good = malicious.script()
    kit = malicious.Kit(tmp_path, tmp_path / "canary", b"", good)
    malicious.calls('torch.save(x, "CANARY")')(kit)
    spoilt = put(tmp_path / "m", {file: (tmp_path / "model.pt").read_bytes()})
    with pytest.raises(BadModel, match="it calls 'save', which reads and writes files"):
        screen(prepare(settings(spoilt), triton))
    screen(prepare(settings(put(tmp_path / "good", {file: good})), triton))


def test_links_inside_of_the_model_are_followed(tmp_path: Path, triton: Home) -> None:
    """As Hugging Face's cache and volumes of ConfigMaps lay files out."""
    model = put(tmp_path / "m", {"blobs/abc": ONNX})
    (model / "1").mkdir()
    (model / "1" / "model.onnx").symlink_to("../blobs/abc")
    assert prepare(settings(model), triton)
