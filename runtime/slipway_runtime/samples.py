"""Makes the sample models: `python -m slipway_runtime.samples DEST`. Small, for a CPU, from a fixed seed.

Their answers can be checked by head where that is possible. The `broken-*` ones show how failures look.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
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


def mlp() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)).eval()


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


def _cut_short(folder: Path) -> None:
    _scripted(lambda: Hello(1))(folder)
    whole = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(whole[: len(whole) // 2])


def _tensor(name: str, data_type: str, size: int) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": [size]}


def _config(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"max_batch_size": 64, "input": inputs, "output": outputs}


_XY = _config([_tensor("x", "TYPE_FP32", 4)], [_tensor("y", "TYPE_FP32", 4)])
_SCORES = _config([_tensor("x", "TYPE_FP32", 4)], [_tensor("scores", "TYPE_FP32", 3)])
_ADD_SUB = _config(
    [_tensor("INPUT0", "TYPE_INT32", 16), _tensor("INPUT1", "TYPE_INT32", 16)],
    [_tensor("OUTPUT0", "TYPE_INT32", 16), _tensor("OUTPUT1", "TYPE_INT32", 16)],
)
# name: what it is (the card), its config, how its file is written
SAMPLES: dict[str, tuple[str, dict[str, Any], Callable[[Path], None]]] = {
    "hello": ("y = 2x + 1, so [1, 2, 3, 4] gives [3, 5, 7, 9]", _XY, _scripted(lambda: Hello(1))),
    "hello-v2": ("y = 2x + 101, so [1, 2, 3, 4] gives [103, 105, 107, 109]", _XY, _scripted(lambda: Hello(101))),
    "mlp": ("4 numbers through 64 hidden units to 3 scores (TorchScript)", _SCORES, _scripted(mlp)),
    "export-mlp": ("the same weights as mlp, saved by torch.export, any batch to 64", _SCORES, _exported(mlp)),
    "add-sub": ("OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1", _ADD_SUB, _scripted(AddSub)),
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
