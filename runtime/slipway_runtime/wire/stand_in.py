"""Protocols that take over a connection's transport for a while, or for the rest of its life."""

import asyncio

_DISCARDED = bytearray(64 * 1024)
"""Where bytes go that nobody reads: one place for all connections."""


class StandIn(asyncio.BufferedProtocol):
    """Gives all that is not reading to the protocol that it stands for."""

    def __init__(self, owner: asyncio.BaseProtocol) -> None:
        self._owner = owner

    def eof_received(self) -> bool | None:
        return self._owner.eof_received() if isinstance(self._owner, asyncio.Protocol) else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()


class Discard(StandIn):
    """For a connection whose last words are written: what still comes must be read, but costs no memory and no time.

    Left unread, it would have the kernel reset the connection, and the peer lose those words.
    """

    def __init__(self, owner: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        StandIn.__init__(self, owner)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return _DISCARDED

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes == len(_DISCARDED) and not self._transport.is_closing():  # there is more: others have their turn
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()


def discard_input(transport: asyncio.Transport) -> None:
    transport.set_protocol(Discard(transport.get_protocol(), transport))
