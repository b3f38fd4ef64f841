"""How soon a change of weights is served, and what it and doing nothing cost, with this many services.

A change is the operator's write of `status.routing`, through its own client, to a real API server. It is served when an
answer comes from the revision that now has all the weight; a client asks every millisecond. Costs are taken apart from
that: nobody asks, changes come at a steady rate, and what an idle gateway uses in the same time is taken off.
"""

import asyncio
import http.client
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from e2e.bench import machine, plane, workload
from e2e.bench.api import CannotMeasureError, until
from e2e.bench.audit import percentile
from e2e.bench.gateway import environments, services
from e2e.bench.gateway.ours import Gateway, polled
from e2e.bench.gateway.requests import SERVICE, request, who_answered
from e2e.bench.gateway.services import NAMESPACE
from e2e.bench.plane import OPERATOR
from e2e.bench.report import say
from e2e.bench.runtime.processes import rss_mib
from slipway.kube.auth import Server
from slipway.kube.client import KubeClient
from slipway.kube.kinds import INFERENCE_SERVICE

PER_S = 20
_ASK_EVERY_S = 0.001
_SERVED_S = 10.0
_SETTLE_S = 3.0
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one change, what an idle gateway costs taken off; bytes are those on the stream, both ways."""

    agent_ms: float
    envoy_ms: float
    stream_bytes: float

    def ratio(self, smaller: "Cost") -> float:
        """How many times it costs more, in CPU or in bytes, whichever is worse."""
        cpu = (self.agent_ms + self.envoy_ms) / (smaller.agent_ms + smaller.envoy_ms)
        return max(cpu, self.stream_bytes / smaller.stream_bytes)


@dataclass(frozen=True, slots=True)
class Figures:
    services: int
    served_ms: tuple[float, ...]
    write_ms: tuple[float, ...]
    """How long the API server took to answer the write."""
    agent_rss_mib: float
    envoy_rss_mib: float
    agent_pct: float
    """Of a core, idle, reports asked for each second; likewise for Envoy."""
    envoy_pct: float
    cost: Cost

    def served_at(self, percent: int) -> float:
        return percentile(self.served_ms, percent)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of both processes, and when that was."""

    at: float
    agent_s: float
    envoy_s: float

    @classmethod
    def by(cls, gateway: Gateway) -> Self:
        pids = gateway.agent.pid, gateway.envoy.pid
        return cls(time.monotonic(), *map(machine.precise_cpu_s, pids))

    def since(self, before: "Spent") -> "Spent":
        return replace(
            self, at=self.at - before.at, agent_s=self.agent_s - before.agent_s, envoy_s=self.envoy_s - before.envoy_s
        )


class Relay:
    """Stands in the stream between Envoy and the agent and counts."""

    def __init__(self, gateway: Gateway) -> None:
        self.socket, self._to = gateway.run_dir / "relay.sock", gateway.run_dir / "ads.sock"
        self.bytes = 0
        self._pumps: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        server = await asyncio.start_unix_server(self._relay, self.socket)
        try:
            yield self
        finally:
            server.close()
            for pump in self._pumps:
                pump.cancel()

    def lead_through(self, bootstrap: str) -> str:
        if str(self._to) not in bootstrap:
            raise CannotMeasureError(f"Envoy's bootstrap does not lead to {self._to}")
        return bootstrap.replace(str(self._to), str(self.socket))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_unix_connection(self._to)
        for source, sink in ((reader, their_writer), (their_reader, writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 18):
                self.bytes += len(data)
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


def asked_of(service: str) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers."""
    asked = request("json")
    return asked.path.replace(SERVICE, service), asked.body, {**asked.headers, "Host": f"{service}.{NAMESPACE}"}


class Caller:
    """A client that asks one service all the time, on one connection, and tells when somebody else answers."""

    def __init__(self, port: int, service: str) -> None:
        self._port, self._asked, self._loop = port, asked_of(service), asyncio.get_running_loop()
        self._ended = threading.Event()
        self.turns: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        """Who answers from now on, and when the first such answer was there."""

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Self]:
        work = asyncio.create_task(asyncio.to_thread(self._ask))
        try:
            yield self
        finally:
            self._ended.set()
            await work

    async def turn(self) -> tuple[str, float]:
        """Raises CannotMeasureError if nobody else answers in time."""
        try:
            async with asyncio.timeout(_SERVED_S):
                return await self.turns.get()
        except TimeoutError:
            raise CannotMeasureError(f"a change was not served within {_SERVED_S:.0f} s") from None

    def _ask(self) -> None:
        connection, last = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_SERVED_S), ""
        while not self._ended.wait(_ASK_EVERY_S):
            connection.request("POST", *self._asked)
            response = connection.getresponse()
            response.read()
            at = time.perf_counter()
            # An error is somebody else, too: the measurement ends with it.
            if (who := who_answered(response)) != last:
                last = who
                self._loop.call_soon_threadsafe(self.turns.put_nowait, (who, at))
        connection.close()


class Changes:
    """Of the weights of one service, which is in the middle of all."""

    def __init__(self, kube: KubeClient, gateway: Gateway, name: str, uid: str) -> None:
        self._kube, self._gateway, self._name, self._uid = kube, gateway, name, uid

    async def write(self, candidate_pct: int) -> str:
        """The version it has now."""
        status = services.status(self._name, self._uid, candidate_pct)
        await self._kube.apply(INFERENCE_SERVICE, status, manager="slipway", subresource="status")
        return str(status["status"]["routing"]["version"])

    async def served(self, number: int) -> tuple[list[float], list[float]]:
        """Milliseconds from the write until served, and until written."""
        stable, candidate = services.revisions(self._name)
        served, written = list[float](), list[float]()
        async with Caller(self._gateway.port, self._name).asking() as caller:
            if (found := (await caller.turn())[0]) != stable:
                raise CannotMeasureError(f"before the first change {found} answered instead of {stable}")
            for count in range(number):
                wanted, pct = (stable, 0) if count % 2 else (candidate, 100)
                await asyncio.sleep(_PAUSE_S)
                begin = time.perf_counter()
                await self.write(pct)
                written.append((time.perf_counter() - begin) * 1000)
                who, at = await caller.turn()
                if who != wanted:
                    raise CannotMeasureError(f"after a change {who} answered instead of {wanted}")
                served.append((at - begin) * 1000)
        return served, written

    async def at_a_rate(self, number: int) -> None:
        """All of them, and the last one taken by Envoy; reports go on."""
        begin, version = time.monotonic(), ""
        async with asyncio.TaskGroup() as group:
            group.create_task(polled(self._gateway, number / PER_S))
            for count in range(number):
                version = await self.write(1 + count % 99)
                await asyncio.sleep(max(0.0, begin + (count + 1) / PER_S - time.monotonic()))

        async def is_taken() -> bool:
            report = await self._gateway.whole_report()
            return bool(report["taken"].get(f"{NAMESPACE}/{self._name}") == version)

        await until(is_taken, f"Envoy to have the last routing, {version}", within_s=_SERVED_S)


async def measure(number: int, changes: int, idle_s: float, pod: tuple[str, int], folder: Path) -> Figures:
    names = [f"svc-{each:04}" for each in range(number)]
    async with plane.api_server(folder / "api") as control:
        await workload.install(control.api, workload.read_crds(), "slipway-system")
        await services.make(control.api, names, pod, 0)
        say(f"{number} services made")
        with Gateway(folder) as gateway:
            gateway.knows(control)
            await gateway.start()
            await asyncio.to_thread(_ask_each, gateway.port, names)
            await asyncio.sleep(_SETTLE_S)
            idle = await _idle(gateway, idle_s)
            say(f"idle: agent {idle.agent_s / idle.at:.2%}, Envoy {idle.envoy_s / idle.at:.2%} of a core")
            chosen = names[number // 2]
            uid = (await control.api.get(f"{workload.SERVICES.format(NAMESPACE)}/{chosen}"))["metadata"]["uid"]
            async with _operators_client(control.kubeconfig(OPERATOR)) as kube:
                work = Changes(kube, gateway, chosen, uid)
                served, written = await work.served(changes)
                cost = await _cost(gateway, work, changes)
            return Figures(
                number,
                tuple(served),
                tuple(written),
                rss_mib(gateway.agent.pid),
                rss_mib(gateway.envoy.pid),
                idle.agent_s / idle.at * 100,
                idle.envoy_s / idle.at * 100,
                cost,
            )


def _ask_each(port: int, names: list[str]) -> None:
    """Once: Envoy counts, and the agent reads, only what was ever asked for."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SERVED_S)
    for name in names:
        connection.request("POST", *asked_of(name))
        if (response := connection.getresponse()).status != 200:
            raise CannotMeasureError(f"{name} answers {response.status}: {response.read().decode()}")
        response.read()
    connection.close()


async def _idle(gateway: Gateway, seconds: float) -> Spent:
    before = Spent.by(gateway)
    await polled(gateway, seconds)
    return Spent.by(gateway).since(before)


async def _cost(gateway: Gateway, work: Changes, number: int) -> Cost:
    async with Relay(gateway).listening() as relay:
        await gateway.restart_envoy(relay.lead_through)
        await asyncio.sleep(_SETTLE_S)
        idle = await _idle(gateway, number / PER_S)
        before, bytes_before = Spent.by(gateway), relay.bytes
        await work.at_a_rate(number)
        spent, carried = Spent.by(gateway).since(before), relay.bytes - bytes_before
        if not carried:
            raise CannotMeasureError("no change went through the relay")
        agent_s = spent.agent_s - idle.agent_s * spent.at / idle.at
        envoy_s = spent.envoy_s - idle.envoy_s * spent.at / idle.at
        return Cost(agent_s / number * 1000, envoy_s / number * 1000, carried / number)


@asynccontextmanager
async def _operators_client(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    with environments.variable("KUBECONFIG", str(kubeconfig)):
        server = await Server.load()
    async with server.session() as session:
        yield KubeClient(session, server.url)
