"""Stand-ins for the pods of a revision: they remember what reached them and answer as they are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from aiohttp import web

from slipway.gateway.views import Endpoint

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Pod:
    """`behaviour` None: 200 with the pod's name."""

    name: str
    http_port: int = 0
    grpc_port: int = 0
    seen: list[Seen] = field(default_factory=list)
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    behaviour: Behaviour | None = None
    grpc_delay_s: float = 0.0
    grpc_error: grpc.StatusCode | None = None
    stream_gap_s: float = 0.0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.http_port, self.grpc_port)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.raw_path, headers, body))
        if self.behaviour is not None:
            return await self.behaviour(request)
        return web.json_response({"pod": self.name})


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        pod = self._pod
        pod.calls.append((details.method, {key: str(value) for key, value in details.invocation_metadata}))

        async def unary(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            await asyncio.sleep(pod.grpc_delay_s)
            if pod.grpc_error is not None:
                await context.abort(pod.grpc_error, "told to")
            return pod.name.encode()

        async def stream(requests: AsyncIterator[bytes], _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            async for request in requests:
                await asyncio.sleep(pod.stream_gap_s)
                yield request

        if details.method.endswith(("ModelStreamInfer", "Watch")):
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@contextlib.asynccontextmanager
async def pod(name: str = "pod", *, with_grpc: bool = False) -> AsyncIterator[Pod]:
    """A pod that answers REST, and gRPC if asked for, until the block ends."""
    made = Pod(name)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.http_port = runner.addresses[0][1]
    server = None
    if with_grpc:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Calls(made),))
        made.grpc_port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
    try:
        yield made
    finally:
        if server is not None:
            await server.stop(0)
        await runner.cleanup()


class _Quick(asyncio.Protocol):
    """Answers every head with an empty 200, as fast as Python can."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" * data.count(b"\r\n\r\n"))


@contextlib.asynccontextmanager
async def quick() -> AsyncIterator[Endpoint]:
    """A pod for requests without a body that only have to be counted."""
    server = await asyncio.get_running_loop().create_server(_Quick, "127.0.0.1", 0)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
