"""What the server answers, whichever protocol asks: states, metadata, inference. No sockets, no torch.

LOADING ──▶ READY ──▶ DRAINING        live in all of them; ready in READY only;
   └──▶ FAILED (the process ends)     requests are answered in READY and DRAINING
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Protocol

from slipway_runtime import __version__
from slipway_runtime.engine.executor import Executor
from slipway_runtime.engine.signature import check_outputs, chosen, ordered_inputs
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.metrics import Exposition, Stats
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, Tensor, TensorSpec

VERSION = "1"  # one version of one model, for now
_REASONS = {Kind.UNAVAILABLE: "REJECTED", Kind.DEADLINE: "REJECTED", Kind.INTERNAL: "BACKEND"}


class State(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Model(Protocol):
    @property
    def metadata(self) -> Metadata: ...
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]: ...


class Service:
    """One model behind one executor. `name` is what clients call it; empty until it is known."""

    def __init__(self, name: str, executor: Executor, timeout_s: float) -> None:
        self.name = name
        self.state = State.LOADING
        self.stats = Stats()
        self.exposition = Exposition()
        self.in_flight = 0
        self.last_asked_s = 0.0
        self._executor = executor
        self._timeout_s = timeout_s
        self._model: Model | None = None

    def set_ready(self, model: Model, load_s: float) -> None:
        self._model = model
        self.state = State.READY
        self.exposition.load_seconds.set(load_s)
        self.exposition.ready.set(1)

    def set_draining(self) -> None:
        self.state = State.DRAINING
        self.exposition.ready.set(0)

    def is_ready(self) -> bool:
        return self.state is State.READY

    def check_name(self, name: str, version: str) -> None:
        if name != self.name:
            raise RequestError(Kind.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        if version not in ("", VERSION):
            raise RequestError(Kind.NOT_FOUND, f"Request for unknown model: '{name}' version {version} is not found")

    def model(self, name: str, version: str) -> Model:
        """The model, if it is the one asked for and loaded.

        Raises:
            RequestError: NOT_FOUND or UNAVAILABLE.
        """
        self.check_name(name, version)
        if self._model is None:
            raise RequestError(Kind.UNAVAILABLE, f"model '{name}' is {self.state}, try again shortly")
        return self._model

    def server_metadata(self) -> dict[str, Any]:
        return {"name": "slipway-runtime", "version": __version__, "extensions": ["binary_tensor_data"]}

    def model_metadata(self, name: str, version: str) -> dict[str, Any]:
        metadata = self.model(name, version).metadata
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": metadata.platform,
            "inputs": [_tensor_metadata(spec) for spec in metadata.inputs],
            "outputs": [_tensor_metadata(spec) for spec in metadata.outputs],
        }

    def metrics(self) -> bytes:
        return self.exposition.render(self.stats, self.name, self._executor.waiting)

    async def infer(self, model: Model, request: InferRequest, timeout_s: float | None = None) -> InferResponse:
        """Answer one request within the server's time limit and the client's, whichever is shorter.

        Cancelling takes the request out of the queue.

        Raises:
            RequestError: of the kind that says whose fault it is.
        """
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        with self._counted():
            metadata = model.metadata
            inputs = ordered_inputs(request, metadata, self.name)
            if metadata.outputs:
                check_outputs(request, [spec.name for spec in metadata.outputs], self.name)
            timed = await self._executor.infer(lambda: model.run(inputs), limit_s)
            check_outputs(request, [tensor.name for tensor in timed.value], self.name)
            self.stats.queue_ns += timed.queue_ns
            self.stats.compute_ns += timed.compute_ns
            self.stats.executions += 1
            self.stats.inferences += inputs[0].data.shape[0] if metadata.max_batch else 1
            return InferResponse(self.name, VERSION, chosen(timed.value, request), request.id)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        started_ns = time.perf_counter_ns()
        reason = "CANCELED"  # what a cancelled request leaves behind
        self.in_flight += 1
        self.last_asked_s = time.monotonic()
        try:
            yield
            reason = ""
        except RequestError as error:
            reason = _REASONS.get(error.kind, "OTHER")
            raise
        finally:
            self.in_flight -= 1
            self.last_asked_s = time.monotonic()
            if reason:
                self.stats.failure[reason] += 1
            else:
                self.stats.success += 1
                self.stats.request_ns += time.perf_counter_ns() - started_ns


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1] if spec.shape is None else list(spec.shape)
    return {"name": spec.name, "datatype": spec.datatype or "UNKNOWN", "shape": shape}
