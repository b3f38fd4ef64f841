"""Store, stream and applier against a model of Envoy: whatever happens in whatever order, it ends where it should."""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.api.manifest import Key
from slipway.gateway.apply import HOLD_S, Applier, Wanted, missing, without_keys
from slipway.gateway.store import Key as StoreKey
from slipway.gateway.store import Resource, Store
from slipway.gateway.stream import Stream
from slipway.gateway.tables import Tables
from slipway.gateway.views import Endpoint, ServiceView
from slipway.gateway.xds import Kind
from tests.conftest import FULL
from tests.gateway.model_envoy import ModelEnvoy, resource
from tests.gateway.views import routing, view, wanted

POD = (Endpoint("10.0.0.1", 8080, 9000),)
TWO_PODS = (*POD, Endpoint("10.0.0.2", 8080, 9000))


def compile_(view: ServiceView, hosts: tuple[str, ...], routes: Mapping[StoreKey, Resource] | None = None) -> Tables:
    """A small stand-in for the renderer: slots are part of the cluster; version `bad...` is refused by Envoy."""
    name, targets = f"{view.namespace}/{view.name}", view.routing.targets
    of = {target.revision: f"{view.namespace}/{target.revision}" for target in targets}
    broken = view.routing.version
    clusters = {
        (Kind.CLUSTER, of[t.revision]): resource(endpoints=of[t.revision], slots=t.slots, bad=broken == "bad-cluster")
        for t in targets
    }
    pods = {
        (Kind.ENDPOINTS, of[t.revision]): resource(pods=[e.address for e in view.endpoints.get(t.revision, ())])
        for t in targets
    }
    weights = [[target.revision, target.weight] for target in targets]
    sleepy, holds = ([of[name] for name in sorted(names)] for names in (sleepers(view), view.held))
    route = resource(
        clusters=sorted(of.values()), weights=weights, bad=broken == "bad-route", sleepy=sleepy, holds=holds
    )
    scopes = {(Kind.SCOPE, host): resource(routes=name) for host in hosts}
    held = frozenset((Kind.ENDPOINTS, of[name]) for name in view.held if not view.endpoints.get(name))
    may = frozenset((Kind.ENDPOINTS, each) for each in sleepy)
    return Tables({**clusters, **pods}, routes or {(Kind.ROUTES, name): route, **scopes}, may, held)


def sleepers(view: ServiceView) -> set[str]:
    return {target.revision for target in view.routing.targets if target.hold_ms}


def holding(view: ServiceView) -> ServiceView:
    return dataclasses.replace(view, held=frozenset(name for name in sleepers(view) if not view.endpoints.get(name)))


@dataclass
class Witness:
    served: dict[Key, str] = field(default_factory=dict)
    complaints: dict[Key, str] = field(default_factory=dict)
    holds: list[str] = field(default_factory=list)
    emptied: list[Key] = field(default_factory=list)

    def taken(self, key: Key, wanted: Wanted | None) -> None:
        self.served.pop(key, None)
        if wanted:
            self.served[key] = wanted.view.routing.version

    def empties(self, key: Key, wanted: Wanted) -> None:
        self.emptied.append(key)

    def refused(self, key: Key, version: str, message: str) -> None:
        self.complaints[key] = message

    def healed(self, key: Key) -> None:
        del self.complaints[key]

    def held(self, key: Key, words: str) -> None:
        self.holds.append(words)


class World:
    """A gateway whose Envoy answers when it is told to."""

    def __init__(self, envoy: ModelEnvoy | None = None) -> None:
        self.store, self.witness, self.envoy = Store(), Witness(), envoy or ModelEnvoy()
        self.pods: dict[str, tuple[Endpoint, ...]] = {}
        self.keys: dict[str, tuple[str, ...]] = {}
        self.applier = Applier(self.store, compile_, self.now, self.witness)
        self.stream: Stream | None = None
        self.mail: deque[Any] = deque()

    def now(self, key: Key, found: Wanted) -> Wanted:
        revisions = [target.revision for target in found.view.routing.targets]
        endpoints = {revision: self.pods.get(revision, ()) for revision in revisions}
        latest = self.applier._wishes.get(key, found)
        return Wanted(holding(dataclasses.replace(found.view, endpoints=endpoints, keys=self.keys)), latest.hosts)

    def connect(self) -> None:
        self.mail.clear()
        self.stream = Stream(self.store, lambda: None)
        self.store.follow(self.stream)
        for request in self.envoy.connect():
            self.stream.receive(request)

    def step(self) -> bool:
        """One answer goes to Envoy and its requests come back."""
        if self.stream is None or (response := self.stream.due()) is None:
            return False
        for request in self.envoy.receive(response):
            self.stream.receive(request)
        return True

    async def rest(self) -> None:
        """Until nothing moves any more."""
        for _ in range(8):
            await asyncio.sleep(2)
            while self.step():
                await asyncio.sleep(0)

    def served(self) -> dict[str, list[Any]]:
        """Host -> weights, as Envoy has them."""
        has = self.envoy.has
        return {
            host: has[Kind.ROUTES][body["routes"]][1]["weights"]
            for host, (_, body) in has[Kind.SCOPE].items()
            if body["routes"] in has[Kind.ROUTES]
        }


def run(work: Coroutine[Any, Any, None]) -> None:
    """To its end, in virtual time."""
    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


NAMES, VERSIONS = ("a", "b", "c"), ("v1", "v2", "v3", "bad-route", "bad-cluster")
TABLES = {
    "v1": {"r1": 10_000},
    "v2": {"r2": 100, "r1": 9_900},
    "v3": {"r2": 10_000},
    "bad-route": {"r3": 1, "r1": 9_999},
    "bad-cluster": {"r4": 1, "r1": 9_999},
}
WISHES = st.tuples(
    st.just("want"),
    st.sampled_from(NAMES),
    st.sampled_from(VERSIONS),
    st.sampled_from([(), POD, TWO_PODS]),
    st.booleans(),
)
STEPS = WISHES | st.tuples(
    st.sampled_from(["remove", "envoy", "stream lost", "envoy restarts", "agent restarts", "wait", "rest"]),
    st.sampled_from(NAMES),
)


def service(name: str, version: str, pods: tuple[Endpoint, ...], *, has_shared_host: bool) -> Wanted:
    weights = {f"{name}-{revision}": weight for revision, weight in TABLES[version].items()}
    table = routing(version, weights, hold_ms=0 if name == "a" else 1000)
    found = holding(view(name, table=table, endpoints=dict.fromkeys(weights, pods)))
    return wanted(found, f"{name}.ns", *(["shared"] if has_shared_host else []))


class Story:
    """What is wanted, and the last of it that Envoy could take: what must be served in the end."""

    def __init__(self) -> None:
        self.world = World()
        self.world.connect()
        self.wishes: dict[str, Wanted] = {}

    async def tell(self, step: Any) -> None:
        match step:
            case ("want", name, version, pods, is_shared):
                # One service at a time has the host, as they are settled; it may move in one step.
                if is_shared:
                    await self._give_up_shared(name)
                self._want(name, service(name, version, pods, has_shared_host=is_shared))
            case ("remove", name):
                self.wishes.pop(name, None)
                self.world.applier.want(("ns", name), None)
            case ("envoy", _):
                self.world.step()
            case ("stream lost", _):
                self.world.connect()
            case ("rest", _):
                await turn(self.world)
            case ("envoy restarts", _):
                self.world.envoy = ModelEnvoy()
                self.world.connect()
            case ("agent restarts", _):
                await self._restart()
            case _:
                await asyncio.sleep(0.4)
        await asyncio.sleep(0)

    def _want(self, name: str, wish: Wanted) -> None:
        self.wishes[name] = wish
        self.world.applier.want(("ns", name), wish)

    async def _give_up_shared(self, winner: str) -> None:
        for name, wish in self.wishes.items():
            if name != winner and "shared" in wish.hosts:
                self._want(name, Wanted(wish.view, (f"{name}.ns",)))

    async def _restart(self) -> None:
        """The new process knows what was taken from its disk, then what is wanted from the API server."""
        old = self.world
        await old.applier.close()
        self.world = World(old.envoy)
        for key, (before, _) in old.applier._applied.items():
            self.world.applier.restore(key, before)
        self.world.connect()
        for key in list(old.applier._applied):
            if key[1] not in self.wishes:
                self.world.applier.want(key, None)
        for name, wish in self.wishes.items():
            self.world.applier.want(("ns", name), wish)


@pytest.mark.timeout(300)
@settings(max_examples=3000 if FULL else 300)
@given(st.lists(STEPS, min_size=1, max_size=40))
def test_envoy_converges_and_is_never_led_to_a_cluster_that_is_not_warm(steps: list[Any]) -> None:
    async def main() -> None:
        story = Story()
        try:
            for step in steps:
                await story.tell(step)
            story.world.store.settle()
            await story.world.rest()
            check(story)
        finally:
            await story.world.applier.close()

    run(main())


def check(story: Story) -> None:
    world, has = story.world, story.world.envoy.has
    assert world.applier.settled.is_set()
    good = {name: wish for name, wish in story.wishes.items() if not wish.view.routing.version.startswith("bad")}
    for name, wish in good.items():
        tables = compile_(wish.view, wish.hosts)
        for (kind, each), expected in tables.all.items():
            assert has[kind].get(each, ("missing",))[0] == expected.version, f"{kind} {each}"
        assert world.witness.served["ns", name] == wish.view.routing.version
        assert ("ns", name) not in world.witness.complaints
    for name in story.wishes.keys() - good.keys():
        assert ("ns", name) in world.witness.complaints
    # Nothing is left of what nobody wants: what Envoy says it has is in the store, which ends as something it took.
    for kind in (Kind.CLUSTER, Kind.SCOPE):
        assert world.envoy.taken[kind] == {each: found.version for each, found in world.store.resources[kind].items()}
    served = {f"{key[1]}.{key[0]}" for key in world.witness.served}
    assert {host for host in world.served() if host != "shared"} == served


def test_words_of_envoy_that_quote_a_key_are_passed_on_without_it() -> None:
    found = view(keys={"web": ('a"b', "plain-key"), "other": ("plain-key-2",)})
    words = 'refused in credentials { key: "a\\"b" } credentials { key: "plain-key" } and plain-key-2'
    assert without_keys(words, found) == ('refused in credentials { key: "***" } credentials { key: "***" } and ***')


def table(version: str, pods: Mapping[str, tuple[Endpoint, ...]], **keys: tuple[str, ...]) -> Wanted:
    weights = TABLES[version]
    found = view(table=routing(version, weights), endpoints={name: pods.get(name, ()) for name in weights}, keys=keys)
    return wanted(found, "a.ns")


def told(story: Callable[[World], Coroutine[Any, Any, None]]) -> World:
    """A gateway that serves v1 with one pod, and what happened to it then."""
    world = World()

    async def main() -> None:
        world.connect()
        world.pods = {"r1": POD}
        world.applier.want(("ns", "a"), table("v1", world.pods))
        await turn(world)
        try:
            await story(world)
        finally:
            await world.applier.close()

    run(main())
    return world


async def turn(world: World) -> None:
    """Envoy answers everything; no time to speak of goes by."""
    for _ in range(10):
        await asyncio.sleep(0.01)
        while world.step():
            await asyncio.sleep(0)


def pods_of(world: World, revision: str) -> list[str]:
    return world.envoy.has[Kind.ENDPOINTS][f"ns/{revision}"][1]["pods"]  # type: ignore[no-any-return]


def test_a_table_waits_for_pods_that_are_not_known_yet_and_is_taken_as_they_come() -> None:
    async def story(world: World) -> None:
        world.applier.want(("ns", "a"), table("v3", world.pods))
        await turn(world)
        assert world.witness.served["ns", "a"] == "v1"
        assert world.applier.settled.is_set()
        assert world.witness.holds == ["routing v3 waits up to 10 s for ready pods of r2"]
        world.pods = {"r1": TWO_PODS, "r2": POD}
        world.applier.want(("ns", "a"), table("v3", world.pods))
        await turn(world)
        assert world.witness.served["ns", "a"] == "v3"

    assert told(story).witness.holds[1:] == [""]


def test_a_table_waits_for_the_pods_that_get_copies_too() -> None:
    """A copy that finds no pod would count against the revision that is to be judged by copies."""
    table_of = routing("v3", {"r2": 0, "r1": 10_000}, mirror={"revision": "r2", "share": 100})
    assert missing(table_of, view(table=routing("v1")), {"r1": POD}) == ["r2"]
    assert missing(table_of, view(table=routing("v1")), {"r1": POD, "r2": POD}) == []


def test_pods_that_never_come_hold_a_table_for_a_bounded_time_whatever_else_changes() -> None:
    async def story(world: World) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while world.witness.served["ns", "a"] == "v1" and loop.time() < started + 3 * HOLD_S:
            world.pods = {"r1": TWO_PODS if world.pods["r1"] == POD else POD}
            world.applier.want(("ns", "a"), table("v3", world.pods, web=(f"{loop.time()}",)))
            await asyncio.sleep(0.5)
            await turn(world)
        assert HOLD_S <= loop.time() - started < HOLD_S + 2

    assert told(story).witness.holds[-1] == ""


def test_while_a_table_waits_the_one_that_serves_follows_its_pods() -> None:
    async def story(world: World) -> None:
        world.applier.want(("ns", "a"), table("v3", world.pods))
        await turn(world)
        world.pods = {"r1": TWO_PODS}
        world.applier.want(("ns", "a"), table("v3", world.pods))
        await turn(world)
        assert pods_of(world, "r1") == ["10.0.0.1", "10.0.0.2"]
        assert world.witness.served["ns", "a"] == "v1"

    told(story)


def test_a_table_does_not_wait_for_pods_that_the_one_that_serves_lacks_too() -> None:
    async def story(world: World) -> None:
        world.pods = {}
        world.applier.want(("ns", "a"), table("v2", {"r2": POD}))
        await turn(world)
        assert world.witness.served["ns", "a"] == "v2"

    told(story)


@pytest.mark.parametrize("version", ["bad-route", "bad-cluster"])
def test_while_envoy_refuses_a_table_the_one_that_serves_has_the_keys_and_pods_of_now(version: str) -> None:
    async def story(world: World) -> None:
        everywhere = dict.fromkeys(("r1", "r3", "r4"), POD)
        world.applier.want(("ns", "a"), table(version, everywhere))
        await turn(world)
        assert ("ns", "a") in world.witness.complaints
        world.keys, world.pods = {"web": ("new",)}, {"r1": TWO_PODS}
        world.applier.want(("ns", "a"), table(version, everywhere))
        await turn(world)
        assert pods_of(world, "r1") == ["10.0.0.1", "10.0.0.2"]
        served, _ = world.applier._applied["ns", "a"]
        assert (served.view.routing.version, served.view.keys) == ("v1", world.keys)
        assert ("ns", "a") in world.witness.complaints

    told(story)


def test_pods_that_changed_while_envoy_refused_a_table_are_served_at_once() -> None:
    async def story(world: World) -> None:
        world.pods = {"r1": TWO_PODS}
        world.applier.want(("ns", "a"), table("bad-route", {"r1": TWO_PODS, "r3": POD}))
        await turn(world)
        assert pods_of(world, "r1") == ["10.0.0.1", "10.0.0.2"]

    told(story)


def test_a_change_of_pods_renders_no_routes_and_between_two_services_the_loop_goes_round() -> None:
    rendered: list[tuple[str, bool, int]] = []

    async def main() -> None:
        world, rounds = World(), 0

        def compiling(
            found: ServiceView, hosts: tuple[str, ...], routes: Mapping[StoreKey, Resource] | None = None
        ) -> Tables:
            rendered.append((found.name, routes is None, rounds))
            return compile_(found, hosts, routes)

        world.applier._compile = compiling  # type: ignore[assignment]
        world.connect()
        for pods in (POD, TWO_PODS):
            for name in ("a", "b"):
                world.applier.want(("ns", name), service(name, "v1", pods, has_shared_host=False))
            for _ in range(20):
                rounds += 1
                await asyncio.sleep(0)
            await turn(world)
        await world.applier.close()

    run(main())
    assert [entry[:2] for entry in rendered] == [("a", True), ("b", True), ("a", False), ("b", False)]
    assert len({entry[2] for entry in rendered}) == 4
