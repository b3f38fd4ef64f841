"""Our gateway: the agent and Envoy as the chart starts them, each seen from outside."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp

from e2e.bench import plane
from e2e.bench.api import until
from e2e.bench.gateway import environments
from e2e.bench.runtime.processes import running
from e2e.cluster.paths import REPO

if TYPE_CHECKING:
    from subprocess import Popen

START_S = 90.0
_AGENT = Path(__file__).with_name("in_pod.py")
Report = dict[str, Any]


class Gateway:
    """`core`: where both run; without one they go where the system puts them. Its state outlives its processes."""

    def __init__(self, folder: Path, core: int | None = None) -> None:
        self._folder, self._core = folder, core
        self._account = folder
        self._running, self._envoy = ExitStack(), ExitStack()
        self.port, self._reports = plane.free_port(), plane.free_port()
        # Its name is short: a socket's path has 107 bytes at most.
        self._temporary = TemporaryDirectory(prefix="bench")
        self.run_dir = Path(self._temporary.name)
        self.log = folder / "access.log"
        self._env = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "PYTHON", "KUBE"))
            },
            "PYTHONPATH": str(REPO / "operator"),
            "POD_NAME": "bench",
            "SLIPWAY_GATEWAY_RUN_DIR": str(self.run_dir),
            "SLIPWAY_HTTP_PORT": str(self._reports),
            "SLIPWAY_LISTEN_PORT": str(self.port),
        }
        self._token = ""
        self.agent: Popen[bytes]
        self.envoy: Popen[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()

    def knows(self, control: plane.Plane) -> None:
        """Where the API server is, and who it is to it."""
        self._account, address = control.account(plane.CLUSTER), urlsplit(control.url)
        self._env |= {"KUBERNETES_SERVICE_HOST": address.hostname or "", "KUBERNETES_SERVICE_PORT": str(address.port)}

    async def start(self) -> None:
        """Returns when it has everything: from the API server, or from its own disk when that is away."""
        self._folder.mkdir(parents=True, exist_ok=True)
        bootstrap, log = self.run_dir / "bootstrap.json", self._folder / "agent.log"
        bootstrap.unlink(missing_ok=True)
        command = self._pinned([sys.executable, str(_AGENT), str(self._account)])
        self.agent = self._running.enter_context(running(command, log, self._env))

        async def is_written() -> bool:
            return bootstrap.exists()

        await until(is_written, f"Envoy's bootstrap, see {log}", every_s=0.02)
        await self.restart_envoy()

    def stop(self) -> None:
        self._envoy.close()
        self._running.close()

    async def restart_envoy(self, change: Callable[[str], str] = lambda text: text) -> None:
        """With a bootstrap that is changed before. Returns when the new one has everything."""
        self._envoy.close()
        bootstrap = self.run_dir / "envoy.json"
        bootstrap.write_text(change((self.run_dir / "bootstrap.json").read_text()))
        command = self._pinned([str(environments.envoy()), "--config-path", str(bootstrap), "--concurrency", "1"])
        options = ["--reject-unknown-dynamic-fields", "--disable-hot-restart", "--use-dynamic-base-id"]
        options += ["--log-level", "warning", "--log-path", str(self._folder / "envoy.log")]
        self.envoy = self._envoy.enter_context(running([*command, *options], self.log, self._env))
        await until(self._is_ready, f"the gateway to have everything, see {self._folder}", within_s=START_S)

    async def report(self) -> Report:
        """What changed since the last one, as the operator asks for it each second."""
        text = await self._get(f"/report?since={self._token}")
        report: Report = json.loads(text)
        self._token = str(report["token"])
        return report

    async def whole_report(self) -> Report:
        """Everything, as an operator that has just started asks for it."""
        self._token = ""
        return await self.report()

    async def _is_ready(self) -> bool:
        try:
            return (await self._get("/readyz")).strip() == "ok"
        except aiohttp.ClientConnectionError:
            return False

    async def _get(self, path: str) -> str:
        async with aiohttp.request("GET", f"http://127.0.0.1:{self._reports}{path}") as response:
            return await response.text()

    def _pinned(self, command: list[str]) -> list[str]:
        return command if self._core is None else environments.pinned(self._core, command)


async def polled(gateway: Gateway, seconds: float) -> None:
    """So long as the operator does it: a report each second."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for number in range(int(seconds)):
        await gateway.report()
        await asyncio.sleep(max(0.0, begin + number + 1 - loop.time()))
