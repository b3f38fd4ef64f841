"""The cache's port. A pod shows its token with every request.

GET /v1/models/KEY          {"files": [[path, size], ...]}, or 404
GET /v1/models/KEY/INDEX    one file, or a range of it
GET /v1/models/KEY/small    all files of less than 1 MiB, one after the other: thousands would take a request each
PUT /v1/models/KEY          length of a head, line break, the head as above, then all files, one after the other
GET /v1/sources/SOURCE      {"key": KEY, "age": seconds}: what the source had when it was last asked, or 404
PUT /v1/sources/SOURCE      KEY
GET /metrics, /healthz      for everybody
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.exposition import generate_latest

from slipway.kube.errors import KubeError
from slipway.nodecache.store import HEAD, Files, Incoming, Refused, Store, read_head
from slipway.nodecache.tokens import Tokens

log = logging.getLogger(__name__)

UPLOADS_MAX = 4
FILES_MAX, HEAD_MAX = 50_000, 32 << 20
_STALL_S = 30.0
"""A pod that sends nothing for so long has gone."""
_PIECE = 4 << 20
"""Bytes that are written, or read, at a time."""
SMALL = 1 << 20
"""As in `slipway_runtime.fetch.nodecache`."""
_FIRST = re.compile(rb"[0-9]{1,9}\n")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Cache:
    def __init__(self, store: Store, tokens: Tokens) -> None:
        self._store, self._tokens, self._uploads = store, tokens, 0
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        self._asked = counter("slipway_cache_requests_total", "Models that were asked for.", ["result"])
        self._served = counter("slipway_cache_files_total", "Files and ranges of files that were served.")
        self._kept = counter("slipway_cache_models_kept_total", "Models that pods brought.", ["result"])
        for name, words, read in (
            ("slipway_cache_bytes", "What models take.", lambda: store.bytes),
            ("slipway_cache_models", "Models that are there.", lambda: store.count),
            ("slipway_cache_evictions", "Models that made room for others.", lambda: store.evictions),
        ):
            Gauge(name, words, registry=self.registry).set_function(read)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models/{key}", self._owned(self._head))
        app.router.add_get("/v1/models/{key}/{index:[0-9]{1,6}}", self._owned(self._file))
        app.router.add_get("/v1/models/{key}/small", self._owned(self._small))
        app.router.add_put("/v1/models/{key}", self._owned(self._keep))
        app.router.add_get("/v1/sources/{source}", self._owned(self._last))
        app.router.add_put("/v1/sources/{source}", self._owned(self._remember))
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", _well)
        return app

    def _owned(self, handle: Callable[[web.Request, str], Awaitable[web.StreamResponse]]) -> _Handler:
        """With the owner that the request's token proves."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            kind, _, token = request.headers.get("Authorization", "").partition(" ")
            try:
                owner = await self._tokens.owner(token) if kind == "Bearer" and token else None
            except KubeError as error:
                return _told(503, f"the API server cannot be asked about the token: {error}")
            if owner is None:
                return _told(401, "a token for this cache is needed")
            try:
                return await handle(request, owner)
            except Refused as error:
                return _told(400, str(error))

        return guarded

    async def _head(self, request: web.Request, owner: str) -> web.StreamResponse:
        folder = self._store.find(owner, request.match_info["key"])
        self._asked.labels("miss" if folder is None else "hit").inc()
        if folder is None:
            return _told(404, "that is not here")
        return web.json_response({"files": read_head(folder / HEAD)})

    async def _file(self, request: web.Request, owner: str) -> web.StreamResponse:
        folder = self._store.find(owner, request.match_info["key"])
        path = folder and folder / request.match_info["index"]
        if path is None or not path.is_file():
            return _told(404, "that is not here")
        self._served.inc()
        return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})

    async def _small(self, request: web.Request, owner: str) -> web.StreamResponse:
        folder = self._store.find(owner, request.match_info["key"])
        if folder is None:
            return _told(404, "that is not here")
        sizes = [(index, size) for index, (_, size) in enumerate(read_head(folder / HEAD)) if size < SMALL]
        answer = web.StreamResponse()
        answer.content_length = sum(size for _, size in sizes)
        await answer.prepare(request)
        try:
            for batch in _batches(sizes):
                self._served.inc(len(batch))
                await answer.write(await asyncio.to_thread(_joined, folder, batch))
        except FileNotFoundError:  # thrown out meanwhile: the pod sees an answer that was cut
            if request.transport is not None:
                request.transport.abort()
        return answer

    async def _keep(self, request: web.Request, owner: str) -> web.StreamResponse:
        if self._uploads >= UPLOADS_MAX:
            return _told(503, "enough pods bring models at the moment")
        self._uploads += 1
        try:
            return await self._kept_or_not(request, owner)
        except Refused as error:
            self._kept.labels("refused").inc()
            return _told(413, str(error))
        except (OSError, TimeoutError) as error:
            self._kept.labels("failed").inc()
            log.warning("a model was not kept: %s", error or type(error).__name__)
            return _told(507, "it could not be written")
        finally:
            self._uploads -= 1

    async def _kept_or_not(self, request: web.Request, owner: str) -> web.StreamResponse:
        key, (files, rest) = request.match_info["key"], await _read_head(request)
        incoming = self._store.begin(owner, key, files)
        if incoming is None:
            return _told(200, "it is here already")
        is_whole = False
        try:
            await _write(request, incoming, rest)
        finally:
            is_whole = self._store.end(owner, key, incoming)
        self._kept.labels("kept" if is_whole else "cut").inc()
        return _told(201, "kept") if is_whole else _told(400, "less came than was announced")

    async def _last(self, request: web.Request, owner: str) -> web.StreamResponse:
        found = self._store.last(owner, request.match_info["source"])
        if found is None:
            return _told(404, "nobody has asked that source yet")
        return web.json_response({"key": found[0], "age": round(found[1])})

    async def _remember(self, request: web.Request, owner: str) -> web.StreamResponse:
        key = (await request.content.read(100)).decode("latin-1")
        self._store.remember(owner, request.match_info["source"], key)
        return _told(200, "remembered")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": "text/plain; version=0.0.4"})


def _batches(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Indices of files that are read at a time."""
    batch, count = list[int](), 0
    for index, size in sizes:
        batch.append(index)
        count += size
        if count >= _PIECE:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _joined(folder: Path, batch: Iterable[int]) -> bytes:
    return b"".join([(folder / str(index)).read_bytes() for index in batch])


async def _well(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _read_head(request: web.Request) -> tuple[Files, bytes]:
    """The head of an upload, and what has come behind it. Raises Refused."""
    data = await _more(request, b"", 16)
    first = _FIRST.match(data)
    length = int(first[0]) if first else 0
    if first is None or not 0 < length <= HEAD_MAX:
        raise Refused("there is no head that is one")
    data = await _more(request, data[first.end() :], length)
    try:
        files = [(path, size) for path, size in json.loads(data[:length])["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused("the head is not a list of files") from error
    is_sound = all(type(path) is str and type(size) is int and 0 <= size < 1 << 50 for path, size in files)
    if not is_sound or not 0 < len(files) <= FILES_MAX:
        raise Refused("the head is not a list of files")
    return files, data[length:]


async def _more(request: web.Request, data: bytes, least: int) -> bytes:
    """With so many bytes at least, or all that there are."""
    parts, count = [data], len(data)
    while count < least:
        async with asyncio.timeout(_STALL_S):
            part = await request.content.readany()
        if not part:
            break
        parts.append(part)
        count += len(part)
    return b"".join(parts)


async def _write(request: web.Request, incoming: Incoming, data: bytes) -> None:
    """Off the loop, which others wait for."""
    while data := await _more(request, data, _PIECE):
        await asyncio.to_thread(incoming.write, data)
        data = b""


def _told(status: int, words: str) -> web.Response:
    return web.json_response({"error": words} if status >= 400 else {"message": words}, status=status)


@contextlib.asynccontextmanager
async def serve(cache: Cache, port: int) -> AsyncIterator[int]:
    """Answer until the context ends; gives the port, which the system chose if 0 was asked for."""
    runner = web.AppRunner(cache.app(), access_log=None, shutdown_timeout=5.0, read_bufsize=1 << 20)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield min(runner.addresses, key=len)[1]
    finally:
        await runner.cleanup()
