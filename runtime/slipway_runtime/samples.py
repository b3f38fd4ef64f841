"""Makes the sample models: `python -m slipway_runtime.samples DEST`. Small, for a CPU, from a fixed seed.

Their answers can be checked by head where that is possible. The `broken-*` ones show how failures look, the `simple*`
ones and `repeat_int32` are what the examples of Triton's clients ask for.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SEED = 20260101


class Hello(nn.Module):
    """y = 2x + offset."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + self.offset


class AddSub(nn.Module):
    def forward(self, INPUT0: Tensor, INPUT1: Tensor) -> tuple[Tensor, Tensor]:
        return INPUT0 + INPUT1, INPUT0 - INPUT1


class Slow(nn.Module):
    """x, after 50,000 additions that cancel out: TorchScript cannot sleep, so the time depends on the machine."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(50_000):
            x = x + 1
            x = x - 1
        return x


class Crash(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.numel() >= 0:
            raise RuntimeError("this sample fails on purpose")
        return x


class Hungry(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        ballast = torch.ones(7 << 27)  # 3.5 GiB, written to, so that it is really taken
        return x + ballast.max()


class Mlp(nn.Sequential):
    """4 numbers to 3 scores. A class of its own, so that a model of weights only can name it."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def mlp() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(*Mlp()).eval()


def _scripted(module: Callable[[], nn.Module]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        torch.jit.save(torch.jit.script(module().eval()), folder / "model.pt")

    return save


def _exported(module: Callable[[], nn.Module]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(module(), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / "model.pt2")

    return save


def _weights(module: Callable[[], nn.Module]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        save_file(module().state_dict(), folder / "model.safetensors")

    return save


def _code(name: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        (folder / "model.py").write_text((Path(__file__).parent / "sample_models" / f"{name}.py").read_text())

    return save


def _iris(folder: Path) -> None:
    """Made once, by xgboost on scikit-learn's flowers: where the samples are made there is no XGBoost."""
    for name, file in (("iris.json", "model.json"), ("iris.yaml", "slipway.yaml")):
        (folder / file).write_bytes((Path(__file__).parent / "sample_models" / name).read_bytes())


def _cut_short(folder: Path) -> None:
    _scripted(lambda: Hello(1))(folder)
    whole = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(whole[: len(whole) // 2])


def _tensor(name: str, data_type: str, size: int) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": [size]}


def _config(
    inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], max_batch: int = 64, **more: Any
) -> dict[str, Any]:
    return {"max_batch_size": max_batch, "input": inputs, "output": outputs, **more}


_XY = _config([_tensor("x", "TYPE_FP32", 4)], [_tensor("y", "TYPE_FP32", 4)])
_SCORES = _config([_tensor("x", "TYPE_FP32", 4)], [_tensor("scores", "TYPE_FP32", 3)])
_ADD_SUB = _config(
    [_tensor("INPUT0", "TYPE_INT32", 16), _tensor("INPUT1", "TYPE_INT32", 16)],
    [_tensor("OUTPUT0", "TYPE_INT32", 16), _tensor("OUTPUT1", "TYPE_INT32", 16)],
)
_TEXT_SUMS = _config(
    [_tensor("INPUT0", "TYPE_STRING", 16), _tensor("INPUT1", "TYPE_STRING", 16)],
    [_tensor("OUTPUT0", "TYPE_STRING", 16), _tensor("OUTPUT1", "TYPE_STRING", 16)],
    max_batch=8,
)
_TEXT = _config([_tensor("INPUT0", "TYPE_STRING", -1)], [_tensor("OUTPUT0", "TYPE_STRING", -1)], max_batch=8)
_CONTROLS = [
    {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "int32_false_true": [0, 1]}]},
    {"name": "READY", "control": [{"kind": "CONTROL_SEQUENCE_READY", "int32_false_true": [0, 1]}]},
]
_SEQUENCE = _config(
    [_tensor("INPUT", "TYPE_INT32", 1)],
    [_tensor("OUTPUT", "TYPE_INT32", 1)],
    max_batch=8,
    sequence_batching={"max_sequence_idle_microseconds": 5_000_000, "control_input": _CONTROLS},
)
_REPEAT = _config(
    [_tensor("IN", "TYPE_INT32", -1), _tensor("DELAY", "TYPE_UINT32", -1), _tensor("WAIT", "TYPE_UINT32", 1)],
    [_tensor("OUT", "TYPE_INT32", 1), _tensor("IDX", "TYPE_UINT32", 1)],
    max_batch=0,
    model_transaction_policy={"decoupled": True},
)
_CLASS = {"parameters": {"class": {"string_value": "slipway_runtime.samples:Mlp"}}}
# name: what it is (the card), its config, how its file is written
SAMPLES: dict[str, tuple[str, dict[str, Any], Callable[[Path], None]]] = {
    "hello": ("y = 2x + 1, so [1, 2, 3, 4] gives [3, 5, 7, 9]", _XY, _scripted(lambda: Hello(1))),
    "hello-v2": ("y = 2x + 101, so [1, 2, 3, 4] gives [103, 105, 107, 109]", _XY, _scripted(lambda: Hello(101))),
    "mlp": ("4 numbers through 64 hidden units to 3 scores (TorchScript)", _SCORES, _scripted(mlp)),
    "export-mlp": ("the same weights as mlp, saved by torch.export, any batch to 64", _SCORES, _exported(mlp)),
    "add-sub": ("OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1", _ADD_SUB, _scripted(AddSub)),
    "safetensors-mlp": (
        "the same weights as mlp without code; serve it with --allowed-classes 'slipway_runtime.samples:*'",
        _SCORES | _CLASS,
        _weights(mlp),
    ),
    "simple": ("the same as add-sub, by the name the examples of Triton's clients use", _ADD_SUB, _scripted(AddSub)),
    "simple_string": (
        "add-sub of numbers written as text; Python code, so --allow-code",
        _TEXT_SUMS,
        _code("simple_string"),
    ),
    "simple_identity": ("OUTPUT0 = INPUT0, any bytes; Python code, so --allow-code", _TEXT, _code("simple_identity")),
    "simple_sequence": (
        "OUTPUT = the sum of INPUT over a sequence; Python code, so --allow-code",
        _SEQUENCE,
        _code("simple_sequence"),
    ),
    "repeat_int32": (
        "streams every number of IN after its DELAY in milliseconds; Python code, so --allow-code",
        _REPEAT,
        _code("repeat_int32"),
    ),
    "iris": (
        "4 measures of a flower to the odds of 3 kinds (XGBoost); served by slipway-sklearn-xgboost",
        {"max_batch_size": 64},
        _iris,
    ),
    "slow": ("y = x after about 200 ms of work on one CPU", _XY, _scripted(Slow)),
    "broken-corrupt": ("a file that is cut in half", _XY, _cut_short),
    "broken-crash": ("raises an error on every request, the first warm-up included", _XY, _scripted(Crash)),
    "broken-oom": ("takes 3.5 GiB when it is warmed up", _XY, _scripted(Hungry)),
}


def make(dest: Path) -> None:
    """Write every sample to `dest`/NAME: the model, config.json, README.md."""
    for name, (about, config, save) in SAMPLES.items():
        folder = dest / name
        folder.mkdir(parents=True, exist_ok=True)
        save(folder)
        (folder / "config.json").write_text(json.dumps({"name": name, **config}, indent=2) + "\n")
        (folder / "README.md").write_text(f"# {name}\n\n{about}.\n")


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        sys.stderr.write("usage: python -m slipway_runtime.samples DEST\n")
        return 78
    with warnings.catch_warnings():
        # torch.jit is deprecated, but people have such models; the samples show that they are served.
        warnings.simplefilter("ignore", FutureWarning)
        make(Path(argv[0]))
    sys.stderr.write(f"{len(SAMPLES)} samples written to {argv[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
