"""The sockets HTTP/1.1 listens on, the connections that came from them, and what all of them share."""

import asyncio
import email.utils
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipway_runtime.wire.http1 import Connection
from slipway_runtime.wire.http1_messages import (
    Handler,
    Response,
    head_before_length,
    head_from_length,
    path_of,
)
from slipway_runtime.wire.http2_stream import Held
from slipway_runtime.wire.shared_listener import SharedListener

BACKLOG = 2048
_MOST_PATHS = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """`held_bytes`: what has arrived of bodies and is not answered, with what others count in the same `Held`."""

    body_bytes: int
    held_bytes: int
    connections: int
    idle_timeout_s: float


class HttpServer:
    """`http2` makes the protocol for a connection that turns out to speak it; None refuses it as bad HTTP/1.1.

    The protocol calls what `http2` was given when its connection has ended.
    """

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        http2: Callable[[Callable[[], object]], asyncio.Protocol] | None = None,
        held: Held | None = None,
    ) -> None:
        self.handler = handler
        self.http2 = http2
        self.max_body_bytes = limits.body_bytes
        self.idle_timeout_s = limits.idle_timeout_s
        self.connections: set[Connection] = set()
        self._handed_over = 0  # connections that speak HTTP/2, and are still open
        self.draining = False
        self.clock = time.monotonic
        self._limits = limits
        self.held = held or Held()
        self.now_s = 0.0
        """The time as of the last sweep: good enough for time-outs, and free."""
        self._date = b""
        self._heads: dict[tuple[int, str, bool], bytes] = {}
        self._paths: dict[bytes, str] = {}
        self._listeners: list[asyncio.Server | SharedListener] = []
        self._tell: Callable[[int], None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    async def listen(self, host: str, port: int) -> int:
        """On one more port; returns it. Raises OSError when the address cannot be had."""
        listener = await asyncio.get_running_loop().create_server(lambda: Connection(self), sock=bound(host, port))
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    def share(
        self, listeners: Sequence[socket.socket], is_turn: Callable[[], bool], tell: Callable[[int], None]
    ) -> None:
        """Take connections from sockets that other processes listen on too. `tell` is told how many we have."""
        self._tell = tell
        self._listeners += [SharedListener(each, lambda: Connection(self), is_turn, self._count) for each in listeners]

    def _count(self) -> None:
        if self._tell is not None:
            taken = sum(each.taken for each in self._listeners if isinstance(each, SharedListener))
            self._tell(self.connection_count + taken)

    def is_busy(self) -> bool:
        taken = any(each.taken for each in self._listeners if isinstance(each, SharedListener))
        return taken or any(connection.is_busy() for connection in self.connections)

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more."""
        self.connections.add(connection)
        if self._sweeper is None:
            self._sweep()
        return self.connection_count <= self._limits.connections

    @property
    def connection_count(self) -> int:
        """Of either protocol."""
        return len(self.connections) + self._handed_over

    def hand_over(self, connection: Connection) -> Callable[[], object]:
        """It is another protocol's now, which calls what is returned when the connection has ended."""
        self._handed_over += 1
        self.forget(connection)
        return self._handed_over_ended

    def _handed_over_ended(self) -> None:
        self._handed_over -= 1
        self._count()

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._count()
        if not self.connections:
            self._empty.set()

    def hold(self, count: int) -> bool:
        """Count bytes that came, or give them back; whether there is room for them."""
        held = self.held
        if count > 0 and held.count + count > self._limits.held_bytes:
            return False
        held.count += count
        return True

    def has_room(self, count: int) -> bool:
        """As of now: nothing is reserved for a client before it sends."""
        return self.held.count + count <= self._limits.held_bytes

    async def close(self) -> None:
        """Listen no more and close every connection; returns when all that was written has been sent."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
            if isinstance(listener, SharedListener):
                await listener.settled()
        for connection in list(self.connections):
            connection.close()
        if self.connections:
            self._empty.clear()
            await self._empty.wait()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def path_of(self, url: bytes) -> str:
        """Remembered, because clients ask for the same again and again."""
        path = self._paths.get(url)
        if path is None:
            path = path_of(url)
            if len(url) < 256:
                if len(self._paths) >= _MOST_PATHS:
                    self._paths.clear()
                self._paths[url] = path
        return path

    def head_of(self, response: Response, *, keep_alive: bool) -> bytes:
        key = (response.status, response.content_type, keep_alive)
        before = self._heads.get(key)
        if before is None:
            before = self._heads[key] = head_before_length(
                response.status, response.content_type, self._date, keep_alive=keep_alive
            )
        return before + head_from_length(response, keep_alive=keep_alive)

    def _look_at_the_clock(self) -> None:
        self.now_s = self.clock()
        self._date = email.utils.formatdate(time.time(), usegmt=True).encode()
        self._heads.clear()

    def _sweep(self) -> None:
        """One timer for all connections, and none without: a time-out may come a quarter late."""
        self._sweeper = None
        self._look_at_the_clock()
        for connection in [c for c in self.connections if 0 < c.expires_s <= self.now_s]:
            connection.expire()
        if self.connections:
            after_s = min(1.0, self.idle_timeout_s / 4)
            self._sweeper = asyncio.get_running_loop().call_later(after_s, self._sweep)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; no host = every address, IPv4 and IPv6 on one port where the machine has both."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)
