"""The benchmark's own client: preserialised bodies over one session, so that it is never what holds a figure back."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

PARALLEL = 32
Manifest = dict[str, Any]


class CannotMeasureError(Exception):
    """Why there is no figure."""


class Api:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, token: str, ca: Path) -> AsyncIterator["Api"]:
        connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cafile=str(ca)))
        headers = {"Authorization": f"Bearer {token}"}
        # An event of a watch is one line.
        async with aiohttp.ClientSession(
            url, connector=connector, headers=headers, read_bufsize=1 << 20, timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            yield cls(session)

    async def is_ready(self) -> bool:
        try:
            async with self._session.get("/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def get(self, path: str) -> Manifest:
        return await self._send("GET", path)

    async def first(self, path: str) -> Manifest:
        manifest: Manifest = (await self.get(path))["items"][0]
        return manifest

    async def exists(self, path: str) -> bool:
        async with self._session.get(path) as response:
            return response.status == 200

    async def create(self, path: str, body: Manifest) -> Manifest:
        return await self._send("POST", path, json.dumps(body).encode())

    async def merge(self, path: str, body: Manifest) -> Manifest:
        return await self._send("PATCH", path, json.dumps(body).encode(), "application/merge-patch+json")

    async def delete(self, path: str) -> Manifest:
        return await self._send("DELETE", path, b'{"propagationPolicy":"Background"}')

    async def create_all(self, bodies: Iterable[tuple[str, bytes]]) -> None:
        """POST each body to its path, `PARALLEL` at a time, in order."""
        await self._send_all("POST", bodies)

    async def merge_all(self, bodies: Iterable[tuple[str, Manifest]]) -> None:
        """The same by PATCH."""
        texts = ((path, json.dumps(body).encode()) for path, body in bodies)
        await self._send_all("PATCH", texts, "application/merge-patch+json")

    async def _send_all(self, verb: str, bodies: Iterable[tuple[str, bytes]], form: str = "application/json") -> None:
        left = iter(bodies)

        async def work() -> None:
            for path, body in left:
                await self._send(verb, path, body, form)

        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(work())

    async def watch(self, path: str) -> AsyncIterator[Manifest]:
        """Everything at `path` as it is, and then as it changes."""
        async with self._session.get(f"{path}?watch=1&timeoutSeconds=3600") as response:
            async for line in response.content:
                yield json.loads(line)
        raise CannotMeasureError(f"the watch of {path} ended")

    async def _send(self, verb: str, path: str, body: bytes | None = None, form: str = "application/json") -> Manifest:
        async with self._session.request(verb, path, data=body, headers={"Content-Type": form}) as response:
            answer: Manifest = await response.json()
            if response.status >= 400:
                raise CannotMeasureError(f"{verb} {path}: {answer.get('message', response.status)}")
            return answer


async def until(done: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 60, every_s: float = 0.1) -> None:
    """Raises CannotMeasureError when it takes longer."""
    deadline = time.monotonic() + within_s
    while not await done():
        if time.monotonic() > deadline:
            raise CannotMeasureError(f"waited {within_s:.0f} s for {what}")
        await asyncio.sleep(every_s)
