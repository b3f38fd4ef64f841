"""The few verbs Slipway speaks to the API server, on plain dicts.

`Kube` is the seam: control depends on it, tests put an API server in memory behind it. `KubeClient` is the real
one: preserialised bytes through one aiohttp session, every answer mapped to `errors.py` once. It does not
retry, cache or decide anything; the work queue does the retrying, where backoff is per object.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from slipway.api.manifest import Manifest
from slipway.kube.errors import NotFound, Unavailable, from_response
from slipway.kube.fence import Fence
from slipway.kube.kinds import Kind

_PAGE = 100  # objects per answer of a list: bounds the memory of both sides
_WATCH_S = 300
_SILENCE_S = 70.0
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Kube(Protocol):
    """What control needs of a Kubernetes API server. Every verb may raise any `KubeError`."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None: ...

    async def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", metadata_only: bool = False
    ) -> list[Manifest]:
        """All objects, of all namespaces if None, as of one instant not before the call."""
        ...

    async def create(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        """Raises AlreadyExists."""
        ...

    async def apply(self, kind: Kind, body: Manifest, *, manager: str, subresource: str = "") -> Manifest:
        """Server-side apply, taking fields from other managers.

        With `metadata.uid` in the body it never creates: the object gone or another one raises Conflict.
        """
        ...

    async def replace(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        """The whole object; with uid and resourceVersion in the body, Conflict if it is no longer that one."""
        ...

    async def scale(self, kind: Kind, namespace: str, name: str, replicas: int, *, manager: str) -> None: ...

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Only the object of that uid (else Conflict); what it owns follows in the background. Gone is fine."""
        ...


CallObserver = Callable[[str, str, str], None]
"""Told of every call: verb, kind, and HTTP status or "error"."""


def _ignore(_verb: str, _kind: str, _code: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Call:
    verb: str
    """As RBAC and audit call it: get, list, create, patch, update, delete."""
    method: str
    kind: Kind
    path: str
    query: Mapping[str, str]
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"

    def __str__(self) -> str:
        return f"{self.verb} {self.kind.kind} {self.path.partition(f'/{self.kind.version}/')[2]}"


class KubeClient:
    """`Kube` over HTTP. The session belongs to the caller. Cancelling a call leaves open whether it happened."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        fence: Fence | None = None,
        timeout_s: float = 30.0,
        observer: CallObserver = _ignore,
    ) -> None:
        self._session, self._url = session, url
        self._fence, self._timeout_s, self._observer = fence, timeout_s, observer

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        try:
            return await self._send(_Call("get", "GET", kind, kind.path(namespace, name), {}))
        except NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", metadata_only: bool = False
    ) -> list[Manifest]:
        items: list[Manifest] = []
        async for page, _ in self.pages(kind, namespace, selector=selector, metadata_only=metadata_only):
            items += page
        return items

    async def pages(
        self, kind: Kind, namespace: str | None, *, selector: str = "", fields: str = "", metadata_only: bool = False
    ) -> AsyncIterator[tuple[Sequence[Manifest], str]]:
        """The same, in parts that need not be kept, each with the resourceVersion of the whole, to watch from.

        Raises:
            Gone: it took so long that the rest cannot be had as of the same instant.
        """
        query = {"limit": str(_PAGE), "labelSelector": selector, "fieldSelector": fields}
        query = {name: value for name, value in query.items() if value}
        accept = _METADATA_ONLY if metadata_only else "application/json"
        token: str | None = ""
        while token is not None:
            asked = query | ({"continue": token} if token else {})
            page = await self._send(_Call("list", "GET", kind, kind.path(namespace), asked, accept=accept))
            # An empty list of metadata has null.
            yield page["items"] or (), str(page["metadata"].get("resourceVersion", ""))
            token = page["metadata"].get("continue") or None

    async def create(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        path = kind.path(body["metadata"].get("namespace"))
        return await self._send(_Call("create", "POST", kind, path, {"fieldManager": manager}, body))

    async def apply(self, kind: Kind, body: Manifest, *, manager: str, subresource: str = "") -> Manifest:
        metadata = body["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"], subresource)
        query = {"fieldManager": manager, "force": "true"}
        # JSON is YAML: the server only looks at the media type.
        return await self._send(
            _Call("patch", "PATCH", kind, path, query, body, content_type="application/apply-patch+yaml")
        )

    async def replace(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        path = kind.path(body["metadata"].get("namespace"), body["metadata"]["name"])
        return await self._send(_Call("update", "PUT", kind, path, {"fieldManager": manager}, body))

    async def scale(self, kind: Kind, namespace: str, name: str, replicas: int, *, manager: str) -> None:
        path = kind.path(namespace, name, "scale")
        body = {"spec": {"replicas": replicas}}
        query = {"fieldManager": manager}
        await self._send(_Call("patch", "PATCH", kind, path, query, body, content_type="application/merge-patch+json"))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._send(_Call("delete", "DELETE", kind, kind.path(namespace, name), {}, options))
        except NotFound:
            return

    async def version(self, kind: Kind, namespace: str | None) -> str:
        """The resourceVersion of now, from which a watch misses nothing that comes later."""
        page = await self._send(_Call("list", "GET", kind, kind.path(namespace), {"limit": "1"}, accept=_METADATA_ONLY))
        return str(page["metadata"]["resourceVersion"])

    async def watch(
        self, kind: Kind, namespace: str | None, *, selector: str = "", fields: str = "", version: str
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Changes after `version`: ADDED, MODIFIED, DELETED with the object, BOOKMARK with its resourceVersion only.

        Ends when the server ends it, after minutes; the caller goes on from the last resourceVersion it saw.

        Raises:
            Gone: `version` is too old.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        query |= {"timeoutSeconds": str(_WATCH_S)} | ({"labelSelector": selector} if selector else {})
        query |= {"fieldSelector": fields} if fields else {}
        call = _Call("watch", "GET", kind, kind.path(namespace), query)
        code = "error"
        try:
            # Bookmarks come once a minute: a stream that is silent for longer is dead, whatever TCP says.
            timeout = aiohttp.ClientTimeout(total=None, connect=self._timeout_s, sock_read=_SILENCE_S)
            async with self._session.get(self._address(call), timeout=timeout) as response:
                code = str(response.status)
                if response.status >= 400:
                    raise from_response(str(call), response.status, response.headers, await response.read())
                async for line in _lines(response.content):
                    yield _event(call, line)
        except TimeoutError as error:
            raise Unavailable(f"{call}: silent for {_SILENCE_S:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{call}: {error or type(error).__name__}") from error
        finally:
            self._observer(call.verb, call.kind.kind, code)

    def _address(self, call: _Call) -> URL:
        """Paths are made of DNS names: they need no quoting, and yarl's own costs a fifth of a whole request."""
        query = f"?{urlencode(call.query)}" if call.query else ""
        return URL(f"{self._url}{call.path}{query}", encoded=True)

    async def _send(self, call: _Call) -> Manifest:
        data = None if call.body is None else json.dumps(call.body, separators=(",", ":")).encode()
        timeout_s = self._timeout_s
        if self._fence is not None and call.method != "GET":
            timeout_s = min(timeout_s, self._fence.check(str(call)))
        code = "error"
        try:
            # Not aiohttp's total time-out: it swallows a cancellation that comes at the same moment.
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    call.method,
                    self._address(call),
                    data=data,
                    headers={"Content-Type": call.content_type, "Accept": call.accept},
                    timeout=_NO_TIMEOUT,
                ) as response,
            ):
                answer = await response.read()
                code = str(response.status)
            if response.status >= 400:
                raise from_response(str(call), response.status, response.headers, answer)
            return _decode(call, answer)
        except TimeoutError as error:
            raise Unavailable(f"{call}: no answer within {timeout_s:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{call}: {error or type(error).__name__}") from error
        finally:
            self._observer(call.verb, call.kind.kind, code)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp's own reading by lines refuses those above 128 KiB."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _event(call: _Call, line: bytes) -> tuple[str, Manifest]:
    event = _decode(call, line)
    if event["type"] == "ERROR":
        status = event["object"]
        raise from_response(str(call), status.get("code", 500), {}, json.dumps(status).encode())
    return event["type"], event["object"]


def _decode(call: _Call, answer: bytes) -> Manifest:
    try:
        manifest: Manifest = json.loads(answer)
    except ValueError as error:
        raise Unavailable(f"{call}: the answer is not JSON") from error
    return manifest
