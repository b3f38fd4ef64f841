"""KubeClient against a small HTTP server: what it sends, and what every kind of answer becomes."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipway.api.manifest import Manifest
from slipway.kube.client import Kube, KubeClient
from slipway.kube.errors import (
    AlreadyExists,
    Conflict,
    Fenced,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Throttled,
    Unavailable,
)
from slipway.kube.fence import Fence
from slipway.kube.kinds import CLUSTER_SERVING_RUNTIME, DEPLOYMENT, INFERENCE_SERVICE, POD, SERVICE

DEPLOY: Manifest = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"namespace": "team", "name": "hello", "uid": "u-1"},
    "spec": {},
}


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


Answer = Callable[[web.Request], web.StreamResponse]


def status(code: int, reason: str = "", message: str = "", headers: dict[str, str] | None = None) -> Answer:
    body = {"kind": "Status", "reason": reason, "message": message, "code": code}
    return lambda _: web.json_response(body, status=code, headers=headers)


def ok(body: Any) -> Answer:
    return lambda _: web.json_response(body)


@dataclass
class Server:
    """Answers with `answers` in turn, the last one for ever; keeps what it was asked."""

    answers: list[Answer] = field(default_factory=lambda: [ok({"kind": "Deployment"})])
    calls: list[Call] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        self.calls.append(Call(request.method, request.path, dict(request.query), dict(request.headers), body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app) as running:
        server.url = str(running.make_url("")).rstrip("/")
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def kube(server: Server, session: aiohttp.ClientSession) -> KubeClient:
    return KubeClient(session, server.url)


async def test_it_is_the_seam_that_control_depends_on(kube: KubeClient) -> None:
    seam: Kube = kube  # checked by mypy
    assert seam is kube


async def test_apply_is_a_forced_server_side_apply_by_its_manager(kube: KubeClient, server: Server) -> None:
    assert await kube.apply(DEPLOYMENT, DEPLOY, manager="slipway") == {"kind": "Deployment"}
    [call] = server.calls
    assert (call.method, call.path) == ("PATCH", "/apis/apps/v1/namespaces/team/deployments/hello")
    assert call.query == {"fieldManager": "slipway", "force": "true"}
    assert call.headers["Content-Type"] == "application/apply-patch+yaml"
    assert call.body == DEPLOY


async def test_status_is_applied_to_its_subresource(kube: KubeClient, server: Server) -> None:
    body = {"metadata": {"namespace": "team", "name": "hello"}, "status": {"url": "x"}}
    await kube.apply(INFERENCE_SERVICE, body, manager="slipway", subresource="status")
    path = "/apis/slipway.dev/v1alpha1/namespaces/team/inferenceservices/hello/status"
    assert server.calls[0].path == path


async def test_create_names_its_manager(kube: KubeClient, server: Server) -> None:
    await kube.create(SERVICE, DEPLOY, manager="slipway-scaling")
    [call] = server.calls
    assert (call.method, call.path) == ("POST", "/api/v1/namespaces/team/services")
    assert call.query == {"fieldManager": "slipway-scaling"}


async def test_replace_puts_the_whole_object(kube: KubeClient, server: Server) -> None:
    await kube.replace(DEPLOYMENT, DEPLOY, manager="slipway")
    [call] = server.calls
    assert (call.method, call.body) == ("PUT", DEPLOY)


async def test_scale_touches_nothing_but_the_replicas(kube: KubeClient, server: Server) -> None:
    await kube.scale(DEPLOYMENT, "team", "hello", 3, manager="slipway-scaling")
    [call] = server.calls
    assert (call.method, call.path) == ("PATCH", "/apis/apps/v1/namespaces/team/deployments/hello/scale")
    assert call.headers["Content-Type"] == "application/merge-patch+json"
    assert call.body == {"spec": {"replicas": 3}}


async def test_delete_hits_only_the_object_that_was_meant(kube: KubeClient, server: Server) -> None:
    await kube.delete(DEPLOYMENT, "team", "hello", uid="u-1")
    [call] = server.calls
    assert call.method == "DELETE"
    assert call.body == {"preconditions": {"uid": "u-1"}, "propagationPolicy": "Background"}


async def test_deleting_what_is_gone_is_fine(kube: KubeClient, server: Server) -> None:
    server.answers = [status(404, "NotFound")]
    await kube.delete(DEPLOYMENT, "team", "hello", uid="u-1")


async def test_get_gives_none_for_what_is_not_there(kube: KubeClient, server: Server) -> None:
    server.answers = [status(404, "NotFound")]
    assert await kube.get(CLUSTER_SERVING_RUNTIME, None, "slipway-pytorch") is None
    assert server.calls[0].path == "/apis/slipway.dev/v1alpha1/clusterservingruntimes/slipway-pytorch"


async def test_a_list_follows_its_pages_to_the_end(kube: KubeClient, server: Server) -> None:
    server.answers = [
        ok({"metadata": {"continue": "more"}, "items": [{"n": 1}]}),
        ok({"metadata": {}, "items": [{"n": 2}]}),
    ]
    assert await kube.list(POD, None, selector="a=b") == [{"n": 1}, {"n": 2}]
    first, second = server.calls
    assert (first.path, first.query) == ("/api/v1/pods", {"limit": "100", "labelSelector": "a=b"})
    assert second.query == {"limit": "100", "labelSelector": "a=b", "continue": "more"}


async def test_a_list_of_metadata_asks_for_no_more_and_survives_a_null_list(kube: KubeClient, server: Server) -> None:
    server.answers = [ok({"metadata": {}, "items": None})]
    assert await kube.list(POD, "team", metadata_only=True) == []
    assert "as=PartialObjectMetadataList" in server.calls[0].headers["Accept"]


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Unavailable),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (413, "RequestEntityTooLarge", Invalid),
        (415, "UnsupportedMediaType", Invalid),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", Throttled),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (504, "Timeout", Unavailable),
    ],
)
async def test_every_refusal_is_one_error_that_names_the_call_and_the_reason(
    kube: KubeClient, server: Server, code: int, reason: str, error: type[KubeError]
) -> None:
    server.answers = [status(code, reason, "because of this")]
    with pytest.raises(KubeError) as caught:
        await kube.apply(DEPLOYMENT, DEPLOY, manager="slipway")
    assert type(caught.value) is error
    assert str(caught.value) == "patch Deployment namespaces/team/deployments/hello: because of this"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"Retry-After": "7"}, 7.0, id="as told"),
        pytest.param({}, 1.0, id="not told"),
        pytest.param({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0, id="told as a date"),
        pytest.param({"Retry-After": "-5"}, 0.0, id="nonsense"),
    ],
)
async def test_throttling_says_for_how_long(
    kube: KubeClient, server: Server, headers: dict[str, str], seconds: float
) -> None:
    server.answers = [status(429, "TooManyRequests", "later", headers)]
    with pytest.raises(Throttled) as caught:
        await kube.get(POD, "team", "p")
    assert caught.value.retry_after_s == seconds


async def test_a_proxy_s_answer_is_quoted(kube: KubeClient, server: Server) -> None:
    server.answers = [lambda _: web.Response(status=502, text="<h1>Bad Gateway</h1>")]
    with pytest.raises(Unavailable, match="Bad Gateway"):
        await kube.get(POD, "team", "p")


async def test_an_answer_that_is_not_json_is_no_answer(kube: KubeClient, server: Server) -> None:
    server.answers = [lambda _: web.Response(text='{"kind": "Pod", "met')]
    with pytest.raises(Unavailable, match="not JSON"):
        await kube.get(POD, "team", "p")


async def test_a_server_that_does_not_answer_is_unavailable_after_the_time_out(
    server: Server, session: aiohttp.ClientSession
) -> None:
    release = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", never)
    async with TestServer(app) as hanging:
        kube = KubeClient(session, str(hanging.make_url("")).rstrip("/"), timeout_s=0.1)
        with pytest.raises(Unavailable, match=r"get Pod .*: no answer within"):
            await kube.get(POD, "team", "p")
        release.set()


async def test_a_server_that_is_not_there_is_unavailable(session: aiohttp.ClientSession) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        kube = KubeClient(session, f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(Unavailable, match="create Deployment"):
            await kube.create(DEPLOYMENT, DEPLOY, manager="slipway")


async def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_unavailable(
    server: Server, session: aiohttp.ClientSession
) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"kind"')
        writer.close()

    broken = await asyncio.start_server(half, "127.0.0.1", 0)
    async with broken:
        port = broken.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable):
            await KubeClient(session, f"http://127.0.0.1:{port}").get(POD, "team", "p")


async def test_behind_a_closed_fence_reads_pass_and_no_write_leaves(
    server: Server, session: aiohttp.ClientSession
) -> None:
    kube = KubeClient(session, server.url, fence=Fence())
    writes = [
        kube.create(DEPLOYMENT, DEPLOY, manager="slipway"),
        kube.apply(DEPLOYMENT, DEPLOY, manager="slipway"),
        kube.replace(DEPLOYMENT, DEPLOY, manager="slipway"),
        kube.scale(DEPLOYMENT, "team", "hello", 1, manager="slipway"),
        kube.delete(DEPLOYMENT, "team", "hello", uid="u-1"),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            await write
    assert server.calls == []
    await kube.get(DEPLOYMENT, "team", "hello")
    assert len(server.calls) == 1


async def test_a_write_ends_when_another_process_may_lead(session: aiohttp.ClientSession) -> None:
    release = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", slow)
    async with TestServer(app) as hanging:
        fence = Fence(grace_s=0.05, clock=lambda: 0.0)  # still open whenever it is asked
        fence.allow_until(0.1)
        kube = KubeClient(session, str(hanging.make_url("")).rstrip("/"), fence=fence, timeout_s=60)
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable):
                await kube.apply(DEPLOYMENT, DEPLOY, manager="slipway")
        release.set()


async def test_a_cancellation_that_meets_the_time_out_is_not_swallowed(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As aiohttp's own total time-out does when the loop was late for both: a leader that had lost hung for ever."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        asked.set()
        await release.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", never)
    loop = asyncio.get_running_loop()
    async with TestServer(app) as hanging:
        kube = KubeClient(session, str(hanging.make_url("")).rstrip("/"), timeout_s=30)
        call = asyncio.create_task(kube.get(POD, "team", "p"))
        await asked.wait()
        loop.call_later(32, call.cancel)
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 33)  # both are due now, the time-out first
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()


async def test_every_call_is_counted_by_verb_kind_and_code(server: Server, session: aiohttp.ClientSession) -> None:
    counted: list[tuple[str, str, str]] = []
    kube = KubeClient(session, server.url, observer=lambda *call: counted.append(call))
    await kube.get(DEPLOYMENT, "team", "hello")
    server.answers = [status(409, "Conflict")]
    with pytest.raises(Conflict):
        await kube.apply(DEPLOYMENT, DEPLOY, manager="slipway")
    gone = KubeClient(session, "http://127.0.0.1:1", observer=lambda *call: counted.append(call))
    with pytest.raises(Unavailable):
        await gone.delete(DEPLOYMENT, "team", "hello", uid="u")
    assert counted == [
        ("get", "Deployment", "200"),
        ("patch", "Deployment", "409"),
        ("delete", "Deployment", "error"),
    ]
