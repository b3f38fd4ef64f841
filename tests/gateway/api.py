"""An API server in memory for the agent: three kinds, lists in one page, watches with a history, and a plug to pull."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from slipway.api.manifest import Manifest
from slipway.api.routing import Routing
from slipway.gateway.views import Endpoint
from tests.gateway.envoy import free_port

SERVICES, SLICES, SECRETS = "inferenceservices", "endpointslices", "secrets"


@dataclass
class Api:
    url: str = ""
    objects: dict[tuple[str, str, str], Manifest] = field(default_factory=dict)
    """Plural, namespace, name."""
    requests: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    """Plurals that are not answered until `speak`."""
    forbidden: set[str] = field(default_factory=set)
    """Plurals that may not be read."""
    _version: int = 1
    _history: list[tuple[int, str, str, Manifest]] = field(default_factory=list)
    _begin: int = 0
    """Changes up to here are forgotten."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port or free_port(), reuse_port=True).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner:
            runner, self._runner = self._runner, None
            await self._tell()
            await runner.cleanup()

    async def put(self, plural: str, namespace: str, name: str, **body: Any) -> None:
        key = (plural, namespace, name)
        before = self.objects.get(key)
        self._version += 1
        meta = {"namespace": namespace, "name": name, "uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        meta |= body.pop("metadata", {}) | {"resourceVersion": str(self._version), "generation": 1}
        self.objects[key] = {"metadata": meta, **body}
        self._history.append((self._version, "MODIFIED" if before else "ADDED", plural, self.objects[key]))
        await self._tell()

    async def delete(self, plural: str, namespace: str, name: str) -> None:
        gone = self.objects.pop((plural, namespace, name))
        self._version += 1
        gone = {**gone, "metadata": gone["metadata"] | {"resourceVersion": str(self._version)}}
        self._history.append((self._version, "DELETED", plural, gone))
        await self._tell()

    async def route(self, name: str, table: Routing, *, namespace: str = "ns", **meta: Any) -> None:
        status = {"routing": table.model_dump(mode="json", by_alias=True, exclude_none=True)}
        await self.put(SERVICES, namespace, name, status=status, metadata=meta)

    async def pods(self, revision: str, *endpoints: Endpoint, namespace: str = "ns") -> None:
        ready = [
            {
                "addresses": [each.address],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": f"p{number}"},
            }
            for number, each in enumerate(endpoints)
        ]
        ports = [{"name": "http", "port": endpoints[0].http_port}] if endpoints else []
        if endpoints and endpoints[0].grpc_port:
            ports.append({"name": "grpc", "port": endpoints[0].grpc_port})
        labels = {"slipway.dev/revision": revision}
        await self.put(SLICES, namespace, revision, endpoints=ready, ports=ports, metadata={"labels": labels})

    async def keys(self, namespace: str = "ns", **clients: str) -> None:
        data = {client: base64.b64encode(keys.encode()).decode() for client, keys in clients.items()}
        await self.put(SECRETS, namespace, "slipway-api-keys", data=data)

    def forget_history(self) -> None:
        self._begin = self._version

    async def speak(self) -> None:
        self.silent.clear()
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        plural = request.path.rpartition("/")[2]
        namespace = request.path.partition("/namespaces/")[2].partition("/")[0]
        async with self._news:
            await self._news.wait_for(lambda: plural not in self.silent or self._runner is None)
        if plural in self.forbidden:
            refusal = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": f"no right to list {plural}"}
            return web.json_response(refusal, status=403)
        if request.query.get("watch"):
            return await self._watch(request, plural, namespace)
        items = [
            found for (each, where, _), found in self.objects.items() if each == plural and namespace in ("", where)
        ]
        return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        response, seen, runner = web.StreamResponse(), int(request.query["resourceVersion"]), self._runner
        await response.prepare(request)
        if seen < self._begin:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        at = next((number for number, each in enumerate(self._history) if each[0] > seen), len(self._history))
        while self._runner is runner:
            for _, type_, kind, found in self._history[at:]:
                if kind == plural and namespace in ("", found["metadata"]["namespace"]):
                    await response.write(json.dumps({"type": type_, "object": found}).encode() + b"\n")
            at = len(self._history)
            async with self._news:
                while at == len(self._history) and self._runner is runner:
                    await self._news.wait()
        return response


@contextlib.asynccontextmanager
async def api_server() -> AsyncIterator[Api]:
    api = Api()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
