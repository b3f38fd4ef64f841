"""One loaded version of a model, from a request that was parsed to the answer that is to be rendered.

request ──▶ does it fit? ──▶ job ──▶ way (cache, sequences, batcher) ──▶ outputs named and chosen ──▶ done
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from slipway_runtime.engine.batcher import Batcher
from slipway_runtime.engine.cache import Cache
from slipway_runtime.engine.ensemble import Ensemble, Step, Ticket
from slipway_runtime.engine.job import DONE, Job, Runner, size_of
from slipway_runtime.engine.policy import Policy
from slipway_runtime.engine.sequences import Sequences
from slipway_runtime.engine.signature import Signature, check_outputs, chosen, datatype_of
from slipway_runtime.engine.stats import Stats
from slipway_runtime.engine.streams import Streams
from slipway_runtime.engine.ways import Cached, Sequenced, Way
from slipway_runtime.errors import BadConfig, Kind, RequestError
from slipway_runtime.tensors import InferRequest, InferResponse, Metadata, Rows, Tensor

Done = Callable[[InferResponse | RequestError], None]


@dataclass(slots=True)
class Load:
    """What the whole server has to do."""

    in_flight: int = 0
    last_asked_s: float = 0.0


class Ask(Job):
    """A request on its way. `cancel` is for a client that went away: `done` is not called any more."""

    __slots__ = ("_endpoint", "began_ns", "done", "request")

    def __init__(self, endpoint: "Endpoint", request: InferRequest, done: Done, inputs: Rows, rows: int) -> None:
        super().__init__(inputs, rows)
        self._endpoint, self.request, self.done = endpoint, request, done
        self.began_ns = time.perf_counter_ns()

    def finished(self) -> None:
        self._endpoint.finished(self)

    def cancel(self) -> None:
        self._endpoint.cancel(self)


class Host(Protocol):
    """Whose endpoint it is."""

    load_now: Load

    def submit_step(self, step: Step, request: InferRequest, done: Done) -> Ticket: ...


class Loaded(Protocol):
    """What loading a model gives."""

    @property
    def metadata(self) -> Metadata: ...
    @property
    def runners(self) -> Sequence[Runner]: ...
    @property
    def decoupled(self) -> bool: ...
    @property
    def broken(self) -> str:
        """Why no request can be answered until the process ends; empty while it is well."""


@dataclass(slots=True)
class Options:
    """`default_level` is that of requests without a priority, from 0."""

    policy: Policy
    default_level: int = 0
    cache: Cache | None = None
    sequences: Sequences | None = None
    steps: Sequence[Step] = ()
    """Of an ensemble, which has no runners."""


async def awaited(submit: Callable[[Done], Ticket]) -> InferResponse:
    """One answer of what answers by `done`, for those who can wait. Cancelling cancels the request."""
    answer: asyncio.Future[InferResponse | RequestError] = asyncio.get_running_loop().create_future()

    def done(result: InferResponse | RequestError) -> None:
        if not answer.done():
            answer.set_result(result)

    ticket = submit(done)
    try:
        result = await answer
    except asyncio.CancelledError:
        ticket.cancel()
        raise
    if isinstance(result, RequestError):
        raise result
    return result


class Endpoint:
    """Must be made inside a running event loop.

    Raises:
        BadConfig: sequences for a model with several instances, each of which would know a part of every sequence.
    """

    def __init__(self, name: str, version: str, model: Loaded, options: Options, host: Host) -> None:
        if options.sequences is not None and len(model.runners) > 1:
            raise BadConfig(f"model '{name}' has sequences and {len(model.runners)} instances; give it one instance")
        self.name, self.version, self._model = name, version, model
        self.stats = Stats()
        self._policy, self._default_level, self._load = options.policy, options.default_level, host.load_now
        self.cache = options.cache
        self.streams = Streams(model.runners, options.policy) if model.decoupled else None
        is_batched = not model.decoupled and not options.steps
        self.batcher = Batcher(model.runners, options.policy, self.stats) if is_batched else None
        self._ensemble = Ensemble(options.steps, model.metadata, host.submit_step, options.policy.timeout_s)
        self._way = self._way_of(options)
        self._signature = Signature(model.metadata, name)
        self._name_outputs()
        self.in_flight = 0

    def _way_of(self, options: Options) -> Way | None:
        if options.steps:
            return self._ensemble
        if self.batcher is None:
            return None
        if options.sequences is not None:
            options.sequences.forgotten = self.batcher.forget
            return Sequenced(self.batcher, options.sequences, options.policy.timeout_s)
        if options.cache is not None:
            return Cached(self.batcher, options.cache, self.stats, options.policy.timeout_s)
        return self.batcher

    def _name_outputs(self) -> None:
        self._outputs = [(spec.name, spec.datatype) for spec in self._model.metadata.outputs]
        self._output_names = [name for name, _ in self._outputs]

    @property
    def metadata(self) -> Metadata:
        """A model that does not say what it gives is known whole after its first answer."""
        return self._model.metadata

    @property
    def registries(self) -> list[Any]:
        """What each instance's own code wants to have told, of instances in this process."""
        return [found for runner in self._model.runners if (found := getattr(runner, "metrics", None)) is not None]

    @property
    def broken(self) -> str:
        return self._model.broken

    @property
    def queue(self) -> Batcher | Streams | None:
        """Where its requests wait; those of an ensemble wait at its models."""
        return self.batcher or self.streams

    @property
    def utilization(self) -> float:
        """How much of what the instances can do at once is asked for; above 1 requests wait."""
        return self.queue.utilization if self.queue is not None else 0.0

    @property
    def waiting(self) -> int:
        return self.queue.waiting if self.queue is not None else 0

    def submit(self, request: InferRequest, done: Done) -> Ask:
        """Begin; `done` gets the answer, or why there is none, in a later turn of the loop.

        Raises:
            RequestError: when the request is not even begun; `done` is not called then.
        """
        try:
            way = self._way or self._no_way()
            ask = self._ask(request, done)
            way.submit(ask, self._policy.timeout_s_of(request.timeout_s, request.patience_s))
        except RequestError as error:
            self.stats.failed(error.kind, 0)
            raise
        self.in_flight += 1
        self._load.in_flight += 1
        self._load.last_asked_s = time.monotonic()
        return ask

    async def infer(self, request: InferRequest) -> InferResponse:
        """`submit` for those who can wait. Cancelling takes the request out of the queue."""
        return await awaited(lambda done: self.submit(request, done))

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """All answers of a decoupled model; the one answer of any other."""
        if self.streams is None:
            yield await self.infer(request)
            return
        try:
            ask = self._ask(request, lambda _: None)
        except RequestError as error:
            self.stats.failed(error.kind, 0)
            raise
        began_ns = time.perf_counter_ns()
        limit_s = self._policy.timeout_s
        if (own_s := self._policy.timeout_s_of(request.timeout_s, request.patience_s)) is not None:
            limit_s = min(limit_s, own_s)
        kind: Kind | None = None
        self.in_flight += 1
        self._load.in_flight += 1
        ended = False
        try:
            async with aclosing(self.streams.run(ask, limit_s)) as answers:
                async for rows in answers:
                    self.stats.responses += 1
                    yield self._response(request, rows)
            ended = True
        except RequestError as error:
            kind = error.kind
            raise
        finally:
            took_ns = time.perf_counter_ns() - began_ns
            self._left()
            if ended:
                self.stats.success += 1
                self.stats.executions += 1
                self.stats.inferences += ask.rows
                self.stats.request_ns += took_ns
            else:
                self.stats.failed(kind, took_ns)

    def finished(self, ask: Ask) -> None:
        """The way is through with it."""
        took_ns = time.perf_counter_ns() - ask.began_ns
        self._left()
        result: InferResponse | RequestError
        if ask.error is None and ask.outputs is not None:
            try:
                result = self._response(ask.request, ask.outputs)
            except RequestError as error:  # asked for an output that there is not, or the model broke its word
                result = error
        else:
            result = ask.error or RequestError(Kind.INTERNAL, "the model gave neither outputs nor an error")
        if isinstance(result, RequestError):
            self.stats.failed(result.kind, took_ns)
        else:
            self.stats.success += 1
            self.stats.request_ns += took_ns
        ask.done(result)

    def cancel(self, ask: Ask) -> None:
        if self._way is not None and ask.state is not DONE and self._way.cancel(ask):
            self._left()
            self.stats.failed(None, time.perf_counter_ns() - ask.began_ns)

    async def close(self) -> None:
        for part in (self.batcher, self.streams, self._ensemble):
            if part is not None:
                await part.close()
        if isinstance(self._way, Cached | Sequenced):
            self._way.close()

    def _ask(self, request: InferRequest, done: Done) -> Ask:
        inputs, rows = self._signature.fit(request.inputs)
        if request.outputs is not None and self._output_names:
            check_outputs(request.outputs, self._output_names, self.name)
        ask = Ask(self, request, done, inputs, rows)
        ask.key = self._signature.key(inputs)
        ask.tenant, ask.priority, ask.depth = request.tenant, request.priority, request.depth
        if request.parameters:
            ask.parameters = request.parameters
        if self._policy.levels > 1:
            # 0 = the default; beyond the last level, as the last.
            ask.level = min(request.priority - 1 if request.priority else self._default_level, self._policy.levels - 1)
        ask.size_bytes = size_of(inputs)
        return ask

    def _no_way(self) -> NoReturn:
        raise RequestError(
            Kind.UNSUPPORTED,
            f"model '{self.name}' answers by a stream (decoupled transaction policy), which ModelInfer cannot carry; "
            "use ModelStreamInfer or generate_stream",
        )

    def _left(self) -> None:
        self.in_flight -= 1
        self._load.in_flight -= 1
        self._load.last_asked_s = time.monotonic()

    def _response(self, request: InferRequest, rows: Rows) -> InferResponse:
        if not self._outputs and self._model.metadata.outputs:
            self._name_outputs()  # the model has learned them with its first answer
        named = self._outputs
        if len(named) != len(rows):
            if named:
                raise RequestError(
                    Kind.INTERNAL,
                    f"model '{self.name}' gave {len(rows)} outputs, its metadata names {self._output_names}",
                )
            # Not known before: TorchScript does not record them.
            named = [(f"OUTPUT__{index}", "") for index in range(len(rows))]
        outputs = [
            Tensor(name, datatype or datatype_of(data), data)
            for (name, datatype), data in zip(named, rows, strict=True)
        ]
        if request.outputs is not None:
            if not self._outputs:
                check_outputs(request.outputs, [name for name, _ in named], self.name)
            return InferResponse(self.name, self.version, chosen(outputs, request), request.id)
        return InferResponse(self.name, self.version, outputs, request.id)
