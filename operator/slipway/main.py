"""The operator process: reads its settings, builds the parts, leads when it may, and ends in good order.

The only place where objects are constructed and lasting tasks started.

    standby: wait for the Lease ─► leader: prime the cache ─► watches + workers + sweep + events
    SIGTERM: not ready ─► watches end ─► running reconciles end ─► Lease released ─► exit 0
    Lease lost, or a part that ended: nothing more is written ─► exit 1
"""

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import math
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import aiohttp
import prometheus_client
import uvloop

from slipway.api.manifest import Key
from slipway.control import log as logs
from slipway.control import reconcile
from slipway.control.cache import Cache
from slipway.control.downloads import Downloads
from slipway.control.events import Events
from slipway.control.judging import Judging
from slipway.control.metrics import Metrics
from slipway.control.scaling import Scaler, Sources
from slipway.control.trials import Comparisons, Trials
from slipway.control.worker import Workers
from slipway.control.workqueue import Lane, WorkQueue
from slipway.decide import fetching, network, placement
from slipway.decide.fetching import Fetching
from slipway.decide.hosts import Domains
from slipway.decide.network import Network
from slipway.decide.types import Config, Entrance, Rule
from slipway.edge import handlers, probes
from slipway.edge.conflicts import Conflicts
from slipway.edge.gateways import Asker, GatewayWatch, Place
from slipway.edge.pods import PodAsker
from slipway.edge.scope import Scope
from slipway.edge.streams import Streams
from slipway.edge.sweep import Sweep, prime
from slipway.edge.wakes import WakeWatch
from slipway.kube.auth import Server
from slipway.kube.client import KubeClient
from slipway.kube.fence import Fence
from slipway.kube.lease import Candidacy, Elector, LeaseLostError
from slipway.signals.gateways import Gateways
from slipway.signals.pods import PodLoads
from slipway.signals.prometheus import Place as PrometheusPlace
from slipway.signals.prometheus import Prometheus, nobody
from slipway.signals.readings import Readings

log = logging.getLogger("slipway")

COMPONENT = "slipway.dev/operator"
_DRAIN_S = 15.0
"""For reconciles that run at SIGTERM; below the pod's termination grace."""
_NEWS_END_S = 5.0
_FLUSH_S = 2.0
_LAST_RESORT_S = 25.0
"""From the end of the first part to the end of the process, whatever the others do."""
_DOWNLOAD_MAX = 4096
"""Bytes in which a fetcher tells how far it is."""
_MANY = 50
"""Services that news of gateways may concern at once without waiting behind what people ask for."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it from the environment, which the chart sets."""

    fetcher_image: str
    fetching: Fetching
    placement: tuple[Rule, ...]
    service_accounts: frozenset[str]
    network: Network | None
    entrance: Entrance
    gateways: Place
    gateway_silent_s: float
    prometheus: PrometheusPlace | None
    candidacy: Candidacy
    scope: Scope
    workers: int
    http_port: int
    log_format: logs.Form
    log_level: str
    resync_s: float

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Raises ValueError that names the variable."""

        def read(name: str, default: str, parse: Callable[[str], _T]) -> _T:
            text = env.get(name, default)
            try:
                return parse(text)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{name} is {text!r}, which is not a valid value") from error

        gateways = Place(
            namespace=env.get("SLIPWAY_GATEWAY_NAMESPACE") or env.get("POD_NAMESPACE", "slipway-system"),
            service=env.get("SLIPWAY_GATEWAY_SERVICE", "slipway-gateway"),
            selector=env.get("SLIPWAY_GATEWAY_SELECTOR", "app.kubernetes.io/component=gateway"),
            report_port=read("SLIPWAY_GATEWAY_REPORT_PORT", "8082", _count),
        )
        domains = Domains(env.get("SLIPWAY_CLUSTER_DOMAIN", "cluster.local"), env.get("SLIPWAY_GATEWAY_DOMAIN", ""))
        return cls(
            fetcher_image=env.get("SLIPWAY_FETCHER_IMAGE", ""),
            fetching=read("SLIPWAY_FETCH", "", fetching.parse),
            placement=read("SLIPWAY_PLACEMENT", "", placement.parse),
            network=read("SLIPWAY_MODEL_NETWORK", "", network.parse),
            service_accounts=frozenset(_words(env.get("SLIPWAY_MODEL_SERVICE_ACCOUNTS", ""))),
            entrance=Entrance(
                address=f"{gateways.service}.{gateways.namespace}.svc.{domains.cluster}",
                domains=domains,
                tls=read("SLIPWAY_GATEWAY_TLS", "false", _FLAG.__getitem__),
            ),
            gateways=gateways,
            gateway_silent_s=read("SLIPWAY_GATEWAY_SILENT_S", "10", _seconds),
            prometheus=read("SLIPWAY_PROMETHEUS_URL", "", partial(_prometheus, env.get("SLIPWAY_PROMETHEUS_DIR", ""))),
            candidacy=Candidacy(
                namespace=env.get("POD_NAMESPACE", "slipway-system"),
                name=env.get("SLIPWAY_LEASE_NAME", "slipway-operator"),
                identity=_identity(env),
                duration_s=read("SLIPWAY_LEASE_DURATION_S", "15", _seconds),
            ),
            scope=Scope(
                namespaces=_words(env.get("SLIPWAY_WATCH_NAMESPACES", "")),
                cluster_runtimes=read("SLIPWAY_CLUSTER_RUNTIMES", "true", _FLAG.__getitem__),
            ),
            workers=read("SLIPWAY_WORKERS", "24", _count),
            http_port=read("SLIPWAY_HTTP_PORT", "8080", int),
            log_format=read("SLIPWAY_LOG_FORMAT", "json", logs.Form),
            log_level=read("SLIPWAY_LOG_LEVEL", "info", logs.level),
            resync_s=read("SLIPWAY_RESYNC_S", "600", _seconds),
        )


_FLAG = {"true": True, "false": False}


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError(text)
    return number


def _prometheus(folder: str, url: str) -> PrometheusPlace | None:
    return PrometheusPlace.parse(url, folder) if url else None


def _identity(env: Mapping[str, str]) -> str:
    """In a cluster the pod's name alone: the kubelet starts a container only once the one before it is dead, so a
    restarted operator takes its own Lease back at once. Anywhere else names prove nothing.
    """
    name = env.get("POD_NAME") or socket.gethostname()
    in_cluster = "KUBERNETES_SERVICE_HOST" in env and not env.get("KUBECONFIG")
    return name if in_cluster else f"{name}_{secrets.token_hex(4)}"


class Operator:
    """All parts of one process, wired."""

    def __init__(
        self,
        settings: Settings,
        server: Server,
        session: aiohttp.ClientSession,
        plain: aiohttp.ClientSession,
        pods: aiohttp.ClientSession,
    ) -> None:
        """`session` has the credentials for the API server, `plain` and `pods` have none; `pods` is for tenants'."""
        self._settings = settings
        self.metrics = Metrics()
        self._cache = Cache()
        self._queue = WorkQueue(observer=self.metrics)
        self.metrics.watch_queue(self._queue)
        self.metrics.releases.watch(self._cache)
        self.health = probes.Health(self._queue)
        fence = Fence(grace_s=settings.candidacy.grace_s)
        unfenced = KubeClient(session, server.url, observer=self.metrics.called)
        self._kube = KubeClient(session, server.url, fence=fence, observer=self.metrics.called)
        self._elector = Elector(unfenced, settings.candidacy, fence)
        self._events = Events(
            self._kube,
            component=COMPONENT,
            instance=settings.candidacy.identity,
            dropped=self.metrics.events_dropped.inc,
        )
        self._gateways = Gateways(
            Asker(plain, settings.gateways.report_port),
            self._hear_of,
            silent_s=settings.gateway_silent_s,
            observe=self.metrics.polled,
        )
        self.metrics.watch_gateways(self._gateways)
        self._gateway_watch = GatewayWatch(self._kube, unfenced, settings.gateways, self._gateways)
        prometheus = settings.prometheus and Prometheus(plain, settings.prometheus)
        self._readings = Readings(prometheus or nobody, observe=self.metrics.asked)
        self._pods = PodLoads(PodAsker(pods), observe=self.metrics.scaling.polled)
        self._conflicts = Conflicts(unfenced, settings.scope)
        self._scaler = Scaler(
            cache=self._cache,
            sources=Sources(self._gateways, self._pods, self._readings, self._conflicts.of),
            add=self._queue.add,
            observer=self.metrics.scaling,
        )
        self.metrics.scaling.watch(self._scaler.arms)
        self._wakes = WakeWatch(
            plain, settings.gateways.report_port, self._gateways.pods, self._gateways.hold, self._scaler.wake
        )
        self._downloads = Downloads(self._cache, PodAsker(pods, "/", _DOWNLOAD_MAX), self._queue.add)
        reconciler = reconcile.Reconciler(
            kube=self._kube,
            cache=self._cache,
            events=self._events,
            sources=reconcile.Sources(self._gateways, self._scaler, self._downloads),
            comparisons=Comparisons(
                Judging(self._gateways, self._readings, self.metrics.releases), Trials(self._gateways, self._readings)
            ),
            config=Config(
                settings.fetcher_image,
                settings.entrance,
                settings.fetching,
                settings.placement,
                settings.service_accounts,
                settings.network,
            ),
        )
        self._workers = Workers(self._queue, self._cache, reconciler, self.metrics)
        self._streams = Streams(unfenced, settings.scope, self._cache, self._queue, self.metrics)
        self._sweep = Sweep(self._kube, settings.scope, self._cache, self._queue)
        self._handlers = handlers.registry(settings.scope, self._cache, self._queue, self.metrics)
        handlers.sign_in(self._handlers, server)

    async def run(self, stop: asyncio.Event) -> int:
        """Stand by, lead, and end when `stop` is set or a part fails; the exit code."""
        self.health.ready = True
        log.info("standing by", extra={"identity": self._settings.candidacy.identity})
        if not await _unless(stop, self._elector.acquire()):
            return 0
        code = 1
        try:
            await self._lead(stop)
            code = 0
        except* LeaseLostError as lost:
            log.error("leadership lost, nothing more is written: %s", lost.exceptions[0])  # noqa: TRY400
        except* Exception:
            log.exception("a part of the operator ended")
        finally:
            self.health.ready = False
            self.metrics.leader.set(0)
            await self._elector.release()
        return code

    async def _lead(self, stop: asyncio.Event) -> None:
        """Until `stop`, then in order. A part that fails cancels the others and comes out in an ExceptionGroup."""
        self.metrics.leader.set(1)
        log.info("leading")
        async with asyncio.TaskGroup() as group:

            def start(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                task = self.health.parts[name] = group.create_task(work, name=name)
                task.add_done_callback(lambda _: _insist_on_ending())
                return task

            lease = start("lease", self._elector.hold())
            events = start("events", self._events.run())
            if await _unless(stop, self._look()):
                news = [
                    start("watches of what people write", self._watch(stop)),
                    start("watches of what Slipway makes", self._streams.run(self._sweep.compare)),
                    start("watch of the gateways", self._gateway_watch.run()),
                    start("questions to Prometheus", self._readings.run()),
                    start("questions to pods", self._pods.run()),
                    start("questions to fetchers", self._downloads.run()),
                    start("other autoscalers", self._conflicts.run()),
                    start("wakes", self._wakes.run()),
                    start("scaling", self._scaler.run()),
                    start("sweep", self._sweep.run(self._settings.resync_s)),
                ]
                work = start("workers", self._workers.run(self._settings.workers))
                for key in self._cache.services():
                    self._queue.add(key, Lane.BACKGROUND)
                await stop.wait()
                await self._wind_down(news, work)
            for task in (events, lease):
                task.cancel()

    async def _look(self) -> None:
        await self._streams.begin()
        await prime(self._kube, self._settings.scope, self._cache)
        await self._gateway_watch.prime()

    def _hear_of(self, keys: set[Key]) -> None:
        """News of gateways; what concerns everybody must not delay what somebody waits for."""
        for key in keys:
            self._queue.add(key, Lane.NEWS if len(keys) <= _MANY else Lane.BACKGROUND)

    async def _watch(self, stop: asyncio.Event) -> None:
        chosen = handlers.settings()
        await handlers.watch(
            self._handlers, chosen, self._settings.scope.namespaces, spawned=lambda: take_signals(stop)
        )

    async def _wind_down(self, news: list[asyncio.Task[None]], work: asyncio.Task[None]) -> None:
        log.info("stopping")
        self.health.ready = False
        self.health.parts.clear()
        for task in news:
            task.cancel()
        await asyncio.wait(news, timeout=_NEWS_END_S)
        self._queue.close()
        await asyncio.wait([work], timeout=_DRAIN_S)
        work.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self._events.flush()


def _insist_on_ending() -> None:
    """Once one part has ended all must, also one whose library swallows its cancellation (aiohttp 3.14 can)."""

    def leave() -> None:
        log.critical("a part of the operator does not end and is left behind")
        os._exit(1)

    asyncio.get_running_loop().call_later(_LAST_RESORT_S, leave)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work to its end, or cancel it once `stop` is set: then False."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = working.done()
        working.cancel()
        stopping.cancel()
        await asyncio.wait([working, stopping])
    if finished:
        working.result()
    return finished


def take_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def run(settings: Settings) -> int:
    """The process from its first request to its exit code."""
    stop = asyncio.Event()
    take_signals(stop)
    server = await Server.load()
    async with (
        server.session() as session,
        aiohttp.ClientSession() as plain,
        # What tenants send is not unpacked, and what they would have remembered is not.
        aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as pods,
    ):
        operator = Operator(settings, server, session, plain, pods)
        async with probes.serve(operator.health, operator.metrics, settings.http_port):
            return await operator.run(stop)


def _version() -> str:
    try:
        return importlib.metadata.version("slipway")
    except importlib.metadata.PackageNotFoundError:
        return "unknown: run from a source tree that is not installed"


def main() -> None:
    """Entry point `slipway-operator`."""
    parser = argparse.ArgumentParser(prog="slipway-operator", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"slipway {_version()}")
    parser.parse_args()
    try:
        settings = Settings.from_env(os.environ)
    except ValueError as error:
        sys.exit(str(error))
    logs.configure(settings.log_format, settings.log_level)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of all series, unread
    # Every event is parsed into hundreds of dicts that live: looking for cycles after each 700 took a fifth of the CPU.
    gc.freeze()
    gc.set_threshold(50_000)
    sys.exit(uvloop.run(run(settings)))


if __name__ == "__main__":
    main()
