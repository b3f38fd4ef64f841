"""Requests through each proxy in turn, alone on its core, and past all of them: how many, how long, at what cost.

The load generator and the model server have the other core, also when nobody is between them.
"""

import array
import asyncio
import dataclasses
import http.client
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.bench.api import CannotMeasureError
from e2e.bench.gateway import environments
from e2e.bench.gateway.ours import Gateway
from e2e.bench.gateway.proxies import CANDIDATE, CANDIDATE_PCT, KEY, PROXIES, Place, Proxy
from e2e.bench.gateway.services import NAMESPACE
from e2e.bench.plane import free_port
from e2e.bench.report import say
from e2e.bench.runtime import load, open_loop
from e2e.bench.runtime.cells import Cell, Subject
from e2e.bench.runtime.load import Load, Target
from e2e.bench.runtime.measure import ask, wait_until, watched
from e2e.bench.runtime.messages import Message, Protocol, Sample, message
from e2e.bench.runtime.processes import running
from e2e.bench.runtime.results import Results

if TYPE_CHECKING:
    from subprocess import Popen

SERVICE = "bench"
DIRECT, OURS = "(direct)", "slipway"
OPEN_PER_S = 1000.0
"""Of the open loop: what every one of them does with ease."""
CLIENTS = (64, 8, 1)
CELLS = tuple(Cell("split", protocol, clients) for protocol in ("json", "grpc") for clients in CLIENTS)
OPEN = Cell("split", "json", 0)
_SAMPLE = Sample(SERVICE, [1, 4], array.array("f", [0.1, 0.2, 0.3, 0.4]), array.array("f"))
_PROBES = 1000
_ODDS = 5
"""Percent by which the share of so many probes may be off: five times its standard deviation."""
_LOGGED = 0.9
"""Of the requests, found in the log at the end: what is not yet written then is lost with the process."""


@dataclass(frozen=True, slots=True)
class Started:
    """A proxy at work."""

    name: str
    process: "Popen[bytes]"
    rest_port: int
    grpc_port: int


@dataclass(frozen=True, slots=True)
class Bench:
    folder: Path
    backend: "Popen[bytes]"
    backend_port: int
    gateway: Gateway
    seconds: int
    results: Results
    cores: tuple[int, int]

    def round(self, names: list[str]) -> None:
        for name in names:
            with self._started(name) as started:
                if name != DIRECT:
                    _check(started)
                self._measure(started)

    @contextmanager
    def _started(self, name: str) -> Iterator[Started]:
        if name == DIRECT:
            yield Started(name, self.backend, self.backend_port, self.backend_port)
            return
        before = self._asked(name)
        if name == OURS:
            asyncio.run(self.gateway.start())
            log = self.gateway.log
            yield Started(name, self.gateway.envoy, self.gateway.port, self.gateway.port)
            self.gateway.stop()
        else:
            proxy = next(proxy for proxy in PROXIES if proxy.name == name)
            place = self._place(proxy)
            log = place.log
            with self._running(proxy, place) as process:
                yield Started(name, process, place.rest_port, place.grpc_port)
        _check_log(name, log, self._asked(name) - before)
        log.unlink()

    def _place(self, proxy: Proxy) -> Place:
        folder = self.folder / proxy.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return Place(folder, f"{environments.own_address()}:{self.backend_port}", free_port(), free_port())

    @contextmanager
    def _running(self, proxy: Proxy, place: Place) -> Iterator["Popen[bytes]"]:
        command = environments.pinned(self.cores[1], proxy.command(place))
        output = place.log if proxy.writes_log_to_stdout else place.folder / "error.log"
        with running(command, output, os.environ) as process:
            wait_until(lambda: ask(request("json"), place.rest_port) is not None, process, f"{proxy.name} ({output})")
            yield process

    def _measure(self, started: Started) -> None:
        for protocol in ("json", "grpc"):
            port = started.rest_port if protocol == "json" else started.grpc_port
            answer = ask(asked := request(protocol), port)
            if answer is None:
                raise CannotMeasureError(f"{started.name} does not answer {protocol}")
            target = Target(asked, port, len(answer[0]), self.folder)
            cells = [cell for cell in (*CELLS, OPEN) if cell.protocol == protocol]
            with environments.on_core(self.cores[0]):
                load.apply(target, max(CLIENTS), 1)
                for cell in cells:
                    self._cell(started, cell, target)

    def _cell(self, started: Started, cell: Cell, target: Target) -> None:
        figures = watched(lambda: self._load(cell, target), started.process.pid)
        self.results.add(Subject(started.name), cell, figures)
        clients = f"{cell.clients:2} clients" if cell.clients else "open loop "
        told = f"{figures.per_s:,.0f}/s, p50 {figures.p50_ms:.2f} ms, {figures.cpu_us:.0f} µs of CPU"
        say(f"{started.name}: {cell.protocol}, {clients}: {told}")

    def _load(self, cell: Cell, target: Target) -> Load:
        if cell.clients:
            return load.apply(target, cell.clients, self.seconds)
        return open_loop.apply(target, OPEN_PER_S, self.seconds)

    def _asked(self, name: str) -> float:
        """Requests measured so far."""
        return sum(one.per_s for one in self.results.rounds(Subject(name))) * self.seconds


def request(protocol: Protocol) -> Message:
    """To the service, with its key."""
    plain = message(_SAMPLE, "v2", protocol)
    to = {"x-slipway-service": f"{NAMESPACE}/{SERVICE}"} if plain.is_grpc else {"Host": f"{SERVICE}.{NAMESPACE}"}
    return dataclasses.replace(plain, headers={**plain.headers, **to, "x-api-key": KEY})


def who_answered(response: http.client.HTTPResponse) -> str:
    """The revision; of an error its status, whatever else stands in its head."""
    return response.getheader("x-slipway-revision", "") if response.status == 200 else str(response.status)


def _check(started: Started) -> None:
    """It wants the key, and splits as all of them do."""
    asked, seen = request("json"), Counter[str]()
    connection = http.client.HTTPConnection("127.0.0.1", started.rest_port, timeout=10)
    for headers in ({**asked.headers, "x-api-key": "another"}, *[dict(asked.headers)] * _PROBES):
        connection.request("POST", asked.path, asked.body, headers)
        response = connection.getresponse()
        response.read()
        seen[who_answered(response)] += 1
    connection.close()
    if seen.pop("401", 0) != 1:
        raise CannotMeasureError(f"{started.name} does not ask for the key: {dict(seen)}")
    share_pct = seen[CANDIDATE] / _PROBES * 100
    if seen.total() != _PROBES or abs(share_pct - CANDIDATE_PCT) > _ODDS:
        raise CannotMeasureError(f"{started.name} does not split as the others do: {dict(seen)}")


def _check_log(name: str, log: Path, requests: float) -> None:
    with log.open() as file:
        entries = [line for line in file if line.startswith("{")]
    if len(entries) < requests * _LOGGED:
        raise CannotMeasureError(f"{name} logged {len(entries)} of {requests:.0f} requests")
    if "revision" not in json.loads(entries[-1]):
        raise CannotMeasureError(f"{name} does not log the revision: {entries[-1]}")
