"""Bytes to a port as they are, and what comes back: for requests that no client library would send."""

import asyncio
import contextlib
import re
import resource
import time
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

AT_ONCE = 60
T = TypeVar("T")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """In a thread of its own: in the main one `asyncio.run` takes away the loop that pytest has put there."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _send(address: tuple[str, int], data: bytes, silent_s: float) -> bytes:
    got = bytearray()
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(data)
            while piece := await asyncio.wait_for(reader.read(65536), silent_s):
                got += piece
        finally:
            writer.close()
            await writer.wait_closed()
    return bytes(got)


def send_all(address: tuple[str, int], requests: Iterable[bytes], silent_s: float = 3.0) -> list[bytes]:
    """All that came back to each, until the other side closed or said nothing for `silent_s`.

    Our side stays open: a proxy may give up what it has not answered when a client closes one half.
    """

    async def together() -> list[bytes]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(data: bytes) -> bytes:
            async with places:
                return await _send(address, data, silent_s)

        return await asyncio.gather(*map(one, requests))

    return _run(together())


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+)[ \r]", answer)]


def header(answer: bytes, name: str) -> str:
    """Of the first answer; empty when it has none of that name."""
    found = re.search(rf"^{name}:[ \t]*([^\r\n]*)".encode(), answer, re.MULTILINE | re.IGNORECASE)
    return found[1].decode("latin-1") if found else ""


async def _latencies(address: tuple[str, int], request: bytes, count: int) -> list[float]:
    reader, writer = await asyncio.open_connection(*address)
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert statuses(head) == [200], head
        await reader.readexactly(int(header(head, "content-length")))
        found.append(time.perf_counter() - begin)
    writer.close()
    await writer.wait_closed()
    return found


def p99_ms(address: tuple[str, int], request: bytes, count: int = 500, rounds: int = 5) -> float:
    """Of the calmest round, since other programs have the machine too."""
    return min(_p99(_run(_latencies(address, request, count))) for _ in range(rounds)) * 1000


def _p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[len(seconds) * 99 // 100]


async def _stalled_p99_ms(address: tuple[str, int], begun: bytes, clients: int, request: bytes) -> tuple[float, int]:
    writers = []
    for _ in range(clients):
        _, writer = await asyncio.open_connection(*address)
        writer.write(begun)
        writers.append(writer)
    try:
        rounds = [_p99(await _latencies(address, request, 500)) for _ in range(5)]
    finally:
        open_ones = sum(not writer.is_closing() for writer in writers)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    return min(rounds) * 1000, open_ones


def stalled_p99_ms(address: tuple[str, int], begun: bytes, clients: int, request: bytes) -> tuple[float, int]:
    """The same beside so many clients that have begun a request and do not go on; how many were let stay so long."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return _run(_stalled_p99_ms(address, begun, clients, request))
