"""Whatever happens, in whatever order: properties of the plan over random histories of a service."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Manifest
from slipway.api.names import ABORT, COMMAND
from slipway.api.scaled import ScalingState, Trust, Zero
from slipway.api.traffic import WHOLE
from slipway.control.reconcile import is_owned
from slipway.decide.demand import Demand
from slipway.decide.plan import plan
from slipway.decide.release import Sample
from slipway.decide.scaled import ASLEEP
from slipway.decide.scaling.types import Code, Reason
from slipway.decide.types import Create, Delete, Observed, Plan, Replace, Scale, SetStatus
from slipway.kube.kinds import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    POD_DISRUPTION_BUDGET,
    SERVICE,
)
from tests.control.world import KEY, Demanded, World, drive, service, split
from tests.fake import controllers
from tests.fake.controllers import Failure
from tests.fake.gateways import FakeGateway

pytestmark = pytest.mark.timeout(300)  # each takes up to 5 s of CPU, and a machine may do other things

Step = Callable[[World], None]


def _uses(uri: str, replicas: int) -> Step:
    return lambda world: world.user_applies(service(uri, replicas=replicas))


def _splits(uri: str, weight: str, **more: Any) -> Step:
    return lambda world: world.user_applies(split(uri, weight, **more))


def _loses_a_gateway(world: World) -> None:
    """It hears nothing any more, and goes on with what it has."""
    world.gateways.pods["gw-b"].is_silent = True


def _gateway_taken_out(world: World) -> None:
    world.gateways.pods["gw-b"].takes_traffic = not world.gateways.pods["gw-b"].is_silent


def _gateway_back(world: World) -> None:
    world.gateways.pods["gw-b"] = FakeGateway()
    world.gateways.take()


def _refused(world: World) -> None:
    world.user_applies(service(model={"runtime": "nope"}))


def _settles(world: World) -> None:
    controllers.gc(world.store)
    controllers.settle(world.store)


def _fails(world: World) -> None:
    controllers.gc(world.store)
    controllers.settle(world.store, failure=Failure(exit_code=66, message="no such model"))


def _b_fails(world: World) -> None:
    failure = Failure(exit_code=66, message="no such model")
    controllers.settle(world.store, failure=failure, only=lambda d: "slipway.dev/variant" in d["metadata"]["labels"])


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
    def wipe(live: Manifest) -> None:
        live["status"] = {}

    world.store.edit(INFERENCE_SERVICE, *KEY, wipe, manager="somebody", subresource="status")


MOVING = {"Provisioning", "Shadowing", "Progressing", "Promoting", "RollingBack"}
CANARY = {"steps": [{"weight": "10%", "hold": "5s"}, {"weight": "50%"}], "analysis": {"minRequests": 50}}


def _releases(uri: str, **rollout: Any) -> Step:
    def release(world: World) -> None:
        wanted = service(uri, replicas=2)
        wanted["spec"]["rollout"] = CANARY | rollout
        world.user_applies(wanted)

    return release


def _requests(errors: int) -> Step:
    """Everybody who is led to is asked; a candidate may fail."""

    def ask(world: World) -> None:
        for target in (world.status.get("routing") or {"targets": []})["targets"]:
            is_candidate = target["revision"] != world.status.get("stable")
            sample = Sample(100, errors if is_candidate else 0)
            world.gateways.count(KEY, target["revision"], sample if target["weight"] else Sample())
        world.wait(6)

    return ask


def _says(text: str) -> Step:
    """A command, whose id is the time."""

    def annotate(world: World) -> None:
        def change(live: Manifest) -> None:
            verb = {ABORT: ""} if text == "abort" else {COMMAND: f"{text} "}
            words = {name: f"{start}{world.store.now.timestamp()}" for name, start in verb.items()}
            live["metadata"].setdefault("annotations", {}).update(words)

        world.store.edit(INFERENCE_SERVICE, *KEY, change, manager="kubectl-annotate")

    return annotate


def _scales(uri: str = "sample://hello", *, b: str = "", **rollout: Any) -> Step:
    """From zero to four replicas, as the load asks."""

    def scale(world: World) -> None:
        wanted = split("sample://hello-b", b) if b else service(uri)
        wanted["spec"]["scaling"] = {"minReplicas": 0, "maxReplicas": 4}
        if rollout:
            wanted["spec"]["rollout"] = CANARY | rollout
        world.user_applies(wanted)

    return scale


def _load(replicas: int, code: Code = Code.OBJECTIVE) -> Step:
    """What scaling decides for whoever answers; never down while a release is under way, as its contract is."""

    def ask(world: World) -> None:
        scaling, known = demanded(world), world.status.get("revisions", ())
        is_shifting = (world.status.get("rollout") or {}).get("phase") in MOVING
        for variant, role in (("", "Stable"), ("b", "Variant")):
            found = [one["name"] for one in known if (one["role"], one.get("variant", "")) == (role, variant)]
            before = scaling.of[variant].replicas if variant in scaling.of else 1
            number = max(1, before, replicas) if is_shifting else replicas
            zero = Zero(failed=int(code is Code.ACTIVATION_FAILED))
            heard = Trust(gateway=0.0)
            state = ScalingState(
                at=world.store.now.timestamp(), zero=zero, trust=heard, clock=60.0, in_flight=[4.0 * replicas]
            )
            scaling.of[variant] = Demand("".join(found), number, (Reason(code, "so many"),), state)

    return ask


def _nothing_decided(world: World) -> None:
    world.restart()
    demanded(world).of = {}


def demanded(world: World) -> Demanded:
    assert isinstance(world.scaling, Demanded)
    return world.scaling


STEPS: dict[str, Step] = {
    "v1 from zero": _scales(),
    "v1 and b from zero": _scales(b="10%"),
    "v1 and more of b from zero": _scales(b="90%"),
    "canary v7 from zero": _scales("sample://hello-v7", strategy="Canary"),
    "v8 from zero": _scales("sample://hello-v8"),
    "load needs none": _load(0, Code.IDLE),
    "load needs one": _load(1),
    "load needs three": _load(3),
    "load is given up": _load(0, Code.ACTIVATION_FAILED),
    "nothing is decided": _nothing_decided,
    "canary v3": _releases("sample://hello-v3"),
    "canary v4, borrowing": _releases("sample://hello-v4", capacity="Borrow"),
    "blue and green v5": _releases("sample://hello-v5", strategy="BlueGreen", steps=[]),
    "copies v6": _releases("sample://hello-v6", steps=[{"mirror": "10%"}, {"weight": "50%"}]),
    "requests": _requests(0),
    "requests fail": _requests(90),
    "abort": _says("abort"),
    "promote": _says("promote"),
    "promote-all": _says("promote-all"),
    "retry": _says("retry"),
    "rollback": _says("rollback"),
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
    "b 10 %": _splits("sample://hello-b", "10%", match=[{"header": "x-group", "exact": "beta"}]),
    "b' 25.5 %": _splits("sample://hello-b2", "25.5%"),
    "b too much": _splits("sample://hello-b", "10%", extra="95%"),
    "b fails": _b_fails,
    "gateway silent": _loses_a_gateway,
    "gateway taken out": _gateway_taken_out,
    "gateway back": _gateway_back,
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
def test_pods_go_only_when_no_gateway_leads_to_them(history: list[str]) -> None:
    """Nothing ready that any gateway which takes traffic still serves is deleted, whatever status says."""

    def check(world: World) -> None:
        reachable = {t["revision"] for table in world.gateways.serving(KEY) for t in table["targets"]}
        for action in _plan(world).actions:
            if isinstance(action, Delete) and action.target["kind"] == "Deployment":
                name = action.target["metadata"]["name"]
                assert name not in reachable or not _ready(world, name)

    drive(_live(history, check))


@given(histories)
def test_weights_sum_to_the_whole_and_lead_only_where_somebody_answers(history: list[str]) -> None:
    """In every routing ever written. Stable alone may be without a ready pod: there is nobody to stand in for it."""

    def check(world: World) -> None:
        for action in _plan(world).actions:
            if not isinstance(action, SetStatus) or "routing" not in action.body["status"]:
                continue
            table = action.body["status"]["routing"]
            assert sum(target["weight"] for target in table["targets"]) == WHOLE
            assert [target["variant"] for target in table["targets"]] == sorted(t["variant"] for t in table["targets"])
            stable = action.body["status"].get("stable", table["targets"][0]["revision"])
            led = {t["revision"] for t in table["targets"] if t["revision"] != stable and t["weight"]}
            led |= {rule["revision"] for rule in table["rules"]}
            led |= {table["mirror"]["revision"]} if "mirror" in table else set()
            held = {target["revision"] for target in table["targets"] if target.get("holdMs")}
            asleep = {one["revision"] for one in action.body["status"]["scaling"] if one["reason"] in ASLEEP}
            assert all(_ready(world, name) or name in held & asleep for name in led)

    drive(_live(history, check))


@given(histories)
def test_the_last_pod_goes_only_when_every_gateway_holds_its_requests(history: list[str]) -> None:
    def check(world: World) -> None:
        for action in _plan(world).actions:
            name = action.deployment["metadata"]["name"] if isinstance(action, Scale) else ""
            if not isinstance(action, Scale) or action.replicas or not _ready(world, name):
                continue
            for table in world.gateways.serving(KEY):
                assert all(t.get("holdMs") or not t["weight"] for t in table["targets"] if t["revision"] == name)

    drive(_live(history, check))


@given(histories)
def test_no_revision_is_given_more_replicas_than_all_requests_need(history: list[str]) -> None:
    """So a release never has more than twice as many, however many revisions there were."""

    def check(world: World) -> None:
        found = world.cache.service(KEY)
        scaling = (found or {})["spec"]["scaling"]
        if "maxReplicas" not in scaling or not demanded(world).of:
            return
        for action in _plan(world).actions:
            if isinstance(action, Scale) and action.replicas > action.deployment["spec"]["replicas"]:
                variant = action.deployment["metadata"]["labels"].get("slipway.dev/variant", "")
                assert action.replicas <= max(1, demanded(world).of[variant].replicas)

    drive(_live(history, check))


@given(histories)
def test_requests_never_leave_a_ready_revision_for_one_that_is_not(history: list[str]) -> None:
    def check(world: World) -> None:
        before = (world.status.get("routing") or {"targets": []})["targets"]
        stable = next((t["revision"] for t in before if not t["variant"]), None)
        for action in _plan(world).actions:
            if isinstance(action, SetStatus) and _ready(world, stable) and "routing" in action.body["status"]:
                after = next(t["revision"] for t in action.body["status"]["routing"]["targets"] if not t["variant"])
                assert _ready(world, after)

    drive(_live(history, check))


@given(histories)
def test_record_before_pods_and_pods_before_routing(history: list[str]) -> None:
    def check(world: World) -> None:
        recorded, running = set(world.names(CONTROLLER_REVISION)), set(world.names(DEPLOYMENT))
        for action in _plan(world).actions:
            if isinstance(action, Create):
                kind, name = action.body["kind"], action.body["metadata"]["name"]
                recorded |= {name} if kind == "ControllerRevision" else set()
                if kind == "Deployment":
                    assert name in recorded
                    running.add(name)
            if isinstance(action, SetStatus) and "routing" in action.body["status"]:
                assert {t["revision"] for t in action.body["status"]["routing"]["targets"]} <= running
            if isinstance(action, Delete) and action.target["kind"] == "Deployment":
                running.remove(action.target["metadata"]["name"])

    drive(_live(history, check))


def _ready(world: World, revision: str | None) -> int:
    live = world.store.get(DEPLOYMENT, "team", revision or "")
    return int((live or {}).get("status", {}).get("readyReplicas", 0))


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
        _gateway_back(world)
        demanded(world).of = {}
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
