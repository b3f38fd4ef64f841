"""All HTTP/2 connections of a server: accepting, draining, time-outs. What a request means, subclasses say.

While nobody is connected nothing runs here. How many may connect is the listener's business.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from slipway_runtime.wire.http2 import Connection
from slipway_runtime.wire.http2_frames import ErrorCode
from slipway_runtime.wire.http2_headers import Field
from slipway_runtime.wire.http2_limits import LINGER_S
from slipway_runtime.wire.http2_requests import Head
from slipway_runtime.wire.http2_stream import Held, Sender, Stream

H = TypeVar("H", bound=Head)

SWEEP_S = 5.0
BACKLOG = 2048


class Http2Server(Generic[H]):
    def __init__(self, parse: Callable[[list[Field]], H], too_large: H, *, idle_timeout_s: float) -> None:
        """`parse` reads the headers of a request; `too_large` stands for those that are too many."""
        self.parse, self._too_large = parse, too_large
        self.held = Held()
        self.draining = False
        self.connections: set[Connection[H]] = set()
        self._tell: dict[Connection[H], Callable[[], object]] = {}
        self._idle_timeout_s = idle_timeout_s
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event | None = None

    def accept(self, sender: Sender, number: int, head: H) -> Stream | bytes:
        """Begin a request; a block of headers is the whole answer."""
        raise NotImplementedError

    def connection(self, on_closed: Callable[[], object] | None = None) -> Connection[H]:
        """The protocol of one connection: for a listener, or for a transport that had another protocol until now."""
        connection = Connection(self, self._too_large)
        if on_closed is not None:
            self._tell[connection] = on_closed
        return connection

    async def listen(self, host: str, port: int) -> int:
        """Start; returns the port. Raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self.connection, host or None, port, backlog=BACKLOG)
        return int(self._listener.sockets[0].getsockname()[1])

    def is_busy(self) -> bool:
        """A request is arriving or answered, or an answer is not yet with the kernel."""
        return any(connection.is_busy for connection in self.connections)

    def drain(self) -> None:
        """Ask everybody to leave, also those who come from now on. What they have asked for is answered."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()

    async def close(self, grace_s: float) -> None:
        """Take no new connection; what runs and what is written has `grace_s`. Safe to call twice."""
        if self._listener is not None:
            self._listener.close()
        self.drain()
        if not await self._gone_within(grace_s):
            for connection in list(self.connections):
                connection.end(ErrorCode.NO_ERROR, "the server ends")
            await self._gone_within(LINGER_S)
            for connection in list(self.connections):
                connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _gone_within(self, time_s: float) -> bool:
        if self.connections:
            self._all_gone = self._all_gone or asyncio.Event()
            try:
                await asyncio.wait_for(self._all_gone.wait(), time_s)
            except TimeoutError:
                return False
        return True

    # --- the connections' side

    def opened(self, connection: Connection[H]) -> None:
        self.connections.add(connection)
        if self._sweeper is None:
            self._sweep_later()

    def closed(self, connection: Connection[H]) -> None:
        self.connections.discard(connection)
        if (on_closed := self._tell.pop(connection, None)) is not None:
            on_closed()
        if not self.connections:
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
            if self._all_gone is not None:
                self._all_gone.set()

    def sweep(self, now_s: float) -> None:
        for connection in list(self.connections):
            connection.sweep(now_s, self._idle_timeout_s)

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self.sweep(asyncio.get_running_loop().time())
        self._sweep_later()
