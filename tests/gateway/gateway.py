"""A whole gateway on this machine: a real Envoy and the agent beside it, each of which can be killed and started."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from slipway.decide.hosts import Domains
from slipway.gateway import http, render
from slipway.gateway.agent import Agent
from slipway.gateway.settings import Settings
from slipway.kube.client import KubeClient
from tests.gateway.api import Api
from tests.gateway.envoy import binary, settings_in

WAIT_S = 20.0


class Gateway:
    def __init__(self, folder: Path, api: Api, **more: Any) -> None:
        self.api, self.folder = api, folder
        envoy = settings_in(folder)
        settings: dict[str, Any] = {
            "drain_window_s": 0.2,
            "drain_quiet_s": 1.0,
            "drain_grace_s": 5.0,
            "domains": Domains(outside="example.org"),
            **more,
        }
        self.settings = Settings(pod="gw-0", run_dir=folder, http_port=0, envoy=envoy, **settings)
        self.base = f"http://127.0.0.1:{envoy.http_port}"
        self.agent: Agent | None = None
        self.port = 0
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._envoy: asyncio.subprocess.Process | None = None
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def start_agent(self) -> None:
        self._stop = asyncio.Event()
        listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run(listening))
        await asyncio.wait([listening, self._running], return_when=asyncio.FIRST_COMPLETED)

    async def _run(self, listening: asyncio.Future[None]) -> None:
        async with aiohttp.ClientSession() as session:
            self.agent = Agent(self.settings, KubeClient(session, self.api.url))
            async with http.serve(self.agent, 0) as self.port:
                listening.set_result(None)
                await self.agent.run(self._stop)

    async def stop_agent(self) -> None:
        """By SIGTERM."""
        self._stop.set()
        if self._running:
            await self._running
            self._running = None

    async def kill_agent(self) -> None:
        """As far as that goes in one process: nothing of what it would do at its end is waited for."""
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None

    async def start_envoy(self) -> None:
        file = self.folder / "envoy.json"
        file.write_text(json.dumps(render.bootstrap(self.settings.envoy)))
        options = ["--use-dynamic-base-id", "--disable-hot-restart", "--reject-unknown-dynamic-fields"]
        options += ["--drain-time-s", "10", "--drain-strategy", "immediate", "--concurrency", "2"]
        options += ["--log-level", "warning", "--log-path", str(self.folder / "envoy.log")]
        self._envoy = await asyncio.create_subprocess_exec(
            binary(), "--config-path", file, *options, stderr=asyncio.subprocess.DEVNULL
        )

    async def kill_envoy(self) -> None:
        if self._envoy and self._envoy.returncode is None:
            self._envoy.kill()
            await self._envoy.wait()

    @property
    def envoy_pid(self) -> int:
        assert self._envoy
        return self._envoy.pid

    async def ask(self, service: str = "a", namespace: str = "ns", **headers: str) -> tuple[int, str]:
        """Status, and the name of the pod that answered or what else was said."""
        asked = {"host": f"{service}.{namespace}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.get(f"{self.base}/v2/models/{service}", headers=asked) as answer:
            text = await answer.text()
            return answer.status, json.loads(text)["pod"] if answer.status == 200 else text

    async def get(self, path: str) -> tuple[int, str]:
        """From the agent's own port."""
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.status, await answer.text()

    async def report(self, since: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.get(f"/report?since={since}"))[1])
        return found

    async def ready(self) -> None:
        await self.until(lambda: self.agent is not None and not self.agent.unready(), "the gateway is ready")

    async def takes(self, service: str, version: str | None) -> None:
        """Until Envoy has acknowledged this version of a service in the default namespace."""

        def taken() -> bool:
            assert self.agent
            found: Any = self.agent.report("")["taken"]
            return found.get(f"ns/{service}") == version  # type: ignore[no-any-return]

        await self.until(taken, f"{service} is taken as {version}")

    async def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    assert self._running is None or not self._running.done(), self._running
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"never happened: {what}; {self.agent and self.agent.unready()}") from None

    async def close(self) -> None:
        await self.kill_agent()
        await self.kill_envoy()
        await self.session.close()


@contextlib.asynccontextmanager
async def gateway(folder: Path, api: Api, **more: Any) -> AsyncIterator[Gateway]:
    """Ready."""
    found = Gateway(folder, api, **more)
    try:
        await found.start_agent()
        await found.start_envoy()
        await found.ready()
        yield found
    finally:
        await found.close()


class Load:
    """Requests one after another by several callers; what went wrong is kept."""

    def __init__(self, found: Gateway, *services: str, callers: int = 4) -> None:
        self.found, self.services, self.callers = found, services, callers
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []

    async def __aenter__(self) -> "Load":
        self._over = False
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(self.callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _call(self, number: int) -> None:
        service = self.services[number % len(self.services)]
        while not self._over:
            try:
                status, text = await self.found.ask(service)
            except OSError as error:
                status, text = 0, repr(error)
            if status == 200:
                self.answers[text] += 1
            else:
                self.failed.append(f"{service}: {status} {text}")
            await asyncio.sleep(0.002)


def is_gone(report: dict[str, Any], part: str, name: str) -> bool:
    """Told as gone, or left out where all is told: as it is once when Envoy's age was heard for the first time."""
    told: dict[str, Any] = report[part]
    return name not in told if report["full"] else told == {name: None}


async def eventually(ask: Callable[[], Awaitable[object]], expected: object) -> None:
    async with asyncio.timeout(WAIT_S):
        while (answer := await ask()) != expected:
            assert answer
            await asyncio.sleep(0.02)


def complaints(found: Gateway) -> object:
    assert found.agent
    return found.agent.report("")["refused"]


def notes(found: Gateway) -> object:
    assert found.agent
    return found.agent.report("")["notes"]
