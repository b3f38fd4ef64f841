"""One service: observe, decide, act. All decisions are in `slipway.decide`; this module carries them out.

Besides the cache it remembers, per service, what only an answer of the API server can tell: names that belong to
somebody else, objects it refused, the generation our own write left. Forgetting that (a restart) costs a request.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, assert_never

from slipway.api.manifest import Key, Manifest
from slipway.api.names import DELETION_COST, MANAGER, PREVIEW, SCALING_MANAGER
from slipway.control.cache import Cache
from slipway.control.trials import Comparisons
from slipway.control.worker import Done, Outcome
from slipway.decide.demand import Demand
from slipway.decide.drift import version
from slipway.decide.hosts import Claim
from slipway.decide.plan import UNANSWERED_S, plan
from slipway.decide.status import retold
from slipway.decide.types import (
    Action,
    Config,
    Cost,
    Create,
    Delete,
    Event,
    Fetched,
    GatewayView,
    Observed,
    Plan,
    Replace,
    Scale,
    SetStatus,
)
from slipway.kube.client import Kube
from slipway.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from slipway.kube.kinds import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    INFERENCE_SERVICE,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVICE,
    Kind,
)

log = logging.getLogger(__name__)

KINDS: dict[str, Kind] = {
    kind.kind: kind
    for kind in (CONTROLLER_REVISION, DEPLOYMENT, INFERENCE_SERVICE, NETWORK_POLICY, POD_DISRUPTION_BUDGET, SERVICE)
}
REPLANS = 4
"""Plans per reconcile: each answer that changes what is known (a foreign name, a refused object) is decided on anew."""


class Signals(Protocol):
    """What gateways say of one service. Absent is None, never zero."""

    def views(self, key: Key) -> tuple[GatewayView, ...] | None: ...

    def counts(self, key: Key) -> Mapping[str, int]: ...

    def hurry(self) -> None:
        """What gateways say next is waited for."""


class Demands(Protocol):
    """What scaling asks for."""

    def demand(self, key: Key) -> Mapping[str, Demand]:
        """Variant -> replicas as last decided."""
        ...

    def loads(self, key: Key) -> Mapping[str, float]:
        """Pod -> requests that it has, as far as is known."""
        ...

    def autoscalers(self, key: Key) -> Mapping[str, str]:
        """Deployment -> who else scales it."""
        ...


class Downloads(Protocol):
    def of(self, key: Key) -> Mapping[str, Fetched]:
        """Pod -> how far the fetch of its model is."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Who says what the cache does not have."""

    signals: Signals
    scaling: Demands
    downloads: Downloads


class Events(Protocol):
    def record(self, regarding: Manifest, type_: str, reason: str, note: str, action: str, *, at: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Clocks:
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


@dataclass(slots=True)
class Notes:
    """What the API server's answers told about one service.

    `foreign` and `refused` hold until a time (epoch seconds); when something was written is monotonic, as the ages of
    gateways' reports are: by a clock that is set anew an old report would seem to tell of a new routing.
    """

    uid: str
    generation: int = 0
    foreign: dict[tuple[str, str], float] = field(default_factory=dict)
    refused: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    is_told: bool = False
    """Whether what our last status write has in history was told: neither its answer nor what came after was lost."""
    status_written: float = float("-inf")
    routing_written: float = float("-inf")


class Changed(Exception):
    """The world is not what the plan was made from; what is known now leads to another one."""


class Reconciler:
    def __init__(
        self,
        *,
        kube: Kube,
        cache: Cache,
        events: Events,
        sources: Sources,
        comparisons: Comparisons,
        config: Config,
        clocks: Clocks | None = None,
    ) -> None:
        self._kube, self._cache, self._events, self._config = kube, cache, events, config
        self._judging, self._trials = comparisons.releases, comparisons.experiments
        self._signals, self._scaling, self._downloads = sources.signals, sources.scaling, sources.downloads
        clocks = clocks or Clocks()
        self._clock, self._monotonic = clocks.wall, clocks.monotonic
        self._notes: dict[Key, Notes] = {}

    async def __call__(self, key: Key) -> Outcome:
        """Bring one service nearer to its spec.

        Raises:
            KubeError: a call failed; the same plan is made again after a backoff. Cancelling between two actions is
                as safe as a crash there.
        """
        for _ in range(REPLANS):
            service = self._cache.service(key)
            if service is None:
                self._notes.pop(key, None)
                self._judging.window(key, None)
                self._trials.window(key, None)
                return Done()
            decision = plan(self._observe(key, service), self._config, self._clock())
            try:
                await self._act(key, service, decision)
            except Changed:
                continue
            return Done(decision.requeue_after_s)
        return Done(1.0)

    def _observe(self, key: Key, service: Manifest) -> Observed:
        notes, now, elapsed = self._notes_of(key, service), self._clock().timestamp(), self._monotonic()
        return Observed(
            service=service,
            records=self._owned(key, CONTROLLER_REVISION, service),
            deployments=self._owned(key, DEPLOYMENT, service),
            services=self._owned(key, SERVICE, service),
            budgets=self._owned(key, POD_DISRUPTION_BUDGET, service),
            policies=self._owned(key, NETWORK_POLICY, service),
            pods=tuple(self._cache.owned(key, POD)),
            slices=tuple(self._cache.owned(key, ENDPOINT_SLICE)),
            runtimes=tuple(self._cache.runtimes(key[0])),
            settled=notes.settled,
            foreign=frozenset(name for name, until in notes.foreign.items() if until > now),
            refused={name: words for name, (words, until) in notes.refused.items() if until > now},
            status_age_s=elapsed - notes.status_written,
            routing_age_s=elapsed - notes.routing_written,
            gateways=self._signals.views(key),
            counts=self._signals.counts(key),
            window=self._judging.window(key, service),
            readings=self._judging.readings(key, service),
            stretch=self._trials.window(key, service),
            each=self._trials.readings(key, service),
            demand=self._scaling.demand(key),
            loads=self._scaling.loads(key),
            autoscalers=self._scaling.autoscalers(key),
            downloads=self._downloads.of(key),
            rivals=tuple(map(_claim, self._cache.rivals(key))),
            is_preview_taken=self._cache.service((key[0], key[1] + PREVIEW)) is not None,
        )

    def _notes_of(self, key: Key, service: Manifest) -> Notes:
        notes = self._notes.get(key)
        if notes is None or notes.uid != service["metadata"]["uid"]:
            notes = self._notes[key] = Notes(service["metadata"]["uid"])
        if not notes.is_told:  # what was told before is told once all the same
            self._tell(service, retold(service, self._clock()))
        if notes.generation != service["metadata"]["generation"]:
            notes.generation = service["metadata"]["generation"]
            notes.refused.clear()
        return notes

    def _owned(self, key: Key, kind: Kind, service: Manifest) -> tuple[Manifest, ...]:
        return tuple(child for child in self._cache.owned(key, kind) if is_owned(child, service))

    async def _act(self, key: Key, service: Manifest, decision: Plan) -> None:
        for action in decision.actions:
            await self._carry_out(key, service, action)
        if decision.used_up is not None:
            self._judging.ends(key, decision.used_up)
        if decision.actions:
            log.info("acted", extra={"actions": [str(action) for action in decision.actions]})
        self._tell(service, decision.events)
        if any(isinstance(action, SetStatus) for action in decision.actions):
            self._notes[key].is_told = True

    def _tell(self, service: Manifest, events: Iterable[Event]) -> None:
        for event in events:
            kind = "Warning" if event.warning else "Normal"
            self._events.record(service, kind, event.reason, event.note, "Reconcile", at=event.at)

    async def _carry_out(self, key: Key, service: Manifest, action: Action) -> None:
        if isinstance(action, Cost):
            await self._mark(action)
            return
        body = action.deployment if isinstance(action, Scale) else _body(action)
        kind = KINDS[body["kind"]]
        try:
            await self._send(key, kind, action)
        except (Conflict, NotFound):
            # The cache is behind: somebody changed or removed the object a moment ago.
            await self._refresh(kind, body)
            raise
        except AlreadyExists:
            await self._meet(key, service, kind, body)
            raise Changed from None
        except (Invalid, Forbidden) as error:
            if not isinstance(action, Create):
                raise
            until = self._clock().timestamp() + UNANSWERED_S
            self._notes[key].refused[body["kind"], body["metadata"]["name"]] = (str(error), until)
            raise Changed from error

    async def _mark(self, action: Cost) -> None:
        """Replicas come and go without it: what the API server refuses here only costs the order."""
        meta = action.pod["metadata"]
        named = {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
        marks = {"annotations": {DELETION_COST: str(action.value)}} if action.value else {}
        body = {"apiVersion": POD.api_version, "kind": POD.kind, "metadata": named | marks}
        try:
            self._cache.put(POD, await self._kube.apply(POD, body, manager=SCALING_MANAGER))
        except (Conflict, NotFound, Invalid, Forbidden) as error:
            log.warning("pod is not marked", extra={"pod": meta["name"], "error": str(error)})

    async def _send(self, key: Key, kind: Kind, action: Create | Replace | Scale | Delete | SetStatus) -> None:
        notes = self._notes[key]
        match action:
            case Create(body, manager):
                self._keep(notes, kind, await self._kube.create(kind, body, manager=manager))
            case Replace(body):
                self._keep(notes, kind, await self._kube.replace(kind, body, manager=MANAGER))
            case Scale(deployment, replicas):
                meta = deployment["metadata"]
                await self._kube.scale(kind, meta["namespace"], meta["name"], replicas, manager=SCALING_MANAGER)
            case Delete(target):
                meta = target["metadata"]
                await self._kube.delete(kind, meta["namespace"], meta["name"], uid=meta["uid"])
                self._cache.remove(kind, target)
                notes.settled.pop(meta["uid"], None)
            case SetStatus():
                await self._write_status(key, action)
            case _:
                assert_never(action)

    async def _write_status(self, key: Key, action: SetStatus) -> None:
        notes, before, body = self._notes[key], self._cache.service(key) or {}, action.body
        self._judging.sends(key, body, action.window)
        self._trials.sends(key, body, action.stretch)
        is_other = _routing_version(body) != _routing_version(before)
        if is_other:  # before as well: the answer may be lost
            notes.routing_written = self._monotonic()
        notes.is_told = False
        written = await self._kube.apply(INFERENCE_SERVICE, body, manager=MANAGER, subresource="status")
        self._cache.put(INFERENCE_SERVICE, written)
        notes.status_written = self._monotonic()
        if is_other:
            notes.routing_written = notes.status_written
            if (body["status"].get("rollout") or {}).get("stage") == "Verifying":
                self._signals.hurry()
        self._judging.wrote(key, before, body, action.window, self._clock())
        self._trials.wrote(key, action.stretch)

    def _keep(self, notes: Notes, kind: Kind, written: Manifest) -> None:
        self._cache.put(kind, written)
        notes.settled[written["metadata"]["uid"]] = version(written)

    async def _refresh(self, kind: Kind, body: Manifest) -> None:
        meta = body["metadata"]
        live = await self._kube.get(kind, meta["namespace"], meta["name"])
        if live is not None:
            self._cache.put(kind, live)
        elif known := self._cache.get(kind, meta["namespace"], meta["name"]):
            self._cache.remove(kind, known)

    async def _meet(self, key: Key, service: Manifest, kind: Kind, wanted: Manifest) -> None:
        """A name is taken: by ourselves (a lost answer, a label stripped by hand) or by somebody else."""
        meta = wanted["metadata"]
        live = await self._kube.get(kind, meta["namespace"], meta["name"])
        if live is None:
            return
        if _is_of_predecessor(live, service):
            raise Conflict(f"{wanted['kind']} {meta['name']} is of an InferenceService deleted a moment ago")
        if not is_owned(live, service):
            self._notes[key].foreign[wanted["kind"], meta["name"]] = self._clock().timestamp() + UNANSWERED_S
        elif not live["metadata"].get("deletionTimestamp"):
            labels = (live["metadata"].get("labels") or {}) | meta["labels"]
            body = live | {"metadata": live["metadata"] | {"labels": labels}}
            self._cache.put(kind, await self._kube.replace(kind, body, manager=MANAGER))


def _claim(service: Manifest) -> Claim:
    meta = service["metadata"]
    return Claim(meta.get("creationTimestamp", ""), meta["namespace"], meta["name"])


def _routing_version(service: Manifest) -> str | None:
    routing = (service.get("status") or {}).get("routing") or {}
    return routing.get("version")


def is_owned(child: Manifest, service: Manifest) -> bool:
    """True when this very object (uid) controls the child."""
    uid = service["metadata"]["uid"]
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner["uid"] == uid for owner in owners)


def _is_of_predecessor(child: Manifest, service: Manifest) -> bool:
    """True for a child of an object of the same name that was deleted: the garbage collector is on its way to it.

    The group counts: KServe's kind has the same name.
    """
    meta = service["metadata"]
    return any(
        owner.get("controller")
        and owner["apiVersion"].partition("/")[0] == INFERENCE_SERVICE.group
        and (owner["kind"], owner["name"]) == (INFERENCE_SERVICE.kind, meta["name"])
        and owner["uid"] != meta["uid"]
        for owner in child["metadata"].get("ownerReferences") or []
    )


def _body(action: Create | Replace | Delete | SetStatus) -> Manifest:
    return action.target if isinstance(action, Delete) else action.body
