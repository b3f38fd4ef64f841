"""Open-loop load: requests begin at a constant rate, whether or not the ones before them were answered.

A request that finds all connections busy waits, and its latency counts from when it was due: what a user would have
waited. One thread, blocking on select(), whose time-outs are of microseconds.
"""

import select
import socket
import time
from collections import deque

import httptools

from e2e.bench.api import CannotMeasureError
from e2e.bench.runtime.load import Load, Target, percentile
from e2e.bench.runtime.messages import Message

CONNECTIONS = 64
_LATE_S = 10.0
"""So long after the last was due, what has no answer is an error."""


class Connection:
    """A connection with one request at a time."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_LATE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._complete = False

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, due: float) -> None:
        self.due, self._complete = due, False
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Whether the answer is now complete."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise CannotMeasureError("the server closed a connection")
        self._parser.feed_data(data)
        return self._complete

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            raise CannotMeasureError(f"an answer has status {self._parser.get_status_code()}")
        self._complete = True


def apply(target: Target, per_s: float, seconds: float) -> Load:
    """Latencies of all requests that were due within `seconds`."""
    connections = [Connection(target.port, _request(target.message)) for _ in range(CONNECTIONS)]
    cpu_s = time.thread_time()
    try:
        waits = _drive(connections, per_s, seconds)
    finally:
        for connection in connections:
            connection.socket.close()
    number = int(per_s * seconds)
    ordered = sorted(waits)
    p50, p99 = (percentile(ordered, percent) * 1000 for percent in (50, 99))
    return Load(len(waits), number - len(waits), seconds, p50, p99, time.thread_time() - cpu_s)


def _drive(connections: list[Connection], per_s: float, seconds: float) -> list[float]:
    free, busy = deque(connections), set[Connection]()
    number, sent, waits = int(per_s * seconds), 0, list[float]()
    begin = time.perf_counter()
    deadline = begin + seconds + _LATE_S
    while len(waits) < number and (now := time.perf_counter()) < deadline:
        while sent < number and free and (due := begin + sent / per_s) <= now:
            connection = free.popleft()
            connection.send(due)
            busy.add(connection)
            sent += 1
        # Without a free connection only an answer helps; else the next request is due at a known time.
        until = begin + sent / per_s if free and sent < number else deadline
        readable, _, _ = select.select(busy, (), (), max(0.0, until - time.perf_counter()))
        for connection in readable:
            if connection.receive():
                waits.append(time.perf_counter() - connection.due)
                busy.discard(connection)
                free.append(connection)
    return waits


def _request(message: Message) -> bytes:
    headers = {"Host": "127.0.0.1", **message.headers, "Content-Length": str(len(message.body))}
    lines = [f"POST {message.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + message.body
