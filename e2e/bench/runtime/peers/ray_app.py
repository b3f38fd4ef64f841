"""Ray Serve: one replica, requests batched by @serve.batch without waiting."""

import signal

import numpy as np
import ray
import torch
from common import BATCH, HTTP_PORT, SHAPE, load
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Served:
    def __init__(self) -> None:
        self.model = load()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.0)
    async def forward(self, samples: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return list(self.model(torch.stack(samples)))

    async def __call__(self, request: Request) -> Response | dict[str, list[float]]:
        if request.url.path.endswith("/raw"):
            x = np.frombuffer(await request.body(), dtype=np.float32).reshape(SHAPE)
            return Response((await self.forward(torch.from_numpy(x))).numpy().tobytes())
        x = torch.tensor((await request.json())["x"]).reshape(SHAPE)
        return {"y": (await self.forward(x)).flatten().tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=300_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": HTTP_PORT})
    serve.run(Served.bind(), route_prefix="/")
    signal.pause()
