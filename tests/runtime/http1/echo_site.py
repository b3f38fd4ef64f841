"""A server of HTTP/1.1 alone, over real sockets and uvloop, and a client that says what it is told to, byte by byte.

The handler behind it says what it was given; models have no part in this.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import uvloop

from slipway_runtime.wire.http1_messages import Answer, Cancel, Request, Response, refusal
from slipway_runtime.wire.http1_server import HttpServer, Limits

LIMIT = 1 << 20
IDLE_S = 60.0
PATIENCE_S = 50.0
BIG = 32 << 20
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: t\r\n\r\n"
)


def handler(request: Request, answer: Answer) -> Cancel | None:
    """Most are answered at once, /slow later; /stream in pieces, /wait never."""
    if request.path == "/slow":
        return asyncio.get_running_loop().call_later(0.03, lambda: answer(echo(request))).cancel
    if request.path == "/wait":
        return lambda: CANCELLED.append(request.path)
    if request.path == "/late":
        LATE.append(answer)
        return None
    answer(echo(request))
    return None


CANCELLED: list[str] = []
LATE: list[Answer] = []
CLOSED: list[str] = []


class Closable:
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        CLOSED.append("closed")


def echo(request: Request) -> Response:
    if request.path == "/big":
        return Response(200, (bytes(BIG),), content_type="application/octet-stream")
    if request.path == "/404":
        return refusal(404, "not here")
    if request.path.startswith("/stream"):
        return Response(200, content_type="text/event-stream", stream=pieces(int(request.path.rpartition("/")[2])))
    if request.path == "/sum":
        body = memoryview(request.body)
        answer = {"size": len(body), "sum": sum(body[::4099]), "aligned": address(body) % 64}
        return Response(200, (json.dumps(answer).encode(),))
    seen = {
        "method": request.method,
        "path": request.path,
        "headers": {name.decode(): value.decode() for name, value in request.headers.items()},
        "body": bytes(request.body).decode("latin-1"),
    }
    return Response(200, (json.dumps(seen).encode(),))


def address(body: memoryview) -> int:
    return int(np.frombuffer(body, np.uint8).ctypes.data) + 10 if len(body) else 0


async def pieces(count: int) -> AsyncIterator[bytes]:
    """As many as asked for; 13 of them and the stream breaks."""
    for number in range(count):
        yield b"piece %d;" % number
        if number == 13:
            raise ConnectionError
        await asyncio.sleep(0)


class Site:
    """The server on a thread of its own."""

    def __init__(self) -> None:
        self.skew_s = 0.0
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self._thread.start()
        assert self._started.wait(PATIENCE_S)

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        limits = Limits(body_bytes=LIMIT, held_bytes=4 * LIMIT, connections=50, idle_timeout_s=IDLE_S)
        self.server = HttpServer(handler, limits)
        self.server.clock = lambda: time.monotonic() + self.skew_s
        self.port = await self.server.listen("127.0.0.1", 0)
        self._started.set()
        await self._end.wait()
        await self.server.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def answer(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        body = b"" if head_only or status == 100 else self._file.read(int(headers["content-length"]))
        return status, headers, body

    def echo(self) -> dict[str, Any]:
        status, _, body = self.answer()
        assert status == 200, body
        return dict(json.loads(body))

    def refused(self) -> tuple[int, str]:
        """The status and the sentence of a refusal; the connection ends after it."""
        status, headers, body = self.answer()
        assert headers["connection"] == "close"
        assert self.is_closed()
        return status, json.loads(body)["error"]

    def is_closed(self) -> bool:
        """Waits for the server's close. A reset would raise: it may take the last answer with it."""
        return self._file.read(1) == b""

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def large(path: str, size: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)
