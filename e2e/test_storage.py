"""Models from a store: they answer, or their owner is told why within seconds; who sees the keys, and who the pods are.

All services are started before the first scenario looks, a few at a time: most of their time is waiting, and more pods
that start at once than the node has processors for keep the operator from telling anything.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from e2e.support import store as stores
from e2e.support import team as teams
from e2e.support.api import Manifest
from e2e.support.audit import Audit
from e2e.support.history import History, recorded
from e2e.support.installation import NAMESPACE, Installation
from e2e.support.manifests import LABEL_SERVICE, service
from e2e.support.store import Store
from e2e.support.team import Team
from e2e.support.wait import until

SOON_S = 15
AT_ONCE = 4
ANSWER = [3, 5, 7, 9]
ZEROS = "0" * 64


@dataclass(frozen=True, slots=True)
class Case:
    """A model that cannot be fetched, and what its owner must be told."""

    name: str
    uri: str
    storage: dict[str, Any]
    reason: str
    words: tuple[str, ...]
    stalls: bool = True
    """Whether somebody must change something."""


READER = {"secretName": "reader"}
ALLOWED = "cloud-reader"
"""A ServiceAccount that the administrator lets models run under."""
WELL = {"from-s3": "s3://models/hello", "one-archive": "s3://models/packed.tar.gz", "cut-off": "s3://models/cut/"}
BROKEN = (
    Case("stranger", "s3://models/hello", {"secretName": "stranger"}, "AccessDenied", ("Secret 'stranger'",)),
    Case("no-secret", "s3://models/hello", {"secretName": "none"}, "AccessDenied", ("Secret 'none' does not exist",)),
    Case("missing", "s3://models/gone", READER, "ModelNotFound", ("there is nothing at 's3://models/gone'",)),
    Case(
        "digest", "s3://models/hello", READER | {"sha256": ZEROS}, "ChecksumMismatch", (f"not storage.sha256, {ZEROS}",)
    ),
    Case("bomb", "s3://models/bomb.tar.gz", READER, "LimitExceeded", ("which only a bomb does",)),
    Case("climbs", "s3://models/climbs.tar", READER, "ArchiveRefused", ("leaves the model's folder",)),
    Case("large", "s3://models/slow/", READER | {"maxSize": "1Ki"}, "LimitExceeded", ("has more than 1.0 KiB",)),
    Case("failing", "s3://models/failing/", READER, "StoreUnavailable", ("answers 503",), stalls=False),
    Case("slow", "s3://models/slow/", READER, "StoreTooSlow", ("less than the 16.0 KiB/s",), stalls=False),
    Case(
        "metadata",
        "s3://models/hello",
        READER | {"endpoint": "https://169.254.169.254"},
        "SourceRefused",
        ("metadata",),
    ),
    Case(
        "inside",
        "https://kubernetes.default.svc/openapi/v3",
        {},
        "SourceRefused",
        ("inside the cluster or its network; an administrator can allow it",),
    ),
    Case("notation", "https://2852039166/latest", {}, "StorageUriInvalid", ("an address in an unusual notation",)),
)


@dataclass(frozen=True, slots=True)
class Ward:
    store: Store
    pods: History

    @property
    def team(self) -> Team:
        return self.store.team


def from_store(store: Store, name: str, uri: str, storage: dict[str, Any]) -> Manifest:
    """A service whose model comes from the store, unless `storage` names another."""
    there = {"endpoint": store.endpoint} if uri.startswith("s3://") else {}
    told: dict[str, Any] = {"storage": there | storage} if there or storage else {}
    return service(name, uri, **told)


@pytest.fixture(scope="module")
def ward(shared_slipway: Installation, shared_team: Team) -> Iterator[Ward]:
    told = (f"fetch.policy.insideHosts={{{stores.INSIDE}}}", f"modelServiceAccounts={{{ALLOWED}}}")
    policies = ("networkPolicy.models.enabled=true",)
    shared_slipway.upgrade(*(argument for value in told + policies for argument in ("--set", value)))
    store = stores.start(shared_team)
    with ExitStack() as stack:
        pods = stack.enter_context(recorded(shared_team.site.api, "pods", shared_team.name))
        shared_team.start_client()
        shared_team.apply(*(from_store(store, name, uri, READER) for name, uri in WELL.items()))
        for name in WELL:
            shared_team.wait_settled(name)
        for begin in range(0, len(BROKEN), AT_ONCE):
            batch = BROKEN[begin : begin + AT_ONCE]
            shared_team.apply(*(from_store(store, case.name, case.uri, case.storage) for case in batch))
            for case in batch:
                until(f"a fetch of {case.name} failed", partial(first_failure, pods, case.name), within_s=120)
        yield Ward(store, pods)
    shared_slipway.upgrade()
    until("no NetworkPolicy is left", lambda: not shared_team.names("networkpolicies"), within_s=60)


@pytest.mark.parametrize("name", WELL)
def test_a_model_from_a_store_answers(ward: Ward, name: str) -> None:
    ward.team.wait_settled(name)
    assert ward.team.predict(name) == ANSWER


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_model_that_cannot_be_fetched_is_told_by_name(ward: Ward, case: Case) -> None:
    team = ward.team
    loaded = team.wait(case.name, "ModelLoaded", "False", reason=case.reason, within_s=120)
    assert [word for word in case.words if word not in loaded["message"]] == [], loaded["message"]
    event = until(
        f"an Event {case.reason} about {case.name}",
        lambda: next((event for event in team.events(case.name) if event["reason"] == case.reason), None),
        within_s=10,
        seen=lambda: team.events(case.name),
    )
    told = datetime.fromisoformat(event["eventTime"]).timestamp() - failed_at(ward, case.name)
    assert told <= SOON_S, f"told {told:.1f} s after the failure"
    if case.stalls:
        team.wait(case.name, "Stalled", "True", reason=case.reason, within_s=60)
    assert [pod for pod in team.pods(case.name) if started(pod)] == [], "nothing that is not whole is served"


def failed_at(ward: Ward, name: str) -> float:
    """When a fetch of this service failed for the first time, by the kubelet's clock."""
    failure = first_failure(ward.pods, name)
    assert failure is not None, f"no fetch of {name} failed"
    return failure


def first_failure(pods: History, name: str) -> float | None:
    for change in pods.changes.copy():
        if change.object["metadata"].get("labels", {}).get(LABEL_SERVICE) == name:
            for container in change.object.get("status", {}).get("initContainerStatuses", []):
                for state in (container.get("lastState", {}), container.get("state", {})):
                    if state.get("terminated", {}).get("exitCode"):
                        return datetime.fromisoformat(state["terminated"]["finishedAt"]).timestamp()
    return None


def started(pod: Manifest) -> bool:
    """Whether its server has ever begun."""
    return any("running" in each.get("state", {}) for each in pod.get("status", {}).get("containerStatuses", []))


def test_how_far_a_download_is_can_be_read_in_the_status(ward: Ward) -> None:
    team = ward.team
    team.apply(from_store(ward.store, "far", "s3://models/steady/", READER))

    def download() -> Manifest | None:
        found = [revision.get("download") for revision in team.status("far").get("revisions", [])]
        return found[0] if found else None

    told = until("the status tells of the download", download, within_s=90, seen=lambda: team.digest("far"))
    assert 0 <= told["percent"] < 100
    assert told["mibPerSecond"] >= 0
    assert "MiB/s" in team.condition("far", "ModelLoaded")["message"]
    team.delete_service("far")


def test_the_pods_of_each_service_have_the_network_that_the_administrator_says(ward: Ward) -> None:
    """The local cluster enforces none: what is looked at is the policy that a cluster which does would follow."""
    team, name = ward.team, "from-s3"
    spec = team.must_get("networkpolicies", name)["spec"]
    assert spec["podSelector"] == {"matchLabels": {LABEL_SERVICE: name}}
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[53, 53], [443]]
    assert all(rule["from"] for rule in spec["ingress"]), "nobody but those who are named"


def test_a_model_runs_under_an_allowed_serviceaccount_without_a_token_of_it(ward: Ward) -> None:
    team = ward.team
    team.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ALLOWED}})
    for name, account in (("known", ALLOWED), ("unknown", "builder")):
        made = service(name)
        made["spec"]["predictor"]["serviceAccountName"] = account
        team.apply(made)
    told = team.wait("unknown", "Accepted", "False", reason="ServiceAccountRefused")
    assert "may not run as ServiceAccount builder" in told["message"]
    assert team.pods("unknown") == []
    team.wait_settled("known")
    [pod] = team.pods("known")
    assert pod["spec"]["serviceAccountName"] == ALLOWED
    assert [one for one in pod["spec"]["volumes"] if "projected" in one or "secret" in one] == []
    for name in ("known", "unknown"):
        team.delete_service(name)


def test_keys_are_seen_by_the_fetcher_alone(ward: Ward) -> None:
    """Not by the server, and in no object but the Secret, no event and no log."""
    team, name = ward.team, "from-s3"
    team.wait_settled(name)
    [pod] = team.pods(name)
    refs = {c["name"]: json.dumps(c) for c in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]}
    assert ("reader" in refs["fetch"], "reader" in refs["model"]) == (True, False)
    kinds = "pods,events,inferenceservices,deployments,controllerrevisions,configmaps,services"
    said = team.kubectl("get", kinds, "--output", "json")
    for broken in ("failing", "stranger", name):
        for each in team.pods(broken):
            where = ("--namespace", team.name, "logs", each["metadata"]["name"], "--container", "fetch")
            said += team.site.try_kubectl(*where).stdout
    assert f"{WELL[name]}: " in said, "there were logs to look at"
    assert ward.store.password not in said
    assert "X-Amz-Signature" not in said


def test_another_tenant_gets_neither_the_model_nor_the_secret(ward: Ward, audit: Audit) -> None:
    """By the same words in another namespace; and no tenant's pod has ever asked the API server for anything."""
    other = teams.make(ward.team.site, f"other-{secrets.token_hex(2)}")
    try:
        other.apply(from_store(ward.store, "from-s3", "s3://models/hello", READER))
        told = other.wait("from-s3", "ModelLoaded", "False", reason="AccessDenied", within_s=120)
        assert "Secret 'reader' does not exist" in told["message"]
        assert [pod for pod in other.pods("from-s3") if started(pod)] == []
        for name in (ward.team.name, other.name):
            asked = [str(entry) for entry in audit.entries(audit.begin, user=f"system:serviceaccount:{name}:*")]
            assert asked == []
        slipway = [*audit.entries(audit.begin, user=f"system:serviceaccount:{NAMESPACE}:*")]
        assert slipway, "the log has what Slipway itself asked for"
        assert {entry.name for entry in slipway if entry.resource == "secrets"} <= {"slipway-api-keys"}
    finally:
        teams.clear(other)


def test_a_pod_that_is_replaced_while_the_store_is_down_waits_and_the_others_answer(ward: Ward) -> None:
    team = ward.team
    team.wait_settled("from-s3")
    team.kubectl("delete", "pod", stores.NAME, "--wait=true")
    assert team.predict("from-s3") == ANSWER
    team.apply(from_store(ward.store, "from-s3", "s3://models/hello-v2", READER))
    team.wait("from-s3", "ModelLoaded", "False", reason="StoreUnavailable", within_s=120)
    assert team.predict("from-s3") == ANSWER, "the old version answers"
    stores.restart(ward.store)
    team.wait_settled("from-s3", within_s=180)  # the kubelet lets up to 40 s pass between tries by then
    assert team.answers("from-s3", 101)
