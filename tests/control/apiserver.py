"""The fake store behind HTTP, as far as watches go: discovery, LIST, WATCH, apply, and what breaks them.

api = ApiServer(store)
api.forget_history()      # every watch gets 410 Gone and must list again
api.refuse(503, times=3)  # the next requests fail
"""

import asyncio
import json
from dataclasses import dataclass, field

from aiohttp import web

from slipway.api.manifest import Manifest
from slipway.kube.kinds import Kind
from tests.fake import Store
from tests.fake.selectors import parse


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    type: str
    kind: Kind
    manifest: Manifest


@dataclass
class ApiServer:
    store: Store
    kinds: tuple[Kind, ...]
    changes: list[Change] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    epoch: int = 0
    refusals: list[int] = field(default_factory=list)
    silent: bool = False
    """True: what is written now is seen by the next LIST only."""

    def __post_init__(self) -> None:
        self._news = asyncio.Condition()
        self.store.watch(self._record)

    def refuse(self, code: int, *, times: int) -> None:
        self.refusals += [code] * times

    @property
    def watched(self) -> set[str]:
        """Paths of which a watch was begun."""
        return {path.partition("?")[0] for path in self.requests if "watch=true" in path}

    async def forget_history(self) -> None:
        self.epoch += 1
        async with self._news:
            self._news.notify_all()

    async def publish(self) -> None:
        """Let watchers see what was written."""
        async with self._news:
            self._news.notify_all()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        app.router.add_patch("/{path:.*}", self._apply)
        return app

    def _record(self, event: str, kind: Kind, manifest: Manifest) -> None:
        if not self.silent:
            self.changes.append(Change(int(manifest["metadata"]["resourceVersion"]), event, kind, manifest))

    def _version(self) -> int:
        return max((change.version for change in self.changes), default=1)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        if self.refusals:
            code = self.refusals.pop(0)
            return web.json_response({"kind": "Status", "code": code, "message": "refused"}, status=code)
        if discovered := self._discover(request.path):
            return web.json_response(discovered)
        kind = next(kind for kind in self.kinds if request.path.endswith(f"/{kind.plural}"))
        namespace = request.path.partition("/namespaces/")[2].partition("/")[0] or None
        selector = request.query.get("labelSelector", "")
        if request.query.get("watch"):
            return await self._watch(request, kind, namespace, selector)
        items = self.store.list(kind, namespace, selector=selector)
        newest = max([self._version(), *(int(item["metadata"]["resourceVersion"]) for item in items)])
        head = {"kind": f"{kind.kind}List", "apiVersion": kind.api_version}
        return web.json_response(head | {"metadata": {"resourceVersion": str(newest)}, "items": items})

    async def _apply(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        kind = next(kind for kind in self.kinds if kind.kind == body["kind"])
        return web.json_response(self.store.apply(kind, body, manager=request.query["fieldManager"]))

    async def _watch(
        self, request: web.Request, kind: Kind, namespace: str | None, selector: str
    ) -> web.StreamResponse:
        matches, seen, epoch = parse(selector), int(request.query["resourceVersion"]), self.epoch
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            told = len(self.changes)  # what comes while something is written to the watcher is told in the next round
            if epoch != self.epoch:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                await response.write(_line("ERROR", gone))
                return response
            for change in [change for change in self.changes if change.version > seen]:
                seen, metadata = change.version, change.manifest["metadata"]
                is_asked_for = change.kind == kind and namespace in (None, metadata.get("namespace"))
                if is_asked_for and matches(metadata.get("labels") or {}):
                    await response.write(_line(change.type, change.manifest))
            async with self._news:
                while epoch == self.epoch and told == len(self.changes):
                    await self._news.wait()

    def _discover(self, path: str) -> Manifest | None:
        groups = {(kind.group, kind.version) for kind in self.kinds}
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            named = sorted((group, version) for group, version in groups if group)
            return {"groups": [_group(*both) for both in (*named, ("apiextensions.k8s.io", "v1"))]}
        for group, version in (*groups, ("apiextensions.k8s.io", "v1")):
            if path == (f"/apis/{group}/{version}" if group else f"/api/{version}"):
                return {"resources": [_resource(kind) for kind in (*self.kinds, *KOPF_ASKS_FOR) if kind.group == group]}
        return None


KOPF_ASKS_FOR = (
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
)
"""What must be there for kopf to start, even if it is told not to look at it."""


def _group(name: str, version: str) -> Manifest:
    return {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}


def _resource(kind: Kind) -> Manifest:
    verbs = ["get", "list", "watch", "create", "patch", "update", "delete"]
    names = {"name": kind.plural, "singularName": kind.kind.lower(), "kind": kind.kind}
    return {**names, "namespaced": kind.namespaced, "verbs": verbs}


def _line(event: str, manifest: Manifest) -> bytes:
    return json.dumps({"type": event, "object": manifest}).encode() + b"\n"
