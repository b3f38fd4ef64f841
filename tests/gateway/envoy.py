"""A real Envoy for tests: the binary, its word on a configuration, and one that serves rendered services statically."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from slipway.decide import hosts
from slipway.gateway import render
from slipway.gateway.views import GatewaySettings, Resource, ServiceView

REPOSITORY = Path(__file__).parents[2]
START_S = 30.0


@cache
def binary() -> Path:
    """Where Envoy is; installed first if it is not there yet. Fails when it cannot be had."""
    clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    made = subprocess.run(
        ["make", "--silent", "envoy"], cwd=REPOSITORY, env=clean, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, f"Envoy could not be installed: {made.stderr}"
    return Path(made.stdout.split()[-1])


def validate(config: Resource, folder: Path) -> str:
    """What Envoy says against a configuration; nothing when it takes it."""
    file = folder / "validate.json"
    file.write_text(json.dumps(config))
    command: list[str | Path] = [binary(), "--mode", "validate", "--config-path", file, "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stderr


def static(
    settings: GatewaySettings, views: Iterable[ServiceView], gateways: Iterable[str] = ("127.0.0.1",)
) -> Resource:
    """The bootstrap with everything in it that otherwise comes by ADS, as the renderer made it."""
    config = render.bootstrap(settings)
    resources = config["static_resources"]
    del config["dynamic_resources"]
    resources["clusters"] = [
        cluster | {"type": "STATIC", "eds_cluster_config": None, "load_assignment": _plain(render.gateways(gateways))}
        for cluster in resources["clusters"]
        if cluster["name"] == render.GATEWAYS
    ]
    scopes: list[Resource] = []
    for view in views:
        tables = render.routes(view, settings)
        assignments = render.assignments(view)
        domains = hosts.Domains()
        names = [*hosts.inside(view.namespace, view.name, domains), *hosts.preview(view.namespace, view.name, domains)]
        for scope in render.scopes(view, names, settings).values():
            found = _plain(scope)
            scopes.append(found | {"route_configuration": _plain(tables[found.pop("route_configuration_name")])})
        for cluster in render.clusters(view, settings).values():
            eds = cluster["eds_cluster_config"]
            assignment = assignments[eds["service_name"]]
            resources["clusters"].append(
                _plain(cluster) | {"type": "STATIC", "eds_cluster_config": None, "load_assignment": _plain(assignment)}
            )
    for listener in resources["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        scoped = manager["scoped_routes"]
        del scoped["rds_config_source"], scoped["scoped_rds"]
        scoped["scoped_route_configurations_list"] = {"scoped_route_configurations": scopes}
    return json.loads(json.dumps(config, default=str))  # type: ignore[no-any-return]


def _plain(resource: Resource) -> Resource:
    return {key: value for key, value in resource.items() if key != "@type"}


_kept: list[socket.socket] = []


def free_port() -> int:
    """Nobody else gets it while the test runs. Envoy may listen there; until it does, connections are refused."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind(("127.0.0.1", 0))
    _kept.append(kept)
    return int(kept.getsockname()[1])


def give_ports_back() -> None:
    while _kept:
        _kept.pop().close()


class Envoy:
    """One that runs. `port`: where callers come in."""

    def __init__(self, folder: Path, settings: GatewaySettings, pid: int) -> None:
        self.folder, self.settings, self.port, self._pid = folder, settings, settings.http_port, pid
        self.base = f"http://127.0.0.1:{self.port}"

    def log(self) -> list[dict[str, Any]]:
        """Lines of the access log that were written so far; Envoy writes them every 20 ms here."""
        whole, _, _ = Path(self.settings.access_log).read_text().rpartition("\n")  # the last one may come in pieces
        return [json.loads(line) for line in whole.splitlines()]

    async def logged(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(20):
            while len(lines := self.log()) < count:
                await asyncio.sleep(0.02)
        return lines

    async def admin(self, path: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self.settings.admin_socket)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.split(b"\r\n\r\n", 1)[1].decode(errors="replace")

    def cpu_s(self) -> float:
        """Seconds of a core that it has taken, in hundredths; the same on a busy machine."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def stats(self, prefix: str) -> dict[str, int]:
        """Counters and gauges."""
        text = await self.admin(f"/stats?filter=^{prefix}&type=All")
        found = {}
        for line in text.splitlines():
            name, _, value = line.rpartition(": ")
            if value.isdigit():
                found[name] = int(value)
        return found


def settings_in(folder: Path, **more: Any) -> GatewaySettings:
    return GatewaySettings(
        bind="127.0.0.1",
        http_port=free_port(),
        admin_socket=str(folder / "admin.sock"),
        ads_socket=str(folder / "ads.sock"),
        access_log=str(folder / "access.log"),
        **more,
    )


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *views: ServiceView,
    settings: GatewaySettings | None = None,
    gateways: Iterable[str] = ("127.0.0.1",),
    workers: int = 1,
) -> AsyncIterator[Envoy]:
    """An Envoy that serves `views` until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings or settings_in(folder)
    Path(settings.access_log).touch()
    file, log = folder / "envoy.json", folder / "envoy.log"
    file.write_text(json.dumps(static(settings, views, gateways)))
    options = ["--use-dynamic-base-id", "--disable-hot-restart", "--reject-unknown-dynamic-fields"]
    options += ["--log-level", "warning", "--log-path", str(log), "--file-flush-interval-msec", "20"]
    process = await asyncio.create_subprocess_exec(
        binary(), "--config-path", file, "--concurrency", str(workers), *options, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _listening(process, settings.http_port, log)
        yield Envoy(folder, settings, process.pid)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    async with asyncio.timeout(START_S):
        while True:
            assert process.returncode is None, f"Envoy ended: {log.read_text()[-3000:]}"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
