"""Questions and answers between the supervisor and one worker, over a socket that nobody else has. Either side asks.

4 bytes length, then JSON: {"id", "ask", "about"} or {"id", "answer"} or {"id", "refusal": [kind, sentence]}
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import orjson

from slipway_runtime.errors import Kind, RequestError

log = logging.getLogger("slipway.workers")
Answerer = Callable[[str, Any], Awaitable[Any]]
_LENGTH_BYTES = 4


class Link(asyncio.Protocol):
    """`answer` says what the other end asks for; what it raises is raised there."""

    def __init__(self, answer: Answerer) -> None:
        self._answer = answer
        self._buffer = bytearray()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._last = 0
        self.closed = asyncio.Event()
        """The other end is gone."""

    @classmethod
    async def over(cls, end: socket.socket, answer: Answerer) -> "Link":
        end.setblocking(False)
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: cls(answer), sock=end)
        return link

    async def ask(self, what: str, about: Any = None) -> Any:
        """Raises RequestError as the other end did; ConnectionError when it is gone."""
        if self.closed.is_set():
            raise ConnectionResetError(f"nobody is there to be asked for '{what}'")
        self._last += 1
        waiting = self._asked[self._last] = asyncio.get_running_loop().create_future()
        number = self._last
        self._send({"id": number, "ask": what, "about": about})
        try:
            return await waiting
        finally:
            self._asked.pop(number, None)

    async def close(self) -> None:
        """What was written is sent first."""
        self._transport.close()
        await self.closed.wait()

    def abort(self) -> None:
        """The other process is gone. Its end may live on in a child that it has forked, so nothing would tell us."""
        self._transport.abort()

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the other process is gone"))
        for answering in self._answering:
            answering.cancel()  # nobody waits any more

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES])
            if len(buffer) < end:
                return
            message = orjson.loads(bytes(buffer[_LENGTH_BYTES:end]))
            del buffer[:end]
            self._received(message)

    # --- messages

    def _received(self, message: dict[str, Any]) -> None:
        if "ask" in message:
            task = asyncio.get_running_loop().create_task(self._reply(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        waiting = self._asked.get(message["id"])
        if waiting is None or waiting.done():
            return  # nobody waits any more
        if "refusal" in message:
            kind, sentence = message["refusal"]
            waiting.set_exception(RequestError(Kind(kind), sentence))
        else:
            waiting.set_result(message["answer"])

    async def _reply(self, message: dict[str, Any]) -> None:
        said: dict[str, Any] = {"id": message["id"]}
        try:
            said["answer"] = await self._answer(message["ask"], message["about"])
        except RequestError as error:
            said["refusal"] = [error.kind, error.message]
        except Exception as error:
            log.exception("a worker could not be answered")
            said["refusal"] = [Kind.INTERNAL, f"'{message['ask']}' failed in the server itself: {error}"]
        self._send(said)

    def _send(self, message: dict[str, Any]) -> None:
        if not self.closed.is_set():
            data = orjson.dumps(message)
            self._transport.write(len(data).to_bytes(_LENGTH_BYTES) + data)
