"""The cache: news in any order lead to the same picture, and tell whom a change concerns."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Key, Manifest
from slipway.api.names import COMMAND, LABEL_SERVICE
from slipway.control.cache import Cache
from slipway.kube.kinds import (
    CLUSTER_SERVING_RUNTIME,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    POD,
    POD_DISRUPTION_BUDGET,
    SERVING_RUNTIME,
    Kind,
)

HELLO: Key = ("team", "hello")


def manifest(name: str, version: int, *, namespace: str | None = "team", owner: str = "", **fields: Any) -> Manifest:
    metadata: Manifest = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    if namespace:
        metadata["namespace"] = namespace
    if owner:
        metadata["labels"] = {LABEL_SERVICE: owner}
    metadata |= fields.pop("metadata", {})
    return {"metadata": metadata, **fields}


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    cache.put(INFERENCE_SERVICE, manifest("hello", 1))
    cache.put(INFERENCE_SERVICE, manifest("other", 2))
    cache.put(INFERENCE_SERVICE, manifest("far", 3, namespace="elsewhere"))
    return cache


def test_a_service_concerns_itself(cache: Cache) -> None:
    assert cache.put(INFERENCE_SERVICE, manifest("new", 9)) == {("team", "new")}
    assert cache.remove(INFERENCE_SERVICE, manifest("new", 10)) == {("team", "new")}
    assert cache.service(("team", "new")) is None


def test_a_child_concerns_the_service_of_its_label(cache: Cache) -> None:
    assert cache.put(DEPLOYMENT, manifest("hello-1", 9, owner="hello")) == {HELLO}
    assert [child["metadata"]["name"] for child in cache.owned(HELLO, DEPLOYMENT)] == ["hello-1"]
    assert cache.owned(HELLO, POD) == []


def test_a_child_whose_label_moves_concerns_both_services(cache: Cache) -> None:
    cache.put(DEPLOYMENT, manifest("hello-1", 9, owner="hello"))
    assert cache.put(DEPLOYMENT, manifest("hello-1", 10, owner="other")) == {HELLO, ("team", "other")}
    assert cache.owned(HELLO, DEPLOYMENT) == []
    assert len(cache.owned(("team", "other"), DEPLOYMENT)) == 1


def test_an_object_without_our_label_concerns_nobody(cache: Cache) -> None:
    assert cache.put(DEPLOYMENT, manifest("foreign", 9)) == set()


def test_a_runtime_concerns_its_namespace_and_a_cluster_runtime_everybody(cache: Cache) -> None:
    assert cache.put(SERVING_RUNTIME, manifest("mine", 9)) == {HELLO, ("team", "other")}
    everybody = {HELLO, ("team", "other"), ("elsewhere", "far")}
    assert cache.put(CLUSTER_SERVING_RUNTIME, manifest("all", 10, namespace=None)) == everybody
    assert [runtime["metadata"]["name"] for runtime in cache.runtimes("team")] == ["mine", "all"]
    assert [runtime["metadata"]["name"] for runtime in cache.runtimes("elsewhere")] == ["all"]


@pytest.mark.parametrize("version", [5, 9], ids=["older than known", "the same as known, as after our own write"])
def test_what_is_not_news_concerns_nobody_and_changes_nothing(cache: Cache, version: int) -> None:
    cache.put(DEPLOYMENT, manifest("hello-1", 9, owner="hello", spec={"replicas": 9}))
    assert cache.put(DEPLOYMENT, manifest("hello-1", version, owner="hello", spec={"replicas": 5})) == set()
    assert cache.owned(HELLO, DEPLOYMENT)[0]["spec"] == {"replicas": 9}


def test_versions_are_compared_as_numbers(cache: Cache) -> None:
    cache.put(DEPLOYMENT, manifest("hello-1", 99, owner="hello"))
    assert cache.put(DEPLOYMENT, manifest("hello-1", 100, owner="hello", spec={"replicas": 2})) == {HELLO}
    assert cache.put(DEPLOYMENT, manifest("hello-1", 99, owner="hello", spec={"replicas": 3})) == set()


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        pytest.param(
            POD_DISRUPTION_BUDGET,
            {"status": {"currentHealthy": 1}},
            {"status": {"currentHealthy": 2}},
            id="counts of a PDB",
        ),
        pytest.param(
            DEPLOYMENT,
            {"status": {"readyReplicas": 1, "unavailableReplicas": 1}},
            {"status": {"readyReplicas": 1, "unavailableReplicas": 2}},
            id="counts nobody looks at",
        ),
        pytest.param(
            DEPLOYMENT,
            {},
            {"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}}},
            id="an annotation",
        ),
    ],
)
def test_a_change_that_no_decision_looks_at_concerns_nobody(
    cache: Cache, kind: Kind, before: Manifest, after: Manifest
) -> None:
    cache.put(kind, manifest("hello-1", 5, owner="hello", **before))
    assert cache.put(kind, manifest("hello-1", 6, owner="hello", **after)) == set()
    kept = cache.get(kind, "team", "hello-1")
    assert kept is not None
    assert kept["metadata"]["resourceVersion"] == "6", "it is kept all the same"


@pytest.mark.parametrize(
    "after",
    [
        pytest.param({"status": {"readyReplicas": 1}}, id="ready replicas"),
        pytest.param({"spec": {"replicas": 2}}, id="spec"),
        pytest.param({"metadata": {"deletionTimestamp": "now"}}, id="its end"),
        pytest.param({"metadata": {"ownerReferences": []}}, id="owners"),
    ],
)
def test_a_change_that_decisions_look_at_concerns_its_service(cache: Cache, after: Manifest) -> None:
    cache.put(DEPLOYMENT, manifest("hello-1", 5, owner="hello"))
    assert cache.put(DEPLOYMENT, manifest("hello-1", 6, owner="hello", **after)) == {HELLO}


def test_an_annotation_on_a_service_is_news(cache: Cache) -> None:
    annotated = manifest("hello", 9, metadata={"annotations": {"slipway.dev/x": "1"}})
    assert cache.put(INFERENCE_SERVICE, annotated) == {HELLO}


def test_the_late_answer_to_a_write_does_not_bring_a_deleted_object_back(cache: Cache) -> None:
    cache.put(DEPLOYMENT, manifest("hello-1", 9, owner="hello"))
    cache.remove(DEPLOYMENT, manifest("hello-1", 12, owner="hello"))
    assert cache.put(DEPLOYMENT, manifest("hello-1", 11, owner="hello")) == set()
    assert cache.owned(HELLO, DEPLOYMENT) == []


def test_a_deletion_heard_before_the_object_itself_is_remembered(cache: Cache) -> None:
    cache.remove(DEPLOYMENT, manifest("hello-1", 12, owner="hello"))
    assert cache.put(DEPLOYMENT, manifest("hello-1", 11, owner="hello")) == set()


def test_the_late_deletion_of_a_predecessor_does_not_remove_its_successor(cache: Cache) -> None:
    cache.put(DEPLOYMENT, manifest("hello-1", 15, owner="hello"))
    assert cache.remove(DEPLOYMENT, manifest("hello-1", 12, owner="hello")) == set()
    assert len(cache.owned(HELLO, DEPLOYMENT)) == 1


def test_an_object_made_again_after_its_deletion_is_news(cache: Cache) -> None:
    cache.remove(DEPLOYMENT, manifest("hello-1", 12, owner="hello"))
    assert cache.put(DEPLOYMENT, manifest("hello-1", 13, owner="hello")) == {HELLO}


def test_tombstones_are_bounded() -> None:
    cache = Cache()
    for number in range(10_000):
        cache.remove(DEPLOYMENT, manifest(f"d-{number}", number, owner="hello"))
    assert cache.put(DEPLOYMENT, manifest("d-9999", 1, owner="hello")) == set(), "the latest are remembered"
    assert cache.put(DEPLOYMENT, manifest("d-0", 0, owner="hello")) == {HELLO}, "the oldest are not"


def test_objects_are_kept_without_managed_fields_and_last_applied_but_the_event_is_not_changed(cache: Cache) -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "ml"}
    event = manifest("hello-1", 9, owner="hello", metadata={"managedFields": [{}], "annotations": annotations})
    cache.put(DEPLOYMENT, event)
    kept = cache.owned(HELLO, DEPLOYMENT)[0]["metadata"]
    assert "managedFields" not in kept
    assert kept["annotations"] == {"team": "ml"}
    assert "managedFields" in event["metadata"]
    assert len(event["metadata"]["annotations"]) == 2


def test_objects_from_lists_get_the_kind_that_lists_leave_out(cache: Cache) -> None:
    service = cache.service(HELLO)
    assert service is not None
    assert (service["apiVersion"], service["kind"]) == ("slipway.dev/v1alpha1", "InferenceService")


def test_pods_are_kept_as_small_as_decisions_allow(cache: Cache) -> None:
    spec = {"nodeName": "n1", "containers": [{"name": "model", "env": [{"name": "BIG", "value": "x" * 1000}]}]}
    ready = {"type": "Ready", "status": "False", "lastProbeTime": None}
    container = {"name": "model", "image": "i", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    status = {"conditions": [ready, {"type": "Initialized", "status": "True"}], "containerStatuses": [container]}
    cache.put(POD, manifest("p", 9, owner="hello", spec=spec, status=status))
    pod = cache.owned(HELLO, POD)[0]
    assert "spec" not in pod
    assert pod["status"] == {
        "conditions": [],
        "containerStatuses": [{name: container[name] for name in ("name", "restartCount", "state")}],
    }


def test_the_steps_of_a_good_start_concern_nobody(cache: Cache) -> None:
    def pod(version: int, **status: Any) -> Manifest:
        return manifest("p", version, owner="hello", status=status)

    placed, ready = {"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}
    waiting = {"name": "model", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}
    running = waiting | {"state": {"running": {"startedAt": "now"}}}
    cache.put(POD, pod(5))
    assert cache.put(POD, pod(6, conditions=[placed])) == set()
    assert cache.put(POD, pod(7, conditions=[placed, ready], containerStatuses=[waiting])) == set()
    assert cache.put(POD, pod(8, conditions=[placed, ready], containerStatuses=[running])) == set()
    crashed = running | {"lastState": {"terminated": {"exitCode": 1}}}
    assert cache.put(POD, pod(9, conditions=[placed, ready], containerStatuses=[crashed])) == {HELLO}
    assert cache.put(POD, pod(10, conditions=[ready | {"status": "True"}], containerStatuses=[running])) == {HELLO}
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    assert cache.put(POD, pod(11, conditions=[unplaced])) == {HELLO}


def test_nothing_is_left_behind_when_everything_is_removed(cache: Cache) -> None:
    cache.put(DEPLOYMENT, manifest("hello-1", 9, owner="hello"))
    cache.remove(DEPLOYMENT, manifest("hello-1", 10, owner="hello"))
    assert list(cache.objects(DEPLOYMENT)) == []
    assert cache.owned(HELLO, DEPLOYMENT) == []


def test_what_objects_have_in_common_is_kept_once(cache: Cache) -> None:
    def decoded(name: str, version: int) -> Manifest:
        body = manifest(name, version, owner="hello", spec={"template": {"image": "slipway/runtime:1"}})
        copy: Manifest = json.loads(json.dumps(body))
        return copy

    cache.put(DEPLOYMENT, decoded("hello-1", 1))
    cache.put(DEPLOYMENT, decoded("hello-2", 2))
    one, other = (child["spec"]["template"] for child in cache.owned(HELLO, DEPLOYMENT))
    assert one["image"] is other["image"]
    assert next(iter(one)) is next(iter(other))
    before = cache.get(DEPLOYMENT, "team", "hello-1")
    cache.put(DEPLOYMENT, decoded("hello-1", 3))
    after = cache.get(DEPLOYMENT, "team", "hello-1")
    assert before
    assert after
    assert after["spec"] is before["spec"]
    assert after["metadata"]["resourceVersion"] == "3"


# A history of one name: made, changed, deleted and made again; each step is told once, in any order.
HISTORY: list[tuple[str, int]] = [("put", 1), ("put", 2), ("remove", 3), ("put", 4), ("put", 5)]


@given(order=st.permutations(HISTORY))
def test_any_order_of_the_same_news_ends_in_the_same_picture(order: list[tuple[str, int]]) -> None:
    cache = Cache()
    for step, version in order:
        tell(cache, DEPLOYMENT, step, manifest("hello-1", version, owner="hello", spec={"version": version}))
    assert [child["spec"]["version"] for child in cache.owned(HELLO, DEPLOYMENT)] == [5]


def test_any_order_of_news_that_end_in_a_deletion_ends_in_nothing() -> None:
    for order in itertools.permutations(HISTORY[:3]):
        cache = Cache()
        for step, version in order:
            tell(cache, DEPLOYMENT, step, manifest("hello-1", version, owner="hello"))
        assert cache.owned(HELLO, DEPLOYMENT) == []


def tell(cache: Cache, kind: Kind, step: str, news: Manifest) -> None:
    (cache.put if step == "put" else cache.remove)(kind, news)


def test_a_command_is_news_with_the_manager_that_wrote_it(cache: Cache) -> None:
    fields: Manifest = {"f:annotations": {".": {}, "f:team/note": {}, f"f:{COMMAND}": {}}, "f:labels": {"f:a": {}}}
    entries = [
        {"manager": "kubectl-annotate", "time": "2030-01-01T00:00:00Z", "fieldsV1": {"f:metadata": fields}},
        {"manager": "argocd", "fieldsV1": {"f:spec": {"f:predictor": {}}}},
        {"manager": "slipway", "subresource": "status"},
    ]
    metadata = {"managedFields": entries, "annotations": {COMMAND: "promote 1"}}
    assert cache.put(INFERENCE_SERVICE, manifest("hello", 9, metadata=metadata)) == {HELLO}
    kept = (cache.service(HELLO) or {})["metadata"]
    owned: Manifest = {"f:metadata": {"f:annotations": {f"f:{COMMAND}": {}}}}
    assert kept["managedFields"] == [{"manager": "kubectl-annotate", "fieldsV1": owned}]
    assert cache.put(INFERENCE_SERVICE, manifest("hello", 10)) == {HELLO}
    assert "managedFields" not in (cache.service(HELLO) or {})["metadata"], "nobody commands anything"
