"""Every answer is the right one: to the bit what torch gives for the same batch, and for who asked."""

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http.aio as http_aio
from torch import Tensor, nn
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from slipway_runtime.samples import mlp
from tests.runtime.fuzz import FULL
from tests.runtime.process import ServerProcess, start

pytestmark = pytest.mark.timeout(3600 if FULL else 300)

MIXES = 500
DISTINCT = 1_000_000 if FULL else 10_000
MOST = 32
CONFIG = {
    "name": "tell",
    "max_batch_size": MOST,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}],
    "output": [
        {"name": "scores", "data_type": "TYPE_FP32", "dims": [3]},
        {"name": "row", "data_type": "TYPE_INT64", "dims": [1]},
        {"name": "rows", "data_type": "TYPE_INT64", "dims": [1]},
        {"name": "batch", "data_type": "TYPE_FP32", "dims": [MOST * 4]},
    ],
    "dynamic_batching": {"priority_levels": 3, "default_priority_level": 2},
}


class Tell(nn.Module):
    """The scores of `mlp`, and with every row the whole batch that it was in, so that torch can be asked again."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = x.size(0)
        batch = torch.zeros(128)
        batch[: count * 4] = x.flatten()
        wait = torch.zeros(1)
        for _ in range(400):  # about 2 ms, so that requests wait, expire and are cancelled
            wait = wait + 1
        rows = torch.full((count, 1), count, dtype=torch.int64)
        return self.mlp(x), torch.arange(count).unsqueeze(1), rows, batch.unsqueeze(0).repeat(count, 1)


@pytest.fixture(scope="module")
def tell(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tell")
    with pytest.warns((FutureWarning, DeprecationWarning)):
        torch.jit.save(torch.jit.script(Tell().eval()), folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    server = start(samples, "--model", str(folder))
    yield server.wait_ready()
    server.kill()


@pytest.fixture
def reference() -> Iterator[nn.Module]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server has it
    yield mlp()
    torch.set_num_threads(threads)


class Ask:
    """A request of a mix: how many rows, by which protocol, what it may wait for, whether it is given up."""

    def __init__(self, chance: random.Random) -> None:
        rows = chance.choice([1, 1, 1, 2, 3, 5, 8, 16])
        self.x = np.array([[chance.uniform(-9, 9) for _ in range(4)] for _ in range(rows)], np.float32)
        self.by_grpc = chance.random() < 0.5
        self.priority = chance.choice([0, 0, 1, 2, 3])
        self.timeout_us = chance.choice([None, None, None, 500, 3_000, 20_000_000])
        self.cancel_after_s = chance.uniform(0, 0.01) if chance.random() < 0.2 else None
        self.after_s = chance.uniform(0, 0.006)

    async def run(self, http: Any, grpc: Any) -> Any:
        """The result, or None for one that was given up or whose time was over."""
        await asyncio.sleep(self.after_s)
        client, library = (grpc, grpc_aio) if self.by_grpc else (http, http_aio)
        tensor = library.InferInput("x", list(self.x.shape), "FP32")
        tensor.set_data_from_numpy(self.x)
        asked = asyncio.ensure_future(client.infer("tell", [tensor], priority=self.priority, timeout=self.timeout_us))
        if self.cancel_after_s is not None:
            await asyncio.wait([asked], timeout=self.cancel_after_s)
            if not asked.done():
                asked.cancel()
                await asyncio.wait([asked])
                return None
        try:
            return await asked
        except InferenceServerException as error:
            if self.timeout_us is None or "timeout expired" not in str(error.message()):
                raise
            return None


def check(ask: Ask, result: Any, reference: nn.Module) -> int:
    """The size of the batch it was in."""
    at, rows = result.as_numpy("row")[:, 0], result.as_numpy("rows")[:, 0]
    batch = result.as_numpy("batch")[0].reshape(MOST, 4)[: rows[0]]
    assert (batch[at] == ask.x).all(), "another request's rows"
    with torch.inference_mode():
        expected = reference(torch.from_numpy(batch.copy())).numpy()
    assert result.as_numpy("scores").tobytes() == expected[at].tobytes()
    return int(rows[0])


async def test_answers_are_torchs_to_the_bit_whatever_is_mixed(tell: ServerProcess, reference: nn.Module) -> None:
    chance = random.Random(20260101)  # noqa: S311
    sizes: set[int] = set()
    lost = answered = 0
    async with (
        http_aio.InferenceServerClient(tell.http) as http,
        grpc_aio.InferenceServerClient(tell.grpc) as grpc_client,
    ):
        for _ in range(MIXES):
            asks = [Ask(chance) for _ in range(chance.randint(1, 12))]
            for ask, result in zip(
                asks, await asyncio.gather(*(ask.run(http, grpc_client) for ask in asks)), strict=True
            ):
                if result is None:
                    lost += 1
                else:
                    answered += 1
                    sizes.add(check(ask, result, reference))
    assert answered > lost > MIXES / 4, (answered, lost)
    assert len(sizes) > 10, "batches of many sizes were meant to be seen"


async def by_http(server: ServerProcess, numbers: Sequence[int]) -> int:
    """How many answers were wrong."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    wrong = 0
    for number in numbers:
        body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[%d,1,2,3]}]}' % number
        writer.write(
            b"POST /v2/models/hello/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        wrong += answer["outputs"][0]["data"] != [2 * number + 1, 3, 5, 7]
    writer.close()
    await writer.wait_closed()
    return wrong


async def by_grpc(infer: Any, numbers: Sequence[int]) -> int:
    request = pb.ModelInferRequest(model_name="hello")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(b"")
    wrong = 0
    for number in numbers:
        request.raw_input_contents[0] = np.array([number, 1, 2, 3], np.float32).tobytes()
        answer = await infer(request)
        wrong += np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() != [2 * number + 1, 3, 5, 7]
    return wrong


async def test_no_answer_goes_to_another_request_by_either_protocol(servers: dict[str, ServerProcess]) -> None:
    server = servers["hello"]
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        shares = [range(start, DISTINCT, 32) for start in range(32)]
        wrong = await asyncio.gather(
            *(by_http(server, share) if at % 2 else by_grpc(infer, share) for at, share in enumerate(shares))
        )
    assert sum(wrong) == 0
