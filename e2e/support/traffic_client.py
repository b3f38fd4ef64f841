"""Steady requests to one service, from a pod: `python -c SCRIPT HOST MODEL RATE`. Runs alone, on what the image has.

Open loop: every request has its time, however long others take. Three kinds, each at its share of RATE:
`kept` over HTTP connections that stay open, `new` over a connection each, `grpc` over one channel.
Every answer is checked against its own question: y - 2x is 1 (sample hello) or 101 (hello-v2) for all elements.
Twice a second a line of JSON with the sums so far; the last one when stdin ends.
"""

import asyncio
import collections
import json
import random
import socket
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable

import numpy as np
import tritonclient.grpc.aio as triton

HOST, MODEL, RATE = sys.argv[1], sys.argv[2], float(sys.argv[3])
KINDS = {"kept": 0.4, "new": 0.4, "grpc": 0.2}
POOL = 4
ADDRESS = socket.gethostbyname(HOST)  # once: the address stays, and the cluster's DNS is not what is looked at here
TIMEOUT_S = 30.0
"""Slow is not failed: other programs have the machine too."""
Send = Callable[[list[float]], Awaitable[list[float]]]


class Tally:
    def __init__(self) -> None:
        self.sent = self.answered = self.failed = 0
        self.failures: list[str] = []
        self.offsets: collections.Counter[str] = collections.Counter()
        self.recent: collections.deque[str] = collections.deque(maxlen=50)
        self.slowest_ms = 0.0

    def count(self, offset: str, seconds: float) -> None:
        self.answered += 1
        self.offsets[offset] += 1
        self.recent.append(offset)
        self.slowest_ms = max(self.slowest_ms, seconds * 1000)

    def fail(self, kind: str, error: Exception) -> None:
        self.failed += 1
        if len(self.failures) < 20:
            notes = [note for one in (error, error.__cause__) for note in getattr(one, "__notes__", [])]
            text = f"{time.strftime('%H:%M:%S')} {kind}: {type(error).__name__}: {error} {notes}"
            self.failures.append(text[:400])

    def line(self) -> str:
        return json.dumps(vars(self) | {"recent": list(self.recent)})


tally = Tally()


async def http_request(
    reader: StreamReader, writer: StreamWriter, x: list[float], *, keep: bool
) -> tuple[list[float], bool]:
    """One infer request on an open connection -> (y, whether the server lets the connection live)."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": x}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    answer = await reader.readexactly(int(headers["content-length"]))
    if status.split()[1] != "200":
        raise RuntimeError(f"{status} {answer[:200]!r}")
    return json.loads(answer)["outputs"][0]["data"], headers.get("connection", "").lower() != "close"


async def new(x: list[float]) -> list[float]:
    reader, writer = await asyncio.open_connection(ADDRESS, 80)
    try:
        return (await http_request(reader, writer, x, keep=False))[0]
    finally:
        writer.close()


class Kept:
    """A connection that stays open as long as the server does not end it, by word or by closing."""

    def __init__(self) -> None:
        self.streams: tuple[StreamReader, StreamWriter] | None = None
        self.opened = 0.0
        self.requests = 0

    async def request(self, x: list[float]) -> list[float]:
        good = False
        try:
            if self.streams is None or self.streams[0].at_eof():
                self.close()
                self.opened, self.requests = time.monotonic(), 0
                self.streams = await asyncio.open_connection(ADDRESS, 80)
            self.requests += 1
            y, good = await http_request(*self.streams, x, keep=True)
        except BaseException as error:
            error.add_note(self.story())
            raise
        else:
            return y
        finally:
            if not good:
                self.close()

    def close(self) -> None:
        if self.streams:
            self.streams[1].close()
        self.streams = None

    def story(self) -> str:
        port = self.streams[1].get_extra_info("sockname")[1] if self.streams else "not connected"
        return f"port {port}, opened {time.monotonic() - self.opened:.1f} s ago, request {self.requests} on it"


class Pool:
    def __init__(self) -> None:
        self.idle: asyncio.Queue[Kept] = asyncio.Queue()
        for _ in range(POOL):
            self.idle.put_nowait(Kept())

    async def __call__(self, x: list[float]) -> list[float]:
        connection = await self.idle.get()
        try:
            return await connection.request(x)
        finally:
            self.idle.put_nowait(connection)


class Grpc:
    def __init__(self) -> None:
        self.client = triton.InferenceServerClient(f"{ADDRESS}:8001")

    async def __call__(self, x: list[float]) -> list[float]:
        tensor = triton.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.array([x], dtype=np.float32))
        y: list[float] = (await self.client.infer(MODEL, [tensor])).as_numpy("y")[0].tolist()
        return y


async def ask(kind: str, send: Send) -> None:
    tally.sent += 1
    begin = time.monotonic()
    x = [float(random.randrange(1000)) for _ in range(4)]  # noqa: S311 - not a secret
    try:
        async with asyncio.timeout(TIMEOUT_S):
            y = await send(x)
        offsets = {round(b - 2 * a, 3) for a, b in zip(x, y, strict=True)}
        if len(offsets) != 1 or not offsets <= {1.0, 101.0}:
            raise ValueError(f"wrong answer {y} to {x}")  # noqa: TRY301 - counted like every other failure
        tally.count(f"{offsets.pop():.0f}", time.monotonic() - begin)
    except Exception as error:
        tally.fail(kind, error)


async def pace(kind: str, send: Send, stop: asyncio.Event) -> None:
    period = 1 / (RATE * KINDS[kind])
    due = time.monotonic() + random.random() * period  # noqa: S311
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            await asyncio.sleep(max(0, due - time.monotonic()))
            group.create_task(ask(kind, send))
            due += period


async def report(stop: asyncio.Event) -> None:
    while not stop.is_set():
        print(tally.line(), flush=True)
        await asyncio.sleep(0.5)


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: stop.set())
    grpc = Grpc()
    senders: dict[str, Send] = {"kept": Pool(), "new": new, "grpc": grpc}
    async with asyncio.TaskGroup() as group:
        for kind, send in senders.items():
            group.create_task(pace(kind, send, stop))
        group.create_task(report(stop))
    print(tally.line(), flush=True)
    await grpc.client.close()


asyncio.run(main())
