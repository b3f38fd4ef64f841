"""Mosec with one worker: JSON, its default, and bare bytes, by overriding how a worker reads and writes."""

import os

import numpy as np
import torch
from common import BATCH, SHAPE, load
from mosec import Runtime, Server, Worker

WAIT_MS = 1
"""The longest a batch waits to be full: the least that Mosec takes."""


class Json(Worker):
    def __init__(self) -> None:
        self.model = load()

    def forward(self, data):
        x = torch.tensor([one["x"] for one in (data if BATCH > 1 else [data])]).reshape(-1, *SHAPE)
        with torch.inference_mode():
            answers = [{"y": row} for row in self.model(x).tolist()]
        return answers if BATCH > 1 else answers[0]


class Raw(Worker):
    def __init__(self) -> None:
        self.model = load()

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.float32).reshape(SHAPE)

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data):
        with torch.inference_mode():
            y = self.model(torch.from_numpy(np.stack(data if BATCH > 1 else [data]))).numpy()
        answers = [row.tobytes() for row in y]
        return answers if BATCH > 1 else answers[0]


if __name__ == "__main__":
    server = Server()
    # One of the two, for each is a process with a torch of its own.
    route = os.environ["BENCH_ROUTE"]
    worker = {"/json": Json, "/raw": Raw}[route]
    server.register_runtime({route: [Runtime(worker, 1, BATCH, max_wait_time=WAIT_MS)]})
    server.run()
