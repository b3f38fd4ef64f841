"""How many replicas each arm of each service shall have: looked at each 2 s, and at once when requests wait.

    gateways ─┐
    pods ─────┼─► Observation ─► decide ─► Demand ─► the key is reconciled when something of it is news
    cache ────┘        ▲            │
                       └── state ◄──┘   status has it too, for the process that comes after this one

Nothing is decided here and nothing written. What rests is looked at more seldom, so that a thousand services that
nobody asks cost next to nothing.
"""

import asyncio
import logging
import math
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_REVISION
from slipway.control import arms
from slipway.control.arms import Scaled
from slipway.control.cache import Cache
from slipway.control.reconcile import is_owned
from slipway.control.workqueue import Lane
from slipway.decide.demand import Demand
from slipway.decide.release import Reading
from slipway.decide.scaling import decide, lead, seen
from slipway.decide.scaling.types import Metric, Observation, Pods, Wanted
from slipway.kube.kinds import DEPLOYMENT, POD
from slipway.signals.pods import Place, PodLoads

log = logging.getLogger(__name__)

TICK_S = 2.0
REST_S, REST_SPREAD = 30.0, 0.3
"""Between looks at what rests, and by how much of it they differ, so that not all are looked at in one tick. Well below
the step that a decision takes for a gap."""
CHECKPOINT_S = 60.0
"""What is learnt goes into status so often while there are requests."""
PATIENCE_S = 10.0
"""A process that has just begun has heard nobody yet: so long it decides nothing of whom it does not know about."""
BUDGET_S = 0.6
"""Of each tick: with thousands of services under load each is looked at more seldom, and the rest goes on."""
_ABREAST = 10
"""Services looked at before others have their turn."""


class Signals(Protocol):
    """What gateways say."""

    def load(self, key: Key, revisions: Collection[str], *, copies: bool = False) -> seen.Load | None:
        """`copies`: those of a mirror are load as well."""
        ...

    @property
    def tally(self) -> "Judge": ...


class Judge(Protocol):
    """Who is late. `news`: services of which something was counted, until they are taken out."""

    news: set[Key]

    def judge(self, key: Key, limits_ms: Mapping[str, float | None]) -> None: ...

    def drop(self, key: Key) -> None: ...


class Readings(Protocol):
    def of(self, key: Key, metrics: Mapping[str, str], stable: str, candidate: str) -> Mapping[str, Reading]: ...


class Observer(Protocol):
    """Told of every decision: why, and how long it took."""

    def decided(self, code: str, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Where it is seen what a service has to carry, and who else would see to it."""

    signals: Signals
    pods: PodLoads
    readings: Readings
    conflict: Callable[[str, str], str]
    """Namespace and name of a Deployment -> who else scales it, empty for nobody."""


@dataclass(slots=True)
class _Service:
    uid: str
    wanted: Mapping[str, Wanted]
    query: str = ""
    """Of the PromQL objective."""
    version: str = ""
    """Of the object, when it was last looked whether that is still so,"""
    accepted: tuple[int, bool] | None = None
    """and the generation that was decided on then, and whether it was accepted."""
    arms: dict[str, Scaled] = field(default_factory=dict)
    due: float = float("-inf")
    told: float = float("-inf")
    """When it was last reconciled for something decided here."""
    has_news: bool = False
    """Requests came since then: there is something to be remembered."""


class Scaler:
    """Not for threads."""

    def __init__(
        self,
        *,
        cache: Cache,
        sources: Sources,
        add: Callable[[Key, Lane], None],
        observer: Observer,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache, self._signals, self._pods = cache, sources.signals, sources.pods
        self._readings, self._conflict = sources.readings, sources.conflict
        self._add, self._observer = add, observer
        self._wall, self._monotonic = wall, monotonic
        self._services: dict[Key, _Service] = {}
        self._begun = self._monotonic()

    def demand(self, key: Key) -> Mapping[str, Demand]:
        """Variant -> as last decided."""
        known = self._services.get(key)
        return {name: arm.demand for name, arm in known.arms.items() if arm.demand is not None} if known else {}

    def loads(self, key: Key) -> Mapping[str, float]:
        """Pod -> requests that it has, as far as that is known."""
        known, found = self._services.get(key), dict[str, float]()
        for arm in known.arms.values() if known else ():
            if arm.pods is not None:
                found |= self._pods.loads(arm.pods)
        return found

    def autoscalers(self, key: Key) -> Mapping[str, str]:
        """Deployment -> who else scales it, of one with fixed replicas as well."""
        names = (_name(one) for one in self._cache.owned(key, DEPLOYMENT))
        return {name: other for name in names if (other := self._conflict(key[0], name))}

    def arms(self) -> Iterator[tuple[Key, Scaled]]:
        """All that scale, for who shows them."""
        for key, known in self._services.items():
            for arm in known.arms.values():
                if arm.demand is not None:
                    yield key, arm

    async def run(self) -> None:
        """Until cancelled."""
        self._begun = self._monotonic()
        while True:
            began = self._monotonic()
            await self.tick()
            await asyncio.sleep(max(0.1, TICK_S - (self._monotonic() - began)))

    async def tick(self) -> None:
        """Look at every service that is due, a few at a time; who has waited longest first, as far as time allows."""
        now, news = self._monotonic(), self._signals.tally.news
        due: list[tuple[float, Key]] = []
        for key in self._cache.services():
            known = self._compiled(key)
            if known is not None and known.wanted and (known.due <= now or key in news):
                due.append((known.due, key))
        spent = 0.0
        for number, (_, key) in enumerate(sorted(due), start=1):
            began = time.perf_counter()
            if (known := self._compiled(key)) is not None:
                self._guarded(key, known)
            spent += time.perf_counter() - began
            if spent > BUDGET_S:
                return
            if number % _ABREAST == 0:
                await asyncio.sleep(0)
        if len(self._services) > len(self._cache.services()):
            for key in [key for key in self._services if self._cache.service(key) is None]:
                self._forget(key)

    def wake(self, key: Key) -> None:
        """Requests wait for a first replica: decide at once."""
        known = self._compiled(key)
        if known is not None and known.wanted:
            self._guarded(key, known)

    def _guarded(self, key: Key, known: _Service) -> None:
        """A fault in what is made of one service must not stop the others."""
        self._signals.tally.news.discard(key)
        known.due = self._monotonic() + TICK_S / 2
        try:
            self._look(key, known)
        except Exception:
            log.exception("scaling of %s/%s: replicas stay", *key)

    def _compiled(self, key: Key) -> _Service | None:
        """What is wanted of a service: what the plan has accepted, or did before."""
        service, known = self._cache.service(key), self._services.get(key)
        if service is None:
            return None
        meta = service["metadata"]
        if known is not None and known.uid != meta["uid"]:
            self._forget(key)
            known = None
        if known is None:
            known = self._services[key] = _Service(meta["uid"], {})
        if known.version != meta["resourceVersion"]:
            known.version = meta["resourceVersion"]
            accepted = arms.accepted(service)
            if accepted is not None and accepted != known.accepted:
                self._want(key, known, service, accepted)
        return known

    def _want(self, key: Key, known: _Service, service: Manifest, accepted: tuple[int, bool]) -> None:
        is_first, known.accepted = known.accepted is None, accepted
        wanted, query = (arms.wanted(service) if accepted[1] else None) or (known.wanted, known.query)
        if is_first and not accepted[1]:
            wanted = arms.fallback(service)
        for gone in known.arms.keys() - wanted.keys():
            self._drop_pods(known.arms.pop(gone))
        if known.wanted and not wanted:
            self._signals.tally.drop(key)
        known.wanted, known.query, known.due = wanted, query, float("-inf")
        for variant, one in wanted.items():
            if variant in known.arms:
                known.arms[variant].wanted = one

    def _forget(self, key: Key) -> None:
        for arm in self._services.pop(key).arms.values():
            self._drop_pods(arm)
        self._signals.tally.drop(key)

    def _drop_pods(self, arm: Scaled | None) -> None:
        if arm is not None and arm.pods is not None:
            self._pods.drop(arm.pods)
            arm.pods = None

    def _look(self, key: Key, known: _Service) -> None:
        """Decide on every arm of a service that has pods."""
        service = self._cache.service(key)
        if service is None:
            return
        status = service.get("status") or {}
        deployments = [
            one
            for one in self._cache.owned(key, DEPLOYMENT)
            if is_owned(one, service) and not one["metadata"].get("deletionTimestamp")
        ]
        limits: dict[str, float | None] = {}
        lane: Lane | None = None
        for variant, wanted in known.wanted.items():
            arm = seen.arm(status, deployments, variant)
            if arm is None:
                continue
            scaled = known.arms.get(variant) or arms.remembered(status, variant, wanted)
            known.arms[variant] = scaled
            sight = _Sight(key, service, status, arm, next(one for one in deployments if _name(one) == arm.serving))
            before = scaled.demand
            load = self._decide(sight, scaled, known)
            known.has_news |= load is not None and not scaled.is_at_rest
            limits |= dict.fromkeys(arm.revisions, arms.limit_ms(scaled))
            if (found := arms.lane(before, scaled.demand)) is not None:
                lane = found if lane is None else min(lane, found)
        self._signals.tally.judge(key, limits)
        now = self._monotonic()
        if known.arms and all(arm.is_at_rest for arm in known.arms.values()):
            known.due = now + REST_S * (1 - REST_SPREAD * zlib.crc32(known.uid.encode()) / 2**32)
        if lane is None and known.has_news and now - known.told >= CHECKPOINT_S:
            lane = Lane.BACKGROUND
        if lane is not None:
            known.told, known.has_news = now, False
            self._add(key, lane)

    def _decide(self, sight: "_Sight", scaled: Scaled, known: _Service) -> seen.Load | None:
        """One decision on one arm."""
        arms.follow(scaled, sight.arm.serving)
        # A candidate's copies are on top of what its service has to carry; a variant's are all that it may have.
        load = self._signals.load(sight.key, sight.arm.revisions, copies=bool(sight.arm.variant))
        promql = self._promql(sight, known.query)
        load = load and arms.count(scaled, load)
        is_deaf = load is None or load.age_s == math.inf or (promql is None and known.query)
        is_patient = scaled.demand is None and self._monotonic() - self._begun < PATIENCE_S
        if is_deaf and is_patient and not (load and load.held):
            return None
        observed = self._observe(sight, scaled, load, promql)
        began = time.perf_counter()
        state, replicas, reasons = decide(scaled.state, observed, self._wall())
        self._observer.decided(reasons[0].code, time.perf_counter() - began)
        there = observed.replicas
        scaled.is_at_rest = replicas == there.asked == there.ready and arms.is_quiet(scaled, load)
        scaled.state, scaled.ready, scaled.loading = state, there.ready, len(there.loading)
        loading = tuple(sorted(lead.etas(there.loading, lead.lead_s(state.lead))))
        scaled.demand = Demand(sight.arm.serving, replicas, reasons, state, loading)
        arms.attain(scaled, load, self._monotonic())
        return load

    def _observe(self, sight: "_Sight", scaled: Scaled, load: seen.Load | None, promql: Metric | None) -> Observation:
        arm, wall, wanted = sight.arm, self._wall(), scaled.wanted
        own = self._pods_of(sight.key, arm.serving)
        pods = self._ask_pods(sight, scaled, own)
        rival = self._conflict(sight.key[0], arm.serving)
        deployed = int(sight.deployment["spec"].get("replicas", 1))
        asked = arms.asked(scaled, arm, deployed, is_foreign=bool(rival))
        there = seen.replicas(
            asked,
            sight.deployment,
            own,
            self._ages(scaled, own, wall),
            launched=arms.launched(scaled),
            since=scaled.state.lead.seen if scaled.state is not None else 0.0,
            now=datetime.fromtimestamp(wall, UTC),
        )
        # Who sleeps is not moved: the plan gives a new revision its one replica by itself.
        is_shifting = arm.is_shifting and asked > 0
        floor = int(is_shifting or seen.is_mirrored(sight.status, arm))
        return Observation(
            wanted=wanted,
            replicas=there,
            gateway=seen.gateway(load, pods, there.ready, wanted.slots),
            pods=pods,
            promql=promql,
            is_shifting=is_shifting or (there.ready == 0 and not arms.is_proven(scaled)),
            floor=max(floor, seen.awaited(sight.status, arm.variant)),
            conflict=rival,
        )

    def _pods_of(self, key: Key, revision: str) -> list[Manifest]:
        return [pod for pod in self._cache.owned(key, POD) if pod["metadata"]["labels"].get(LABEL_REVISION) == revision]

    def _ask_pods(self, sight: "_Sight", scaled: Scaled, own: Iterable[Manifest]) -> Pods | None:
        """Have the ready pods of the revision that serves asked; what they said last."""
        revision = (sight.key[0], sight.arm.serving)
        if scaled.pods != revision:
            self._drop_pods(scaled)
            scaled.pods = revision
        port, model = figures_port(sight.deployment), sight.key[1]
        self._pods.look(
            revision,
            [
                Place(pod["metadata"]["uid"], pod["metadata"]["name"], revision, pod["address"], port, model)
                for pod in own
                if port and pod.get("address") and seen.is_ready(pod)
            ],
        )
        return self._pods.of(revision, knows=scaled.state is not None and scaled.state.trust.knows_pods)

    def _ages(self, scaled: Scaled, own: Iterable[Manifest], wall: float) -> Mapping[str, float]:
        """Of pods that are there, since they were made; notes which have been ready."""
        now, found = self._monotonic(), dict[str, tuple[float, float]]()
        # Who was not there at the last look was made since, whatever the distance of this clock to the API server's.
        oldest = math.inf if scaled.aged is None else now - scaled.aged
        for pod in own:
            meta = pod["metadata"]
            uid = meta["uid"]
            age = min(oldest, max(0.0, wall - seen.created(pod, wall)))
            found[uid] = scaled.ages.get(uid) or (now, age)
            if seen.is_ready(pod):
                scaled.launched.setdefault(uid, pod.get("launch"))
        scaled.ages, scaled.aged = found, now
        scaled.launched = {uid: one for uid, one in scaled.launched.items() if uid in found}
        return {uid: age + now - first for uid, (first, age) in found.items()}

    def _promql(self, sight: "_Sight", query: str) -> Metric | None:
        """The number of the service, or as much of it as falls to the arm."""
        if not query:
            return None
        reading = self._readings.of(sight.key, {"objective": query}, sight.arm.serving, "").get("objective")
        if reading is None:
            return None
        part = 1.0 if "$stable" in query or not sight.arm.variant else seen.share(sight.status, sight.arm)
        return Metric(reading.age_s, None if reading.value is None else reading.value * part)


@dataclass(frozen=True, slots=True)
class _Sight:
    """One arm of one service, and what the cache has of it."""

    key: Key
    service: Manifest
    status: Manifest
    arm: seen.Arm
    deployment: Manifest
    """Of the revision that serves."""


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def figures_port(deployment: Manifest) -> int:
    """Where its pods tell of themselves; 0: nowhere."""
    containers = deployment["spec"].get("template", {}).get("spec", {}).get("containers") or ()
    ports = {port.get("name"): int(port["containerPort"]) for one in containers for port in one.get("ports") or ()}
    return ports.get("metrics") or ports.get("http", 0)
