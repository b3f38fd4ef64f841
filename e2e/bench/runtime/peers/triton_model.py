"""Triton's Python backend: all the requests that its batcher hands over go through the model at once."""

import os

import torch
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.model = torch.jit.load(os.path.join(os.environ["BENCH_MODELS"], args["model_name"], "model.pt"))

    def execute(self, requests: list) -> list:
        samples = [torch.from_numpy(triton.get_input_tensor_by_name(one, "x").as_numpy()) for one in requests]
        with torch.inference_mode():
            y = self.model(samples[0] if len(samples) == 1 else torch.cat(samples))
        rows = y.split([len(one) for one in samples])
        return [triton.InferenceResponse([triton.Tensor("y", one.numpy())]) for one in rows]
