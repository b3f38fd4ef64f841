"""What lies beside a model about it: slipway.yaml and MLflow's MLmodel, whose word counts, and what cannot be read."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime.errors import BadModel, MissingModel
from slipway_runtime.models import description, overrides
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.config_reader import read_config
from slipway_runtime.tensors import TensorSpec

OWN = """
format: xgboost
file: trees.ubj
maxBatchSize: 32
inputs:
- {name: x, datatype: FP32, shape: [-1, 4]}
outputs:
- {name: predict, datatype: FP32, shape: [-1, 3]}
example: {x: [[5.1, 3.5, 1.4, 0.2]]}
"""
X = TensorSpec("x", "FP32", (-1, 4))
UBJ = b"{L" + bytes(7) + b"\x07learner{"
COLUMNS = [{"type": "double", "name": "size", "required": True}, {"type": "string", "name": "shade"}]
TENSOR = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]
MLMODEL = """
artifact_path: model
flavors:
  python_function: {loader_module: mlflow.xgboost, python_version: 3.11.7}
  xgboost: {data: model.xgb, model_class: xgboost.sklearn.XGBClassifier, model_format: ubj, xgb_version: 3.2.0}
mlflow_version: 3.1.0
model_size_bytes: 14423
saved_input_example_info: {artifact_path: input_example.json, type: dataframe}
signature: {inputs: 'SIGNATURE', outputs: null, params: null}
utc_time_created: '2026-01-01 00:00:00.000000'
"""


def folder(path: Path, **files: Any) -> Path:
    """`files` by the first part of their names."""
    names = {"config": "config.json", "slipway": "slipway.yaml", "mlmodel": "MLmodel", "example": "input_example.json"}
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / names[name]).write_text(text)
    return path


def said(**options: Any) -> overrides.Overrides:
    return overrides.read(json.dumps(options))


def mlmodel(signature: Any) -> str:
    return MLMODEL.replace("SIGNATURE", json.dumps(signature))


def test_what_slipway_yaml_says_is_taken_for_what_nobody_else_says(tmp_path: Path) -> None:
    config = read_config(folder(tmp_path, slipway=OWN))
    assert (config.max_batch, config.inputs, config.filename) == (32, (X,), "trees.ubj")
    assert config.outputs == (TensorSpec("predict", "FP32", (-1, 3)),)
    assert config.description is not None
    assert config.description.example == {"x": [[5.1, 3.5, 1.4, 0.2]]}


def test_the_service_and_the_config_go_before_it(tmp_path: Path) -> None:
    batch = {"max_batch_size": 16}
    assert read_config(folder(tmp_path, slipway=OWN), said(maxBatchSize=8)).max_batch == 8
    assert read_config(folder(tmp_path, config=batch)).max_batch == 16
    # What is said without the batch is the same tensor.
    tensors = [{"name": "x", "datatype": "FP32", "shape": [4]}]
    assert read_config(tmp_path, said(inputs=tensors, maxBatchSize=8)).inputs == (X,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": [{"name": "x", "datatype": "FP64", "shape": [4]}]}, "says input x FP64 [-1, 4], but"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [5]}]}, "says input x FP32 [-1, 5], but"),
        (
            {"inputs": [{"name": "y", "datatype": "FP32", "shape": [4]}]},
            "slipway.yaml' says x FP32 [-1, 4]; correct one",
        ),
    ],
)
def test_a_service_that_contradicts_it_is_told(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadModel) as told:
        read_config(folder(tmp_path, slipway=OWN), said(**options))
    assert words in str(told.value)


def test_columns_and_example_of_mlflow_are_taken(tmp_path: Path) -> None:
    table = {"columns": ["size", "shade"], "data": [[5.0, "dark"], [6.0, "light"]]}
    config = read_config(folder(tmp_path, mlmodel=mlmodel(COLUMNS), example=table))
    assert config.inputs == (TensorSpec("size", "FP64", (-1, 1)), TensorSpec("shade", "BYTES", (-1, 1)))
    assert (config.filename, config.outputs) == ("model.xgb", ())
    assert config.description is not None
    assert config.description.format == "xgboost"
    assert config.description.example == {"size": [[5.0], [6.0]], "shade": [["dark"], ["light"]]}


@pytest.mark.parametrize(
    "example", [{"inputs": [[1, 2, 3, 4]]}, [[1, 2, 3, 4]], {"columns": [0, 1, 2, 3], "data": [[1, 2, 3, 4]]}]
)
def test_a_tensor_of_mlflow_without_a_name_is_the_only_one(tmp_path: Path, example: Any) -> None:
    config = read_config(folder(tmp_path, mlmodel=mlmodel(TENSOR), example=example))
    assert config.inputs == ()  # the model knows what it is called
    assert config.description is not None
    assert config.description.inputs == (TensorSpec("", "FP32", (-1, 4)),)
    assert config.description.example == {"": [[1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("flavour", "file", "inside", "form"),
    [
        ("pytorch: {model_data: data}", "data/model.pt2", "model/archive_format", "torch-export"),
        ("pytorch: {model_data: data}", "data/model.pth", "model/constants.pkl", "torchscript"),
        ("lightgbm: {data: model.skops}", "model.skops", "schema.json", "sklearn"),
    ],
)
def test_what_mlflow_keeps_in_a_folder_or_as_another_kind_is_told_by_its_content(
    tmp_path: Path, flavour: str, file: str, inside: str, form: str
) -> None:
    folder(tmp_path, mlmodel=f"flavors: {{{flavour}}}")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(tmp_path / file, "w") as archive:
        archive.writestr(inside, b"")
    found = find(str(tmp_path), "mlflow")
    assert (found.path, found.format, found.folder) == (tmp_path / file, form, tmp_path)


def test_an_example_in_another_form_is_told_as_ignored(tmp_path: Path) -> None:
    config = read_config(folder(tmp_path, mlmodel=mlmodel(TENSOR), example="{"))
    assert config.ignored == ("input_example.json",)
    assert not (config.description and config.description.example)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("lightgbm", "the service says that its format is lightgbm, but"),
        ("onnx", "MLmodel' says xgboost; correct one of them"),
    ],
)
def test_a_format_that_is_not_the_one_beside_the_model_is_told(tmp_path: Path, wanted: str, words: str) -> None:
    (folder(tmp_path, mlmodel=mlmodel(TENSOR)) / "model.xgb").write_bytes(UBJ)
    assert find(str(tmp_path), "mlflow").format == find(str(tmp_path)).format == "xgboost"
    with pytest.raises(BadModel) as told:
        find(str(tmp_path), wanted)
    assert words in str(told.value)


def test_mlflow_is_asked_for_where_nothing_of_it_lies(tmp_path: Path) -> None:
    (tmp_path / "model.ubj").write_bytes(UBJ)
    with pytest.raises(BadModel, match="its format is mlflow, but no MLmodel lies beside the model"):
        find(str(tmp_path), "mlflow")


def test_the_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match=r"has no 'trees.ubj' \(slipway.yaml\); put it there"):
        find(str(folder(tmp_path, slipway=OWN)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("format: [", "it is not YAML", id="no YAML"),
        pytest.param("just words", "must be an object with named fields", id="words"),
        pytest.param("!!python/object/apply:os.system ['true']", "it is not YAML", id="a tag that is code"),
        pytest.param("a: &a [x]\nb: [*a, *a]", "it has an alias", id="an alias"),
        pytest.param("format: pickle", "format is 'pickle', must be one of torchscript", id="format"),
        pytest.param("fromat: onnx", "it has 'fromat', which no slipway.yaml has", id="a slip of the pen"),
        pytest.param("file: ../../etc/passwd", "must be a name in the model's folder", id="climbs"),
        pytest.param("file: /etc/passwd", "must be a name in the model's folder", id="absolute"),
        pytest.param("inputs: [{name: x, datatype: FP32}]", "must have a name, a datatype and a shape", id="no shape"),
        pytest.param("inputs: [{name: x, datatype: FP31, shape: [-1]}]", "datatype is 'FP31'", id="datatype"),
        pytest.param("maxBatchSize: -1", "must be a whole number >= 0", id="batch"),
        pytest.param("[" * 5000 + "]" * 5000, "nested too deep", id="deep"),
        pytest.param("x: " + "a" * (1 << 18), "it has more than 256 KiB", id="large"),
        pytest.param("1: x", "it has '1', which no slipway.yaml has", id="a number for a name"),
        pytest.param(
            "inputs: [{name: x, datatype: FP32, shape: [2, 4]}]\nmaxBatchSize: 8", "which has no batch", id="fixed"
        ),
    ],
)
def test_what_cannot_be_understood_is_told_and_never_run(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadModel) as told:
        read_config(folder(tmp_path, slipway=text))
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flavors: {spark: {}}", "its flavors are spark; served are onnx, sklearn, xgboost, lightgbm, pytorch"),
        ("flavors: {onnx: {data: ../m.onnx}}", "must be a name in the model's folder"),
        ('flavors: {onnx: {data: m.onnx}}\nsignature: {inputs: \'[{"type": "datetime"}]\'}', "has the type 'datetime'"),
        ("flavors: {onnx: {data: m.onnx}}\nsignature: {inputs: '{'}", "MLmodel' cannot be understood"),
    ],
)
def test_an_mlmodel_that_cannot_be_served_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadModel) as told:
        read_config(folder(tmp_path, mlmodel=text))
    assert words in str(told.value)


def test_slipway_yaml_goes_before_mlflow(tmp_path: Path) -> None:
    found = description.read(folder(tmp_path, slipway="format: onnx", mlmodel=mlmodel(TENSOR)))
    assert found is not None
    assert found.format == "onnx"


def test_nothing_beside_it_changes_nothing(tmp_path: Path) -> None:
    assert read_config(tmp_path) == ModelConfig()
