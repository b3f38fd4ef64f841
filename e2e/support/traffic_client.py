"""Requests to one service, from a pod: `python -c SCRIPT HOST MODEL RATE ADDRESS:PORT KINDS LIMIT_S`. Runs alone.

On what the image has. Open loop: every request has its time, however long others take. Three kinds, each at its share
of RATE: `kept` over HTTP connections that stay open, `new` over a connection each, `grpc` over one channel; KINDS names
some of them, else it is all. Nothing is sent a second time. A line `RATE SECONDS` on stdin goes evenly to that rate.
Every answer is checked against its own question: y - 2x is 1 (sample hello), 101 (hello-v2), 201 or 301 for all
elements. `arms` tells for each revision, by the gateway's word, "" where it has none, how many requests it answered and
failed, and when the first and the last of them were sent. With LIMIT_S `seconds` tells of every second in which some
were sent how many were answered, and how many of them took longer than that; from its time on, waiting here included.
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
from dataclasses import asdict, dataclass
from typing import Any

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

HOST, MODEL, RATE, THROUGH = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
KINDS = {kind: share for kind, share in {"kept": 0.4, "new": 0.4, "grpc": 0.2}.items() if kind in (sys.argv[5] or kind)}
LIMIT_S = float(sys.argv[6] or 0)
OFFSETS = {1.0, 101.0, 201.0, 301.0}
TOLD = 10
"""Failures of each revision that are told in words."""
POOL = max(4, round(RATE / 3))
"""Connections of `kept` to begin with: enough for answers that take most of a second."""
# Once: the address stays, and the cluster's DNS is not what is looked at here.
ADDRESS, PORT = THROUGH.split(":") if THROUGH else (socket.gethostbyname(HOST), "80")
TIMEOUT_S = 30.0
"""Slow is not failed: other programs have the machine too."""
LOOK_S = 0.1
"""How soon another rate is heard of."""
REVISION = "x-slipway-revision"


@dataclass(frozen=True, slots=True)
class Answer:
    y: list[float]
    revision: str


class Refused(Exception):
    """Answered with an error, by this revision or, without one, by nobody but the gateway."""

    def __init__(self, words: str, revision: str) -> None:
        super().__init__(words)
        self.revision = revision


Send = Callable[[list[float]], Awaitable[Answer]]


@dataclass(slots=True)
class Arm:
    answered: int = 0
    failed: int = 0
    first: float = 0.0
    """Epoch seconds."""
    last: float = 0.0


class Tally:
    def __init__(self) -> None:
        self.sent = self.answered = self.failed = 0
        self.failures: list[str] = []
        self.offsets: collections.Counter[str] = collections.Counter()
        self.recent: collections.deque[str] = collections.deque(maxlen=50)
        self.arms: collections.defaultdict[str, Arm] = collections.defaultdict(Arm)
        self.slowest_ms = 0.0
        self.times_ms: collections.deque[float] = collections.deque(maxlen=50)
        self.seconds: collections.defaultdict[int, list[int]] = collections.defaultdict(lambda: [0, 0])

    def arm(self, revision: str, sent: float) -> Arm:
        found = self.arms[revision]
        found.first, found.last = min(found.first or sent, sent), max(found.last, sent)
        return found

    def count(self, offset: str, sent: float, seconds: float) -> None:
        self.answered += 1
        if LIMIT_S:
            second = self.seconds[int(sent)]
            second[0] += 1
            second[1] += seconds > LIMIT_S
        self.offsets[offset] += 1
        self.recent.append(offset)
        self.times_ms.append(round(seconds * 1000))
        self.slowest_ms = max(self.slowest_ms, seconds * 1000)

    def fail(self, kind: str, error: Exception, arm: Arm) -> None:
        self.failed += 1
        arm.failed += 1
        if arm.failed <= TOLD:
            notes = [note for one in (error, error.__cause__) for note in getattr(one, "__notes__", [])]
            text = f"{time.strftime('%H:%M:%S')} {kind}: {type(error).__name__}: {error} {notes}"
            self.failures.append(text[:400])

    def line(self) -> str:
        arms = {revision: asdict(arm) for revision, arm in self.arms.items()}
        return json.dumps(vars(self) | {"recent": [*self.recent], "times_ms": [*self.times_ms], "arms": arms})


tally = Tally()


async def http_request(
    reader: StreamReader, writer: StreamWriter, x: list[float], *, keep: bool
) -> tuple[Answer, bool]:
    """One infer request on an open connection -> (answer, whether the server lets the connection live)."""
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
    revision = headers.get(REVISION, "")
    if status.split()[1] != "200":
        raise Refused(f"{status} {answer[:200]!r}", revision)
    y = json.loads(answer)["outputs"][0]["data"]
    return Answer(y, revision), headers.get("connection", "").lower() != "close"


async def new(x: list[float]) -> Answer:
    reader, writer = await asyncio.open_connection(ADDRESS, int(PORT))
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

    async def request(self, x: list[float]) -> Answer:
        good = False
        try:
            if self.streams is None or self.streams[0].at_eof():
                self.close()
                self.opened, self.requests = time.monotonic(), 0
                self.streams = await asyncio.open_connection(ADDRESS, int(PORT))
            self.requests += 1
            answer, good = await http_request(*self.streams, x, keep=True)
        except BaseException as error:
            error.add_note(self.story())
            raise
        else:
            return answer
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
    """One more connection where all are in use: it stays an open loop."""

    def __init__(self) -> None:
        self.idle: asyncio.Queue[Kept] = asyncio.Queue()
        for _ in range(POOL):
            self.idle.put_nowait(Kept())

    async def __call__(self, x: list[float]) -> Answer:
        connection = Kept() if self.idle.empty() else self.idle.get_nowait()
        try:
            return await connection.request(x)
        finally:
            self.idle.put_nowait(connection)


class Grpc:
    def __init__(self) -> None:
        # gRPC repeats by itself what the server has not seen: here every failure is to be seen.
        options = [("grpc.default_authority", HOST), ("grpc.enable_retries", 0)]
        self.channel = grpc.aio.insecure_channel(f"{ADDRESS}:{PORT}", options)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    async def __call__(self, x: list[float]) -> Answer:
        tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])
        request = service_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor])
        request.raw_input_contents.append(np.array(x, dtype="<f4").tobytes())
        call = self.stub.ModelInfer(request)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            # An answer that is an error from its first byte has one block of headers, which counts as trailers.
            told = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
            raise Refused(f"grpc {error.code().name} {error.details()}", revision_in(told)) from error
        y = np.frombuffer(response.raw_output_contents[0], dtype="<f4").tolist()
        return Answer(y, revision_in(await call.initial_metadata()))


def revision_in(metadata: Any) -> str:
    return next((str(value) for name, value in metadata if name == REVISION), "")


async def ask(kind: str, send: Send) -> None:
    tally.sent += 1
    begin, sent, revision = time.monotonic(), time.time(), ""
    x = [float(random.randrange(1000)) for _ in range(4)]  # noqa: S311 - not a secret
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer = await send(x)
        revision = answer.revision
        offsets = {round(b - 2 * a, 3) for a, b in zip(x, answer.y, strict=True)}
        if len(offsets) != 1 or not offsets <= OFFSETS:
            raise ValueError(f"wrong answer {answer.y} to {x}")  # noqa: TRY301 - counted like every other failure
        tally.count(f"{offsets.pop():.0f}", sent, time.monotonic() - begin)
        tally.arm(revision, sent).answered += 1
    except Exception as error:
        tally.fail(kind, error, tally.arm(getattr(error, "revision", revision), sent))


class Pace:
    """How many requests a second, now: evenly on its way from one number to the next."""

    def __init__(self, rate: float) -> None:
        self.begin, self.before, self.after, self.lasts_s = time.monotonic(), rate, rate, 0.0

    def go(self, rate: float, seconds: float) -> None:
        self.begin, self.before, self.after, self.lasts_s = time.monotonic(), self.rate(), rate, seconds

    def rate(self) -> float:
        passed = time.monotonic() - self.begin
        share = min(1.0, passed / self.lasts_s) if self.lasts_s else 1.0
        return self.before + share * (self.after - self.before)


async def keep(kind: str, send: Send, pace: Pace, stop: asyncio.Event) -> None:
    """Send one after the other: each is due when as much of a request has come together as makes a whole one."""
    share = KINDS[kind] / sum(KINDS.values())
    due = time.monotonic() + random.random() * LOOK_S  # noqa: S311
    owed = random.random()  # noqa: S311
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            rate = pace.rate() * share
            wait_s = min(LOOK_S, (1 - owed) / rate) if rate > 0 else LOOK_S
            due += wait_s
            owed += rate * wait_s
            await asyncio.sleep(max(0, due - time.monotonic()))
            if owed >= 1 - 1e-9:
                owed -= 1
                group.create_task(ask(kind, send))


async def listen(pace: Pace, stop: asyncio.Event) -> None:
    """Other rates, until stdin ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        rate, seconds = map(float, line.split())
        pace.go(rate, seconds)
    stop.set()


async def report(stop: asyncio.Event) -> None:
    while not stop.is_set():
        print(tally.line(), flush=True)
        await asyncio.sleep(0.5)


async def main() -> None:
    stop, pace = asyncio.Event(), Pace(RATE)
    calls = Grpc()
    senders: dict[str, Send] = {"kept": Pool(), "new": new, "grpc": calls}
    async with asyncio.TaskGroup() as group:
        for kind in KINDS:
            group.create_task(keep(kind, senders[kind], pace, stop))
        group.create_task(listen(pace, stop))
        group.create_task(report(stop))
    print(tally.line(), flush=True)
    await calls.channel.close()


asyncio.run(main())
