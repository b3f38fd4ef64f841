"""Asks a server what KServe's own clients can ask, one question named on the command line; prints the answer as JSON.

Runs in KServe's environment, which has nothing of ours: `python kserve_clients.py HTTP_URL GRPC_ADDRESS QUESTION`
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

HTTP, GRPC = sys.argv[1:3]
A, B = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), 2, np.int32)
TEXTS = ["", "ä text", "x" * 20]


def tensor(name: str, data: np.ndarray[Any, Any], *, binary: bool, datatype: str = "INT32") -> InferInput:
    made = InferInput(name, list(data.shape), datatype)
    made.set_data_from_numpy(data, binary_data=binary)
    return made


def request(
    *, binary: bool, model: str = "simple", first: str = "INPUT0", ask_binary: bool | None = None
) -> InferRequest:
    inputs = [tensor(first, A, binary=binary), tensor("INPUT1", B, binary=binary)]
    wanted = None
    if ask_binary is not None:
        wanted = [RequestedOutput("OUTPUT1", {"binary_data": ask_binary})]
    return InferRequest(model, inputs, request_id="mine", request_outputs=wanted)


def texts(*, binary: bool) -> InferRequest:
    data = np.array([[text.encode() for text in TEXTS]], dtype=object)
    return InferRequest("simple_identity", [tensor("INPUT0", data, binary=binary, datatype="BYTES")])


def shown(answer: Any) -> dict[str, Any]:
    outputs = {}
    for output in answer.outputs:
        values = output.as_numpy().tolist()
        outputs[output.name] = [[v.decode() if isinstance(v, bytes) else v for v in row] for row in values]
    return {"model": answer.model_name, "version": answer.model_version, "id": answer.id, "outputs": outputs}


async def refused(call: Awaitable[Any]) -> list[Any]:
    try:
        return ["answered", str(await call)]
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


async def rest(client: InferenceRESTClient) -> dict[str, Any]:
    return {
        "live": await client.is_server_live(HTTP),
        "ready": await client.is_server_ready(HTTP),
        "model ready": await client.is_model_ready(HTTP, "simple"),
        "no model ready": await client.is_model_ready(HTTP, "nope"),
        "json": shown(await client.infer(HTTP, request(binary=False), "simple")),
        "binary": shown(await client.infer(HTTP, request(binary=True), "simple")),
        "binary answer": shown(await client.infer(HTTP, request(binary=False, ask_binary=True), "simple")),
        "texts": shown(await client.infer(HTTP, texts(binary=False), "simple_identity")),
        "binary texts": shown(await client.infer(HTTP, texts(binary=True), "simple_identity")),
        "no model": await refused(client.infer(HTTP, request(binary=False, model="nope"), "nope")),
        "wrong input": await refused(client.infer(HTTP, request(binary=False, first="OTHER"), "simple")),
    }


async def v1(client: InferenceRESTClient) -> dict[str, Any]:
    rows = [{"INPUT0": a, "INPUT1": b} for a, b in zip(A.tolist(), B.tolist(), strict=True)]
    return {
        "live": await client.is_server_live(HTTP),
        "model ready": await client.is_model_ready(HTTP, "simple"),
        "no model ready": await refused(client.is_model_ready(HTTP, "nope")),
        "predict": await client.infer(HTTP, {"instances": rows}, "simple"),
        "no model": await refused(client.infer(HTTP, {"instances": rows}, "nope")),
    }


async def over_grpc(client: InferenceGRPCClient) -> dict[str, Any]:
    async def numbered(number: int) -> bool:
        sent = request(binary=True)
        sent.id = str(number)
        answer = await client.infer(sent)
        return bool(answer.id == str(number) and (answer.outputs[0].as_numpy() == A + B).all())

    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model ready": await client.is_model_ready("simple"),
        "no model ready": await refused(client.is_model_ready("nope")),
        "typed": shown(await client.infer(request(binary=False))),
        "raw": shown(await client.infer(request(binary=True))),
        "texts": shown(await client.infer(texts(binary=True))),
        "a hundred at once": all(await asyncio.gather(*map(numbered, range(100)))),
        "no model": await refused(client.infer(request(binary=True, model="nope"))),
        "wrong input": await refused(client.infer(request(binary=True, first="OTHER"))),
    }


def client_of(question: str) -> tuple[Any, Callable[[Any], Awaitable[dict[str, Any]]]]:
    if question == "grpc":
        return InferenceGRPCClient(GRPC), over_grpc
    return InferenceRESTClient(RESTConfig(protocol=question)), {"v2": rest, "v1": v1}[question]


async def main(question: str) -> None:
    client, ask = client_of(question)
    async with client:
        sys.stdout.write(json.dumps(await ask(client)))


asyncio.run(main(sys.argv[3]))
