"""Callers: REST by aiohttp, gRPC by grpcio, and raw bytes."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc

from tests.gateway.envoy import Envoy

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
HOST = "resnet.vision"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str


class Rest:
    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session, self._base = session, base

    async def __call__(
        self, method: str, path: str, headers: dict[str, str] | None = None, *, host: str = HOST, data: Any = None
    ) -> Answer:
        async with self._session.request(
            method, self._base + path, headers={"host": host, **(headers or {})}, data=data, allow_redirects=False
        ) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, found, await answer.text())

    async def infer(self, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        return await self("POST", f"/v2/models/{more.get('host', HOST).split('.')[0]}/infer", headers, **more)


async def refused(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The first answer that it was too often. A slow machine asks more often before: meanwhile a rate gives more."""
    for _ in range(50):
        if (answer := await ask()).status == 429:
            return answer
    raise AssertionError("50 requests one after another are within a rate")


@contextlib.asynccontextmanager
async def rest(envoy: Envoy) -> AsyncIterator[Rest]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session:
        yield Rest(session, envoy.base)


@contextlib.asynccontextmanager
async def channel(envoy: Envoy, host: str = HOST) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(envoy.base, host) as made:
        yield made


@contextlib.asynccontextmanager
async def channel_to(base: str, host: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.default_authority", host), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(base.removeprefix("http://"), options=options) as made:
        yield made


async def call(
    channel: grpc.aio.Channel,
    method: str = INFER,
    *,
    deadline_s: float | None = 20,
    body: bytes = b"x",
    metadata: dict[str, str] | None = None,
    **more: str,
) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Status, message (or the answer) and the headers of one unary call; `_` in `metadata` is `-`."""
    pairs = [(name.replace("_", "-"), value) for name, value in {**more, **(metadata or {})}.items()]
    made = channel.unary_unary(method)(body, metadata=pairs, timeout=deadline_s)
    try:
        answer = bytes(await made)
    except grpc.aio.AioRpcError as error:
        both = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
        return error.code(), error.details() or "", {key: str(value) for key, value in both}
    return grpc.StatusCode.OK, answer.decode(), {key: str(value) for key, value in await made.initial_metadata()}


async def raw(port: int, data: bytes, *, wait_s: float = 10.0) -> bytes:
    """All that comes back until the other side closes, or says nothing for `wait_s`.

    A busy machine is silent, too: so it is again after a later request was answered, and only then that counts.
    Our side stays open: Envoy gives up what it has not answered when a client closes one half.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got, silences = b"", 0
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        while silences < 2:
            try:
                piece = await asyncio.wait_for(reader.read(65536), wait_s)
            except TimeoutError:
                silences += 1
                await _is_awake(port)
                continue
            if not piece:
                break
            got, silences = got + piece, 0
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return got


async def _is_awake(port: int) -> None:
    """The gateway answers a request of its own; no pod hears of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: nobody\r\nconnection: close\r\n\r\n")
    assert b" 404 " in await asyncio.wait_for(reader.readline(), 30)
    writer.close()


async def raws(port: int, forms: Iterable[bytes], *, wait_s: float = 10.0) -> list[bytes]:
    """The same for many, 60 at a time: Envoy leaves a closing connection open for a second."""
    places = asyncio.Semaphore(60)

    async def one(form: bytes) -> bytes:
        async with places:
            return await raw(port, form, wait_s=wait_s)

    return await asyncio.gather(*map(one, forms))


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", answer)]


async def revisions(port: int, heads: list[str], *, at_once: int = 200) -> list[str]:
    """Which revision answered each request; `heads` are whole requests without a body, sent in pipelines."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found: list[str] = []
    for start in range(0, len(heads), at_once):
        batch = heads[start : start + at_once]
        writer.write("".join(batch).encode())
        got = b""
        while got.count(b"\r\n\r\n") < len(batch):
            piece = await reader.read(1 << 20)
            assert piece, f"closed after {len(found)}"
            got += piece
        answered = re.findall(rb"x-slipway-revision: ([^\r]*)", got)
        assert len(answered) == len(batch)
        found += [one.decode() for one in answered]
    writer.close()
    return found


def get(path: str = "/v2", host: str = HOST, **headers: str) -> str:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n"
