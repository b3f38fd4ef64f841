"""What a decision on replicas is told, put together from status, Deployments, pods and gateways."""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.api.manifest import Manifest
from slipway.decide.scaling import seen
from slipway.decide.scaling.types import Launch, Pods

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def deployment(name: str, variant: str = "", created: str = "2026-01-01T00:00:00Z", **status: Any) -> Manifest:
    labels = {"slipway.dev/revision": name} | ({"slipway.dev/variant": variant} if variant else {})
    return {"metadata": {"name": name, "labels": labels, "creationTimestamp": created}, "spec": {}, "status": status}


def revision(name: str, role: str, variant: str = "") -> Manifest:
    return {"name": name, "role": role, "variant": variant}


def pod(name: str, **status: Any) -> Manifest:
    meta = {"name": name, "uid": name, "creationTimestamp": "2026-01-01T11:59:00Z", "labels": {}}
    return {"metadata": meta, "status": status}


def condition(kind: str, value: bool, second: int = 0, **more: str) -> Manifest:
    return {"type": kind, "status": str(value), "lastTransitionTime": f"2026-01-01T11:59:{second:02}Z", **more}


READY = condition("Ready", True, 40)


def test_the_service_itself_is_answered_by_the_revision_that_status_calls_stable() -> None:
    status = {"stable": "a", "revisions": [revision("a", "Stable"), revision("b", "Candidate")]}
    found = seen.arm(status, [deployment("a"), deployment("b"), deployment("v", "x")], "")
    assert found == seen.Arm("", "a", ("a", "b"), is_shifting=False)


@pytest.mark.parametrize(
    ("phase", "shifts"),
    [("Progressing", True), ("RollingBack", True), ("RolledBack", False), ("Draining", False), ("Healthy", False)],
)
def test_traffic_is_moved_while_a_release_is_under_way_and_no_longer(phase: str, shifts: bool) -> None:
    status = {"stable": "a", "rollout": {"phase": phase}}
    found = seen.arm(status, [deployment("a"), deployment("b")], "")
    assert found is not None
    assert found.is_shifting is shifts


def test_before_anybody_has_answered_the_revision_that_shall_is_the_one_and_moves_nothing() -> None:
    status = {"revisions": [revision("b", "Candidate")], "rollout": {"phase": "Provisioning"}}
    older = deployment("a", created="2026-01-01T00:00:00Z")
    found = seen.arm(status, [older, deployment("b", created="2026-01-01T01:00:00Z")], "")
    assert found == seen.Arm("", "b", ("a", "b"), is_shifting=False)


def test_without_a_status_the_newest_deployment_is_taken() -> None:
    found = seen.arm({}, [deployment("a"), deployment("b", created="2026-01-01T01:00:00Z")], "")
    assert found is not None
    assert found.serving == "b"


def test_nothing_is_known_of_an_arm_without_a_deployment() -> None:
    assert seen.arm({"stable": "a"}, [deployment("v", "x")], "") is None


def test_a_variant_moves_while_another_revision_of_it_comes() -> None:
    status = {"stable": "a", "revisions": [revision("v1", "Variant", "x"), revision("v2", "Candidate", "x")]}
    both = [deployment("a"), deployment("v1", "x"), deployment("v2", "x")]
    assert seen.arm(status, both, "x") == seen.Arm("x", "v1", ("v1", "v2"), is_shifting=True)
    assert seen.arm(status, both[:2], "x") == seen.Arm("x", "v1", ("v1", "v2"), is_shifting=False)


def test_a_share_is_that_of_the_routing() -> None:
    targets = [{"revision": "a", "weight": 7500}, {"revision": "v", "weight": 2500}]
    arm = seen.Arm("x", "v", ("v",), is_shifting=False)
    assert seen.share({"routing": {"targets": targets}}, arm) == 0.25


def counted(*pods: Manifest, launched: Mapping[str, Launch | None] | None = None, **status: Any) -> Any:
    ages = {"young": 3.0, "old": 30.0}
    return seen.replicas(4, deployment("a", **status), pods, ages, launched=launched or {}, since=0.0, now=NOW)


CRASHED = {"name": "model", "restartCount": 3, "state": {"terminated": {"exitCode": 1, "message": "boom"}}}


def test_pods_are_ready_or_loading_with_their_age_and_those_that_end_are_neither() -> None:
    ending = pod("ending", conditions=[READY])
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    found = counted(pod("well", conditions=[READY]), pod("young"), pod("old"), ending)
    assert (found.asked, found.ready, found.loading, found.failed, found.missing) == (4, 1, (3.0, 30.0), 0, "")


def test_each_pod_that_crashes_is_a_launch_that_failed_however_often_it_was_started() -> None:
    assert counted(pod("young", containerStatuses=[CRASHED])).failed == 1
    assert counted(*(pod(name, containerStatuses=[CRASHED]) for name in ("young", "old"))).failed == 2


@pytest.mark.parametrize(("second", "failed"), [(30, 0), (-30, 2)])
def test_a_launch_that_succeeded_since_ends_a_row_of_failed_ones(second: int, failed: int) -> None:
    made = datetime(2026, 1, 1, 11, 59, tzinfo=UTC).timestamp()
    crashing = [pod(name, containerStatuses=[CRASHED]) for name in ("young", "old")]
    found = counted(pod("well", conditions=[READY]), *crashing, launched={"well": Launch(made + second, 1.0)})
    assert found.failed == failed


def test_copies_are_led_to_whom_the_routing_names() -> None:
    arm = seen.Arm("x", "v", ("v",), is_shifting=False)
    assert seen.is_mirrored({"routing": {"mirror": {"revision": "v", "share": 100}}}, arm)
    assert not seen.is_mirrored({"routing": {"mirror": {"revision": "a", "share": 100}}}, arm)
    assert not seen.is_mirrored({}, arm)


def test_a_pod_that_served_and_fell_is_no_failed_launch() -> None:
    found = counted(pod("young", containerStatuses=[CRASHED]), launched={"young": None})
    assert (found.failed, found.loading) == (0, ())


def test_a_pod_without_a_node_names_what_is_missing_and_is_no_failed_launch() -> None:
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    unplaced = condition("PodScheduled", False, reason="Unschedulable", message=words)
    found = counted(pod("young", conditions=[unplaced]))
    assert (found.failed, found.loading, found.missing) == (0, (), "nvidia.com/gpu")


def test_a_quota_that_lets_no_pod_be_made_is_told_of_the_deployment() -> None:
    words = "pods is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 4"
    failure = condition("ReplicaFailure", True, message=words)
    assert counted(conditions=[failure]).missing == "nvidia.com/gpu"


LOAD = seen.Load(age_s=1.0, heard_s=1.0, epoch="e", arrived=100.0, active=20.0, held=3.0, judged=90.0, late=1.0)


@pytest.mark.parametrize(
    ("pods", "slots", "queued"),
    [
        pytest.param(None, 0, 3.0, id="nobody knows"),
        pytest.param(None, 4, 3.0 + 12.0, id="beyond the slots of two"),
        pytest.param(Pods(1.0, queued=5.0, running=1.0), 4, 3.0 + 5.0, id="as pods say"),
        pytest.param(Pods(1.0, queued=50.0), 4, 3.0 + 20.0, id="never more than there are"),
        pytest.param(Pods(1.0, running=8.0), 4, 3.0 + 12.0, id="what they do not run"),
        pytest.param(Pods(9.0, queued=5.0), 4, 3.0 + 12.0, id="too old to be set beside"),
        pytest.param(Pods(1.0, coverage=0.5, queued=5.0), 4, 3.0 + 12.0, id="a part of them"),
    ],
)
def test_who_waits_is_told_by_the_pods_or_by_their_slots(pods: Pods | None, slots: int, queued: float) -> None:
    found = seen.gateway(LOAD, pods, ready=2, slots=slots)
    assert found is not None
    assert (found.in_flight, found.queued) == (23.0, queued)


def test_what_is_heard_counts_and_who_is_silent_makes_it_a_part() -> None:
    found = seen.gateway(replace(LOAD, age_s=math.inf), None, 1, 4)
    assert found is not None
    assert (found.age_s, found.is_whole, found.in_flight) == (1.0, False, 23.0)
    found = seen.gateway(LOAD, None, 1, 4)
    assert found is not None
    assert found.is_whole


def test_without_gateways_there_is_no_word_of_them() -> None:
    assert seen.gateway(None, None, 1, 4) is None


def started(**more: Any) -> Manifest:
    def at(second: int) -> str:
        return f"2026-01-01T11:59:{second:02}Z"

    fetch = {"name": "fetch", "state": {"terminated": {"exitCode": 0, "startedAt": at(5), "finishedAt": at(15)}}}
    model = {"name": "model", "restartCount": 0, "state": {"running": {"startedAt": at(18)}}}
    placed = condition("PodScheduled", True, 2)
    return pod("a", conditions=[placed, READY], initContainerStatuses=[fetch], containerStatuses=[model | more])


def test_a_launch_is_taken_apart_by_the_times_that_the_kubelet_tells() -> None:
    found = seen.launch(started())
    end = datetime(2026, 1, 1, 11, 59, 40, tzinfo=UTC).timestamp()
    assert found == Launch(end, schedule_s=2.0, pull_s=6.0, fetch_s=10.0, load_s=22.0)
    assert sum(found[1:]) == 40.0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"restartCount": 1}, id="started again"),
        pytest.param({"state": {"waiting": {"reason": "CrashLoopBackOff"}}}, id="not running"),
        pytest.param({"state": {"running": {"startedAt": "soon"}}}, id="no time"),
    ],
)
def test_a_start_that_was_not_smooth_says_nothing_of_launches(change: Manifest) -> None:
    assert seen.launch(started(**change)) is None


def test_a_pod_that_is_not_ready_has_not_been_launched() -> None:
    one = started()
    one["status"]["conditions"][1] = condition("Ready", False)
    assert seen.launch(one) is None
