"""A source of models that are Python functions, and a whole service on it: no files, no torch."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from slipway_runtime.engine.endpoint import Options
from slipway_runtime.engine.job import Call
from slipway_runtime.engine.policy import Policy
from slipway_runtime.errors import BadModel, Kind, RequestError
from slipway_runtime.protocol.routes import RestOptions, Routes
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.service import Service, ServiceOptions
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, Rows, Tensor, TensorSpec
from slipway_runtime.versions import LoadedVersion
from slipway_runtime.wire.http1_messages import Request, Response
from tests.runtime.http_stand_in import answer_of

LIMIT = 10_000
METADATA = Metadata(
    "test",
    inputs=(TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1, 1))),
    outputs=(TensorSpec("sum", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1, 1))),
    max_batch=4,
)
X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
N = {"name": "n", "shape": [1, 1], "datatype": "INT64", "data": [10]}
BODY: dict[str, Any] = {"inputs": [X, N]}


class Sum:
    """x + n + `offset`, one request at a time. Holds while `hold` is cleared; raises for n = 13."""

    may_run_inline = False
    decoupled = False
    broken = ""
    metadata = METADATA

    def __init__(self, offset: float = 0) -> None:
        self.offset = offset
        self.hold = threading.Event()
        self.hold.set()
        self.closed = False

    @property
    def runners(self) -> "list[Sum]":
        return [self]

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        assert not self.closed, "a model was used after it was closed"
        self.hold.wait(20)
        return [self._one(*call.inputs) for call in batch]

    def _one(self, x: Any, n: Any) -> Rows | RequestError:
        if (n == 13).any():
            return RequestError(Kind.INTERNAL, "the model failed: thirteen")
        return [(x + n + self.offset).astype(np.float32), n]

    def stream(self, call: Call) -> Iterator[Rows]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


class FakeSource:
    """`gate` holds up loading while it is cleared; `failing` names what cannot be loaded, `refused` versions whose
    options are wrong, and why."""

    def __init__(self, *names: str) -> None:
        self.versions: dict[str, dict[str, Callable[[], Sum]]] = {name: {"1": Sum} for name in names or ("m",)}
        self.at_start = list(self.versions)
        self.needs: dict[str, list[str]] = {}
        self.failing: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.policy = Policy(max_rows=1, max_jobs=1, max_queue=1, max_queue_bytes=1 << 20, timeout_s=20)
        self.gate = threading.Event()
        self.gate.set()
        self.loaded: list[Sum] = []
        self.released: list[Sum] = []
        self.configs: list[str | None] = []

    def initial(self) -> list[str]:
        return self.at_start

    def names(self) -> list[str]:
        return list(self.versions)

    def load(self, name: str, config: str | None) -> list[LoadedVersion]:
        self.gate.wait(20)
        self.configs.append(config)
        if name in self.failing:
            raise BadModel(self.failing[name])
        return [self._version(name, version, make()) for version, make in self.versions[name].items()]

    def _version(self, name: str, version: str, model: Sum) -> LoadedVersion:
        self.loaded.append(model)
        return LoadedVersion(
            version=version,
            model=model,
            options=lambda: self._options(version),
            config=lambda: {"name": "m", "max_batch_size": 4},
            labels={},
            close=lambda: self.released.append(model),
            needs=self.needs.get(name, []),
        )

    def _options(self, version: str) -> Options:
        if version in self.refused:
            raise BadModel(self.refused[version])
        return Options(self.policy)


class World:
    """A service, its REST routes, and the model that was loaded last."""

    def __init__(self, source: FakeSource | None = None, *, explicit: bool = True) -> None:
        self.source = source or FakeSource()
        self.service = Service(self.source, ServiceOptions(explicit=explicit))
        self.memory = SharedMemory()
        self.routes = Routes(self.service, self.memory, RestOptions(LIMIT))

    @property
    def model(self) -> Sum:
        return self.source.loaded[-1]

    async def start(self) -> "World":
        await self.service.start()
        return self

    async def close(self) -> None:
        self.source.gate.set()
        for model in self.source.loaded:
            model.hold.set()
        await self.service.close()

    async def rest(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        return await answer_of(self.routes, Request(method, path, named, body, keep_alive=True))

    async def infer(self, path: str = "/v2/models/m/infer", **change: Any) -> Response:
        return await self.rest("POST", path, json.dumps(BODY | change).encode())

    def submit(self, name: str = "m", version: str = "") -> "asyncio.Future[InferResponse | RequestError]":
        """One request straight to the service, past the protocols. Raises what is raised at once."""
        x = Tensor("x", "FP32", np.array([[1, 2]], np.float32))
        n = Tensor("n", "INT64", np.array([[10]], np.int64))
        answer: asyncio.Future[InferResponse | RequestError] = asyncio.get_running_loop().create_future()
        self.service.submit(self.service.entry(name, version), InferRequest([x, n]), answer.set_result)
        return answer


def of(response: Response) -> tuple[int, Any]:
    return response.status, json.loads(b"".join(bytes(part) for part in response.body))


def first(answer: InferResponse | RequestError) -> list[float]:
    """The first output's numbers; raises an answer that is a refusal."""
    if isinstance(answer, RequestError):
        raise answer
    numbers: list[float] = answer.outputs[0].data.reshape(-1).tolist()
    return numbers


async def settle(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
