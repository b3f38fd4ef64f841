"""The agent's own port: /report and /wakes for the operator, /metrics for Prometheus, the rest for kubelet.

Nothing here changes anything: who reaches the port can read counts and versions, and no more.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_WITHOUT_SIGNAL_S = 3.0
"""Kubelet tells all containers of a pod to end at once: if the agent hears nothing for so long, only Envoy ends."""


class Subject(Protocol):
    """What is asked about."""

    ending: asyncio.Event
    drained: asyncio.Event

    def complaint(self) -> str:
        """Why this process should be restarted; empty if it should not."""

    def unready(self) -> str:
        """Why no requests should be sent here; empty if they may."""

    def report(self, since: str) -> dict[str, object]: ...

    async def wakes(self, since: int | None) -> dict[str, object]: ...

    def metrics(self) -> str: ...


@contextlib.asynccontextmanager
async def serve(subject: Subject, port: int) -> AsyncIterator[int]:
    """Answer until the context ends; gives the port, which the system chose if 0 was asked for."""
    app = web.Application()
    app.router.add_get("/healthz", _plain(subject.complaint))
    app.router.add_get("/readyz", _plain(lambda: subject.complaint() or subject.unready()))
    app.router.add_get("/report", _report(subject))
    app.router.add_get("/wakes", _wakes(subject))
    app.router.add_get("/metrics", _metrics(subject))
    app.router.add_get("/drained", _drained(subject))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield min(runner.addresses, key=len)[1]
    finally:
        await runner.cleanup()


def _plain(complaint: Callable[[], str]) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        text = complaint()
        return web.Response(status=503 if text else 200, text=f"{text or 'ok'}\n")

    return handle


def _report(subject: Subject) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        text = json.dumps(subject.report(request.query.get("since", "")), separators=(",", ":"))
        return web.Response(text=text, content_type="application/json")

    return handle


def _wakes(subject: Subject) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        since = request.query.get("since", "")
        return web.json_response(await subject.wakes(int(since) if since.isdecimal() else None))

    return handle


def _metrics(subject: Subject) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=subject.metrics(), headers={"Content-Type": "text/plain; version=0.0.4"})

    return handle


def _drained(subject: Subject) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_WITHOUT_SIGNAL_S):
                await subject.ending.wait()
        except TimeoutError:
            return web.Response(text="the agent goes on\n")
        await subject.drained.wait()
        return web.Response(text="drained\n")

    return handle
