"""The agent of one gateway pod: reads what is to be served, brings Envoy there, counts, reports, ends in good order.

disk ─► store ─► Envoy            at once, API server or not
API server ─► facts ─► views ─► applier ─► store ─► Envoy, and back: taken ─► disk, report, holds
Envoy ─► holds                    may this request go to a revision that sleeps? when there is a pod
SIGTERM: not ready ─► nobody comes any more ─► Envoy drains ─► the last request is over ─► the end
"""

import asyncio
import contextlib
import gc
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from slipway.api.manifest import Key
from slipway.gateway import authorize, memory, render, xds
from slipway.gateway.admin import Admin, Silent
from slipway.gateway.ads import AdsServer
from slipway.gateway.apply import Applier, Wanted
from slipway.gateway.asks import Place
from slipway.gateway.counters import COPIES_BY_GRPC, FILTER, Counters
from slipway.gateway.disk import Disk
from slipway.gateway.exposition import Whose, exposition, waits
from slipway.gateway.facts import Facts, Keys
from slipway.gateway.holds import Holds
from slipway.gateway.jwks import Fetcher
from slipway.gateway.pace import pace
from slipway.gateway.report import Report
from slipway.gateway.settings import Settings
from slipway.gateway.store import Resource, Store
from slipway.gateway.tables import compiler
from slipway.gateway.watch import Feed, feeds
from slipway.gateway.xds import Kind
from slipway.kube.client import KubeClient

if TYPE_CHECKING:
    from slipway.gateway.stream import Stream

log = logging.getLogger(__name__)

_COUNT_S = 1.0
_LATENCY_EVERY = 5
"""Seconds, as the bootstrap's stats_flush_interval: Envoy's histograms stand still in between."""
_KEYS_S = 8.0
"""The longest that a gateway that starts from nothing waits for clients' and issuers' keys: longer than a list of all
Secrets takes, and shorter than who waits for a gateway has patience."""
_LAG_S = 10.0
_SAME_START_S = 2.5
"""Envoy tells its age in whole seconds."""
_WAKES_S = 20.0
_ANSWER_S = 0.3
"""For Envoy to say no to those who waited to the end."""
_ENVOY_END_S = 10.0


def trim() -> None:
    """Give back what reading everything once has taken."""
    gc.collect()
    gc.freeze()  # what is here stays: looking through it again would take 100 ms each time
    memory.give_back()


class _Witness:
    """What Envoy took goes into the report, onto the disk and among the facts."""

    def __init__(
        self,
        report: Report,
        disk: Disk,
        serve: Callable[[Key, Wanted | None], None],
        hold: Callable[[Key, Wanted | None], None],
    ) -> None:
        self._report, self._disk, self._serve, self._hold = report, disk, serve, hold
        self.empties = hold
        self.healed = report.healed
        self.refused = report.refused
        self.held = report.held

    def taken(self, key: Key, wanted: Wanted | None) -> None:
        self._report.taken(key, wanted)
        self._disk.save(key, wanted)
        self._serve(key, wanted)
        self._hold(key, wanted)


class Agent:
    def __init__(self, settings: Settings, kube: KubeClient) -> None:
        self._settings = settings
        self.ending, self.drained = asyncio.Event(), asyncio.Event()
        self._holds = Holds(settings.holds, self._again)
        self._facts = Facts(settings.domains, self._holds.holds_back)
        self._counters = Counters()
        self._report = Report(settings.pod, self._counters)
        self._disk = Disk(settings.state_dir)
        self._store = Store()
        compile_ = compiler(settings.envoy, lambda: settings.replicas)
        witness = _Witness(self._report, self._disk, self._serve, self._hold)
        self._applier = Applier(self._store, compile_, self._now, witness)
        self._ads = AdsServer(self._store, settings.envoy.ads_socket, authorize.handler(self._holds.hold))
        self._admin = Admin(settings.envoy.admin_socket)
        self._fetcher = Fetcher(self._take_jwks, allows_private=settings.allows_private_jwks)
        self._feeds: list[Feed] = feeds(kube, settings.namespaces, self._facts, self._take)
        self.is_synced = False
        """What the API server has was read once: from now on changes are applied."""
        self._unreadable: set[Key] = set()
        self._has_keys = False
        """Clients' and issuers' keys were read once, or will not come so soon."""
        self._complete: Stream | None = None
        """The stream whose Envoy has had everything at least once."""
        self._counted: Stream | None = None
        """The stream whose Envoy `epoch` names."""
        self._parts: dict[str, asyncio.Task[None]] = {}
        self._lag_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain. A part that fails ends all of it with its exception."""
        try:
            async with asyncio.TaskGroup() as group:

                def start(name: str, work: Coroutine[Any, Any, None]) -> None:
                    self._parts[name] = group.create_task(work, name=name)

                restored = self._restore()
                start("disk", self._disk.run())
                for feed in self._feeds:
                    start(feed.name, feed.run())
                start("clock", self._watch_lag())
                if restored:
                    await self._ads.start()
                start("sync", self._sync())
                start("counters", self._count())
                start("pace", pace(self._holds, self._admin))
                await stop.wait()
                await self._drain()
                for task in self._parts.values():
                    task.cancel()
        finally:
            await self._close()

    def complaint(self) -> str:
        ended = [name for name, task in self._parts.items() if task.done() and name != "sync"]
        if ended and not self.ending.is_set():
            return f"ended: {', '.join(ended)}"
        return f"the event loop was {self._lag_s:.0f} s late" if self._lag_s > _LAG_S else ""

    def unready(self) -> str:
        if self.ending.is_set():
            return "ending"
        stream = self._ads.stream
        if stream is None:
            return "Envoy is not connected"
        if not self._has_keys:
            return "clients' and issuers' keys have not been read yet"
        if stream is not self._complete:
            if not (self._applier.settled.is_set() and stream.is_quiet and self._store.is_complete):
                return "Envoy has not taken everything yet"
            self._complete = stream
        return ""

    def report(self, since: str) -> dict[str, object]:
        now = asyncio.get_running_loop().time()
        self._report.set_ready(is_ready=not self.unready())
        self._report.waiting(self._holds.revisions(now))
        return self._report.render(since, now)

    async def wakes(self, since: int | None) -> dict[str, object]:
        """Who waits; not before somebody is the first to wait for a revision, if `since` is the number of now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAKES_S):
                await self._holds.news(-1 if since is None else since)
        services = Counter[str]()
        for (key, _), count in self._holds.revisions(asyncio.get_running_loop().time()).items():
            services["/".join(key)] += count
        return {"number": self._holds.number, "held": services, "revisions": self._waiting()}

    def _waiting(self) -> dict[str, int]:
        """NAMESPACE/REVISION -> requests held."""
        held = self._holds.revisions(asyncio.get_running_loop().time())
        return {f"{key[0]}/{revision}": count for (key, revision), count in held.items()}

    def metrics(self) -> str:
        served, refused = len(self._report.served), len(self._report.complaints)
        owners, held = self._owners(), self._waiting()
        return waits(self._holds.tally, held, owners) + exposition(
            self._counters,
            owners,
            {
                "slipway_gateway_ready": ("Whether Envoy has taken everything", float(not self.unready())),
                "slipway_gateway_services": ("Services served", float(served)),
                "slipway_gateway_refused": ("Services whose routing Envoy does not take", float(refused)),
                "slipway_gateway_resources": ("Resources that Envoy is to have", float(len(self._store))),
            },
        )

    def _restore(self) -> bool:
        """What was served before this process began; whether there is any."""
        self._disk.open()
        gateways = render.gateways(f"192.0.2.{number + 1}" for number in range(min(self._settings.replicas, 250)))
        self._store.put(Kind.ENDPOINTS, render.GATEWAYS, Resource.of(xds.encode(Kind.ENDPOINTS, gateways)))
        for key, wanted in self._disk.load():
            try:
                self._applier.restore(key, wanted)
            except ValueError as error:
                log.warning("the state of %s cannot be used: %s", "/".join(key), error)
            self._facts.remember(wanted.view)
        restored = len(self._applier.services)
        self._has_keys = restored > 0  # as they were; what serves is not taken out of the Service for newer ones
        log.info("starting", extra={"restored": restored})
        return restored > 0

    async def _sync(self) -> None:
        """Wait for what the API server has, bring Envoy to it, and let go of what nobody wants."""
        self._applier.is_cold = not self._ads.is_started
        await asyncio.gather(*(feed.synced.wait() for feed in self._feeds if feed.is_essential))
        self.is_synced = True
        self._take(self._facts.known("service") | self._applier.services)
        if not self._ads.is_started:
            await self._applier.begun()
            await self._ads.start()
            self._applier.is_cold = False
        await self._read_keys()
        await self._applier.settled.wait()
        self._store.settle()
        self._holds.knows_all = True
        trim()
        log.info("in step with the API server", extra={"services": len(self._facts.services)})

    async def _read_keys(self) -> None:
        """A gateway that is ready before would answer 401 to valid keys."""
        secrets = [feed.answered.wait() for feed in self._feeds if not feed.is_essential]
        try:
            async with asyncio.timeout(_KEYS_S):
                await asyncio.gather(*secrets, self._fetcher.tried())
        except TimeoutError:
            log.warning("not all keys were read within %.0f s: clients may be answered 401 until they are", _KEYS_S)
        self._has_keys = True

    def _now(self, key: Key, wanted: Wanted) -> Wanted:
        return Wanted(self._facts.now(wanted.view), self._facts.hosts(key))

    def _serve(self, key: Key, wanted: Wanted | None) -> None:
        view, hosts = (wanted.view, wanted.hosts) if wanted else (None, ())
        if moved := self._facts.serve(key, view, hosts):
            # Later: a service's table is not replaced in the middle of what took it.
            asyncio.get_running_loop().call_soon(self._take, moved)

    def _hold(self, key: Key, wanted: Wanted | None) -> None:
        """Envoy has this, or nothing of the service any more: some may go, and others may not any more."""
        place = Place.of(wanted.view, wanted.hosts, self._settings.replicas) if wanted else None
        self._holds.taken(key, place)

    def _again(self, key: Key) -> None:
        """Whether requests have to wait for a pod may have changed."""
        asyncio.get_running_loop().call_soon(self._take, frozenset((key,)))

    def _take(self, affected: Keys) -> None:
        if not self.is_synced:
            return
        for key in affected:
            self._want(key)
        self._fetcher.want(self._facts.jwks_uris)

    def _want(self, key: Key) -> None:
        if unread := self._facts.unreadable.get(key):
            self._unreadable.add(key)
            self._report.refused(key, unread.version, unread.words)
        elif key in self._unreadable:
            self._unreadable.discard(key)
            self._report.healed(key)
        view = self._facts.view(key)  # of the last good routing, where there is one
        self._report.note(key, "keys", self._facts.fault_of_keys(key))
        self._applier.want(key, Wanted(view, self._facts.hosts(key)) if view else None)

    def _take_jwks(self, uri: str, text: str) -> None:
        self._take(self._facts.take_jwks(uri, text))

    def _owners(self) -> Mapping[str, Whose]:
        found = {}
        for name in self._report.revisions | self._waiting().keys():
            namespace, _, revision = name.partition("/")
            if (key := self._facts.owner(namespace, revision)) and (service := self._facts.service(key)):
                variants = {target.revision: target.variant for target in service.routing.targets}
                found[name] = Whose(namespace, service.name, revision, variants.get(revision, ""))
        return found

    async def _count(self) -> None:
        """Counters and gauges once a second, latencies as often as Envoy sums them up, and never two at once."""
        for number in itertools.count():
            for kind in ("Counters", "Gauges", *(["Histograms"] if number % _LATENCY_EVERY == 0 else [])):
                with contextlib.suppress(Silent):
                    await self._read_counters(kind)
                await asyncio.sleep(_COUNT_S / 3)
            if number % _LATENCY_EVERY:
                await asyncio.sleep(_COUNT_S / 3)

    async def _read_counters(self, kind: str) -> None:
        stream, epoch = self._ads.stream, self._report.epoch
        if stream is not self._counted or not epoch:
            asked = time.time()
            uptime = await self._admin.uptime_s()
            epoch = self._epoch(asked - uptime - 1, time.time() - uptime)
            if epoch != self._report.epoch:
                self._counters.reset()
                # Before any count is told: requests without their latencies look like lost ones.
                self._counters.read("Histograms", await self._admin.stats("Histograms", FILTER))
            self._counted = stream
        changed = self._counters.read(kind, await self._admin.stats(kind, FILTER))
        if kind == "Counters" and self._counters.has_copies_by_grpc:
            changed |= self._counters.read_pods(await self._admin.pods(COPIES_BY_GRPC))
        self._report.counted(changed, epoch, asyncio.get_running_loop().time())
        for name in self._report.revisions - self._counters.present:
            if not self._facts.owner(*name.split("/", 1)):
                self._counters.forget(name)
                self._report.forget(name)

    def _epoch(self, earliest: float, latest: float) -> str:
        """Names the Envoy that began between these times; the same name as in an earlier life of this process.

        A late answer makes the two differ, not the Envoy: its counts taken for another's would all count once more.
        """
        started = latest
        file = self._settings.state_dir / "envoy.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = float(json.loads(file.read_text())["started"])
            started = known if earliest - _SAME_START_S <= known <= latest + _SAME_START_S else latest
        with contextlib.suppress(OSError):
            file.write_text(json.dumps({"started": started}))
        return f"{self._settings.pod}-{started:.0f}"

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _COUNT_S
            await asyncio.sleep(_COUNT_S)
            self._lag_s = max(0.0, loop.time() - due)

    async def _drain(self) -> None:
        """From the signal until the last request is over, the longest wait being the grace."""
        log.info("draining")
        self.ending.set()
        await asyncio.sleep(self._settings.drain_window_s)
        try:
            async with asyncio.timeout(self._settings.drain_grace_s):
                await self._admin.drain()
                await self._wait_until_idle()
        except TimeoutError:
            log.warning("requests are still under way after %.0f s", self._settings.drain_grace_s)
            if self._holds.end():
                await asyncio.sleep(_ANSWER_S)
        except Silent as error:
            log.info("Envoy is gone: %s", error)
        self.drained.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENVOY_END_S):
                await self._ads.disconnected()
        log.info("ended")

    async def _wait_until_idle(self) -> None:
        """Until none is under way, and none has come for a while: by an answer a client hears of the drain."""
        loop = asyncio.get_running_loop()
        idle_since, known = loop.time(), -1
        # Within the grace: silence to its end is no request that is still under way.
        quiet_s = min(self._settings.drain_quiet_s, self._settings.drain_grace_s / 2)
        while loop.time() - idle_since < quiet_s:
            active, total = await self._admin.requests()
            if active or total != known:
                idle_since, known = loop.time(), total
            await asyncio.sleep(0.1)

    async def _close(self) -> None:
        await self._applier.close()
        await self._fetcher.close()
        await self._ads.stop()
        await self._admin.close()
        self._disk.flush()
