"""What a release is decided from, as read off the children of a service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Manifest
from slipway.api.names import ABORT, COMMAND
from slipway.api.progress import RolloutStatus
from slipway.api.routing import Routing
from slipway.api.traffic import WHOLE
from slipway.decide import pods, scene
from slipway.decide.release import Command
from slipway.decide.traffic import Place, Wish, part, route

WHEN = "2030-01-01T00:00:00Z"


def annotated(managers: dict[str, str] | None = None, **annotations: str) -> Manifest:
    words = {COMMAND if name == "command" else ABORT: text for name, text in annotations.items()}
    entries = [
        {"manager": manager, "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{name}": {}}}}}
        for name, manager in (managers or {}).items()
    ]
    return {"metadata": {"annotations": words, "managedFields": entries}}


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        pytest.param({"metadata": {}}, [], id="none"),
        pytest.param(annotated(command="promote 7"), [Command("promote", "7")], id="verb and id"),
        pytest.param(annotated(command="promote"), [Command("promote", "")], id="no id"),
        pytest.param(annotated(command="  "), [], id="nothing"),
        pytest.param(annotated(command="retry at 10:04"), [Command("retry", "at 10:04")], id="an id of words"),
        pytest.param(
            annotated({COMMAND: "kubectl-annotate", ABORT: "argocd"}, command="resume 1", abort="2"),
            [Command("abort", "2", "argocd"), Command("resume", "1", "kubectl-annotate")],
            id="both, and who wrote them",
        ),
        pytest.param(annotated(abort="x" * 500), [Command("abort", "x" * 128)], id="a long id"),
    ],
)
def test_annotations_are_commands_with_the_manager_that_wrote_them(service: Manifest, expected: list[Command]) -> None:
    assert list(scene.commands(service)) == expected


def state(weight: int, candidate: str = "new") -> RolloutStatus:
    return RolloutStatus.model_validate(
        {"phase": "Progressing", "since": WHEN, "candidate": candidate, "weight": weight}
    )


def table(weight: int, others: int = 0) -> Routing:
    places = [Place("old", ready=1), Place("new", is_candidate=True, part=weight, ready=1), Place("b", "b", ready=1)]
    return route(Wish(timeout_ms=1000, weights={"b": others}), places)


@given(st.integers(0, WHOLE), st.integers(0, WHOLE))
def test_the_weight_served_is_the_one_decided_however_a_table_rounds_it(weight: int, others: int) -> None:
    assert scene.served_weight(table(weight, others), state(weight), "new") == weight


@given(st.integers(0, WHOLE), st.integers(0, WHOLE), st.integers(0, 9000))
def test_another_weight_is_told_from_the_one_decided_unless_the_table_is_the_same(one: int, two: int, b: int) -> None:
    served = scene.served_weight(table(one, b), state(two), "new")
    assert served == two or part(WHOLE - b, one) != part(WHOLE - b, two)


def test_who_is_not_in_the_table_is_served_nothing() -> None:
    assert scene.served_weight(None, state(500), "new") == 0
    assert scene.served_weight(table(500), state(500, "newer"), "newer") == 0


@pytest.mark.parametrize(
    ("text", "resource"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3", "nvidia.com/gpu"),
        ("0/1 nodes are available: 1 Insufficient nvidia.com/mig-1g.10gb.", "nvidia.com/mig-1g.10gb"),
        ("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.shared, 1 node(s) were", "nvidia.com/gpu.shared"),
        ("exceeded quota: q, requested: requests.aliyun.com/gpu-mem=4, used: 8, limited: 8", "aliyun.com/gpu-mem"),
        ("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.", "cpu"),
        (
            "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4",
            "nvidia.com/gpu",
        ),
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=4, limited: pods=4', "pods"),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.", ""),
        ("", ""),
    ],
)
def test_what_there_is_no_room_for_is_named(text: str, resource: str) -> None:
    assert pods.lacking(text) == resource


def test_restarts_are_those_of_all_containers_of_a_pod() -> None:
    def pod(*restarts: int) -> dict[str, Any]:
        return {"metadata": {}, "status": {"containerStatuses": [{"name": "c", "restartCount": n} for n in restarts]}}

    assert [pods.restarts(pod()), pods.restarts(pod(1, 2)), pods.restarts({"metadata": {}})] == [0, 3, 0]
