"""Many requests to one service as fast as it answers, from a pod: `python -c SCRIPT < SPEC`. Runs alone.

On what the image has. SPEC and the result, one line each, are JSON:

    {"host", "model", "protocol": "rest" or "grpc", "address": "IP:PORT" or "", "connections", "headers": [{...}, ...],
     "count": how many requests, by turns with each of `headers`, "each": whether to tell of each one}
    {"seconds", "codes": {code: n}, "revisions": {revision: n}, "offsets": {offset: n}, "failures": [...],
     "each": [[code, revision, offset, headers], ...]}

Who answered is told twice: by the gateway's header and by the model (y - 2x is 1 for sample hello, 101 for hello-v2).
A code is HTTP's, for gRPC `grpc STATUS`; 0 is a request that was not answered. Nothing is sent a second time.
"""

import asyncio
import collections
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import hpack
import numpy as np
import uvloop
from tritonclient.grpc import service_pb2

SPEC = json.loads(sys.stdin.readline())
HOST, MODEL = SPEC["host"], SPEC["model"]
ADDRESS, PORT = SPEC["address"].split(":") if SPEC["address"] else (socket.gethostbyname(HOST), "80")
X = [1.0, 2.0, 3.0, 4.0]
QUESTION = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}]}).encode()
TOLD = (
    "set-cookie",
    "retry-after",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "www-authenticate",
)
SILENT_S = 30.0
Headers = dict[str, str]


class Tally:
    def __init__(self) -> None:
        self.codes: collections.Counter[str] = collections.Counter()
        self.revisions: collections.Counter[str] = collections.Counter()
        self.offsets: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.each: list[Any] = [None] * (SPEC["count"] if SPEC["each"] else 0)

    def count(self, number: int, code: str, offset: str, headers: Headers) -> None:
        revision = headers.get("x-slipway-revision", "")
        self.codes[code] += 1
        if revision:
            self.revisions[revision] += 1
        if offset:
            self.offsets[offset] += 1
        if self.each:
            self.each[number] = [code, revision, offset, {name: headers[name] for name in TOLD if name in headers}]

    def fail(self, number: int, words: str) -> None:
        if len(self.failures) < 20:
            self.failures.append(f"request {number}: {words}"[:300])
        self.count(number, "0", "", {})


tally = Tally()
numbers: Iterator[int] = iter(range(SPEC["count"]))


def own_headers(number: int) -> Headers:
    several: list[Headers] = SPEC["headers"]
    return several[number % len(several)] if several else {}


class Rest(asyncio.Protocol):
    """One connection with one request at a time; a new one when the server ends it."""

    def __init__(self, done: "asyncio.Future[None]") -> None:
        self.done, self.buffer, self.number = done, bytearray(), -1
        self.ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport  # uvloop's are none of asyncio's classes
        self.ask()

    def ask(self) -> None:
        self.number = next(numbers, -1)
        if self.number < 0:
            self.end()
            return
        own = "".join(f"{name}: {value}\r\n" for name, value in own_headers(self.number).items())
        head = (
            f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n{own}"
            f"Content-Length: {len(QUESTION)}\r\n\r\n"
        )
        self.transport.write(head.encode() + QUESTION)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        status, *lines = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        whole = end + 4 + int(headers.get("content-length", 0))
        if len(self.buffer) < whole:
            return
        body, code = bytes(self.buffer[end + 4 : whole]), status.split()[1]
        del self.buffer[:whole]
        offset = f"{json.loads(body)['outputs'][0]['data'][0] - 2 * X[0]:.0f}" if code == "200" else ""
        number, self.number = self.number, -1
        tally.count(number, code, offset, headers)
        if headers.get("connection", "").lower() == "close":
            self.end()
        else:
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.number >= 0:
            tally.fail(self.number, f"the connection broke: {exc}")
        if not self.done.done():
            self.done.set_result(None)

    def end(self) -> None:
        self.transport.close()


class Grpc(asyncio.Protocol):
    """One HTTP/2 connection with one call at a time, by hand: a client library would be what is measured."""

    DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
    END_STREAM, END_HEADERS, ACK = 1, 4, 1

    def __init__(self, done: "asyncio.Future[None]") -> None:
        self.done, self.buffer, self.number, self.stream = done, bytearray(), -1, -1
        self.decoder = hpack.Decoder()
        self.encoder = hpack.Encoder()
        self.encoder.header_table_size = 0
        self.going = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport  # uvloop's are none of asyncio's classes
        window = self.frame(self.WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65535))
        self.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(self.SETTINGS, 0, 0, b"") + window)
        self.ask()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    @staticmethod
    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def ask(self) -> None:
        self.number = -1 if self.going else next(numbers, -1)
        if self.number < 0:
            self.transport.close()
            return
        self.stream += 2
        self.headers: Headers = {}
        self.body = bytearray()
        pairs = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/inference.GRPCInferenceService/ModelInfer"),
            (":authority", HOST),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *own_headers(self.number).items(),
        ]
        block = self.encoder.encode(pairs)
        head = self.frame(self.HEADERS, self.END_HEADERS, self.stream, block)
        self.write(head + self.frame(self.DATA, self.END_STREAM, self.stream, GRPC_QUESTION))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                return
            kind, flags, stream = struct.unpack(">BBI", self.buffer[3:9])
            payload = bytes(self.buffer[9 : 9 + length])
            del self.buffer[: 9 + length]
            self.received(kind, flags, stream, payload)

    def received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == self.SETTINGS and not flags & self.ACK:
            self.write(self.frame(self.SETTINGS, self.ACK, 0, b""))
        elif kind == self.PING and not flags & self.ACK:
            self.write(self.frame(self.PING, self.ACK, 0, payload))
        elif kind == self.GOAWAY:
            self.going = True
        elif kind == self.HEADERS:
            self.headers |= {str(name): str(value) for name, value in self.decoder.decode(payload)}
        elif kind == self.DATA:
            self.body += payload
        elif kind == self.RST_STREAM and stream == self.stream and self.number >= 0:
            tally.fail(self.number, f"the stream was reset with {int.from_bytes(payload, 'big')}")
            self.ask()
            return
        if kind in (self.HEADERS, self.DATA) and flags & self.END_STREAM and stream == self.stream:
            self.answered()

    def answered(self) -> None:
        status, offset = self.headers.get("grpc-status", "none"), ""
        if status == "0":
            answer = service_pb2.ModelInferResponse.FromString(bytes(self.body[5:]))
            offset = f"{np.frombuffer(answer.raw_output_contents[0], dtype='<f4')[0] - 2 * X[0]:.0f}"
        number, self.number = self.number, -1
        tally.count(number, f"grpc {status}", offset, self.headers)
        self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.number >= 0:
            tally.fail(self.number, f"the connection broke: {exc}")
        if not self.done.done():
            self.done.set_result(None)


def grpc_question() -> bytes:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])
    request = service_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor])
    request.raw_input_contents.append(np.array(X, dtype="<f4").tobytes())
    message: bytes = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(message)) + message


GRPC_QUESTION = grpc_question()


async def client() -> None:
    """One connection after the other, until all requests are sent."""
    loop = asyncio.get_running_loop()
    kind = Grpc if SPEC["protocol"] == "grpc" else Rest
    while not finished():
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda done=done: kind(done), ADDRESS, int(PORT))
        await done


def finished() -> bool:
    """Whether there is no number left; takes none."""
    return bool(numbers.__length_hint__() == 0)  # type: ignore[attr-defined]


async def watch() -> None:
    """A run that stands still is no result."""
    seen = -1
    while True:
        await asyncio.sleep(SILENT_S)
        if seen == (seen := sum(tally.codes.values())):
            raise TimeoutError(f"no answer for {SILENT_S:g} s after {seen}")


async def main() -> None:
    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        await asyncio.wait([group.create_task(client()) for _ in range(SPEC["connections"])])
        watching.cancel()
    print(json.dumps(vars(tally) | {"seconds": time.monotonic() - begin}))


uvloop.run(main())
