"""FastAPI as its tutorials have it: a pydantic body, a forward pass for each request; and bare bytes."""

import numpy as np
import torch
import uvicorn
from common import HTTP_PORT, SHAPE, load
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

app = FastAPI()
model = load()


class Body(BaseModel):
    x: list[float]


class Answer(BaseModel):
    y: list[float]


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/json")
async def as_json(body: Body) -> Answer:
    with torch.inference_mode():
        y = model(torch.tensor(body.x).reshape(1, *SHAPE))
    return Answer(y=y.flatten().tolist())


@app.post("/raw")
async def as_bytes(request: Request) -> Response:
    x = np.frombuffer(await request.body(), dtype=np.float32).reshape(1, *SHAPE)
    with torch.inference_mode():
        y = model(torch.from_numpy(x))
    return Response(y.numpy().tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=HTTP_PORT, log_level="error", access_log=False, loop="uvloop", http="httptools"
    )
