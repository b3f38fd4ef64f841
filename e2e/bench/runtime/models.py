"""The models that are served, as files every server reads, and what raw torch answers.

    python e2e/bench/runtime/models.py FOLDER

It writes FOLDER/NAME/model.pt (TorchScript) with a config.json that names its tensors, x.f32 and y.f32: one request and
its answer, float32. It is a program of its own so that the benchmark's process, beside which servers are measured, has
no torch.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

SEED = 20
SIZES = {"tiny": (4,), "mlp512": (512,), "img": (3, 224, 224), "identity": (262_144,)}


def build(name: str) -> nn.Module:
    torch.manual_seed(SEED)
    match name:
        case "tiny":
            return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
        case "mlp512":  # 2.1 million weights: batching pays, because a batch reads them once
            layers = [layer for _ in range(8) for layer in (nn.Linear(512, 512), nn.ReLU())]
            return nn.Sequential(*layers, nn.Linear(512, 10))
        case "img":  # 588 KiB go in, and hardly anything is computed
            return nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 10))
        case "identity":  # 1 MiB in and out
            return nn.Identity()
    raise ValueError(f"there is no model '{name}'")


def write(name: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    x = torch.rand((1, *SIZES[name]), generator=torch.Generator().manual_seed(SEED))
    # Six digits in JSON are then all there is of a number, and every protocol carries the very same one.
    x = (x * 1e6).round() / 1e6
    with torch.inference_mode():
        model = torch.jit.script(build(name).eval())
        y = model(x)
    torch.jit.save(model, str(folder / "model.pt"))
    (folder / "config.json").write_text(json.dumps(config(name, list(y.shape[1:]))))
    (folder / "x.f32").write_bytes(x.numpy().tobytes())
    (folder / "y.f32").write_bytes(y.numpy().tobytes())


def config(name: str, outputs: list[int]) -> dict[str, object]:
    """Triton's ModelConfig; of the same fields its own config.pbtxt is made."""
    return {
        "name": name,
        "max_batch_size": 64,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": list(SIZES[name])}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": outputs}],
    }


if __name__ == "__main__":
    for model_name in SIZES:
        write(model_name, Path(sys.argv[1]) / model_name)
