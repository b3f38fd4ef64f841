"""`slipway-runtime bench`: what it measures is what it says, what it recommends follows from it, its config is read."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway_runtime.__main__ import run
from slipway_runtime.models.config import (
    Control,
    DynamicBatching,
    InstanceGroup,
    ModelConfig,
    QueuePolicy,
    SequenceBatching,
    VersionPolicy,
    Warmup,
    WarmupInput,
)
from slipway_runtime.models.config_reader import config_of
from slipway_runtime.tensors import Metadata, TensorSpec
from slipway_runtime.user_bench import Cell, choice, config_json, thread_counts

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

Text = pytest.CaptureFixture[str]
QUICK = ("--seconds", "0.01", "--threads", "1", "--compile", "false")
X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
SIGNATURE = Metadata("pytorch_torchscript", (X,), (Y,), 64)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def cells(*rates: float, threads: int = 1, compiled: bool = False) -> list[Cell]:
    """Of batches of 1, 2, 4, ... rows."""
    return [Cell(threads, compiled, 1 << power, 1.0, 1.0, rate) for power, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("table", "best"),
    [
        pytest.param(cells(100, 190, 380, 390), (1, False, 4), id="the last doubling does not pay"),
        pytest.param(cells(100, 90, 80), (1, False, 1), id="no batch pays"),
        pytest.param(cells(100, 200) + cells(104, 206, threads=2), (1, False, 2), id="more threads do not pay"),
        pytest.param(cells(100, 200) + cells(100, 300, threads=2), (2, False, 2), id="more threads pay"),
        pytest.param(cells(100, 200) + cells(110, 215, compiled=True), (1, False, 2), id="compiling pays too little"),
        pytest.param(cells(100, 200) + cells(110, 400, compiled=True), (1, True, 2), id="compiling pays"),
    ],
)
def test_the_smallest_and_plainest_is_recommended_that_is_not_surely_slower(
    table: list[Cell], best: tuple[int, bool, int]
) -> None:
    chosen = choice(table)
    assert (chosen.threads, chosen.compile, chosen.batch) == best


def test_threads_are_tried_by_doubling_up_to_the_limit() -> None:
    assert [thread_counts(limit) for limit in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


CONFIGS = {
    "plain": ModelConfig(max_batch=16, inputs=(X,), outputs=(Y,)),
    "no batches": ModelConfig(inputs=(TensorSpec("x", "BYTES", (1, -1)),), outputs=(TensorSpec("y", "BF16", ()),)),
    "queue": ModelConfig(
        max_batch=8,
        inputs=(X,),
        outputs=(Y,),
        dynamic_batching=DynamicBatching((4,), 100, 3, 2, QueuePolicy("REJECT", 1000, True, 5)),
        instances=(InstanceGroup("a", "KIND_GPU", 2, (0, 1)), InstanceGroup("b", "KIND_CPU", 1)),
        version_policy=VersionPolicy(0, (1, 3)),
        response_cache=True,
        filename="other.pt",
        parameters={"compile": "on", "mine": ""},
        warmup=(Warmup("w", 4, 2, (WarmupInput("x", "FP32", (4,), "random"),)),),
    ),
    "sequence": ModelConfig(
        max_batch=8,
        inputs=(X,),
        outputs=(Y,),
        sequence_batching=SequenceBatching(
            "oldest", 5_000_000, 7, (2,), 9, (Control("S", "START", "INT32", 0, 1), Control("C", "CORRID", "UINT64"))
        ),
        version_policy=VersionPolicy(0),
    ),
    "stream": ModelConfig(backend="python", inputs=(X,), outputs=(Y,), decoupled=True, platform="mine"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_a_printed_config_means_what_was_measured(config: ModelConfig) -> None:
    signature = Metadata("pytorch_torchscript", config.inputs, config.outputs, config.max_batch)
    again = config_of(json.loads(json.dumps(config_json(config, signature, "m"))), "printed")
    assert again == replace(config, name="m", backend=config.backend or "pytorch")


def test_what_is_not_known_is_not_printed() -> None:
    signature = Metadata("pytorch_torchscript", (TensorSpec("x"),), (Y,), 8)
    assert config_json(ModelConfig(max_batch=8), signature, "m") == {
        "name": "m",
        "max_batch_size": 8,
        "backend": "pytorch",
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4]}],
    }


def test_the_table_grows_and_ends_with_a_config(samples: Path, tmp_path: Path, capsys: Text) -> None:
    output = tmp_path / "config.json"
    assert run(["bench", str(samples / "hello"), "--max-batch", "6", "--output", str(output), *QUICK]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line.lstrip().startswith("1  ")]
    assert [row[2] for row in rows][:3] == ["1", "2", "4"]
    assert "Best here: batches of " in text
    assert "slipway-runtime serve --model " in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line and str(samples) not in line) <= 80
    written = json.loads(output.read_text())
    assert written["name"] == "hello"
    assert written["max_batch_size"] in (1, 2, 4, 6)
    assert written["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
    assert text.rstrip().endswith(output.read_text().rstrip())


def measured(capsys: Text, *arguments: str) -> dict[str, Any]:
    assert run(["bench", *arguments, "--json", *QUICK]) == 0
    printed = capsys.readouterr()
    assert "rows/s" in printed.err, "progress is shown while it runs"
    found: dict[str, Any] = json.loads(printed.out)
    for cell in found["cells"]:
        assert 0 < cell["ms_p50"] <= cell["ms_p99"]
        # Half of all batches took the median or longer, so that the mean is half of it at least.
        assert cell["rows_per_s"] <= 2.01 * cell["batch"] / (cell["ms_p50"] / 1e3)
    return found


@pytest.mark.parametrize("name", ["simple_sequence", "repeat_int32"])
def test_sequences_and_streams_are_measured_one_at_a_time(samples: Path, capsys: Text, name: str) -> None:
    found = measured(capsys, str(samples / name), "--allow-code", "true")
    assert [cell["batch"] for cell in found["cells"]] == [1]


def test_an_exported_program_is_measured_up_to_the_batch_it_was_exported_for(samples: Path, capsys: Text) -> None:
    file = str(samples / "export-mlp" / "model.pt2")
    found = measured(capsys, file, "--max-batch", "128")
    assert [cell["batch"] for cell in found["cells"]] == [1, 2, 4, 8, 16, 32, 64]
    assert "batches of 128 rows fail: the input is outside of what the model was exported for" in found["notes"][0]
    assert found["config"]["max_batch_size"] <= 64


STALLS = """
import time
class Model:
    def load(self, context):
        self.count = 0
    def infer(self, batch):
        self.count += 1
        time.sleep(0.02 if batch.rows > 2 and self.count % 4 == 0 else 0.001)
        return {"y": batch["x"]}
"""


def test_a_machine_that_stalls_now_and_then_does_not_end_the_table(tmp_path: Path, capsys: Text) -> None:
    x = {"data_type": "TYPE_FP32", "dims": [4]}
    config = {"max_batch_size": 16, "input": [{"name": "x", **x}], "output": [{"name": "y", **x}]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.py").write_text(STALLS)
    found = measured(capsys, str(tmp_path), "--allow-code", "true", "--max-batch", "16")
    assert [cell["batch"] for cell in found["cells"]] == [1, 2, 4, 8, 16]


def test_a_model_that_tells_no_shapes_is_given_them(samples: Path, capsys: Text) -> None:
    file = str(samples / "hello" / "model.pt")
    bare = samples / "bare.pt"
    bare.write_bytes(Path(file).read_bytes())
    try:
        assert run(["bench", str(bare), *QUICK]) == 65
        assert "give --input NAME:DATATYPE:DIMS for each" in capsys.readouterr().err
        found = measured(capsys, str(bare), "--input", "x:FP32:4", "--max-batch", "2")
    finally:
        bare.unlink()
    assert found["config"]["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
    assert found["config"]["output"] == [{"name": "OUTPUT__0", "data_type": "TYPE_FP32", "dims": [-1]}]


def test_a_model_that_always_fails_is_no_measurement(samples: Path, capfd: Text) -> None:
    assert run(["bench", str(samples / "broken-crash"), *QUICK]) == 65
    assert "its first (warm-up) request failed" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(samples: Path, capfd: Text) -> None:
    arguments = ["--output", "/nowhere/config.json", "--max-batch", "1"]
    assert run(["bench", str(samples / "hello"), *arguments, *QUICK]) == 78
    assert "--output '/nowhere/config.json' cannot be written: No such file" in capfd.readouterr().err


def test_a_text_config_beside_the_model_is_pointed_at(samples: Path, tmp_path: Path, capsys: Text) -> None:
    (tmp_path / "model.pt").write_bytes((samples / "hello" / "model.pt").read_bytes())
    (tmp_path / "config.pbtxt").write_text(
        'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 '
        "dims: 4 }"
    )
    assert (
        "remove it when you put a config.json there" in measured(capsys, str(tmp_path), "--max-batch", "1")["notes"][-1]
    )


class Compiled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1


def test_compiling_is_tried_or_the_reason_is_told(tmp_path: Path, capsys: Text) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Compiled(), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    arguments = ["--json", "--seconds", "0.01", "--threads", "1", "--max-batch", "2"]
    assert run(["bench", str(tmp_path), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    compiled = [cell["batch"] for cell in found["cells"] if cell["compile"]]
    assert compiled in ([1], [1, 2]) or "torch.compile does not work for it here" in found["notes"][-1]
