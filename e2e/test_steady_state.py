"""A cluster in which nobody changes anything: the operator writes nothing, and has left no mark of its own."""

import os
import time
from collections.abc import Iterable

import pytest

from e2e.support import team as teams
from e2e.support.api import Manifest
from e2e.support.audit import Audit, Entry
from e2e.support.installation import ACCOUNT, GATEWAY_ACCOUNT, NAMESPACE, Installation, name
from e2e.support.manifests import service
from e2e.support.team import Team
from e2e.support.wait import until

SERVICES = ("one", "two", "three")
IDLE_S = 300 if os.environ.get("SLIPWAY_FULL") else 60


@pytest.fixture(scope="module")
def steady(shared_slipway: Installation, shared_team: Team) -> Team:
    """Three services that have all they want."""
    assert shared_slipway
    shared_team.apply(service("one"), service("two", "sample://hello-v2"), service("three", replicas=2))
    for title in SERVICES:
        shared_team.wait_settled(title)
    return shared_team


def test_nothing_is_written_while_nothing_changes(steady: Team, audit: Audit) -> None:
    own = f"{steady.name}/"
    until(
        "what earlier scenarios made is gone",
        lambda: all(place.startswith(own) for place in teams.busy(steady.site)),
        within_s=120,
        seen=lambda: teams.busy(steady.site),
    )
    versions = {title: live(steady, title)["metadata"]["resourceVersion"] for title in SERVICES}
    mark = audit.mark()
    time.sleep(IDLE_S)  # not a wait for something: what happens in this time is what is asked
    writes = [entry for entry in audit.entries(mark, user=ACCOUNT) if entry.is_write]
    others = [str(entry) for entry in writes if (entry.resource, entry.namespace) != ("leases", NAMESPACE)]
    assert others == []
    assert len(writes) >= IDLE_S / 15, "the audit log shows the Lease's renewals, so it would show other writes"
    assert {title: live(steady, title)["metadata"]["resourceVersion"] for title in SERVICES} == versions


def test_the_operator_leaves_no_mark_on_a_users_object(steady: Team) -> None:
    for title in SERVICES:
        metadata = live(steady, title)["metadata"]
        assert "finalizers" not in metadata
        assert set(metadata.get("annotations", {})) <= {"kubectl.kubernetes.io/last-applied-configuration"}
        assert "labels" not in metadata
        managers = {(field["manager"], field.get("subresource", "")) for field in metadata["managedFields"]}
        assert managers == {("kubectl-client-side-apply", ""), ("slipway", "status")}


def test_the_operator_never_asked_for_a_secret(audit: Audit) -> None:
    asked = [str(entry) for entry in audit.entries(audit.begin, user=ACCOUNT) if entry.resource == "secrets"]
    assert asked == []


def test_gateways_write_nothing_and_ask_for_the_secrets_of_one_name_only(
    audit: Audit, installation: Installation, steady: Team
) -> None:
    entries = list(audit.entries(0, user=GATEWAY_ACCOUNT))  # they may have begun their watches before this session
    mine = {name(pod) for pod in installation.gateways()}
    assert mine <= {entry.pod for entry in entries}, "the audit log shows what gateways watch"
    assert [str(entry) for entry in entries if entry.is_write] == []
    assert {entry.name for entry in entries if entry.resource == "secrets"} == {"slipway-api-keys"}
    assert refused(audit.entries(audit.begin, user=GATEWAY_ACCOUNT), mine, steady) == []


def test_it_asks_for_nothing_it_may_not_have(audit: Audit, installation: Installation, steady: Team) -> None:
    """A request that RBAC refuses is a permission forgotten, or a part that does what it should not."""
    entries, mine = list(audit.entries(audit.begin, user=ACCOUNT)), {name(pod) for pod in installation.pods()}
    assert mine <= {entry.pod for entry in entries}, "the audit log shows what operators ask for"
    assert refused(entries, mine, steady) == []


def refused(entries: Iterable[Entry], pods: set[str], team: Team) -> list[str]:
    """What RBAC did not let these pods do. Those of an installation before it lose their rights before they end."""
    mine = [entry for entry in entries if entry.pod in pods]
    return [str(entry) for entry in mine if entry.code == 403 and entry.namespace in (team.name, "")]


def live(team: Team, title: str) -> Manifest:
    return team.must_get("inferenceservices", title)
