"""What people and other controllers do to Slipway's objects is put right; what is not Slipway's is never touched."""
# ruff: noqa: E501 - the tables are one line a case

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from e2e.support.api import ApiError, Manifest
from e2e.support.audit import Audit
from e2e.support.installation import ACCOUNT, Installation
from e2e.support.manifests import LABEL_MANAGED_BY, LABEL_REVISION, LABEL_SERVICE, service
from e2e.support.team import CHILDREN, Team
from e2e.support.wait import until

SOON_S = 10
MASTERLESS = {"metadata": {"ownerReferences": None}}


@pytest.fixture(scope="module")
def hello(shared_slipway: Installation, shared_team: Team) -> Team:
    assert shared_slipway
    shared_team.apply(service())
    shared_team.wait_settled("hello")
    return shared_team


def picture(team: Team, name: str = "hello") -> dict[str, Any]:
    """All children as far as they are Slipway's to keep: spec or data, labels, owner."""
    uid = team.must_get("inferenceservices", name)["metadata"]["uid"]
    return {
        f"{resource} {item['metadata']['name']}": essence(item)
        for resource in CHILDREN
        for item in team.site.api.items(resource, team.name)
        if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", []))
    }


def essence(item: Manifest) -> Manifest:
    spec = {key: value for key, value in item.get("spec", {}).items() if not key.startswith("clusterIP")}
    ours = {key: value for key, value in item["metadata"].get("labels", {}).items() if key != "added"}
    return {"spec": spec, "data": item.get("data"), "labels": ours, "owners": item["metadata"]["ownerReferences"]}


def is_ending(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def assert_put_right(team: Team, disturb: Callable[[], object], *, deletes_pods: bool = False) -> None:
    """After `disturb` everything is as before within 10 s, and stays; the pods outlive what does not end them."""
    team.wait_settled("hello")
    # Pods that the scenario before let go take a few seconds to end; they are no part of the picture.
    until("earlier pods are gone", lambda: not any(map(is_ending, team.pods("hello"))), within_s=45)
    before, pods = picture(team), team.lives("hello")
    try:
        disturb()
        assert_as_before(team, before)
        if not deletes_pods:
            until("pods made by the edit are gone", lambda: team.lives("hello") == pods, within_s=45)
        # Addresses that were made anew are with the gateways a moment after the Service is as before.
        until("it answers", lambda: team.answers("hello", 1), within_s=45 if deletes_pods else SOON_S)
    except AssertionError:
        renew(team)  # the next scenario is not to stumble over what this one left
        raise


def assert_as_before(team: Team, before: dict[str, Any]) -> None:
    begin = time.monotonic()
    until(
        "everything is as before",
        lambda: picture(team) == before,
        within_s=SOON_S,
        seen=lambda: "\n".join(difference(before, picture(team))),
    )
    took = time.monotonic() - begin
    team.wait_settled("hello")
    assert difference(before, picture(team)) == [], "it stays"
    assert took <= SOON_S


def renew(team: Team) -> None:
    team.delete_service("hello")
    team.wait_gone("hello")
    team.apply(service())
    team.wait_settled("hello")


def difference(before: Any, now: Any, where: str = "") -> list[str]:
    """Every place that is not as it was, in a line."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [line for key in keys for line in difference(before.get(key), now.get(key), f"{where}.{key}")]
    return [] if before == now else [f"{where}: was {json.dumps(before)}, is {json.dumps(now)}"]


def revision(team: Team) -> str:
    return str(team.status("hello")["stable"])


def patched(resource: str, *operations: Manifest, of: Callable[[Team], str] = revision) -> Callable[[Team], object]:
    return lambda team: team.site.api.patch(resource, team.name, of(team), list(operations))


def named_hello(team: Team) -> str:
    assert team
    return "hello"


TEMPLATE = "/spec/template/spec"
SIDECAR = {"name": "spy", "image": "busybox", "securityContext": {"allowPrivilegeEscalation": False}}
DEPLOYMENT_EDITS = {
    "image": lambda team: team.kubectl("set", "image", f"deployment/{revision(team)}", "model=evil:latest"),
    "environment": lambda team: team.kubectl("set", "env", f"deployment/{revision(team)}", "LD_PRELOAD=/tmp/evil.so"),
    "sidecar": patched("deployments", {"op": "add", "path": f"{TEMPLATE}/containers/-", "value": SIDECAR}),
    "probe": patched("deployments", {"op": "remove", "path": f"{TEMPLATE}/containers/0/readinessProbe"}),
    "security": patched("deployments", {"op": "replace", "path": f"{TEMPLATE}/containers/0/securityContext/readOnlyRootFilesystem", "value": False}),
    "pod-label": patched("deployments", {"op": "add", "path": "/spec/template/metadata/labels/added", "value": "x"}),
    "strategy": patched("deployments", {"op": "replace", "path": "/spec/strategy", "value": {"type": "Recreate"}}),
    "paused": lambda team: team.kubectl("rollout", "pause", f"deployment/{revision(team)}"),
    "restarted": lambda team: team.kubectl("rollout", "restart", f"deployment/{revision(team)}"),
    "label-of-the-revision": lambda team: team.kubectl("label", "deployment", revision(team), f"{LABEL_REVISION}-"),
    "label-of-the-manager": lambda team: team.kubectl("label", "deployment", revision(team), f"{LABEL_MANAGED_BY}-"),
    "all-labels": patched("deployments", {"op": "replace", "path": "/metadata/labels", "value": {}}),
    "scaled-up": lambda team: team.kubectl("scale", "deployment", revision(team), "--replicas=3"),
}  # fmt: skip


@pytest.mark.parametrize("edit", DEPLOYMENT_EDITS.values(), ids=DEPLOYMENT_EDITS.keys())
def test_an_edited_deployment_is_put_right_and_its_pods_live_on(hello: Team, edit: Callable[[Team], object]) -> None:
    assert_put_right(hello, lambda: edit(hello))


def test_a_deployment_scaled_to_zero_comes_back(hello: Team) -> None:
    argv = ("scale", "deployment", revision(hello), "--replicas=0")
    assert_put_right(hello, lambda: hello.kubectl(*argv), deletes_pods=True)


def test_a_deleted_deployment_comes_back_the_same(hello: Team) -> None:
    argv = ("delete", "deployment", revision(hello), "--wait=false")
    assert_put_right(hello, lambda: hello.kubectl(*argv), deletes_pods=True)


def test_a_deployment_deleted_from_above_its_pods_takes_them_over_again(hello: Team) -> None:
    assert_put_right(hello, lambda: hello.kubectl("delete", "deployment", revision(hello), "--cascade=orphan"))


def test_a_deleted_pod_is_replaced(hello: Team) -> None:
    argv = ("delete", "pods", "--selector", f"{LABEL_SERVICE}=hello", "--wait=false")
    assert_put_right(hello, lambda: hello.kubectl(*argv), deletes_pods=True)


OTHER_EDITS = {
    "led-elsewhere": patched("services", {"op": "replace", "path": "/spec/externalName", "value": "evil.example"}, of=named_hello),
    "selector": patched("services", {"op": "add", "path": "/spec/selector", "value": {"app": "other"}}, of=named_hello),
    "one-more-port": patched("services", {"op": "add", "path": "/spec/ports/-", "value": {"name": "x", "port": 9}}, of=named_hello),
    "type": patched("services", {"op": "replace", "path": "/spec/type", "value": "NodePort"}, of=named_hello),
    "external-address": patched("services", {"op": "add", "path": "/spec/externalIPs", "value": ["192.0.2.1"]}, of=named_hello),
    "revision-pods-not-ready": patched("services", {"op": "add", "path": "/spec/publishNotReadyAddresses", "value": True}),
    "revision-port": patched("services", {"op": "replace", "path": "/spec/ports/0/port", "value": 8888}),
    "service-labels": patched("services", {"op": "replace", "path": "/metadata/labels", "value": {}}, of=named_hello),
    "service-deleted": lambda team: team.kubectl("delete", "service", "hello"),
    "revision-service-edited": patched("services", {"op": "add", "path": "/spec/selector/app", "value": "x"}),
    "revision-service-deleted": lambda team: team.kubectl("delete", "service", revision(team)),
    "budget-edited": patched("poddisruptionbudgets", {"op": "replace", "path": "/spec/maxUnavailable", "value": 0}, of=named_hello),
    "budget-deleted": lambda team: team.kubectl("delete", "pdb", "hello"),
    "record-deleted": lambda team: team.kubectl("delete", "controllerrevision", revision(team)),
    "everything-but-the-deployment-deleted": lambda team: team.kubectl("delete", "services,pdb,controllerrevisions", "--selector", f"{LABEL_SERVICE}=hello"),
}  # fmt: skip


@pytest.mark.parametrize("edit", OTHER_EDITS.values(), ids=OTHER_EDITS.keys())
def test_other_children_edited_or_deleted_are_put_right(hello: Team, edit: Callable[[Team], object]) -> None:
    assert_put_right(hello, lambda: edit(hello))


def test_a_status_written_by_hand_is_put_right(hello: Team) -> None:
    hello.wait_settled("hello")
    wrong = {"status": {"stable": "hello-0000000000", "url": "http://evil"}}
    argv = ("patch", "infsvc", "hello", "--subresource=status", "--type=merge", "--patch", json.dumps(wrong))
    before, pods = hello.status("hello")["stable"], hello.lives("hello")
    hello.kubectl(*argv)
    until(
        "the status is true again",
        lambda: hello.status("hello")["stable"] == before,
        within_s=SOON_S,
        seen=lambda: hello.digest("hello"),
    )
    assert hello.status("hello")["url"] == f"http://hello.{hello.name}"
    assert hello.wait_settled("hello")
    assert hello.lives("hello") == pods


def test_what_others_add_beside_ours_stays(hello: Team) -> None:
    """Labels and annotations are how other tools remember things; only what is ours is repaired."""
    name = revision(hello)
    [image] = {pod["spec"]["containers"][0]["image"] for pod in hello.pods("hello", name)}
    hello.kubectl("set", "image", f"deployment/{name}", "model=evil:latest")
    hello.kubectl("annotate", "deployment", name, "other.tool/seen=yes")
    hello.kubectl("label", "deployment", name, "added=by-another-tool")

    def live() -> Manifest:
        return hello.must_get("deployments", name)

    until(
        "it is repaired", lambda: live()["spec"]["template"]["spec"]["containers"][0]["image"] == image, within_s=SOON_S
    )
    assert live()["metadata"]["annotations"]["other.tool/seen"] == "yes"
    assert live()["metadata"]["labels"]["added"] == "by-another-tool"
    hello.wait_settled("hello")


# What is not ours


def test_a_foreign_service_of_that_name_is_a_conflict_and_stays_as_it_is(
    slipway: Installation, team: Team, audit: Audit
) -> None:
    assert slipway
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken", "labels": {LABEL_MANAGED_BY: "slipway", LABEL_SERVICE: "taken"}},
        "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]},
    }
    team.apply(foreign)
    before, mark = team.must_get("services", "taken"), audit.mark()
    team.apply(service("taken"))
    words = team.wait("taken", "Ready", "False", reason="Conflict", within_s=SOON_S)["message"]
    told = ("Service taken", "belongs to somebody else and is left alone", "rename this InferenceService")
    assert [word for word in told if word not in words] == [], words
    assert team.wait("taken", "RoutesReady", "False", reason="Conflict", within_s=SOON_S)
    team.wait("taken", "ModelLoaded")
    assert_untouched(team, audit, mark, "services", before)
    team.delete_service("taken")
    until("the InferenceService is gone", lambda: not team.get("inferenceservices", "taken"), within_s=30)
    until("and so are its pods", lambda: not team.pods("taken"), within_s=60)
    assert_untouched(team, audit, mark, "services", before)


def test_a_foreign_deployment_with_our_labels_is_never_touched(slipway: Installation, team: Team, audit: Audit) -> None:
    """Also not when it stands where a revision's Deployment would, as told by another namespace."""
    assert slipway
    team.apply(service("first"))
    name = until("a revision", lambda: team.names("deployments"), within_s=20)[0].replace("first-", "second-")
    labels = {LABEL_MANAGED_BY: "slipway", LABEL_SERVICE: "second", LABEL_REVISION: name}
    pods = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": pods}
    for foreign in (name, "second-0000000000"):
        about = {"name": foreign, "labels": labels}
        team.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": about, "spec": spec})
    for foreign in (name, "second-0000000000"):
        until("it is observed", lambda foreign=foreign: is_observed(team, foreign), within_s=20)  # type: ignore[misc]
    before, mark = [team.must_get("deployments", foreign) for foreign in (name, "second-0000000000")], audit.mark()
    team.apply(service("second"))
    told = until(
        "a condition speaks of it",
        lambda: in_conflict(team, "second"),
        within_s=SOON_S,
        seen=lambda: team.digest("second"),
    )
    assert name in told["message"]
    team.delete_service("second")
    until("the InferenceService is gone", lambda: not team.get("inferenceservices", "second"), within_s=30)
    for deployment in before:
        assert_untouched(team, audit, mark, "deployments", deployment)


def is_observed(team: Team, name: str) -> bool:
    live = team.must_get("deployments", name)
    status = live.get("status", {})
    conditions = {condition["type"]: condition["reason"] for condition in status.get("conditions", [])}
    is_current = bool(status.get("observedGeneration") == live["metadata"]["generation"])
    return is_current and conditions.get("Progressing") == "NewReplicaSetAvailable"


def in_conflict(team: Team, name: str) -> Manifest | None:
    ready = team.condition(name, "Ready")
    return ready if ready.get("reason") == "Conflict" else None


def assert_untouched(team: Team, audit: Audit, mark: int, resource: str, before: Manifest) -> None:
    about = before["metadata"]
    now = team.must_get(resource, about["name"])
    assert (now["metadata"]["uid"], now["metadata"]["resourceVersion"]) == (about["uid"], about["resourceVersion"])
    # A POST that the server refuses because the name is taken has touched nothing; anything else is an attempt.
    attempts = [
        str(entry)
        for entry in audit.entries(mark, user=ACCOUNT)
        if entry.is_write
        and (entry.resource, entry.namespace, entry.name) == (resource, team.name, about["name"])
        and not (entry.verb == "create" and entry.code == 409)
    ]
    assert attempts == []


def test_a_budget_of_somebody_else_is_left_alone_and_the_service_serves(
    slipway: Installation, team: Team, audit: Audit
) -> None:
    assert slipway
    spec = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "x"}}}
    team.apply({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "hello"}, "spec": spec})
    until(
        "it is observed",
        lambda: team.must_get("poddisruptionbudgets", "hello").get("status", {}).get("conditions"),
        within_s=20,
    )
    before, mark = team.must_get("poddisruptionbudgets", "hello"), audit.mark()
    team.apply(service())
    team.wait("hello", "Ready")
    assert "PodDisruptionBudget hello" in team.wait("hello", "Stalled", reason="Conflict")["message"]
    assert team.answers("hello", 1)
    assert_untouched(team, audit, mark, "poddisruptionbudgets", before)


def test_an_object_that_its_owner_was_taken_from_is_nobodys(slipway: Installation, team: Team, audit: Audit) -> None:
    """Who removes the owner reference has taken the object over; Slipway says so and does not fight."""
    assert slipway
    team.apply(service())
    team.wait_settled("hello")
    team.site.api.merge("services", team.name, "hello", MASTERLESS)
    before, mark = team.must_get("services", "hello"), audit.mark()
    team.wait("hello", "Ready", "False", reason="Conflict", within_s=SOON_S)
    assert_untouched(team, audit, mark, "services", before)
    with suppress(ApiError):
        team.site.api.delete("services", team.name, "hello")
