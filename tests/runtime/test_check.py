"""`slipway-runtime check`: what it says of good models, what it finds in others, how it ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway_runtime import check as checking
from slipway_runtime.__main__ import run
from slipway_runtime.repository import ModelFiles
from slipway_runtime.settings import read_command

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

Text = pytest.CaptureFixture[str]
X = {"name": "x", "data_type": "TYPE_FP32", "dims": [4]}
Y = {"name": "y", "data_type": "TYPE_FP32", "dims": [4]}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def checked(folder: Path, *arguments: str) -> dict[str, Any]:
    command = read_command(["check", str(folder), "--threads", "1", *arguments], {})
    (artifact,) = [artifact for _, artifact in ModelFiles(command.settings).one()[1]]
    found = checking.report("m", artifact, command.settings)
    return found.data | {"problems": [(problem.what, problem.fix) for problem in found.problems]}


def scripted(folder: Path, module: torch.nn.Module, **config: Any) -> Path:
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(module), folder / "model.pt")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_good_model_is_described_and_nothing_is_wrong_with_it(samples: Path, capsys: Text) -> None:
    assert run(["check", str(samples / "mlp"), "--threads", "1"]) == 0
    text = capsys.readouterr().out
    for line in (
        "model     mlp, version 1",
        "inputs    x FP32 [-1, 4]",
        "outputs   scores FP32 [-1, 3]",
        "batches   up to 64 rows",
        "runs on   CPU, 1 thread, 1 instance",
        "queue     1000 requests may wait, each 60 s at most",
    ):
        assert line in text
    assert text.endswith("mlp can be served; no problems found\n")
    assert max(map(len, text.splitlines())) <= 80


def test_machines_are_told_the_same_as_json(samples: Path, capsys: Text) -> None:
    assert run(["check", str(samples / "export-mlp"), "--json", "--threads", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    (version,) = told["versions"]
    assert (told["model"], version["format"], version["problems"]) == ("export-mlp", "torch-export", [])
    assert version["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert [answer["rows"] for answer in version["answers"]] == [1, 64]
    assert version["engine_bytes"] > version["memory_bytes"] >= 0


@pytest.mark.parametrize("name", ["simple_string", "simple_identity", "simple_sequence", "repeat_int32"])
def test_strings_sequences_and_streams_can_be_checked(samples: Path, name: str) -> None:
    found = checked(samples / name, "--allow-code", "true")
    assert found["warmed_up"]
    assert found["answers"][0]["rows"] == 1
    assert [what for what, _ in found["problems"] if "stream" not in what] == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        pytest.param(["broken-corrupt"], 65, "damaged or cut short", id="cut short"),
        pytest.param(["broken-crash"], 65, "its first (warm-up) request failed", id="crashes"),
        pytest.param(["nope"], 66, "does not exist; check --model", id="missing"),
        pytest.param(["simple_string"], 78, "allow it with --allow-code true", id="code"),
        pytest.param(["mlp", "--input", "x:FP32:4"], 78, "names the inputs already: ['x']", id="twice"),
        pytest.param(["mlp", "--input", "x:FP31:4"], 78, "names the inputs already", id="twice before wrong"),
        pytest.param(["mlp", "--threads", "many"], 78, "--threads is 'many'", id="flag"),
        pytest.param(["."], 66, "if it is a repository of models, name one of them, like", id="repository"),
    ],
)
def test_what_serve_would_end_with_ends_the_check(
    samples: Path, capfd: Text, arguments: list[str], code: int, sentence: str
) -> None:
    assert run(["check", str(samples / arguments[0]), *arguments[1:]]) == code
    assert sentence in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("text", ["x", "x:FP32", ":FP32:4", "x:FLOAT:4", "x:FP32:0", "x:FP32:4x", "x:FP32:-1"])
def test_an_input_that_is_not_one_is_refused(tmp_path: Path, capfd: Text, text: str) -> None:
    scripted(tmp_path, Double())
    code = run(["check", str(tmp_path), "--input", text])
    if text == "x:FP32":  # one number per row
        assert code in (0, 65)
        return
    assert code == 78
    assert "must be like x:FP32:4" in capfd.readouterr().err


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Dropping(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.5, training=True)


class Mixing(torch.nn.Module):
    """As batch norm does while it learns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Infinite(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0


class Wide(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1)


class Picky(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x != 0).any()):
            raise ValueError("zeros only")
        return x


@pytest.mark.parametrize(
    ("module", "what", "fix"),
    [
        pytest.param(Dropping(), "the same request gets different answers", ".eval()", id="dropout"),
        pytest.param(Mixing(), "the answer to a row depends on the other rows", ".eval()", id="batch norm"),
        pytest.param(Infinite(), "output 'y' has NaN or infinity", "float16 overflows", id="infinite"),
        pytest.param(Wide(), "output 'y' has shape [1, 8], its config says [-1, 4]", "correct dims", id="dims"),
        pytest.param(Picky(), "it answers zeros, but not random numbers", "model_warmup", id="picky"),
    ],
)
def test_a_model_that_surprises_is_found_out(tmp_path: Path, module: torch.nn.Module, what: str, fix: str) -> None:
    torch.manual_seed(1)  # of 16 pairs of answers with other numbers left out, one pair is alike
    scripted(tmp_path, module, max_batch_size=4, input=[X], output=[Y])
    ((said, remedy),) = checked(tmp_path)["problems"]
    assert what in said
    assert fix in remedy


def test_a_model_without_a_config_is_told_what_it_lacks_and_can_be_given_it(tmp_path: Path, capsys: Text) -> None:
    scripted(tmp_path, Double())
    ((what, fix),) = checked(tmp_path)["problems"]
    assert "does not tell the types and shapes" in what
    assert "--input NAME:DATATYPE:DIMS" in fix
    assert run(["check", str(tmp_path), "--input", "x:FP32:4", "--threads", "1"]) == 0
    assert "no problems found" in capsys.readouterr().out


def test_a_model_that_could_batch_and_does_not_is_told_so(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes((samples / "export-mlp" / "model.pt2").read_bytes())
    ((what, fix),) = checked(tmp_path)["problems"]
    assert "max_batch_size is 0" in what
    assert "bench" in fix


def test_a_batch_larger_than_the_model_was_exported_for_is_found_out(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes((samples / "export-mlp" / "model.pt2").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"max_batch_size": 100}))
    ((what, _),) = checked(tmp_path)["problems"]
    assert what.startswith("it answers one row, but not 100, which is its max_batch_size: the input is outside of")


def test_fields_that_do_nothing_are_named(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "optimization": {"priority": "PRIORITY_MAX"},
        "parameters": {"colour": {"string_value": "r"}},
    }
    scripted(tmp_path, Double(), max_batch_size=4, input=[X], output=[Y], **more)
    ((what, _),) = checked(tmp_path)["problems"]
    assert "optimization, parameters.colour" in what


def test_every_version_that_would_be_served_is_checked(samples: Path, tmp_path: Path, capsys: Text) -> None:
    for version in ("1", "3"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "model.pt").write_bytes((samples / "hello" / "model.pt").read_bytes())
    (tmp_path / "config.json").write_text(
        json.dumps({"max_batch_size": 4, "input": [X], "output": [Y], "version_policy": {"all": {}}})
    )
    assert run(["check", str(tmp_path), "--json", "--threads", "1"]) == 0
    assert [version["version"] for version in json.loads(capsys.readouterr().out)["versions"]] == [1, 3]
