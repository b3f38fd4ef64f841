"""What a release is judged by: every interval counts once, whatever becomes of the write that carries it."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from slipway.api.manifest import Manifest
from slipway.control.cache import Cache
from slipway.control.judging import Judging
from slipway.control.releases import ReleaseMetrics
from slipway.decide.release import Sample, Window
from slipway.kube.kinds import INFERENCE_SERVICE
from tests.control.world import KEY
from tests.fake.store import EPOCH

NOTHING = Sample()


class Counted:
    """Windows by a counter: each look has what came since the last close."""

    def __init__(self) -> None:
        self.came = 0
        self.calls: list[str] = []

    def window(self, key: tuple[str, str], stable: str) -> Window:
        return Window(5.0, 0.0, {stable: Sample(self.came)})

    def close(self, key: tuple[str, str], window: Window) -> None:
        self.came -= window.samples["hello-1"].requests
        self.calls.append("close")

    def watch(self, key: tuple[str, str]) -> None:
        self.calls.append("watch")

    def rest(self, key: tuple[str, str]) -> None:
        self.calls.append("rest")


def service(evidence: dict[str, Any] | None, phase: str = "Progressing", strategy: str = "Canary") -> Manifest:
    release = {"phase": phase, "candidate": "hello-2"} | ({"evidence": evidence} if evidence else {})
    return {
        "metadata": {"name": "hello", "namespace": "team", "resourceVersion": "1"},
        "spec": {"rollout": {"strategy": strategy}},
        "status": {"stable": "hello-1", "rollout": release},
    }


def requests(window: Window | None) -> int:
    assert window is not None
    return window.samples["hello-1"].requests


def test_what_was_written_counts_no_more() -> None:
    counted = Counted()
    judging, counted.came = Judging(counted), 10
    window = judging.window(KEY, service(None))
    judging.sends(KEY, service({"n": 10}), window)
    counted.came += 3
    judging.wrote(KEY, service(None), service({"n": 10}), window, EPOCH)
    assert requests(judging.window(KEY, service({"n": 10}))) == 3


def test_a_write_whose_answer_was_lost_counts_once_it_is_seen_in_status() -> None:
    counted = Counted()
    judging, counted.came = Judging(counted), 10
    judging.sends(KEY, service({"n": 10}), judging.window(KEY, service(None)))
    assert requests(judging.window(KEY, service(None))) == 10, "it may not have been carried out"
    counted.came += 3
    judging.sends(KEY, service({"n": 13}), judging.window(KEY, service(None)))
    assert requests(judging.window(KEY, service({"n": 10}))) == 3, "the first one was, the second one was not"
    assert counted.calls == ["close"]


@pytest.mark.parametrize(
    ("manifest", "call"),
    [
        (service(None, "Healthy"), "watch"),
        (service(None, "RolledBack"), "watch"),
        (service(None, "Provisioning", "None"), "rest"),
        ({"metadata": {}, "spec": {}, "status": {}}, "rest"),
        (None, "rest"),
    ],
)
def test_only_a_service_that_may_be_judged_is_counted(manifest: Manifest | None, call: str) -> None:
    counted = Counted()
    assert Judging(counted).window(KEY, manifest) is None
    assert counted.calls == [call]


def lines(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def test_metrics_tell_how_releases_end() -> None:
    registry = CollectorRegistry()
    metrics = ReleaseMetrics(registry)
    started = {"phase": "Progressing", "started": "2025-12-31T23:58:20Z"}
    verdicts = [{"metric": "errorRate", "verdict": "Inconclusive"}]
    metrics.written(started, started | {"verdicts": verdicts}, EPOCH, is_judged=True)
    metrics.written(started, {"phase": "Draining"}, EPOCH, is_judged=False)
    metrics.written({"phase": "Draining"}, {"phase": "Healthy"}, EPOCH, is_judged=False)
    metrics.written(started, {"phase": "RollingBack", "abort": {"reason": "AnalysisFailed"}}, EPOCH, is_judged=False)
    metrics.written(started, {"phase": "RollingBack", "abort": {"reason": "Superseded"}}, EPOCH, is_judged=False)
    assert lines(registry, "slipway_rollouts_total") == {
        ("promoted", ""): 1,
        ("aborted", "AnalysisFailed"): 1,
        ("superseded", ""): 1,
    }
    assert lines(registry, "slipway_rollout_verdicts_total") == {("Inconclusive",): 1}
    assert lines(registry, "slipway_rollout_duration_seconds_sum")["promoted",] == 100


@pytest.mark.parametrize(
    "after",
    [
        pytest.param({"phase": "Healthy"}, id="the spec asks for stable again before the first pod was ready"),
        pytest.param({"phase": "Provisioning", "candidate": "hello-3"}, id="the spec asks for a third revision"),
        pytest.param({"phase": "RollingBack", "abort": {"reason": "Reverted"}}, id="the same with requests already"),
    ],
)
def test_metrics_call_nothing_promoted_or_aborted_that_was_only_not_wanted_any_more(after: Manifest) -> None:
    registry = CollectorRegistry()
    before = {"phase": "Provisioning", "candidate": "hello-2"}
    ReleaseMetrics(registry).written(before, after, EPOCH, is_judged=False, stable="hello-1")
    assert lines(registry, "slipway_rollouts_total") == {("superseded", ""): 1}


def test_metrics_have_a_series_for_releases_and_none_for_calm_services() -> None:
    registry, cache = CollectorRegistry(), Cache()
    metrics = ReleaseMetrics(registry)
    metrics.watch(cache)
    cache.put(INFERENCE_SERVICE, service(None, "Healthy"))
    assert lines(registry, "slipway_rollout_phase") == {}
    live = service(None)
    live["metadata"]["resourceVersion"] = "2"
    live["status"]["rollout"]["weight"] = 2500
    cache.put(INFERENCE_SERVICE, live)
    assert lines(registry, "slipway_rollout_phase") == {("team", "hello", "Progressing"): 1}
    assert lines(registry, "slipway_rollout_weight_ratio") == {("team", "hello"): 0.25}
