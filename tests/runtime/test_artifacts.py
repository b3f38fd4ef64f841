"""Finding a model and reading its config, without torch: zip archives with the right names are enough."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime.errors import BadConfig, BadModel, Failure, MissingModel
from slipway_runtime.models.artifacts import find, format_of, versions
from slipway_runtime.models.config import VersionPolicy
from slipway_runtime.models.config_reader import read_config
from slipway_runtime.tensors import TensorSpec


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(f"{path.stem}/{name}", b"")
    return path


TORCHSCRIPT = ("data.pkl", "constants.pkl", "version")
EXPORTED = ("archive_format", "models/model.json")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        pytest.param(TORCHSCRIPT, "torchscript", id="torchscript"),
        pytest.param(EXPORTED, "torch-export", id="exported"),
        pytest.param((*EXPORTED, "data/aotinductor/model/x.so"), "aotinductor", id="native code"),
    ],
)
def test_the_kind_is_told_by_what_is_inside(tmp_path: Path, names: tuple[str, ...], found: str) -> None:
    assert format_of(archive(tmp_path / "misnamed.bin", *names)) == found


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"\x80\x02}q\x00.", "is a pickle made by torch.save", id="old pickle"),
        pytest.param(b"", "is not a PyTorch model", id="empty"),
        pytest.param(b"<html>404</html>", "is not a PyTorch model", id="an error page"),
        pytest.param(b"PK\x03\x04 and then nothing", "is damaged or cut short", id="cut short"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(BadModel, match=sentence):
        find(str(tmp_path), "auto")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        pytest.param(("data.pkl", "data/0"), "is a pickle made by torch.save", id="new pickle"),
        pytest.param(("word/document.xml",), "is a zip archive, but no PyTorch model", id="another zip"),
    ],
)
def test_an_archive_that_is_no_model_is_refused(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        find(str(archive(tmp_path / "model.pt", *names)), "auto")


def test_a_folder_holds_model_pt_or_one_model_of_another_name(tmp_path: Path) -> None:
    archive(tmp_path / "other.pt2", *EXPORTED)
    assert find(str(tmp_path), "auto").path.name == "other.pt2"
    archive(tmp_path / "model.pt", *TORCHSCRIPT)
    assert find(str(tmp_path), "auto").path.name == "model.pt"


@pytest.mark.parametrize(
    ("files", "wanted", "error", "sentence"),
    [
        pytest.param(None, "auto", MissingModel, "does not exist; check --model", id="no folder"),
        pytest.param([], "auto", MissingModel, "holds no model.pt or model.pt2 .found: nothing", id="empty folder"),
        pytest.param(["a.pt", "b.pt"], "auto", BadModel, "more than one model .a.pt, b.pt", id="two models"),
        pytest.param(["model.pt", "model.pt2"], "auto", BadModel, "more than one model", id="two model files"),
        pytest.param(["model.pt"], "torch-export", BadConfig, "is torchscript, but the format asked for is", id="kind"),
    ],
)
def test_a_model_that_cannot_be_told_is_named(
    tmp_path: Path, files: list[str] | None, wanted: str, error: type[Failure], sentence: str
) -> None:
    folder = tmp_path / "m"
    if files is not None:
        folder.mkdir()
        for name in files:
            archive(folder / name, *TORCHSCRIPT)
    with pytest.raises(error, match=sentence):
        find(str(folder), wanted)


def config(tmp_path: Path, value: Any) -> Path:
    (tmp_path / "config.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return tmp_path


X = {"name": "x", "data_type": "TYPE_FP32", "dims": [4, -1]}


def test_dims_have_the_batch_in_front_only_when_there_is_one(tmp_path: Path) -> None:
    batched = read_config(config(tmp_path, {"name": "m", "max_batch_size": 8, "input": [X], "output": [X]}))
    assert (batched.name, batched.max_batch) == ("m", 8)
    assert batched.inputs == batched.outputs == (TensorSpec("x", "FP32", (-1, 4, -1)),)
    assert read_config(config(tmp_path, {"input": [X]})).inputs == (TensorSpec("x", "FP32", (4, -1)),)


def test_what_is_not_used_of_a_config_is_known(tmp_path: Path) -> None:
    ignored = read_config(
        config(
            tmp_path,
            {"optimization": {"eager_batching": True}, "backend": "pytorch", "input": [X | {"format": "NCHW"}]},
        )
    ).ignored
    assert ignored == ("input[0].format", "optimization")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        pytest.param("{", "is not JSON", id="not JSON"),
        pytest.param([], "is not a model config that can be served: the config is a list", id="a list"),
        pytest.param({"name": 3}, "name must be a string", id="name"),
        pytest.param({"max_batch_size": -1}, "max_batch_size is -1, must be a whole number >= 0", id="batch"),
        pytest.param({"max_batch_size": True}, "max_batch_size is True", id="boolean batch"),
        pytest.param(
            {"input": [{**X, "data_type": "FP32"}]}, r"input\[0\].data_type is 'FP32', must be TYPE_", id="type"
        ),
        pytest.param({"input": [{**X, "data_type": "TYPE_BYTES"}]}, "data_type is 'TYPE_BYTES'", id="bytes"),
        pytest.param({"input": [{**X, "dims": [-2]}]}, r"input\[0\].dims is -2", id="dims"),
        pytest.param({"input": [{**X, "dims": 4}]}, r"input\[0\].dims must be a list", id="dims a number"),
        pytest.param(
            {"input": [{**X, "reshape": {"shape": [1]}}]},
            r"input\[0\] has reshape, which is not supported",
            id="reshape",
        ),
        pytest.param({"output": ["y"]}, r"output\[0\] is a str, must be an object", id="output a string"),
    ],
)
def test_a_wrong_config_is_refused_with_the_field(tmp_path: Path, value: Any, sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        read_config(config(tmp_path, value))


def test_weights_onnx_and_code_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "b.onnx").write_bytes(b"\x08\x0a")
    (tmp_path / "c.py").write_text("class Model: ...")
    assert [format_of(tmp_path / name) for name in ("a.bin", "b.onnx", "c.py")] == ["safetensors", "onnx", "python"]


def test_code_is_the_model_unless_the_weights_beside_it_have_a_class(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("class Model: ...")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert find(str(tmp_path)).format == "python"
    config(tmp_path, {"parameters": {"class": {"string_value": "m:C"}}})
    assert find(str(tmp_path)).format == "safetensors"


def test_a_config_may_name_the_file_and_has_to_fit_it(tmp_path: Path) -> None:
    archive(tmp_path / "a.pt", *TORCHSCRIPT)
    archive(tmp_path / "b.pt", *TORCHSCRIPT)
    assert find(str(config(tmp_path, {"default_model_filename": "b.pt", "backend": "pytorch"}))).path.name == "b.pt"
    with pytest.raises(MissingModel, match=r"has no 'c.pt' \(default_model_filename\)"):
        find(str(config(tmp_path, {"default_model_filename": "c.pt"})))
    with pytest.raises(BadModel, match="has backend 'tensorrt', but the file is torchscript"):
        find(str(config(tmp_path, {"default_model_filename": "b.pt", "backend": "tensorrt"})))


def test_versions_are_folders_named_by_numbers(tmp_path: Path) -> None:
    for name in ("1", "3", "10", "02", "old", "0"):
        (tmp_path / name).mkdir()
        archive(tmp_path / name / "model.pt", *TORCHSCRIPT)
    (tmp_path / "7").write_text("a file")
    config(tmp_path, {"max_batch_size": 4, "version_policy": {"latest": {"num_versions": 2}}})
    chosen = versions(tmp_path)
    assert [(number, one.path.parent.name, one.version) for number, one in chosen] == [(3, "3", 3), (10, "10", 10)]
    assert all(one.config.max_batch == 4 and one.folder == tmp_path for _, one in chosen)
    assert [number for number, _ in versions(tmp_path, VersionPolicy(latest=0))] == [1, 3, 10]
    newest = find(str(tmp_path))
    assert (newest.version, newest.default_name) == (10, tmp_path.name)
    with pytest.raises(MissingModel, match=r"has versions \[1, 3, 10\], but its version policy wants none"):
        versions(tmp_path, VersionPolicy(latest=0, specific=(2,)))


def test_a_version_that_was_not_chosen_may_be_broken(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    archive(tmp_path / "2" / "model.pt", *TORCHSCRIPT)
    assert [number for number, _ in versions(tmp_path)] == [2]


def test_an_ensemble_has_no_file(tmp_path: Path) -> None:
    config(tmp_path, {"platform": "ensemble", "ensemble_scheduling": {"step": [{"model_name": "a"}]}})
    assert find(str(tmp_path)).format == "ensemble"
