"""LitServe with one worker; its batcher takes what has queued (batch_timeout 0, its default)."""

import litserve
import torch
from common import BATCH, HTTP_PORT, SHAPE, load


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load()

    def decode_request(self, request: dict[str, list[float]]) -> torch.Tensor:
        x = torch.tensor(request["x"]).reshape(SHAPE)
        return x if BATCH > 1 else x[None]

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(x)

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        return list(output)

    def encode_response(self, output: torch.Tensor) -> dict[str, list[float]]:
        return {"y": output.flatten().tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=BATCH, api_path="/json"), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=HTTP_PORT, log_level="error", generate_client_file=False, access_log=False)
