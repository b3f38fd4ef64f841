"""An operator outside of the cluster that dies at every write: right after the API server took it, before it answers.

The state in which that leaves the cluster is the one of a death right before the next write, so that every point
between two writes is met. A proxy between operator and API server pulls the trigger; a supervisor starts the next one.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, web

from e2e.cluster.paths import REPO
from e2e.support.installation import LEASE, NAMESPACE
from e2e.support.site import RUNTIME_IMAGE, Site

QUIET = ("/leases/", "/events")
"""Writes that are not about a service's state."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
LIVES_MAX = 200
SESSION = web.AppKey("session", ClientSession)


class Crashing:
    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._log = site, folder / "operator.log"
        self._kubeconfig = folder / "kubeconfig"
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self.fatal: list[str] = []
        """The writes at which it died."""
        self.own_ends = 0
        """How often it ended by itself."""

    # The proxy

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP}
        target = f"http://127.0.0.1:{self._site.api.port}{request.raw_path}"
        session = request.app[SESSION]
        async with session.request(request.method, target, headers=headers, data=await request.read()) as upstream:
            is_fatal = request.method != "GET" and upstream.status < 300 and not any(q in request.path for q in QUIET)
            if is_fatal:
                await upstream.read()
                self.kill(f"{request.method} {request.path}")
                raise ConnectionResetError
            response = web.StreamResponse(status=upstream.status, headers={"Content-Type": upstream.content_type})
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    def kill(self, write: str) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self.fatal.append(write)

    # The supervisor

    def supervise(self, port: int) -> None:
        cluster = {"name": "it", "cluster": {"server": f"http://127.0.0.1:{port}"}}
        context = {"name": "it", "context": {"cluster": "it", "user": "it"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [cluster],
            "contexts": [context],
        }
        self._kubeconfig.write_text(json.dumps(config | {"users": [{"name": "it", "user": {}}]}))
        while not self._stop.is_set() and len(self.fatal) + self.own_ends < LIVES_MAX:
            # The dead cannot lead; waiting for the Lease to expire would only take time.
            self._site.api.delete("leases", NAMESPACE, LEASE)
            with self._log.open("ab") as log:
                argv = [sys.executable, "-W", "ignore", "-m", "slipway.main"]
                self._process = subprocess.Popen(argv, env=self._environment(), cwd=REPO, stdout=log, stderr=log)
            code = self._process.wait()
            self.own_ends += code != -signal.SIGKILL and not self._stop.is_set()

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": "operator:runtime",
            "KUBECONFIG": str(self._kubeconfig),
            "POD_NAMESPACE": NAMESPACE,
            "SLIPWAY_FETCHER_IMAGE": RUNTIME_IMAGE,
            "SLIPWAY_HTTP_PORT": "0",
            "SLIPWAY_LOG_FORMAT": "text",
        }

    def stop(self) -> None:
        self._stop.set()
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def log(self) -> str:
        return self._log.read_text(errors="replace")


@contextmanager
def crashing_operator(site: Site) -> Iterator[Crashing]:
    with tempfile.TemporaryDirectory() as folder:
        operator = Crashing(site, Path(folder))
        loop = asyncio.new_event_loop()
        runner = loop.run_until_complete(_proxy(operator))
        proxy = threading.Thread(target=loop.run_forever, daemon=True)
        proxy.start()
        supervisor = threading.Thread(target=operator.supervise, args=(runner.addresses[0][1],), daemon=True)
        supervisor.start()
        try:
            yield operator
        finally:
            operator.stop()
            supervisor.join(10)
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            proxy.join(5)
            loop.close()
            site.api.delete("leases", NAMESPACE, LEASE)


async def _proxy(operator: Crashing) -> web.AppRunner:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", operator.answer)

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False) as app[SESSION]:
            yield

    app.cleanup_ctx.append(session)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner
