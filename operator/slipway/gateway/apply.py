"""Brings Envoy from what it has to what is wanted, one service at a time, always making before breaking.

    clusters, endpoints ─► Envoy has them (warm) ─► routes, scopes ─► Envoy has them: taken ─► a breath ─► the rest goes

Where the last pod of a revision goes and requests are to wait for the next one, its endpoints are the last to change.
Services do not wait for each other; of one service the newest wish replaces the one under way. What Envoy refuses is
taken back, so that the store always ends as something that Envoy took, and is not tried again until it changes; the
table before it serves on, with the endpoints and keys of now. So it does while a new table leads to a revision whose
pods are not known here yet: to acknowledge that one would let the operator take the old pods away.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Protocol

from slipway.api.manifest import Key
from slipway.api.routing import Routing
from slipway.gateway import store as stores
from slipway.gateway.store import Refused, Resource, Store
from slipway.gateway.tables import Compile, Tables
from slipway.gateway.views import ServiceView
from slipway.gateway.xds import Kind

log = logging.getLogger(__name__)

LINGER_S = 1.0
"""From the routes' acknowledgement until clusters go: the last thread of Envoy turns over a few ms after the first,
and a request may have chosen its cluster before it waits for its body."""
BREATH_S = 0.05
"""From the last leave to go to a pod until Envoy is told to forget the pod, so that the leave arrives before."""
HOLD_S = 10.0
"""The longest that a table waits for the pods it leads to: the API server tells of them in the same second."""
_BREAK_FIRST = (Kind.SCOPE, Kind.ROUTES)


@dataclass(frozen=True, slots=True)
class Wanted:
    view: ServiceView
    hosts: tuple[str, ...]

    def differs_only_in_endpoints(self, other: "Wanted") -> bool:
        return dataclasses.replace(self, view=dataclasses.replace(self.view, endpoints=other.view.endpoints)) == other


class Witness(Protocol):
    """Is told what Envoy has of a service."""

    def taken(self, key: Key, wanted: Wanted | None) -> None:
        """None: nothing any more."""

    def empties(self, key: Key, wanted: Wanted) -> None:
        """It will have this in a moment, and in that moment the last pods go of what may sleep."""

    def refused(self, key: Key, version: str, message: str) -> None: ...

    def healed(self, key: Key) -> None:
        """Nothing is refused any more."""

    def held(self, key: Key, words: str) -> None:
        """The newest routing waits, and why; no words: not any more."""


Now = Callable[[Key, Wanted], Wanted]
"""The same routing with the endpoints, keys and hosts of now."""


def without_keys(words: str, view: ServiceView) -> str:
    """Envoy quotes what it refuses, and the words end in status and logs."""
    found = {key for keys in view.keys.values() for key in keys if key}
    for key in sorted(found, key=len, reverse=True):  # one may begin with another
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        words = words.replace(escaped, "***").replace(key, "***")
    return words


def missing(routing: Routing, view: ServiceView | None, pods: Mapping[str, object]) -> list[str]:
    """Revisions without pods that a routing would lead requests to, and the table that serves does not.

    Of a service that has no pod at all nothing is lost by holding requests for the new revision at once.
    """
    if view is None or view.routing.version == routing.version:
        return []
    is_asleep = not any(map(view.endpoints.get, _led_to(view.routing)))
    holding = {target.revision for target in routing.targets if target.hold_ms and is_asleep}
    found = [name for name in _led_to(routing) if not pods.get(name) and not _is_served_empty(name, view)]
    return [name for name in found if name not in holding]


def _is_served_empty(revision: str, view: ServiceView) -> bool:
    return revision in _led_to(view.routing) and not view.endpoints.get(revision)


def _led_to(routing: Routing) -> list[str]:
    ruled = {rule.revision for rule in routing.rules}
    ruled |= {routing.mirror.revision} if routing.mirror else set()  # a copy that finds no pod counts as failed
    return [target.revision for target in routing.targets if target.weight or target.revision in ruled]


class Applier:
    def __init__(
        self, store: Store, compile_: Compile, now: Now, witness: Witness, *, linger_s: float = LINGER_S
    ) -> None:
        self._store, self._compile, self._now, self._witness = store, compile_, now, witness
        self._linger_s = linger_s
        self._turn = asyncio.Lock()
        """Who renders: one at a time, and the loop goes round in between."""
        self._wishes: dict[Key, Wanted] = {}
        self._applied: dict[Key, tuple[Wanted, Tables]] = {}
        self._rendered: dict[Key, tuple[Wanted, Tables]] = {}
        """The latest, taken or not: where only endpoints change, routes are not rendered again."""
        self._refused: dict[Key, Wanted] = {}
        """The latest wish, where Envoy has refused it."""
        self._deadlines: dict[Key, tuple[str, float]] = {}
        """The version that waits for its pods, and until when."""
        self._blamed: set[Key] = set()
        """Those whose refusal was told, and not yet that it is over."""
        self._held: dict[Key, set[stores.Key]] = {}
        """What of the store is whose. A host may move from one service to another."""
        self._owners: dict[stores.Key, Key] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._unanswered: set[Key] = set()
        self.settled = asyncio.Event()
        """Everything wanted was taken or refused."""
        self.settled.set()
        self.is_cold = False
        """No Envoy can be there yet: it takes everything at once, in an order of its own, and only then serves."""

    @property
    def services(self) -> frozenset[Key]:
        """Those that Envoy has something of, or shall have."""
        return frozenset({*self._applied, *self._wishes})

    def restore(self, key: Key, wanted: Wanted) -> None:
        """What Envoy took in an earlier life of this process: in the store at once, without an order to keep.

        Raises:
            ValueError: it cannot be rendered any more.
        """
        tables = self._render(key, wanted)
        self._put(key, tables.all)
        self._wishes[key] = wanted
        self._applied[key] = (wanted, tables)
        self._witness.taken(key, wanted)

    def want(self, key: Key, wanted: Wanted | None) -> None:
        """Bring Envoy to this, or to nothing of this service. Returns at once; the newest call counts."""
        if self._wishes.get(key) == wanted and key not in self._refused and key not in self._deadlines:
            return
        if wanted is None:
            del self._wishes[key]
            self._refused.pop(key, None)
            self._start(key, self._remove(key))
            return
        self._wishes[key] = wanted
        refused = self._refused.get(key)
        if refused is None or not wanted.differs_only_in_endpoints(refused):
            self._refused.pop(key, None)
            self._start(key, self._bring(key, wanted))
        else:  # Envoy refused this very table
            self._start(key, self._follow(key))

    async def begun(self) -> None:
        """What is wanted now is in the store, as far as it need not wait for Envoy."""
        await asyncio.sleep(0)  # everybody has asked for a turn, and turns are in order
        async with self._turn:
            pass

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: Key, work: Coroutine[None, None, None]) -> None:
        if task := self._tasks.pop(key, None):
            task.cancel()
        self._unanswered.add(key)
        self.settled.clear()
        task = self._tasks[key] = asyncio.create_task(work, name=f"apply {'/'.join(key)}")
        task.add_done_callback(lambda done: self._ended(key, done))

    async def _bring(self, key: Key, wanted: Wanted) -> None:
        await self._wait_for_pods(key, wanted)
        try:
            async with self._turn:
                tables = self._render(key, wanted)
                await asyncio.sleep(0)
            await self._hand_over(key, wanted, tables)
        except (Refused, ValueError) as error:
            self._take_back(key)
            self._refuse(key, wanted, without_keys(str(error), wanted.view))
            await self._follow(key)
            return
        self._took(key, wanted, tables)
        self._let_go(key)
        self._heal(key)
        await self._retire(key, tables.all)

    async def _wait_for_pods(self, key: Key, wanted: Wanted) -> None:
        """Until they are known (which begins anew with them), or it has been too long."""
        routing, loop = wanted.view.routing, asyncio.get_running_loop()
        if not self._missing(key, wanted):
            self._let_go(key)
            return
        version, deadline = self._deadlines.get(key, ("", 0.0))
        if version != routing.version:
            deadline = loop.time() + HOLD_S
            self._deadlines[key] = (routing.version, deadline)
        await self._follow(key)
        if (names := self._missing(key, wanted)) and loop.time() < deadline:
            words = f"routing {routing.version} waits up to {HOLD_S:.0f} s for ready pods of {', '.join(names)}"
            self._witness.held(key, words)
            await asyncio.sleep(deadline - loop.time())

    def _missing(self, key: Key, wanted: Wanted) -> list[str]:
        applied = self._applied.get(key)
        return missing(wanted.view.routing, applied[0].view if applied else None, wanted.view.endpoints)

    async def _follow(self, key: Key) -> None:
        """The table that serves, with the endpoints, keys and hosts of now."""
        if applied := self._applied.get(key):
            now = self._now(key, applied[0])
            if now != applied[0]:
                try:
                    tables = self._render(key, now)
                    await self._hand_over(key, now, tables)
                except (Refused, ValueError) as error:
                    log.warning("%s cannot follow: %s", "/".join(key), without_keys(str(error), now.view))
                    self._take_back(key)
                else:
                    self._took(key, now, tables)
        self._answered(key)
        await self._retire(key, self._tables(key))

    def _render(self, key: Key, wanted: Wanted) -> Tables:
        before = self._rendered.get(key)
        routes = before[1].routes if before and wanted.differs_only_in_endpoints(before[0]) else None
        tables = self._compile(wanted.view, wanted.hosts, routes)
        self._rendered[key] = (wanted, tables)
        return tables

    async def _hand_over(self, key: Key, wanted: Wanted, tables: Tables) -> None:
        last = {each: tables.clusters[each] for each in tables.held if self._store.version(*each)}
        first = {each: resource for each, resource in tables.clusters.items() if each not in last}
        self._put(key, first)
        if not self.is_cold:
            await self._store.taken(first)
            await self._store.taken(tables.sleepy - last.keys(), exactly=True)
        self._put(key, tables.routes)
        await self._store.taken(tables.routes)
        if any(self._store.version(*each) != resource.version for each, resource in last.items()):
            self._witness.empties(key, wanted)
            await asyncio.sleep(BREATH_S)
            self._put(key, last)
        await self._store.taken(tables.sleepy, exactly=True)

    def _took(self, key: Key, wanted: Wanted, tables: Tables) -> None:
        self._applied[key] = (wanted, tables)
        self._answered(key)
        self._witness.taken(key, wanted)

    def _tables(self, key: Key) -> Mapping[stores.Key, Resource]:
        applied = self._applied.get(key)
        return applied[1].all if applied else {}

    async def _remove(self, key: Key) -> None:
        for each in sorted(self._held.get(key, ())):
            if each[0] in _BREAK_FIRST:
                self._drop(each)
        self._applied.pop(key, None)
        self._rendered.pop(key, None)
        self._answered(key)
        self._witness.taken(key, None)
        self._let_go(key)
        self._heal(key)
        await self._retire(key, {})

    async def _retire(self, key: Key, kept: Mapping[stores.Key, Resource]) -> None:
        if self._held.get(key, set()) <= kept.keys():
            return
        await asyncio.sleep(self._linger_s)
        self._drop_all_but(key, kept)

    def _take_back(self, key: Key) -> None:
        """The store as Envoy last took it."""
        before = self._tables(key)
        self._put(key, {each: resource for each, resource in before.items() if self._owners.get(each, key) == key})
        self._drop_all_but(key, before)

    def _refuse(self, key: Key, wanted: Wanted, message: str) -> None:
        log.warning("routing %s of %s is refused: %s", wanted.view.routing.version, "/".join(key), message)
        self._refused[key] = wanted
        self._let_go(key)
        self._blamed.add(key)
        self._answered(key)
        self._witness.refused(key, wanted.view.routing.version, message)

    def _answered(self, key: Key) -> None:
        self._unanswered.discard(key)
        if not self._unanswered:
            self.settled.set()

    def _let_go(self, key: Key) -> None:
        if self._deadlines.pop(key, None):
            self._witness.held(key, "")

    def _heal(self, key: Key) -> None:
        if key in self._blamed:
            self._blamed.discard(key)
            self._witness.healed(key)

    def _put(self, key: Key, resources: Mapping[stores.Key, Resource]) -> None:
        mine = self._held.setdefault(key, set())
        for each, resource in resources.items():
            owner = self._owners.get(each)
            if owner != key:
                if owner:
                    self._held[owner].discard(each)
                self._owners[each] = key
                mine.add(each)
            self._store.put(*each, resource)

    def _drop_all_but(self, key: Key, kept: Mapping[stores.Key, Resource]) -> None:
        for each in sorted(self._held.get(key, set()) - kept.keys()):
            self._drop(each)
        if not self._held.get(key):
            self._held.pop(key, None)

    def _drop(self, each: stores.Key) -> None:
        self._held[self._owners.pop(each)].discard(each)
        self._store.drop(*each)

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is not task:
            return
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()):
            log.error("bringing %s to Envoy failed", "/".join(key), exc_info=error)
            self._answered(key)
            self._witness.refused(key, "", f"{type(error).__name__}: {error}")
