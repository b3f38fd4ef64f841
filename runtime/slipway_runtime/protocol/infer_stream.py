"""ModelStreamInfer: many requests and many answers on one stream.

All requests of a stream run at the same time. Answers of models that give one answer each come in the order of their
requests, which clients without ids rely on; those of decoupled models come when they are there.

    requests   a ──▶ b ──▶ c (decoupled) ──▶ d        answers   c1, a, c2, b, d, c3, final of c

A request that fails is answered by a message with an error and the request's id; the stream goes on.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import protos
from slipway_runtime.protocol.api import Api, Entry, Ticket, close
from slipway_runtime.protocol.schema import pb
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.tensors import InferRequest, InferResponse

log = logging.getLogger("slipway.grpc")

# Requests of one stream that are not answered yet; the next one is read when there are fewer.
MAX_IN_FLIGHT = 256
# Answers that wait for the client to take them; the next request is read, and a decoupled model asked for more, when
# there are fewer.
MAX_UNSENT = 64
_END = object()


class _Slot:
    """The place of one answer in the order."""

    __slots__ = ("message", "ticket")

    def __init__(self) -> None:
        self.message: Any = None
        self.ticket: Ticket | None = None


class InferStream:
    """One stream. `parse` makes a request of a message for a model."""

    def __init__(self, api: Api, memory: SharedMemory, parse: Callable[[Any, Entry], InferRequest]) -> None:
        self._api = api
        self._memory = memory
        self._parse = parse
        self._ready: asyncio.Queue[Any] = asyncio.Queue()
        self._ordered: deque[_Slot] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._reading_over = False
        self._room = asyncio.Event()

    async def answers(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The ModelStreamInferResponses. Closing it cancels what is under way."""
        reader = asyncio.create_task(self._read(messages))
        try:
            while (answer := await self._ready.get()) is not _END:
                self._room.set()
                yield answer
            await reader  # raises what ended the reading, if it was not the client
        finally:
            for task in (reader, *self._tasks):
                task.cancel()
            for slot in self._ordered:
                if slot.ticket is not None:
                    slot.ticket.cancel()
            self._ordered.clear()

    async def _read(self, messages: AsyncIterator[Any]) -> None:
        try:
            async for message in messages:
                self._in_flight += 1
                self._accept(message)
                while self._in_flight >= MAX_IN_FLIGHT or self._ready.qsize() >= MAX_UNSENT:
                    await self._more_room()
        finally:
            self._reading_over = True
            self._end_if_done()

    def _accept(self, message: Any) -> None:
        try:
            entry = self._api.entry(message.model_name, message.model_version)
            request = self._parse(message, entry)
        except RequestError as error:
            self._refuse(message.id, error)
            return
        if entry.decoupled:
            wants_end = message.parameters[protos.EMPTY_FINAL].bool_param if message.parameters else False
            task = asyncio.create_task(self._decoupled(entry, request, wants_end=wants_end))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._submit(entry, request)

    def _refuse(self, request_id: str, error: RequestError) -> None:
        slot = _Slot()
        slot.message = _refusal(request_id, error)
        self._ordered.append(slot)
        self._flush()

    # --- one answer each, in order

    def _submit(self, entry: Entry, request: InferRequest) -> None:
        slot = _Slot()
        self._ordered.append(slot)

        def done(result: InferResponse | RequestError) -> None:
            slot.message = self._rendered(result, entry, request, final=True)
            self._flush()

        try:
            slot.ticket = self._api.submit(entry, request, done)
        except RequestError as error:
            done(error)

    def _flush(self) -> None:
        ordered = self._ordered
        while ordered and ordered[0].message is not None:
            self._ready.put_nowait(ordered.popleft().message)
            self._finished()

    # --- any number of answers

    async def _decoupled(self, entry: Entry, request: InferRequest, *, wants_end: bool) -> None:
        responses = self._api.stream(entry, request)
        try:
            async for response in responses:
                self._ready.put_nowait(self._rendered(response, entry, request, final=False))
                while self._ready.qsize() >= MAX_UNSENT:
                    await self._more_room()
            if wants_end:
                empty = InferResponse(entry.name, entry.version, (), request.id)
                self._ready.put_nowait(self._rendered(empty, entry, InferRequest(()), final=True))
        except RequestError as error:
            self._ready.put_nowait(_refusal(request.id, error))
        except Exception:
            log.exception("a stream failed in the server itself")
            self._ready.put_nowait(_refusal(request.id, _internal()))
        finally:
            await close(responses)
            self._finished()

    # --- both

    def _rendered(
        self, result: InferResponse | RequestError, entry: Entry, request: InferRequest, *, final: bool
    ) -> Any:
        message = rendered(result, request, entry, self._memory)
        if isinstance(message, RequestError):
            return _refusal(request.id, message)
        message.parameters[protos.FINAL].bool_param = final
        answer = pb.ModelStreamInferResponse()
        answer.infer_response.CopyFrom(message)
        return answer

    def _finished(self) -> None:
        self._in_flight -= 1
        self._room.set()
        self._end_if_done()

    async def _more_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    def _end_if_done(self) -> None:
        if self._reading_over and not self._in_flight:
            self._ready.put_nowait(_END)


def rendered(
    result: InferResponse | RequestError, request: InferRequest, entry: Entry, memory: SharedMemory
) -> Any | RequestError:
    """A ModelInferResponse, or why there is none. Never raises: who waits for the answer has to get one."""
    if isinstance(result, RequestError):
        return result
    try:
        return protos.render(result, request, entry, memory)
    except RequestError as error:
        return error
    except Exception:
        log.exception("an answer could not be written")
        return _internal()


def _internal() -> RequestError:
    return RequestError(Kind.INTERNAL, "internal error; the server's log says more")


def _refusal(request_id: str | None, error: RequestError) -> Any:
    answer = pb.ModelStreamInferResponse(error_message=error.message)
    answer.infer_response.id = request_id or ""
    return answer
