"""A server of the HTTP/2 layer with methods that tests need, without sockets."""

import asyncio
from functools import partial

import pytest

from slipway_runtime.wire.grpc_calls import Call, GrpcServer, StreamCall, streaming
from slipway_runtime.wire.inflating import Inflating
from tests.runtime.http2_peer import Peer

IDLE_S = 300.0
MIB = 2**20


class Site:
    """A server with methods that echo at once, never, or when they are told to."""

    def __init__(self, max_held_bytes: int = 64 * MIB, inflating: Inflating | None = None) -> None:
        self.waiting: list[tuple[Call, bytes]] = []
        self.cancelled: list[Call] = []
        self.server = GrpcServer(
            {
                b"/test.Test/Echo": lambda call, text: call.reply(text),
                b"/test.Test/Wait": self.wait,
                b"/test.Test/Chat": streaming(self.chat),
                b"/test.Test/Deaf": streaming(self.deaf),
            },
            max_message_bytes=32 * MIB,
            max_held_bytes=max_held_bytes,
            idle_timeout_s=IDLE_S,
            inflating=inflating,
        )

    def wait(self, call: Call, text: bytes) -> None:
        self.waiting.append((call, text))
        call.on_cancel = lambda: self.cancelled.append(call)

    async def chat(self, call: StreamCall) -> None:
        async for text in call:
            await call.send(text)

    async def deaf(self, call: StreamCall) -> None:
        await asyncio.Event().wait()

    def peer(self, *, greets: bool = True, window: int = 65_535) -> Peer:
        return Peer(self.server, greets=greets, window=window)


def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock: a machine that is busy must not make a flood look like a brook."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", partial(float, loop.time()))
