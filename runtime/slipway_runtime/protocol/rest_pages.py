"""Every REST route but inference: health, metadata, repository, statistics, settings, shared memory. No model runs.

GET   /v2 · /v2/health/live · /v2/health/ready · /v2/models/M[/versions/V][/ready|/config|/stats] · /v2/models/stats
both  /v2/trace/setting · /v2/models/M/trace/setting · /v2/logging
POST  /v2/repository/index · /v2/repository/models/M/load|unload
      /v2/systemsharedmemory[/region/R]/register|unregister, GET .../status; the same for cudasharedmemory
GET   / · /v1/models[/M] · /metrics
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import orjson

from slipway_runtime import metrics
from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.protocol import repository
from slipway_runtime.protocol.api import Api, example_request, model_metadata, server_metadata
from slipway_runtime.protocol.rest import loads
from slipway_runtime.protocol.rest_answers import dumps
from slipway_runtime.protocol.shared_memory import SharedMemory, cuda_unsupported
from slipway_runtime.wire.http1_messages import Request, Response

JsonObject = dict[str, Any]
Answer = Response | Awaitable[Response]
# What a page is given: the request, its body decoded, and the names out of the path.
Page = Callable[..., Answer]
NAME = "*"


def ok(answer: object) -> Response:
    return Response(200, (orjson.dumps(answer),))


class Pages:
    """Finds the page of a path, and has them all."""

    def __init__(self, api: Api, memory: SharedMemory) -> None:
        self._api = api
        self._memory = memory
        self._table: dict[int, list[tuple[list[str], dict[str, Page]]]] = {}
        for method, pattern, page in (*self._reading(), *self._changing(), *self._shared_memory()):
            self.add(method, pattern, page)

    def add(self, method: str, pattern: str, page: Page) -> None:
        parts = pattern.split("/")
        rows = self._table.setdefault(len(parts), [])
        for known, methods in rows:
            if known == parts:
                methods[method] = page
                return
        rows.append((parts, {method: page}))

    def find(self, path: str) -> tuple[dict[str, Page], list[str]] | None:
        """The pages at a path by their methods, and the names in the path; the first pattern added wins."""
        parts = path.strip("/").split("/")
        for pattern, methods in self._table.get(len(parts), ()):
            if all(want in (NAME, got) for want, got in zip(pattern, parts, strict=True)):
                names = [unquote(got) for want, got in zip(pattern, parts, strict=True) if want == NAME]
                return methods, names
        return None

    # --- what only reads

    def _reading(self) -> list[tuple[str, str, Page]]:
        return [
            ("GET", "v2", lambda request: ok(server_metadata())),
            ("GET", "v2/health/live", self._live),
            ("GET", "v2/health/ready", self._ready),
            ("GET", "v2/models/stats", lambda request: self._stats(request, "")),
            ("GET", "v2/models/*", self._metadata),
            ("GET", "v2/models/*/versions/*", self._metadata),
            ("GET", "v2/models/*/ready", self._model_ready),
            ("GET", "v2/models/*/versions/*/ready", self._model_ready),
            ("GET", "v2/models/*/config", self._config),
            ("GET", "v2/models/*/versions/*/config", self._config),
            ("GET", "v2/models/*/stats", self._stats),
            ("GET", "v2/models/*/versions/*/stats", self._stats),
            ("GET", "", self._alive),
            ("GET", "v1/models", self._v1_models),
            ("GET", "v1/models/*", self._model_ready),
            ("GET", "metrics", self._metrics),
        ]

    def _live(self, request: Request) -> Response:
        self._require_life()
        return ok({"live": True})

    def _alive(self, request: Request) -> Response:
        """What KServe's client asks a V1 server for, in its words."""
        self._require_life()
        return ok({"status": "alive"})

    def _require_life(self) -> None:
        if self._api.state == "failed":
            raise RequestError(Kind.UNAVAILABLE, "not live: the server has failed and has to be started anew")

    def _ready(self, request: Request) -> Response:
        if not self._api.is_ready():
            raise RequestError(Kind.UNAVAILABLE, f"not ready: {self._api.state}")
        return ok({"ready": True})

    def _model_ready(self, request: Request, name: str, version: str = "") -> Response:
        if not self._api.model_ready(name, version):
            raise RequestError(Kind.UNAVAILABLE, f"model '{name}' is not ready")
        return ok({"name": name, "ready": True})

    def _metadata(self, request: Request, name: str, version: str = "") -> Response:
        about = model_metadata(self._api, name, version)
        example = example_request(self._api.entry(name, version).metadata)
        # Not a field of the protocol's; whoever does not know it does without.
        return Response(200, (dumps(about | {"example": example}),)) if example else ok(about)

    def _config(self, request: Request, name: str, version: str = "") -> Response:
        return ok(self._api.entry(name, version).config_json)

    async def _stats(self, request: Request, name: str, version: str = "") -> Response:
        return ok({"model_stats": await self._api.statistics(name, version)})

    async def _metrics(self, request: Request) -> Response:
        return Response(200, (await self._api.metrics(),), metrics.CONTENT_TYPE)

    def _v1_models(self, request: Request) -> Response:
        return ok({"models": list(dict.fromkeys(row["name"] for row in self._api.index(True)))})

    # --- what changes something

    def _changing(self) -> list[tuple[str, str, Page]]:
        return [
            ("POST", "v2/repository/index", self._index),
            ("POST", "v2/repository/models/*/load", self._load),
            ("POST", "v2/repository/models/*/unload", self._unload),
            ("GET", "v2/trace/setting", lambda request: ok(self._api.trace_settings.get(""))),
            ("POST", "v2/trace/setting", lambda request: ok(self._api.trace_settings.update("", _object(request)))),
            ("GET", "v2/models/*/trace/setting", lambda request, name: ok(self._api.trace_settings.get(name))),
            (
                "POST",
                "v2/models/*/trace/setting",
                lambda request, name: ok(self._api.trace_settings.update(name, _object(request))),
            ),
            ("GET", "v2/logging", lambda request: ok(self._api.log_settings.get(""))),
            ("POST", "v2/logging", self._set_logging),
        ]

    def _index(self, request: Request) -> Response:
        ready = _object(request).get("ready", False)
        if type(ready) is not bool:
            raise invalid("'ready' must be true or false")
        return ok(self._api.index(ready))

    async def _set_logging(self, request: Request) -> Response:
        changes = _object(request)
        return ok(await self._api.everywhere("log", ["", changes], self._api.log_settings.update))

    async def _load(self, request: Request, name: str) -> Response:
        await self._api.load(name, repository.load_parameters(_parameters(request)))
        return Response(200)

    async def _unload(self, request: Request, name: str) -> Response:
        await self._api.unload(name, repository.unload_parameters(_parameters(request)))
        return Response(200)

    # --- shared memory

    def _shared_memory(self) -> list[tuple[str, str, Page]]:
        memory = self._memory
        return [
            ("GET", "v2/systemsharedmemory/status", lambda request: ok(memory.status(""))),
            ("GET", "v2/systemsharedmemory/region/*/status", lambda request, name: ok(memory.status(name))),
            ("POST", "v2/systemsharedmemory/region/*/register", self._register),
            ("POST", "v2/systemsharedmemory/unregister", self._unregister),
            ("POST", "v2/systemsharedmemory/region/*/unregister", self._unregister),
            # Clients clear both kinds before they use one: there is nothing to clear, so that is no error.
            ("GET", "v2/cudasharedmemory/status", lambda request: ok([])),
            ("GET", "v2/cudasharedmemory/region/*/status", _no_cuda),
            ("POST", "v2/cudasharedmemory/region/*/register", _no_cuda),
            ("POST", "v2/cudasharedmemory/unregister", lambda request: Response(200)),
            ("POST", "v2/cudasharedmemory/region/*/unregister", lambda request, name: Response(200)),
        ]

    async def _register(self, request: Request, name: str) -> Response:
        given = _object(request)
        key, offset, size = given.get("key"), given.get("offset", 0), given.get("byte_size")
        if type(key) is not str or type(offset) is not int or type(size) is not int:
            raise invalid(
                f"shared memory region '{name}' needs 'key', a string, and 'byte_size' and 'offset', integers"
            )
        await self._api.everywhere("register", [name, key, offset, size], self._memory.register)
        return Response(200)

    async def _unregister(self, request: Request, name: str = "") -> Response:
        await self._api.everywhere("unregister", [name], self._memory.unregister)
        return Response(200)


def _no_cuda(request: Request, name: str) -> Response:
    raise cuda_unsupported()


def _object(request: Request) -> JsonObject:
    """The body as an object; nothing at all counts as an empty one."""
    given = loads(request.body) if request.body else {}
    if type(given) is not dict:
        raise invalid("the body must be a JSON object")
    return given


def _parameters(request: Request) -> JsonObject:
    parameters = _object(request).get("parameters") or {}
    if type(parameters) is not dict:
        raise invalid("'parameters' must be a JSON object")
    return parameters
