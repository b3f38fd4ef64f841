"""A server behind the protocols that needs no engine and no torch: models of Triton's examples as plain functions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.protocol.api import Done
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, Tensor, TensorSpec, texts_array

T = TypeVar("T")
Function = Callable[[InferRequest], Iterator[list[Tensor]]]


@dataclass(slots=True)
class FakeEntry:
    name: str
    metadata: Metadata
    function: Function
    version: str = "1"
    decoupled: bool = False
    classes: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def config_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "platform": "pytorch_libtorch",
            "max_batch_size": self.metadata.max_batch,
            "input": [
                {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape or ())}
                for spec in self.metadata.inputs
            ],
            "model_transaction_policy": {"decoupled": self.decoupled},
        }

    def labels(self, output: str) -> list[str] | None:
        return self.classes.get(output)


class FakeTicket:
    def __init__(self) -> None:
        self.gone = asyncio.Event()

    def cancel(self) -> None:
        self.gone.set()


class FakeSettings:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def get(self, model: str) -> dict[str, Any]:
        return dict(self.values)

    def update(self, model: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        for key in changes:
            if key not in self.values:
                raise invalid(f"there is no setting '{key}'")
        self.values |= changes
        return self.get(model)


def _spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def _sum_and_difference(request: InferRequest) -> Iterator[list[Tensor]]:
    by_name = {tensor.name: tensor.data for tensor in request.inputs}
    a, b = by_name["INPUT0"], by_name["INPUT1"]
    yield [Tensor("OUTPUT0", "INT32", a + b), Tensor("OUTPUT1", "INT32", a - b)]


def _same(request: InferRequest) -> Iterator[list[Tensor]]:
    yield [Tensor("OUTPUT0", tensor.datatype, tensor.data) for tensor in request.inputs]


def _count_up(request: InferRequest) -> Iterator[list[Tensor]]:
    """As many answers as the input says; -1 is an error after two of them."""
    count = int(request.inputs[0].data.reshape(-1)[0])
    for value in range(2 if count < 0 else count):
        yield [Tensor("OUT", "INT32", np.array([value], np.int32))]
    if count < 0:
        raise RequestError(Kind.INTERNAL, "counting failed")


def _shout(request: InferRequest) -> Iterator[list[Tensor]]:
    words = request.inputs[0].data.reshape(-1).tolist()
    mark = str(request.parameters.get("mark", "!")).encode()
    for word in words:
        yield [Tensor("text_output", "BYTES", texts_array([word.upper() + mark], (1,)))]


def _classes(request: InferRequest) -> Iterator[list[Tensor]]:
    yield [Tensor("SCORES", "FP32", request.inputs[0].data)]


def entries() -> list[FakeEntry]:
    simple = Metadata(
        "pytorch_libtorch",
        (_spec("INPUT0", "INT32", -1, 16), _spec("INPUT1", "INT32", -1, 16)),
        (_spec("OUTPUT0", "INT32", -1, 16), _spec("OUTPUT1", "INT32", -1, 16)),
        max_batch=8,
    )

    def one(datatype: str, *shape: int, gives: str = "OUTPUT0", takes: str = "INPUT0", batch: int = 0) -> Metadata:
        return Metadata("fake", (_spec(takes, datatype, *shape),), (_spec(gives, datatype, *shape),), max_batch=batch)

    kinds = [
        FakeEntry(f"identity_{datatype.lower()}", one(datatype, -1), _same)
        for datatype in ("FP32", "FP16", "BF16", "BYTES", "BOOL", "UINT64", "INT8")
    ]
    return [
        FakeEntry("simple", simple, _sum_and_difference),
        FakeEntry("simple", simple, _sum_and_difference, version="3"),
        *kinds,
        FakeEntry("count", one("INT32", 1, gives="OUT", takes="IN"), _count_up, decoupled=True),
        FakeEntry("shout", one("BYTES", -1, gives="text_output", takes="text_input"), _shout, decoupled=True),
        FakeEntry("say", one("BYTES", -1, gives="text_output", takes="text_input"), _shout),
        FakeEntry(
            "classes",
            one("FP32", -1, 3, gives="SCORES", takes="IN", batch=8),
            _classes,
            classes={"SCORES": ["cat", "dog", "bird"]},
        ),
    ]


class FakeApi:
    """`fail_next`: the next request is refused with it. `delays`: how long requests with an id take, on the loop."""

    def __init__(self) -> None:
        self.state = "ready"
        self.trace_settings = FakeSettings({"trace_level": ["OFF"], "trace_rate": "1000"})
        self.log_settings = FakeSettings({"log_info": True, "log_verbose_level": 0, "log_file": ""})
        self.fail_next: Exception | None = None
        self.held: dict[str, tuple[FakeEntry, InferRequest, Done]] = {}
        self.hold: set[str] = set()
        self.seen: list[InferRequest] = []
        self.tickets: list[FakeTicket] = []
        self.holding = asyncio.Event()
        self.closed_streams = 0
        self.produced = 0
        self._entries = {(entry.name, entry.version): entry for entry in entries()}
        self._unloaded: set[str] = set()
        self.loaded: list[tuple[str, dict[str, Any]]] = []

    def is_ready(self) -> bool:
        return self.state == "ready"

    def versions(self, name: str) -> list[str]:
        found = [version for known, version in self._entries if known == name]
        if not found:
            raise RequestError(Kind.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        return found

    def entry(self, name: str, version: str) -> FakeEntry:
        version = version or self.versions(name)[-1]
        entry = self._entries.get((name, version))
        if entry is None:
            raise RequestError(Kind.NOT_FOUND, f"Request for unknown model: '{name}' version {version} is not found")
        if name in self._unloaded:
            raise RequestError(Kind.UNAVAILABLE, f"model '{name}' is not loaded")
        return entry

    def model_ready(self, name: str, version: str) -> bool:
        self.versions(name)
        return self.is_ready() and name not in self._unloaded

    def submit(self, entry: Any, request: InferRequest, done: Done) -> FakeTicket:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        _check(entry, request)
        ticket = FakeTicket()
        self.seen.append(request)
        self.tickets.append(ticket)
        if request.id in self.hold:
            self.held[request.id] = (entry, request, done)
            self.holding.set()
        else:
            asyncio.get_running_loop().call_soon(self._run, entry, request, done)
        return ticket

    def release(self, request_id: str) -> None:
        self.hold.discard(request_id)
        self._run(*self.held.pop(request_id))

    def _run(self, entry: FakeEntry, request: InferRequest, done: Done) -> None:
        try:
            done(_response(entry, request, next(entry.function(request))))
        except RequestError as error:
            done(error)

    async def stream(self, entry: Any, request: InferRequest) -> AsyncIterator[InferResponse]:
        _check(entry, request)
        self.seen.append(request)
        try:
            for outputs in entry.function(request):
                await asyncio.sleep(0)
                self.produced += 1
                yield _response(entry, request, outputs)
        finally:
            self.closed_streams += 1

    async def everywhere(self, what: str, arguments: Sequence[Any], here: Callable[..., T]) -> T:
        return here(*arguments)

    async def statistics(self, name: str, version: str) -> list[dict[str, Any]]:
        if name:
            self.entry(name, version)
        duration = {"count": 2, "ns": 1000}
        return [
            {
                "name": entry.name,
                "version": entry.version,
                "last_inference": 7,
                "inference_count": 5,
                "execution_count": 2,
                "inference_stats": {"success": duration, "queue": duration},
                "batch_stats": [{"batch_size": 4, "compute_infer": duration}],
            }
            for entry in self._entries.values()
            if name in ("", entry.name) and version in ("", entry.version)
        ]

    def index(self, ready_only: bool) -> list[dict[str, Any]]:
        rows = []
        for name, version in self._entries:
            ready = name not in self._unloaded
            if ready or not ready_only:
                state = "READY" if ready else "UNAVAILABLE"
                rows.append({"name": name, "version": version, "state": state, "reason": "" if ready else "unloaded"})
        return rows

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        self.versions(name)
        self.loaded.append((name, dict(parameters)))
        self._unloaded.discard(name)

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        self.versions(name)
        self._unloaded.add(name)

    async def metrics(self) -> bytes:
        return b"nv_inference_count 1\n"

    def load_report(self) -> dict[str, float]:
        return {"application_utilization": 0.5, "named_metrics.queue": 3}


def _check(entry: FakeEntry, request: InferRequest) -> None:
    """What the engine looks at, as far as the functions above rely on it."""
    given = {tensor.name: tensor for tensor in request.inputs}
    for spec in entry.metadata.inputs:
        tensor = given.get(spec.name)
        if tensor is None or tensor.datatype != spec.datatype or not spec.accepts(tensor.data.shape):
            raise invalid(f"input '{spec.name}' of model '{entry.name}' must be {spec.datatype} {spec.shape}")
    if len(given) != len(request.inputs) or len(given) != len(entry.metadata.inputs):
        raise invalid(f"model '{entry.name}' takes {len(entry.metadata.inputs)} inputs, got {len(request.inputs)}")


def _response(entry: FakeEntry, request: InferRequest, outputs: list[Tensor]) -> InferResponse:
    if request.outputs is not None:
        by_name = {tensor.name: tensor for tensor in outputs}
        unknown = [choice.name for choice in request.outputs if choice.name not in by_name]
        if unknown:
            raise invalid(f"unexpected inference output '{unknown[0]}' for model '{entry.name}'")
        outputs = [by_name[choice.name] for choice in request.outputs]
    return InferResponse(entry.name, entry.version, outputs, request.id)
