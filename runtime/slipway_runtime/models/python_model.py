"""Models that are the user's own Python: a file model.py with a class Model. Imports no torch.

    class Model:
        def load(self, context): ...            optional; Context
        def infer(self, batch): ...             Batch -> dict of outputs; may be async
        def preprocess(self, batch): ...        optional; before infer: gives what infer gets
        def postprocess(self, outputs): ...     optional; after infer: gives the answer
        def forget(self, sequence): ...         optional; a sequence ended without its last request
        def close(self): ...                    optional
        sharded = True                          optional; with parameter shards, `load` takes context.rank's part

An `infer` that yields dicts, as a generator or an async one, makes streams: the model is decoupled.
Such code runs in the server's process with its rights; it is loaded only where the administrator allowed it.
"""

import asyncio
import importlib.util
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from slipway_runtime.engine.job import Call, Spent
from slipway_runtime.errors import BadModel, Kind, RequestError, cause
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.gather import check_rows, split
from slipway_runtime.tensors import DTYPES, Array, Metadata, Parameter, Rows

log = logging.getLogger("slipway.model")
_loaded = count()


@dataclass(frozen=True, slots=True)
class Context:
    """What a model is told when it is loaded. `folder` holds model.py and whatever lies beside it.

    Metrics that it makes in the registry `metrics` are told with the server's own, until it is unloaded.
    """

    name: str
    version: int
    folder: Path
    device: str
    max_batch: int
    parameters: Mapping[str, str]
    instance: int = 0
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    rank: int = 0
    """Which of `world_size` parts of the model to load. All are asked for every batch; rank 0 gives the answer."""
    world_size: int = 1
    group: Any = None
    """Of torch.distributed, with all ranks; None for a model that is not in shards."""


@dataclass(slots=True)
class Request:
    """One request of a batch: which rows are its, what came with it. `fail` answers it, and no other, with an error."""

    rows: slice
    parameters: Mapping[str, Parameter]
    error: str = field(default="", repr=False)

    def fail(self, message: str) -> None:
        self.error = message


class Batch(dict[str, Array]):
    """Inputs by name; the rows of all requests one under the other. The arrays are the model's to keep and change.

    BYTES are object arrays of `bytes`, BF16 are uint16 with the same bits.
    """

    def __init__(self, inputs: Mapping[str, Array], requests: Sequence[Request], rows: int) -> None:
        super().__init__(inputs)
        self.requests = tuple(requests)
        self.rows = rows


class Loop:
    """An event loop for what an instance awaits, from `load` to `close`; made when there is something to await."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def finish(self, value: Any) -> Any:
        """What an awaitable gives; any other value is its own result."""
        if not inspect.isawaitable(value):
            return value
        self._loop = self._loop or asyncio.new_event_loop()
        return self._loop.run_until_complete(_awaited(value))

    def close(self) -> None:
        if self._loop:
            self._loop.close()


async def _awaited(value: Any) -> Any:
    return await value


class PythonRunner:
    """One instance of a user's class."""

    may_run_inline = False  # who knows what it waits for

    def __init__(
        self,
        model: Any,
        loop: "Loop",
        metadata: Metadata,
        input_names: Sequence[str],
        *,
        decoupled: bool,
        metrics: CollectorRegistry | None = None,
    ) -> None:
        self.spent, self.metrics = Spent(), metrics
        self._model = model
        self._finished = loop.finish
        self._loop = loop
        self._batched = metadata.max_batch > 0
        self._inputs = tuple(input_names)
        self._outputs = [spec.name for spec in metadata.outputs]
        self._dtypes = [None if spec.datatype == "BYTES" else DTYPES[spec.datatype] for spec in metadata.outputs]
        self._shapes = [spec.shape for spec in metadata.outputs]
        self._decoupled = decoupled
        self._closed = False
        self._before: Callable[[Any], Any] | None = getattr(model, "preprocess", None)
        self._after: Callable[[Any], Any] | None = getattr(model, "postprocess", None)

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        if self._decoupled:
            raise RequestError(Kind.UNSUPPORTED, "doesn't support models with decoupled transaction policy")
        if not self._batched and len(batch) > 1:
            return [self._alone(call) for call in batch]
        return self._batch(batch)

    def stream(self, call: Call) -> Iterator[Rows]:
        """Raises RequestError. Closing it closes the model's generator."""
        batch = self._gathered([call])
        try:
            given = self._finished(self._before(batch)) if self._before else batch
            answers = self._model.infer(given)
            if not self._decoupled:
                answers = iter([self._finished(answers)])
            elif isinstance(answers, AsyncIterator):
                answers = self._iterated(answers)
            for answer in answers:
                yield self._answer(self._finished(self._after(answer)) if self._after else answer, None)
                _raise_failed(batch)
            _raise_failed(batch)
        except (RequestError, GeneratorExit):
            raise
        except Exception as exc:  # the user's code; whatever it raises is this request's answer
            raise _failed(exc) from exc

    def forget(self, sequence: Parameter) -> None:
        """A sequence was idle for too long, or its client is gone: the model may drop its state."""
        if forget := getattr(self._model, "forget", None):
            try:
                self._finished(forget(sequence))
            except Exception as exc:  # the user's code; nobody waits for an answer
                log.warning("the model failed to forget a sequence", extra={"f": {"error": cause(exc)}})

    def close(self) -> None:
        """Raises nothing: what a model does wrong while it goes is of no use to anybody any more. Once is enough."""
        if self._closed:
            return
        self._closed = True
        try:
            if close := getattr(self._model, "close", None):
                self._finished(close())
        except Exception as exc:  # the user's code
            log.warning("the model failed to close", extra={"f": {"error": cause(exc)}})
        self._loop.close()

    def _alone(self, call: Call) -> Rows | RequestError:
        try:
            return self._batch([call])[0]
        except RequestError as error:
            return error

    def _batch(self, calls: Sequence[Call]) -> list[Rows | RequestError]:
        began_ns = perf_counter_ns()
        batch = self._gathered(calls)
        self.spent.input_ns += perf_counter_ns() - began_ns
        try:
            given = self._finished(self._before(batch)) if self._before else batch
            answer = self._finished(self._model.infer(given))
            if self._after:
                answer = self._finished(self._after(answer))
        except RequestError:
            raise
        except Exception as exc:  # the user's code; whatever it raises is this batch's answer
            raise _failed(exc) from exc
        began_ns = perf_counter_ns()
        answers = split(calls, self._answer(answer, batch.rows if self._batched else None))
        for index, request in enumerate(batch.requests):
            if request.error:
                answers[index] = RequestError(Kind.INTERNAL, request.error)
        self.spent.output_ns += perf_counter_ns() - began_ns
        return answers

    def _gathered(self, calls: Sequence[Call]) -> Batch:
        """Copies: the model may keep its inputs, write to them, and give them back."""
        if len(calls) == 1:
            arrays = [np.array(array) for array in calls[0].inputs]
        else:
            arrays = [np.concatenate([call.inputs[i] for call in calls]) for i in range(len(self._inputs))]
        requests, start = [], 0
        for call in calls:
            requests.append(Request(slice(start, start + call.rows), call.parameters))
            start += call.rows
        return Batch(dict(zip(self._inputs, arrays, strict=True)), requests, start)

    def _iterated(self, answers: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._finished(anext(answers))
                except StopAsyncIteration:
                    return
        finally:
            if aclose := getattr(answers, "aclose", None):
                self._finished(aclose())

    def _answer(self, answer: Any, rows: int | None) -> list[Array]:
        """The outputs in the order of the config, in its types; `rows` None = any first dimension."""
        if not isinstance(answer, Mapping) or any(name not in answer for name in self._outputs):
            got = sorted(answer) if isinstance(answer, Mapping) else f"a {type(answer).__name__}"
            raise RequestError(Kind.INTERNAL, f"the model gave {got}, must be a dict with outputs {self._outputs}")
        arrays = [self._array(index, answer[name]) for index, name in enumerate(self._outputs)]
        if rows is not None:
            check_rows(arrays, self._outputs, rows)
        return arrays

    def _array(self, index: int, value: Any) -> Array:
        """A copy: the model may go on writing to what it gave."""
        dtype = self._dtypes[index]
        if dtype is None:
            return _strings(value, self._outputs[index])
        if not isinstance(value, np.ndarray) and hasattr(value, "detach"):  # torch, if the model uses it
            value = value.detach().cpu().numpy()
        try:
            given = np.asarray(value)
            if _fits(given, dtype):
                return np.array(given, dtype, order="C")
            wrong = str(given.dtype)
        except (ValueError, TypeError, OverflowError) as exc:
            wrong = cause(exc)
        raise RequestError(
            Kind.INTERNAL, f"the model gave output '{self._outputs[index]}' as {wrong}, must be an array of {dtype}"
        )


def _fits(given: Array, dtype: np.dtype[Any]) -> bool:
    """Nothing but digits after the point may get lost: whole numbers of another width have to be in range."""
    if given.dtype.kind in "iu" and dtype.kind in "iu" and given.dtype != dtype:
        bounds = np.iinfo(dtype)
        return not given.size or (int(given.min()) >= bounds.min and int(given.max()) <= bounds.max)
    return np.can_cast(given.dtype, dtype, "same_kind") and given.dtype.kind != "O"


def _strings(value: Any, name: str) -> Array:
    array = np.array(value, object, order="C")
    flat = array.reshape(-1)
    for index, item in enumerate(flat):
        if isinstance(item, str):
            flat[index] = item.encode()
        elif not isinstance(item, bytes):
            raise RequestError(
                Kind.INTERNAL, f"the model gave output '{name}' with a {type(item).__name__}, must be bytes or str"
            )
    return array


def _raise_failed(batch: Batch) -> None:
    if batch.requests[0].error:
        raise RequestError(Kind.INTERNAL, batch.requests[0].error)


def _failed(exc: Exception) -> RequestError:
    return RequestError(Kind.INTERNAL, f"the model failed: {cause(exc)}")


def load_class(artifact: Artifact) -> type:
    """The class Model of a model.py. Each load runs the file anew, in a module of its own.

    Raises:
        BadModel: it cannot be imported, or has no such class with an `infer`.
    """
    name = f"slipway_user_model_{next(_loaded)}"
    spec = importlib.util.spec_from_file_location(name, artifact.path)
    assert spec  # noqa: S101 - there is a loader for every file called *.py
    assert spec.loader  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    try:
        spec.loader.exec_module(module)
    except Exception as exc:  # the user's code
        raise BadModel(f"'{artifact.path}' cannot be imported: {type(exc).__name__}: {cause(exc)}; correct it") from exc
    finally:
        sys.modules.pop(name, None)
    found = getattr(module, "Model", None)
    if not isinstance(found, type) or not callable(getattr(found, "infer", None)):
        raise BadModel(f"'{artifact.path}' has no class Model with a method infer(self, batch); write one")
    return found


def is_stream(found: type) -> bool:
    infer = inspect.unwrap(found.infer)  # type: ignore[attr-defined]
    return inspect.isgeneratorfunction(infer) or inspect.isasyncgenfunction(infer)


def make(found: type, artifact: Artifact, context: Context, loop: Loop) -> Any:
    """An instance that has loaded. Raises BadModel with what its own code raised."""
    try:
        model = found()
        if load := getattr(model, "load", None):
            loop.finish(load(context))
    except Exception as exc:  # the user's code
        raise BadModel(f"'{artifact.path}' failed to load: {type(exc).__name__}: {cause(exc)}; correct it") from exc
    return model
