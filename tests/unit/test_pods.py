from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.decide.pods import Fault, fault, unscheduled_in_s, worst

NOW = datetime(2026, 1, 1, 12, 0, 10, tzinfo=UTC)


def pod(
    name: str = "p", *, container: Manifest | None = None, conditions: Any = (), created: str = "12:00:00"
) -> Manifest:
    return {
        "metadata": {"name": name, "creationTimestamp": f"2026-01-01T{created}Z"},
        "status": {"conditions": list(conditions), "containerStatuses": [container] if container else []},
    }


def ended(code: int, message: str = "", *, restarts: int = 0, reason: str = "Error", name: str = "model") -> Manifest:
    return {
        "name": name,
        "restartCount": restarts,
        "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}},
    }


def test_the_last_line_of_the_server_is_the_message() -> None:
    found = fault(pod(container=ended(66, "loading\n\nsample 'x' does not exist\n")), NOW)
    assert found == Fault(Reason.MODEL_NOT_FOUND, "sample 'x' does not exist", terminal=True)


def test_a_crash_is_terminal_from_the_second_time_on() -> None:
    assert fault(pod(container=ended(1, "boom")), NOW) == Fault(Reason.CRASHED, "boom (exit code 1)", terminal=False)
    again = fault(pod(container=ended(1, "boom", restarts=1)), NOW)
    assert again == Fault(Reason.CRASHED, "boom (exit code 1)", terminal=True)


def test_out_of_memory_names_the_limit_and_the_field() -> None:
    found = fault(pod(container=ended(137, reason="OOMKilled")), NOW, "2Gi")
    assert found is not None
    assert found.reason is Reason.OUT_OF_MEMORY
    assert "limit of 2Gi: raise spec.predictor.model.resources.limits.memory" in found.message


def test_the_cause_is_still_told_while_the_container_runs_again() -> None:
    container = ended(65, "corrupt", restarts=2)
    container = {**container, "lastState": container["state"], "state": {"running": {}}}
    found = fault(pod(container=container), NOW)
    assert found is not None
    assert found.message == "corrupt"


def test_a_ready_pod_has_no_fault_whatever_it_went_through() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    assert fault(pod(container=ended(1, restarts=3), conditions=ready), NOW) is None


def test_a_pod_that_was_evicted_says_nothing_against_its_model() -> None:
    evicted = pod(container=ended(137))
    evicted["status"] |= {"phase": "Failed", "reason": "Evicted"}
    assert fault(evicted, NOW) is None


def test_a_clean_end_is_no_fault() -> None:
    assert fault(pod(container=ended(0)), NOW) is None


def test_a_failed_fetch_is_told_as_such() -> None:
    found = fault(pod(container=ended(1, "no route to store", name="fetch")), NOW)
    assert found is not None
    assert found.reason is Reason.FETCH_FAILED


def test_unschedulable_is_told_when_the_scheduler_had_its_time() -> None:
    waiting = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no gpu"}]
    assert fault(pod(conditions=waiting, created="12:00:09"), NOW) is None
    found = fault(pod(conditions=waiting), NOW)
    assert found is not None
    assert (found.reason, found.terminal) == (Reason.UNSCHEDULABLE, False)
    assert "0/1 nodes: no gpu" in found.message


@pytest.mark.parametrize("order", [1, -1])
def test_the_worst_fault_is_the_same_in_any_order(order: int) -> None:
    pods = [pod("b", container=ended(1, "b")), pod("a", container=ended(1, "a")), pod("c", container=ended(66, "c"))]
    found = worst(pods[::order], NOW)
    assert found is not None
    assert found.message == "c", "the one that no retry mends"


def test_a_fetch_that_succeeded_in_the_end_is_no_fault() -> None:
    fetch = ended(0, name="fetch", restarts=1) | {"lastState": ended(1, "no route")["state"]}
    loading = pod()
    loading["status"]["initContainerStatuses"] = [fetch]
    assert fault(loading, NOW) is None


def test_a_pod_without_a_node_is_looked_at_again_once() -> None:
    waiting = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]
    assert unscheduled_in_s(pod(conditions=waiting, created="12:00:09"), NOW) == 2.0
    assert unscheduled_in_s(pod(conditions=waiting, created="11:00:00"), NOW) is None
    assert unscheduled_in_s(pod(created="12:00:09"), NOW) is None
