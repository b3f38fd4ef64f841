"""Taking connections from a socket that several processes listen on: one at a time, and each by who has the fewest.

Left to themselves, whoever wakes first takes all that have arrived: of 8 connections one process often has none. With a
socket each (SO_REUSEPORT) the kernel throws dice, and what waits for a process that dies is lost with it.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("slipway.http")
YIELD_S = 0.001
"""How long a worker leaves a connection to one that has fewer: who is idle takes it much sooner."""
FULL_S = 0.1
"""When there are no descriptors left."""


class SharedListener:
    """`is_turn`: whether the next connection is for us. `counted` is called when `taken` has changed.

    Must be made inside a running event loop.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        is_turn: Callable[[], bool],
        counted: Callable[[], None],
    ) -> None:
        listener.setblocking(False)
        self._listener, self._protocol, self._is_turn, self._counted = listener, protocol, is_turn, counted
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._wait()

    @property
    def taken(self) -> int:
        """Connections that are ours, and not yet with their protocol."""
        return len(self._connecting)

    def close(self) -> None:
        """Take no more; what was taken is still served. The others go on with the socket."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._loop.remove_reader(self._listener)
        self._listener.close()

    async def settled(self) -> None:
        """What was taken is with its protocol."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _wait(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._arrived)

    def _arrived(self) -> None:
        if self._is_turn():
            self._take()
        else:
            self._wait_for(YIELD_S, self._late)

    def _late(self) -> None:
        """Whoever should have taken it is busy, or it was taken."""
        self._wait()
        self._take()

    def _wait_for(self, time_s: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(time_s, then)

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("a connection cannot be taken", extra={"f": {"reason": str(error)}})  # noqa: TRY400
            self._wait_for(FULL_S, self._wait)
            return
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connected)
        self._counted()

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        self._counted()

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError as error:
            log.debug("a client was gone at once: %s", error)
            connection.close()
