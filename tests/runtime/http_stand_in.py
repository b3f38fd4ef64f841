"""Our REST routes behind aiohttp's server, so that they can be tested apart from our own HTTP protocol."""

import asyncio

from aiohttp import web

from slipway_runtime.protocol.routes import RestOptions, Routes
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.wire.http1_messages import Request, Response
from tests.runtime.fake_api import FakeApi

LIMIT = 1 << 22


class Site:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.memory = SharedMemory()
        self.routes = Routes(self.api, self.memory, RestOptions(LIMIT))

    async def start(self) -> None:
        app = web.Application(client_max_size=LIMIT)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, given: web.Request) -> web.StreamResponse:
        headers = {name.lower().encode(): value.encode("latin-1") for name, value in given.headers.items()}
        request = Request(given.method, given.raw_path.partition("?")[0], headers, await given.read(), keep_alive=True)
        response = await answer_of(self.routes, request)
        named = {"content-type": response.content_type, **dict(response.headers)}
        if response.stream is None:
            return web.Response(status=response.status, body=b"".join(response.body), headers=named)
        chunked = web.StreamResponse(status=response.status, headers=named)
        await chunked.prepare(given)
        async for piece in response.stream:
            await chunked.write(piece)
        return chunked


async def answer_of(routes: Routes, request: Request) -> Response:
    future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    routes(request, future.set_result)
    return await future
