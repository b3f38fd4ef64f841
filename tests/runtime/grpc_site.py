"""The methods that the tests of gRPC call, on a server of its own; no socket yet."""

import asyncio

from slipway_runtime.wire.grpc_calls import Call, GrpcServer, StreamCall, streaming, unary
from slipway_runtime.wire.grpc_messages import Code, GrpcError

LIMIT = 32 * 2**20


class Site:
    """What runs of it: `cancelled`, `asleep` and `taken` say what the methods saw."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.asleep = 0
        self.taken = 0
        self.waiting: list[Call] = []
        self.server = GrpcServer(
            {
                b"/test.Test/Echo": lambda call, text: call.reply(text),
                b"/test.Test/Later": self.later,
                b"/test.Test/Pieces": lambda call, text: call.reply([memoryview(text)[:3], b"-", bytearray(text[3:])]),
                b"/test.Test/Metadata": self.metadata,
                b"/test.Test/Fails": unary(self.fails),
                b"/test.Test/Wait": self.wait,
                b"/test.Test/Async": unary(self.sleeps),
                b"/test.Test/Boom": self.boom,
                b"/test.Test/Chat": streaming(self.chat),
                b"/test.Test/Count": streaming(self.count),
                b"/test.Test/Forever": streaming(self.forever),
            },
            max_message_bytes=LIMIT,
            max_held_bytes=256 * 2**20,
            idle_timeout_s=60.0,
        )

    def later(self, call: Call, text: bytes) -> None:
        asyncio.get_running_loop().call_later(0.02, call.reply, text)

    def metadata(self, call: Call, text: bytes) -> None:
        seen = b"%s %s %s" % (
            call.header(b"x-one") or b"none",
            call.header(b"x-two") or b"none",
            b"%r" % call.timeout_s,
        )
        call.reply(seen, initial=[(b"x-first", b"1")], trailing=[(b"endpoint-load-metrics", b"TEXT cpu=1")])

    async def fails(self, call: Call, text: bytes) -> bytes:
        await asyncio.sleep(0)
        raise GrpcError(Code(int(text)), "no such model: 'ä%\n'")

    def wait(self, call: Call, text: bytes) -> None:
        self.waiting.append(call)
        call.on_cancel = lambda: self.cancelled.append("wait")

    async def sleeps(self, call: Call, text: bytes) -> bytes:
        self.asleep += 1
        try:
            await asyncio.sleep(float(text))
        except asyncio.CancelledError:
            self.cancelled.append("async")
            raise
        return text

    def boom(self, call: Call, text: bytes) -> None:
        raise ZeroDivisionError(text)

    async def chat(self, call: StreamCall) -> None:
        call.initial, call.trailing = [(b"x-first", b"1")], [(b"x-last", b"2")]
        async for text in call:
            if text == b"fail":
                raise GrpcError(Code.NOT_FOUND, "not that")
            if text == b"boom":
                raise ZeroDivisionError
            self.taken += 1
            await call.send(text)

    async def count(self, call: StreamCall) -> None:
        size, number = [int(part) for part in (await anext(aiter(call))).split()]
        for _ in range(number):
            self.taken += 1
            await call.send(bytes(size))

    async def forever(self, call: StreamCall) -> None:
        try:
            await call.send(b"begun")
            await asyncio.Event().wait()
        finally:
            self.cancelled.append("forever")
