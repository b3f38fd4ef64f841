"""The operator being measured: a process of its own on one core, seen from outside."""

import asyncio
import os
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import aiohttp

from e2e.bench import machine, plane
from e2e.bench.api import CannotMeasureError, until
from e2e.cluster.paths import REPO

if TYPE_CHECKING:
    from subprocess import Popen

NAMESPACE = "slipway-system"
IMAGE = "slipway/runtime:bench"


class Operator:
    """Settings are those that the chart installs, but for where the API server is."""

    def __init__(self, folder: Path, user: str) -> None:
        self._log = folder / "log" / "operator.log"
        self._port = plane.free_port()
        self._env = {
            **os.environ,
            "KUBECONFIG": f"{folder}/{user}.kubeconfig",
            "PYTHONPATH": str(REPO / "operator"),
            "POD_NAMESPACE": NAMESPACE,
            "SLIPWAY_FETCHER_IMAGE": IMAGE,
            "SLIPWAY_HTTP_PORT": str(self._port),
        }
        self._running = ExitStack()
        self._process: Popen[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    async def start(self) -> None:
        """Returns at once; `leads` says when it works."""
        core = str(max(os.sched_getaffinity(0)))
        command = ["taskset", "--cpu-list", core, sys.executable, "-m", "slipway.main"]
        self._process = self._running.enter_context(plane.daemon(self._log, command, self._env))

    async def stop(self) -> None:
        """As the kubelet does it: SIGTERM, and it has to end by itself."""
        self._process.send_signal(signal.SIGTERM)
        if code := await asyncio.to_thread(self._process.wait, 30):
            raise CannotMeasureError(f"the operator ended with {code}, see {self._log}")
        self._running.close()

    async def leads(self) -> None:
        async def leading() -> bool:
            return (await self.metrics()).get("slipway_leader") == 1

        await until(leading, "the operator to lead, see operator.log")

    async def is_idle(self, *, after_reconciles: int) -> bool:
        """Whether so much is done, nothing waits and nothing runs."""
        metrics = await self.metrics()
        busy = metrics.get("workqueue_depth", 1) + metrics.get("workqueue_unfinished_work_seconds", 1)
        return not busy and metrics.get("controller_runtime_reconcile_total", 0) >= after_reconciles

    async def metrics(self) -> dict[str, float]:
        """Every metric's sum over its labels; empty while nothing answers."""
        try:
            async with aiohttp.request("GET", f"http://127.0.0.1:{self._port}/metrics") as response:
                text = await response.text()
        except aiohttp.ClientConnectionError:
            return {}
        sums: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
            sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def cpu_s(self) -> float:
        """CPU time of all its threads until now."""
        return machine.cpu_s(self._process.pid)

    def peak_rss_mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
