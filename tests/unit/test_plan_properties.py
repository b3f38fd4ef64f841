"""Whatever happens, in whatever order: properties of the plan over random histories of a service."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_REVISION
from slipway.control.reconcile import is_owned
from slipway.decide.plan import plan
from slipway.decide.types import Create, Delete, Observed, Plan, Replace, Scale
from slipway.kube.kinds import CONTROLLER_REVISION, DEPLOYMENT, POD_DISRUPTION_BUDGET, SERVICE
from tests.control.world import KEY, World, drive, service
from tests.fake import controllers
from tests.fake.controllers import Failure

Step = Callable[[World], None]


def _uses(uri: str, replicas: int) -> Step:
    return lambda world: world.user_applies(service(uri, replicas=replicas))


def _refused(world: World) -> None:
    world.user_applies(service(model={"runtime": "nope"}))


def _settles(world: World) -> None:
    controllers.gc(world.store)
    controllers.settle(world.store)


def _fails(world: World) -> None:
    controllers.gc(world.store)
    controllers.settle(world.store, failure=Failure(exit_code=66, message="no such model"))


def _loses(kind: Any) -> Step:
    def lose(world: World) -> None:
        for name in world.names(kind):
            world.store.delete(kind, "team", name)

    return lose


def _sidecar(world: World) -> None:
    def add(live: Manifest) -> None:
        live["spec"]["template"]["spec"]["containers"].append({"name": "miner", "image": "evil"})

    for name in world.names(DEPLOYMENT):
        world.store.edit(DEPLOYMENT, "team", name, add, manager="kubectl-edit")


def _status_wiped(world: World) -> None:
    from slipway.kube.kinds import INFERENCE_SERVICE  # noqa: PLC0415

    def wipe(live: Manifest) -> None:
        live["status"] = {}

    world.store.edit(INFERENCE_SERVICE, *KEY, wipe, manager="somebody", subresource="status")


STEPS: dict[str, Step] = {
    "v1": _uses("sample://hello", 1),
    "v2 x3": _uses("sample://hello-v2", 3),
    "refused": _refused,
    "settles": _settles,
    "fails": _fails,
    "waits": lambda world: world.wait(6),
    "restarts": World.restart,
    "loses deployments": _loses(DEPLOYMENT),
    "loses services": _loses(SERVICE),
    "loses budgets": _loses(POD_DISRUPTION_BUDGET),
    "loses records": _loses(CONTROLLER_REVISION),
    "sidecar": _sidecar,
    "status wiped": _status_wiped,
}
histories = st.lists(st.sampled_from(sorted(STEPS)), max_size=8)


def _observe(world: World) -> Observed:
    found = world.cache.service(KEY)
    assert found is not None
    return world.reconciler._observe(KEY, found)


def _plan(world: World, observed: Observed | None = None) -> Plan:
    return plan(observed or _observe(world), world.config, world.store.now)


async def _live(history: list[str], check: Callable[[World], None]) -> None:
    world = World()
    world.user_applies(service())
    for name in history:
        STEPS[name](world)
        check(world)
        await world.operate()
        check(world)


def _shuffled(observed: Observed, seed: int) -> Observed:
    rng = random.Random(seed)  # noqa: S311
    many = {f.name: getattr(observed, f.name) for f in dataclasses.fields(observed)}
    changed: dict[str, Any] = {
        name: tuple(rng.sample(value, len(value))) for name, value in many.items() if isinstance(value, tuple)
    }
    return dataclasses.replace(observed, **changed)


@given(histories)
def test_a_plan_carried_out_leaves_nothing_to_plan(history: list[str]) -> None:
    async def live() -> None:
        world = World()
        world.user_applies(service())
        for name in history:
            STEPS[name](world)
            await world.operate()
            assert _plan(world).actions == ()

    drive(live())


@given(histories, st.integers(0, 9))
def test_the_order_of_observations_does_not_matter(history: list[str], seed: int) -> None:
    def check(world: World) -> None:
        observed = _observe(world)
        assert _plan(world, _shuffled(observed, seed)) == _plan(world, observed)

    drive(_live(history, check))


@given(histories)
def test_only_owned_objects_are_changed_and_deletes_name_the_very_object(history: list[str]) -> None:
    def check(world: World) -> None:
        owner = world.cache.service(KEY)
        assert owner is not None
        for action in _plan(world).actions:
            if isinstance(action, Delete):
                assert is_owned(action.target, owner)
                assert action.target["metadata"]["uid"]
            if isinstance(action, Create | Replace):
                assert is_owned(action.body, owner)

    drive(_live(history, check))


@given(histories)
def test_pods_go_only_when_the_address_has_left_them(history: list[str]) -> None:
    """Nothing ready that the address selects is deleted, and it never leaves a ready revision for one that is not."""

    def check(world: World) -> None:
        selected = {name: _selected(world, name) for name in world.names(SERVICE)}.get("hello")
        for action in _plan(world).actions:
            if isinstance(action, Delete) and action.target["kind"] == "Deployment":
                assert action.target["metadata"]["name"] != selected or not _ready(world, selected)
            if isinstance(action, Replace) and action.body["metadata"]["name"] == "hello" and _ready(world, selected):
                assert _ready(world, action.body["spec"]["selector"][LABEL_REVISION])

    drive(_live(history, check))


@given(histories)
def test_record_before_pods_and_pods_before_address_and_address_before_removal(history: list[str]) -> None:
    def check(world: World) -> None:
        recorded, running = set(world.names(CONTROLLER_REVISION)), set(world.names(DEPLOYMENT))
        leads_to = {name: _selected(world, name) for name in world.names(SERVICE)}.get("hello")
        for action in _plan(world).actions:
            if isinstance(action, Create | Replace):
                kind, name = action.body["kind"], action.body["metadata"]["name"]
                if kind == "ControllerRevision":
                    recorded.add(name)
                elif kind == "Deployment":
                    assert name in recorded
                    running.add(name)
                elif (kind, name) == ("Service", "hello"):
                    leads_to = action.body["spec"]["selector"][LABEL_REVISION]
                    assert leads_to in running
            if isinstance(action, Delete) and action.target["kind"] == "Deployment":
                assert action.target["metadata"]["name"] != leads_to

    drive(_live(history, check))


def _ready(world: World, revision: str | None) -> int:
    live = world.store.get(DEPLOYMENT, "team", revision or "")
    return int((live or {}).get("status", {}).get("readyReplicas", 0))


def _selected(world: World, name: str) -> str | None:
    selected: str | None = world.get(SERVICE, name)["spec"]["selector"].get(LABEL_REVISION)
    return selected


@given(histories)
def test_the_same_spec_applied_again_writes_nothing(history: list[str]) -> None:
    async def live() -> None:
        world = World()
        world.user_applies(service())
        for name in history:
            STEPS[name](world)
        await world.converge()
        before = len(world.kube.writes)
        world.restart()
        await world.operate()
        assert len(world.kube.writes) == 0, f"after {before} writes"

    drive(live())


@given(histories)
def test_every_history_ends_well_once_the_spec_is_good_and_pods_start(history: list[str]) -> None:
    async def live() -> None:
        world = World()
        world.user_applies(service())
        for name in history:
            STEPS[name](world)
            await world.operate()
        world.user_applies(service("sample://hello-v2", replicas=2))
        await world.converge()
        await world.converge()
        assert world.condition("Ready")["status"] == "True"
        assert world.condition("Stalled") == world.condition("Reconciling") == {}
        assert world.names(DEPLOYMENT) == [world.status["stable"]]
        assert world.get(DEPLOYMENT, world.status["stable"])["spec"]["replicas"] == 2

    drive(live())


@given(histories)
def test_replicas_are_changed_by_scaling_only(history: list[str]) -> None:
    def check(world: World) -> None:
        for action in _plan(world).actions:
            if isinstance(action, Replace) and action.body["kind"] == "Deployment":
                live = world.get(DEPLOYMENT, action.body["metadata"]["name"])
                assert action.body["spec"]["replicas"] == live["spec"]["replicas"]
            if isinstance(action, Scale):
                assert action.replicas != action.deployment["spec"]["replicas"]

    drive(_live(history, check))
