"""Models that do not come up: what users are told, how soon, what goes on serving, and that mending the spec is enough.

The broken ones are all started at once, before the first scenario looks, since most of their time is waiting; after
those that are well, which take seconds of CPU each to load.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from e2e.support import team as teams
from e2e.support.api import Manifest
from e2e.support.history import Change, History, recorded
from e2e.support.installation import Installation
from e2e.support.manifests import LABEL_REVISION, fetching_runtime, service
from e2e.support.team import Team
from e2e.support.wait import until

SOON_S = 15
GIB = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}


@dataclass(frozen=True, slots=True)
class Case:
    """How a model is broken, and what its owner must be told."""

    name: str
    model: dict[str, Any]
    reason: str
    words: tuple[str, ...]
    stalls: bool = True
    """Whether nothing but a change of the spec can help."""


def sample(name: str) -> dict[str, Any]:
    return {"uri": f"sample://{name}"}


LOADING = (
    Case("missing", sample("no-such"), "ModelNotFound", ("sample 'no-such' does not exist; there are:", "hello")),
    Case("corrupt", sample("broken-corrupt"), "ModelInvalid", ("is damaged or cut short", "upload it again")),
    Case(
        "memory",
        sample("broken-oom") | {"resources": GIB},
        "OutOfMemory",
        ("needs more memory than its limit of 1Gi: raise spec.predictor.model.resources.limits.memory",),
    ),
    Case("crash", sample("broken-crash"), "ModelInvalid", ("its first (warm-up) request failed", "fails on purpose")),
)
"""What is promised; each as the first version of a service and as a change of one that serves."""
STARTING = (
    Case(
        "fetch",
        sample("no-such") | {"runtime": "fetching"},
        "ModelNotFound",
        ("sample 'no-such' does not exist; there are:",),
    ),
    Case("flag", {"args": ["--no-such-flag"]}, "ConfigurationInvalid", ("--no-such-flag", "lists what there is")),
    Case(
        "wrong-format",
        {"modelFormat": {"name": "torch-export"}},
        "ConfigurationInvalid",
        ("is torchscript, but the format asked for is torch-export",),
    ),
    Case("image", {"runtimeVersion": "no-such-tag"}, "ImagePullFailed", ("no-such-tag",), stalls=False),
    Case(
        "secret",
        {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "no-such", "key": "token"}}}]},
        "ContainerConfigError",
        ('secret "no-such" not found',),
        stalls=False,
    ),
    Case(
        "gpus",
        {"resources": {"limits": {"nvidia.com/gpu": 9}}},
        "Unschedulable",
        ("Insufficient nvidia.com/gpu",),
        stalls=False,
    ),
)
"""As first versions only."""
FIRST = [*LOADING, *STARTING]


def named(case: Case) -> str:
    return case.name


@dataclass(frozen=True, slots=True)
class Ward:
    """All patients, and all that happened to them since they were admitted."""

    team: Team
    services: History
    pods: History
    events: History


@pytest.fixture(scope="module")
def ward(shared_slipway: Installation, shared_team: Team) -> Iterator[Ward]:
    assert shared_slipway
    team = shared_team
    with ExitStack() as stack:
        histories = [
            stack.enter_context(recorded(team.site.api, kind, team.name))
            for kind in ("inferenceservices", "pods", "events")
        ]
        team.apply(fetching_runtime())
        team.start_client()
        team.apply(*(service(f"update-{case.name}") for case in LOADING))
        for case in LOADING:
            team.wait_settled(f"update-{case.name}")
        team.apply(*(service(f"first-{case.name}", **case.model) for case in FIRST))
        yield Ward(team, *histories)


@pytest.fixture(scope="module")
def changed(ward: Ward) -> Ward:
    """The services that were well, now asked to change to something broken."""
    ward.team.apply(*(service(f"update-{case.name}", **case.model) for case in LOADING))
    return ward


def told(ward: Ward, name: str, generation: int, reason: str) -> Change:
    """The first status in which ModelLoaded named the reason."""

    def probe() -> Change | None:
        for change in ward.services.of(name):
            known = teams.condition(change.object, "ModelLoaded")
            if change.object["metadata"]["generation"] == generation and known.get("reason") == reason:
                return change
        return None

    return until(f"{name}: ModelLoaded says {reason}", probe, within_s=120, seen=lambda: ward.team.digest(name))


def failed_at(ward: Ward, name: str, revision: str) -> float:
    """When the first pod of a revision was seen to fail: by the kubelet's own clock where it gives a time.

    One that waited for room and then ran did not fail while it waited.
    """

    def probe() -> float | None:
        own = [c for c in ward.pods.changes.copy() if c.object["metadata"]["labels"].get(LABEL_REVISION) == revision]
        return next(filter(None, [*map(failure, own), *map(unscheduled, own)]), None)

    return until(f"a pod of {name} is seen to fail", probe, within_s=10)  # pods are watched apart from services


def failure(change: Change) -> float | None:
    status = change.object.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        for state in (container.get("state", {}), container.get("lastState", {})):
            if state.get("terminated", {}).get("exitCode"):
                return datetime.fromisoformat(state["terminated"]["finishedAt"]).timestamp()
        if container.get("state", {}).get("waiting", {}).get("reason") in (
            "ErrImagePull",
            "ImagePullBackOff",
            "CreateContainerConfigError",
        ):
            return change.seen
    return None


def unscheduled(change: Change) -> float | None:
    conditions = change.object.get("status", {}).get("conditions", [])
    found = [c for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"]
    return datetime.fromisoformat(found[0]["lastTransitionTime"]).timestamp() if found else None


def assert_told_in_words(ward: Ward, case: Case, name: str, generation: int) -> Manifest:
    """Condition and Event say what is wrong, within the time promised; the status that said so first."""
    change = told(ward, name, generation, case.reason)
    loaded = teams.condition(change.object, "ModelLoaded")
    revision = loaded["message"].split()[1].rstrip(":")
    assert [word for word in case.words if word not in loaded["message"]] == [], loaded["message"]
    failed = failed_at(ward, name, revision)
    assert change.seen - failed <= SOON_S, f"told {change.seen - failed:.1f} s after the failure"
    event = until(
        f"an Event {case.reason} about {name}",
        lambda: _event(ward, name, case),
        within_s=10,
        seen=lambda: ward.team.events(name),
    )
    happened = datetime.fromisoformat(event["eventTime"]).timestamp()
    assert happened - failed <= SOON_S, f"the Event came {happened - failed:.1f} s after the failure"
    assert event["type"] == "Warning"
    return change.object


def _event(ward: Ward, name: str, case: Case) -> Manifest | None:
    about = [event for event in ward.team.events(name) if event["reason"] == case.reason]
    return next((event for event in about if all(word in event["note"] for word in case.words)), None)


@pytest.mark.parametrize("case", FIRST, ids=named)
def test_a_first_version_that_is_broken_says_why(ward: Ward, case: Case) -> None:
    name = f"first-{case.name}"
    assert_told_in_words(ward, case, name, 1)
    ready = ward.team.wait(name, "Ready", "False", reason=case.reason, within_s=SOON_S)
    assert [word for word in case.words if word not in ready["message"]] == [], ready["message"]
    if case.stalls:
        ward.team.wait(name, "Stalled", "True", reason=case.reason, within_s=60)


@pytest.mark.parametrize("case", LOADING, ids=named)
def test_a_change_that_is_broken_says_why_and_the_old_version_answers(changed: Ward, case: Case) -> None:
    name, team = f"update-{case.name}", changed.team
    before = {
        change.object["status"]["stable"]
        for change in changed.services.of(name)
        if change.object.get("status", {}).get("stable")
    }
    live = assert_told_in_words(changed, case, name, 2)
    ready = teams.condition(live, "Ready")
    assert ready["status"] == "True", "users are answered"
    assert [word for word in case.words if word not in ready["message"]] == [], "and told there too"
    assert teams.condition(live, "RolloutHealthy")["status"] == "False"
    assert {live["status"]["stable"]} == before
    assert team.predict(name) == [3, 5, 7, 9]


def test_users_notice_nothing_of_a_broken_change(changed: Ward) -> None:
    """The pods of the worst one, which are killed for their memory again and again, beside 50 requests a second."""
    with changed.team.traffic("update-memory") as flow:
        flow.wait_answered(150)
    flow.assert_unharmed()
    assert flow.sums["offsets"].keys() == {"1"}


def test_mending_the_spec_is_all_it_takes(changed: Ward) -> None:
    team = changed.team
    for case in STARTING:
        team.delete_service(f"first-{case.name}")  # the same way back; a model costs 4 s of CPU to load
    names = [f"{kind}-{case.name}" for case in LOADING for kind in ("first", "update")]
    for name in names:
        team.wait(name, "ModelLoaded", "False", within_s=60)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: mend(team, name), names))


def mend(team: Team, name: str) -> None:
    """Apply a good spec: the service gets well, and keeps no trace of the broken revision but its history."""
    team.apply(service(name, "sample://hello-v2"))
    status = team.wait_settled(name)
    ready = team.condition(name, "Ready")
    assert ready["message"] == f"revision {status['stable']} answers"
    assert team.answers(name, 101)
    until(
        f"only the good revision of {name} has pods",
        lambda: {pod["metadata"]["labels"][LABEL_REVISION] for pod in team.pods(name)} == {status["stable"]},
        within_s=60,
    )


# Refused by the cluster


def test_a_quota_that_is_used_up_is_named_and_the_old_version_answers(slipway: Installation, team: Team) -> None:
    assert slipway
    quota = {"requests.memory": "1Gi"}
    team.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": quota}})
    until("the quota counts", lambda: "used" in team.must_get("resourcequotas", "small").get("status", {}), within_s=10)
    team.apply(service())
    team.wait_settled("hello")
    greedy = {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}}
    team.apply(service(uri="sample://hello-v2", resources=greedy))
    begin = time.time()
    refused = team.wait("hello", "ModelLoaded", "False", reason="PodsRefused", within_s=SOON_S)
    assert "exceeded quota: small, requested: requests.memory=2Gi" in refused["message"]
    assert time.time() - begin <= SOON_S
    assert team.condition("hello", "Ready")["status"] == "True"
    assert team.answers("hello", 1)
    until("the Event came", lambda: [e for e in team.events("hello") if e["reason"] == "PodsRefused"], within_s=10)
    team.apply(service(uri="sample://hello-v2"))
    team.wait_settled("hello")
    assert team.answers("hello", 101)


def test_a_pod_security_that_is_stricter_than_asked_is_not_needed(ward: Ward) -> None:
    """No pod of any of these was refused by the restricted standard, nor warned about: all events that say so."""
    refused = [
        event["note"]
        for event in ward.team.site.api.items("events", ward.team.name)
        if "PodSecurity" in event.get("note", "")
    ]
    assert refused == []
