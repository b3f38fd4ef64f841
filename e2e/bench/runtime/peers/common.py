"""What every peer's program is told, by the environment, and the model they all load."""

import os
from pathlib import Path

import torch

NAME = os.environ["BENCH_MODEL"]
FOLDER = Path(os.environ["BENCH_MODELS"]) / NAME
HTTP_PORT = int(os.environ["BENCH_HTTP_PORT"])
GRPC_PORT = int(os.environ["BENCH_GRPC_PORT"])
BATCH = int(os.environ.get("BENCH_BATCH", "1"))
SHAPE = tuple(int(size) for size in os.environ["BENCH_SHAPE"].split(","))
"""Of one sample, without the batch."""


def load() -> torch.jit.ScriptModule:
    return torch.jit.load(str(FOLDER / "model.pt"))
