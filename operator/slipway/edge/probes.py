"""What the kubelet and Prometheus may ask: /healthz (restart me?), /readyz (may I be relied on?), /metrics.

Alive does not depend on leading, nor on the API server: restarting cures neither. It ends when a part this
process cannot work without has ended, when one reconcile hangs, or, by not answering, when the loop does.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from slipway.control.metrics import Metrics
from slipway.control.workqueue import WorkQueue

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HANGING_S = 300.0
"""Beyond any sum of request time-outs one reconcile can meet."""
_LAG_S = 10.0
_LAG_PERIOD_S = 1.0


@dataclass(slots=True)
class Health:
    queue: WorkQueue
    parts: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Tasks that run as long as the process leads."""
    ready: bool = False
    lag_s: float = 0.0

    def complaint(self) -> str:
        """Why this process should be restarted; empty if it should not."""
        ended = [name for name, task in self.parts.items() if task.done()]
        if ended:
            return f"ended: {', '.join(ended)}"
        hanging_s = self.queue.stats().longest_running_s
        if hanging_s > _HANGING_S:
            return f"a reconcile has been running for {hanging_s:.0f} s"
        if self.lag_s > _LAG_S:
            return f"the event loop was {self.lag_s:.0f} s late"
        return ""

    async def watch_lag(self, metrics: Metrics) -> None:
        """Measure how late the loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_PERIOD_S
            await asyncio.sleep(_LAG_PERIOD_S)
            self.lag_s = max(0.0, loop.time() - due)
            metrics.loop_lag.observe(self.lag_s)


@contextlib.asynccontextmanager
async def serve(health: Health, metrics: Metrics, port: int) -> AsyncIterator[int]:
    """Answer until the context ends; gives the port, which the system chose if 0 was asked for."""
    app = web.Application()
    app.router.add_get("/healthz", _answer(health.complaint))
    app.router.add_get(
        "/readyz", _answer(lambda: health.complaint() or ("" if health.ready else "starting or stopping"))
    )
    app.router.add_get("/metrics", _metrics(metrics))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    lag = asyncio.create_task(health.watch_lag(metrics), name="loop lag")
    try:
        await web.TCPSite(runner, port=port).start()
        # Of port 0 the system makes one per address family; IPv4 addresses are the shorter tuples.
        yield min(runner.addresses, key=len)[1]
    finally:
        lag.cancel()
        await runner.cleanup()


def _answer(complaint: Callable[[], str]) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        text = complaint()
        return web.Response(status=503 if text else 200, text=f"{text or 'ok'}\n")

    return handle


def _metrics(metrics: Metrics) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    return handle
