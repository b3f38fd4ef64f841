"""`slipway-runtime export`: a module becomes a model that answers alike, or nothing is written and it says why."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from slipway_runtime.__main__ import run
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadOptions, load
from slipway_runtime.tensors import TensorSpec

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

HERE = f"{__name__}:"
Text = pytest.CaptureFixture[str]


class Net(torch.nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(size, 3)
        self.drop = torch.nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.drop(self.layer(x)))


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"total": x.sum(-1), "next": ids + 1}


class Random(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(1)


class Alone(torch.nn.Module):
    """Takes another path for one row than for more, which a trace forgets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] > 1 else x * 3


class Mixed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0)


@pytest.mark.parametrize("form", ["torch-export", "torchscript", "onnx"])
def test_a_module_is_served_as_it_answers_where_it_was_made(tmp_path: Path, form: str, capsys: Text) -> None:
    torch.manual_seed(1)
    weights = Net(size=5)
    torch.save(weights.state_dict(), tmp_path / "weights.pt")
    command = [f"{HERE}Net", str(tmp_path / "out"), "--to", form, "--input", "x:FP32:5", "--outputs", "scores"]
    more = ["--args", '{"size": 5}', "--weights", str(tmp_path / "weights.pt"), "--max-batch", "16"]
    assert run(["export", *command, *more]) == 0
    assert "it answers as the module does, alone and in a batch" in capsys.readouterr().out
    model = load(find(str(tmp_path / "out"), form), LoadOptions(device="cpu"))
    assert model.metadata.inputs == (TensorSpec("x", "FP32", (-1, 5)),)
    assert model.metadata.outputs == (TensorSpec("scores", "FP32", (-1, 3)),)
    assert model.metadata.max_batch == 16
    assert model.warm_up()
    rows = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32)
    (answer,) = model.runners[0].run([OwnCall([rows], 7)])
    with torch.no_grad():
        np.testing.assert_allclose(answer[0], weights.eval()(torch.from_numpy(rows)).numpy(), rtol=1e-4, atol=1e-5)  # type: ignore[index]
    model.close()


def test_what_it_takes_and_gives_stands_beside_it_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"x": [[0.1, 0.2]], "ids": [[7]]}))
    tensors = ["--input", "x:FP32:2", "--input", "ids:INT64:1"]
    assert (
        run(["export", f"{HERE}Pair", str(tmp_path / "out"), *tensors, "--example", str(tmp_path / "rows.json")]) == 0
    )
    assert yaml.safe_load((tmp_path / "out" / "slipway.yaml").read_text()) == {
        "format": "torch-export",
        "file": "model.pt2",
        "maxBatchSize": 64,
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "ids", "datatype": "INT64", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": "total", "datatype": "FP32", "shape": [-1]},
            {"name": "next", "datatype": "INT64", "shape": [-1, 1]},
        ],
        "example": {"x": [[0.1, 0.2]], "ids": [[7]]},
    }


@pytest.mark.parametrize(
    ("name", "more", "code", "words"),
    [
        ("Random", ["--to", "torchscript"], 65, "gives another 'y' than the module does"),
        ("Alone", ["--to", "torchscript"], 65, "gives another 'y' than the module does"),
        ("Mixed", [], 65, "the first dimension must be the batch, or give --max-batch 0"),
        ("Net", ["--args", '{"size": 9}'], 65, "cannot answer the example: RuntimeError"),
        ("Net", ["--args", "[]"], 78, "--args must be a JSON object"),
        ("Net", ["--to", "pickle"], 78, "--to is 'pickle', must be one of torch-export, torchscript, onnx"),
        ("Net", ["--outputs", "a,b"], 78, "--outputs names 2, but"),
        ("Net", ["--weights", "/nowhere.pt"], 78, "the weights '/nowhere.pt' do not fit"),
        ("Net", ["--max-batch", "-1"], 78, "--max-batch is '-1', must be a whole number"),
        ("Path", [], 78, "is a PosixPath, must be or make a torch.nn.Module"),
        ("Nobody", [], 78, "has no attribute 'Nobody'"),
    ],
)
def test_what_cannot_be_exported_is_told_and_leaves_nothing(
    tmp_path: Path, capsys: Text, *, name: str, more: list[str], code: int, words: str
) -> None:
    assert run(["export", f"{HERE}{name}", str(tmp_path / "out"), "--input", "x:FP32:4", *more]) == code
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: Text) -> None:
    assert run(["export", f"{HERE}Net", str(tmp_path), "--input", "x:FP32:4"]) == 78
    assert "is there already; name a folder that is not, or remove it" in capsys.readouterr().err


def test_a_script_that_does_not_tell_its_input_has_it_from_mlflow(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(4, 3)), tmp_path / "model.pt")
    signature = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
    (tmp_path / "MLmodel").write_text(
        f"flavors: {{pytorch: {{model_data: model.pt}}}}\nsignature: {{inputs: '{signature}'}}"
    )
    model = load(find(str(tmp_path)), LoadOptions(device="cpu"))
    assert model.metadata.inputs == (TensorSpec("input", "FP32", (-1, 4)),)
    assert model.warm_up()
    model.close()
