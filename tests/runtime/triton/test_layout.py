"""What was fetched, and the repository that Triton gets of it."""

from pathlib import Path

import pytest

from slipway_runtime.errors import BadConfig, BadModel, Failure, MissingModel
from slipway_runtime.triton import links
from slipway_runtime.triton.__main__ import prepare
from slipway_runtime.triton.install import Home
from slipway_runtime.triton.messages import parse
from tests.runtime.triton.folders import CODE, ENSEMBLE, INPUT, ONNX, OUTPUT, put, settings, torchscript

FULL = ("onnxruntime", "tensorrt", "pytorch", "python")
BOTH = {"double/1/model.py": CODE, "increase/1/model.py": CODE}


@pytest.fixture
def triton(tmp_path: Path) -> Home:
    """One that has all the backends of NVIDIA's image that are of use here."""
    for name in FULL:
        (tmp_path / "triton" / "backends" / name).mkdir(parents=True)
    return Home(tmp_path / "triton")


def laid_out(model: Path, triton: Home, *argv: str, form: str = "auto") -> dict[str, str]:
    """Every file that Triton would see -> what it holds, configs apart."""
    repository = model.parent / "repository"
    links.write(repository, prepare(settings(model, *argv, form=form), triton))
    found = {}
    for path in _files(repository):
        if path.name == "config.pbtxt":
            assert parse(path.read_bytes(), str(path), is_json=False).name == path.parent.name
        else:
            found[str(path.relative_to(repository))] = path.read_bytes().decode(errors="replace")
    return found


def _files(folder: Path) -> list[Path]:
    """Through links, as Triton looks."""
    found = []
    for entry in sorted(folder.iterdir()):
        found += _files(entry) if entry.is_dir() else [entry]
    return found


def test_a_single_file_is_version_1_without_its_neighbours(tmp_path: Path, triton: Home) -> None:
    put(tmp_path / "m", {"resnet.onnx": ONNX, "notes.txt": "x"})
    assert list(laid_out(tmp_path / "m" / "resnet.onnx", triton)) == ["shop/1/resnet.onnx"]


def test_a_folder_with_one_model_is_version_1_with_all_that_lies_beside_it(tmp_path: Path, triton: Home) -> None:
    """Weights in files of their own are named by the model, relative to itself."""
    found = laid_out(put(tmp_path / "m", {"model.onnx": ONNX, "weights.bin": "w"}), triton)
    assert {"shop/1/model.onnx", "shop/1/weights.bin"} <= found.keys()


def test_versions_keep_their_numbers(tmp_path: Path, triton: Home) -> None:
    files: dict[str, str | bytes] = {
        "3/model.onnx": ONNX,
        "12/model.onnx": ONNX,
        "config.pbtxt": INPUT,
        "labels.txt": "cat\ndog",
        "007/x": "y",
    }
    found = laid_out(put(tmp_path / "m", files), triton)
    assert found["shop/labels.txt"] == "cat\ndog"
    assert {"shop/3/model.onnx", "shop/12/model.onnx"} <= found.keys()


def test_a_repository_keeps_the_names_of_all_but_the_services_model(tmp_path: Path, triton: Home) -> None:
    files = {**BOTH, "pipeline/config.pbtxt": f'name: "pipeline" {ENSEMBLE}'}
    found = laid_out(put(tmp_path / "m", files), triton, "--allow-code", "true")
    assert found == {"double/1/model.py": CODE, "increase/1/model.py": CODE}
    assert (tmp_path / "repository" / "shop" / "1").is_dir()


def test_the_model_of_the_services_name_is_the_services(tmp_path: Path, triton: Home) -> None:
    files = {"shop/1/model.py": CODE, "other/1/model.py": CODE}
    prepared = prepare(settings(put(tmp_path / "m", files), "--allow-code", "true"), triton)
    assert [one.model.name for one in prepared] == ["shop", "other"]


def test_a_config_in_json_is_read_as_slipway_runtime_reads_it(tmp_path: Path, triton: Home) -> None:
    config = '{"name": "hello", "max_batch_size": 16, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]}'
    [one] = prepare(settings(put(tmp_path / "m", {"model.pt": torchscript(), "config.json": config})), triton)
    assert (one.config.name, one.config.backend, one.config.max_batch_size) == ("shop", "pytorch", 16)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("model.onnx", ONNX, ("onnx", "onnxruntime", "")),
        ("model.plan", "plan", ("tensorrt", "tensorrt", "")),
        ("resnet.engine", "plan", ("tensorrt", "tensorrt", "resnet.engine")),
        ("model.pt", torchscript(), ("torchscript", "pytorch", "")),
        ("model.pt", torchscript(), ("pytorch", "pytorch", "")),
        ("model.py", CODE, ("python", "python", "")),
    ],
)
def test_the_file_tells_the_backend(
    tmp_path: Path, triton: Home, file: str, content: str | bytes, told: tuple[str, str, str]
) -> None:
    asked = settings(put(tmp_path / "m", {file: content}), "--allow-code", "true", form=told[0])
    [one] = prepare(asked, triton)
    assert (one.config.backend, one.config.default_model_filename) == told[1:]


def test_without_the_backend_the_model_is_run_by_our_own_loader_in_the_python_backend(tmp_path: Path) -> None:
    (tmp_path / "triton" / "backends" / "python").mkdir(parents=True)
    files: dict[str, str | bytes] = {
        "1/net.onnx": ONNX,
        "1/model.py": "secret",
        "config.pbtxt": 'backend: "onnxruntime"',
    }
    found = laid_out(put(tmp_path / "m", files), Home(tmp_path / "triton"))
    assert found["shop/1/net.onnx"] == ONNX.decode()
    assert "slipway_runtime.triton.stub" in found["shop/1/model.py"]


def test_a_pod_that_starts_again_lays_out_anew(tmp_path: Path, triton: Home) -> None:
    model = put(tmp_path / "m", {"1/model.onnx": ONNX, "2/model.onnx": ONNX})
    laid_out(model, triton)
    (model / "1" / "model.onnx").unlink()
    (model / "1").rmdir()
    assert list(laid_out(model, triton)) == ["shop/2/model.onnx"]


Refused = tuple[dict[str, str | bytes], str, type[Failure], str]
REFUSED: dict[str, Refused] = {
    "nothing": ({"readme.md": "x"}, "auto", MissingModel, "holds no model"),
    "two models": ({"a.onnx": ONNX, "b.onnx": ONNX}, "auto", BadModel, "more than one model"),
    "a version without": ({"1/model.onnx": ONNX, "2/m.onnx": ONNX}, "auto", MissingModel, "version 1 of model"),
    "an empty version": ({"1/readme.md": "x"}, "auto", MissingModel, "holds no model file"),
    "another format": ({"model.onnx": ONNX}, "torchscript", BadConfig, "is onnx, but the format asked for is"),
    "a pickle": ({"model.pt": b"\x80\x04"}, "auto", BadModel, "pickle"),
    "no model at all": ({"model.onnx": b"hello"}, "auto", BadModel, "model.onnx"),
    "another backend": (
        {"model.onnx": ONNX, "config.pbtxt": 'backend: "pytorch"'},
        "auto",
        BadModel,
        "has backend 'pytorch', but 'model.onnx' is onnx",
    ),
    "a file that is not there": (
        {"model.onnx": ONNX, "config.pbtxt": 'default_model_filename: "net.onnx"'},
        "auto",
        MissingModel,
        "has no 'net.onnx'",
    ),
    "two configs": ({"model.onnx": ONNX, "config.pbtxt": "", "config.json": "{}"}, "auto", BadModel, "keep one"),
    "several and none of that name": ({"a/1/model.onnx": ONNX, "b/1/model.onnx": ONNX}, "auto", BadModel, "name one"),
    "a step that is not there": ({"shop/config.pbtxt": ENSEMBLE}, "ensemble", BadModel, "has a step 'double'"),
    "a step instead of the ensemble": (
        {"shop/1/model.onnx": ONNX, "chain/config.pbtxt": ENSEMBLE.replace("double", "shop")},
        "ensemble",
        BadConfig,
        "model 'shop' is onnx, but the format asked for is ensemble",
    ),
    "weights alone": ({"model.safetensors": "w"}, "auto", MissingModel, "holds no model"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_apart_is_refused_with_its_reason(tmp_path: Path, triton: Home, case: Refused) -> None:
    files, form, kind, words = case
    with pytest.raises(kind, match=words):
        prepare(settings(put(tmp_path / "m", files), form=form), triton)


def test_a_backend_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "triton" / "backends" / "python").mkdir(parents=True)
    with pytest.raises(BadConfig, match=r"no backend 'tensorrt' for model 'shop' \(it has: python\)"):
        prepare(settings(put(tmp_path / "m", {"model.plan": "x"})), Home(tmp_path / "triton"))


def test_a_missing_folder_is_told(tmp_path: Path, triton: Home) -> None:
    with pytest.raises(MissingModel, match="does not exist"):
        prepare(settings(tmp_path / "gone"), triton)


def test_outputs_of_a_config_reach_triton(tmp_path: Path, triton: Home) -> None:
    [one] = prepare(settings(put(tmp_path / "m", {"model.onnx": ONNX, "config.pbtxt": OUTPUT})), triton)
    assert [tensor.name for tensor in one.config.output] == ["y"]
