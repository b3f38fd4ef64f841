"""The sockets HTTP/1.1 listens on, the connections that came from them, and what all of them share."""

import asyncio
import email.utils
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from slipway_runtime.wire.http1 import Connection
from slipway_runtime.wire.http1_messages import Handler

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Limits:
    """`held_bytes`: of all bodies that have been announced or have arrived and are not answered."""

    body_bytes: int
    held_bytes: int
    connections: int
    idle_timeout_s: float


class HttpServer:
    """`http2` makes the protocol for a connection that turns out to speak it; None refuses it as bad HTTP/1.1."""

    def __init__(self, handler: Handler, limits: Limits, http2: Callable[[], asyncio.Protocol] | None = None) -> None:
        self.handler = handler
        self.http2 = http2
        self.max_body_bytes = limits.body_bytes
        self.idle_timeout_s = limits.idle_timeout_s
        self.connections: set[Connection] = set()
        self.draining = False
        self.clock = time.monotonic
        self._limits = limits
        self._held_bytes = 0
        self._date = (0, b"")
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    async def listen(self, host: str, port: int) -> int:
        """On one more port; returns it. Raises OSError when the address cannot be had."""
        listener = await asyncio.get_running_loop().create_server(lambda: Connection(self), sock=_bound(host, port))
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    def is_busy(self) -> bool:
        return any(connection.is_busy() for connection in self.connections)

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more."""
        self.connections.add(connection)
        if self._sweeper is None:
            self._sweep()
        return len(self.connections) <= self._limits.connections

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def hold(self, count: int) -> bool:
        """Reserve bytes, or give them back; whether they can be had."""
        if count > 0 and self._held_bytes + count > self._limits.held_bytes:
            return False
        self._held_bytes += count
        return True

    async def close(self) -> None:
        """Listen no more and close every connection; returns when all that was written has been sent."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.close()
        if self.connections:
            self._empty.clear()
            await self._empty.wait()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def date(self) -> bytes:
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, email.utils.formatdate(now, usegmt=True).encode())
        return self._date[1]

    def _sweep(self) -> None:
        """One timer for all connections, and none without: a time-out may come a quarter late."""
        self._sweeper = None
        now = self.clock()
        for connection in [c for c in self.connections if 0 < c.expires_s <= now]:
            connection.expire()
        if self.connections:
            after_s = min(1.0, self.idle_timeout_s / 4)
            self._sweeper = asyncio.get_running_loop().call_later(after_s, self._sweep)


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket; no host = every address, IPv4 and IPv6 on one port where the machine has both."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)
