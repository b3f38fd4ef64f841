"""What was changed by hand is put right; what is somebody else's is left alone."""

from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_REVISION
from slipway.kube.kinds import (
    CLUSTER_SERVING_RUNTIME,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    SERVICE,
)
from tests.control.world import World, changed_runtime, service
from tests.fake import controllers


def _edit(world: World, kind: Any, name: str, change: Any) -> None:
    world.store.edit(kind, "team", name, change, manager="kubectl-edit")


def _add_sidecar(live: Manifest) -> None:
    live["spec"]["template"]["spec"]["containers"].append({"name": "miner", "image": "evil"})


def _add_env(live: Manifest) -> None:
    live["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "X", "value": "1"})


def _other_image(live: Manifest) -> None:
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "evil"


def _scaled(live: Manifest) -> None:
    live["spec"]["replicas"] = 7


def _stripped(live: Manifest) -> None:
    del live["metadata"]["labels"][LABEL_REVISION]


def _unlabelled(live: Manifest) -> None:
    live["metadata"]["labels"] = {}


@pytest.mark.parametrize("edit", [_add_sidecar, _add_env, _other_image, _scaled, _stripped, _unlabelled])
async def test_an_edited_deployment_is_put_right(ready: World, edit: Any) -> None:
    before = ready.picture()
    _edit(ready, DEPLOYMENT, ready.status["stable"], edit)
    await ready.converge()
    assert ready.picture() == before


@pytest.mark.parametrize("kind", [DEPLOYMENT, SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY, CONTROLLER_REVISION])
async def test_deleted_children_come_back_the_same(ready: World, kind: Any) -> None:
    before = ready.picture()
    for name in ready.names(kind):
        ready.store.delete(kind, "team", name)
    controllers.gc(ready.store)
    await ready.converge()
    assert ready.picture() == before


async def test_a_deleted_deployment_comes_back_as_recorded_though_the_runtime_changed(ready: World) -> None:
    stable = ready.status["stable"]
    spec = ready.get(DEPLOYMENT, stable)["spec"]["template"]["spec"]
    ready.store.replace(CLUSTER_SERVING_RUNTIME, changed_runtime(ready))
    ready.store.delete(DEPLOYMENT, "team", stable)
    await ready.converge()
    assert ready.get(DEPLOYMENT, stable)["spec"]["template"]["spec"] == spec


async def test_an_edited_address_leads_to_the_gateways_again(ready: World) -> None:
    def edit(live: Manifest) -> None:
        live["spec"]["externalName"] = "elsewhere.example.com"

    before = ready.picture()
    _edit(ready, SERVICE, "hello", edit)
    await ready.converge()
    assert ready.picture() == before


def _paused(live: Manifest) -> None:
    live["spec"]["paused"] = True


def _one_more_port(live: Manifest) -> None:
    live["spec"]["ports"].append({"name": "admin", "port": 9, "protocol": "TCP", "targetPort": 9})


def _other_port(live: Manifest) -> None:
    live["spec"]["ports"][0]["port"] = 8888


def _open(live: Manifest) -> None:
    live["spec"]["egress"].append({})


def _external(live: Manifest) -> None:
    live["spec"]["externalIPs"] = ["1.2.3.4"]


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        (DEPLOYMENT, _paused),
        (SERVICE, _one_more_port),
        (SERVICE, _other_port),
        (SERVICE, _external),
        (NETWORK_POLICY, _open),
    ],
)
async def test_what_was_added_beside_is_taken_away(ready: World, kind: Any, edit: Any) -> None:
    before = ready.picture()
    for name in ready.names(kind):
        _edit(ready, kind, name, edit)
    await ready.converge()
    assert ready.picture() == before
    assert "DriftRepaired" in ready.recorder.reasons


@pytest.mark.parametrize("kind", [DEPLOYMENT, SERVICE, POD_DISRUPTION_BUDGET, NETWORK_POLICY, CONTROLLER_REVISION])
async def test_labels_taken_off_come_back(ready: World, kind: Any) -> None:
    before = ready.picture()
    for name in ready.names(kind):
        _edit(ready, kind, name, _unlabelled)
    await ready.converge()
    assert ready.picture() == before


# What is not ours


def _foreign_service() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hello", "namespace": "team"},
        "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]},
    }


async def test_a_foreign_service_of_that_name_is_a_conflict_and_stays_untouched() -> None:
    world = World()
    foreign = world.store.create(SERVICE, _foreign_service(), manager="somebody")
    world.user_applies(service())
    await world.converge()
    assert world.get(SERVICE, "hello") == foreign
    assert (world.condition("Ready")["reason"], world.condition("RoutesReady")["reason"]) == ("Conflict", "Conflict")
    world.store.delete(SERVICE, "team", "hello")
    world.wait(61)
    await world.converge()
    assert world.condition("Ready")["status"] == "True"


async def test_a_foreign_deployment_of_the_revisions_name_is_a_conflict(ready: World) -> None:
    name = ready.status["stable"]
    world = World()
    body = {key: value for key, value in ready.get(DEPLOYMENT, name).items() if key in ("apiVersion", "kind", "spec")}
    foreign = world.store.create(
        DEPLOYMENT, body | {"metadata": {"name": name, "namespace": "team"}}, manager="somebody"
    )
    world.user_applies(service())
    await world.operate()
    assert world.get(DEPLOYMENT, name) == foreign
    assert world.condition("Ready")["reason"] == world.condition("Stalled")["reason"] == "Conflict"
    assert f"Deployment {name}: belongs to somebody else" in world.condition("ModelLoaded")["message"]
