"""What several workers have counted, told as that of one server."""

import pytest

from slipway_runtime.metrics import Family
from slipway_runtime.workers import totals
from tests.runtime.workers.stand_ins import ONE, counted, of, statistic


@pytest.mark.parametrize(
    ("name", "one", "other", "together"),
    [
        pytest.param("nv_inference_count", 2, 3, 5, id="counters add up"),
        pytest.param("slipway_runtime_running_requests", 2, 3, 5, id="requests add up"),
        pytest.param("process_resident_memory_bytes", 2, 3, 5, id="memory adds up"),
        pytest.param("slipway_runtime_load_seconds", 2, 3, 3, id="the slowest load"),
        pytest.param("process_start_time_seconds", 2, 3, 2, id="the first start"),
        pytest.param("nv_gpu_utilization", 0.5, 0.5, 0.5, id="of the machine, told by each"),
    ],
)
def test_figures_of_workers_become_those_of_one_server(name: str, one: float, other: float, together: float) -> None:
    said: list[list[Family]] = [[(name, "gauge", "", [("", ONE, value)])] for value in (one, other)]
    assert totals.families(said) == [(name, "gauge", "", [("", ONE, together)])]


def test_histograms_add_up_bucket_by_bucket() -> None:
    def rows(*counts: int) -> Family:
        samples = [("_bucket", {**ONE, "le": bound}, count) for bound, count in zip(("1", "+Inf"), counts, strict=True)]
        return "slipway_runtime_batch_rows", "histogram", "", [*samples, ("_count", ONE, counts[-1])]

    assert totals.families([[rows(1, 3)], [rows(2, 2)]]) == [rows(3, 5)]


def test_of_a_model_that_is_counted_anew_all_counts_are_kept_so_that_buckets_fit() -> None:
    before, now = [counted(5), counted(3, reason="x")], [counted(1), counted(4, reason="x")]
    assert of(totals.fallen(before, now), "nv_inference_count") == [5, 3]
    assert of(totals.fallen(before, before), "nv_inference_count") == []
    assert of(totals.fallen(before, []), "nv_inference_count") == [5, 3]


def test_counts_with_a_label_that_only_who_is_gone_had_are_kept_while_there_is_the_model() -> None:
    gone = [counted(3, reason="x")]
    assert of(totals.with_gone([counted(1)], gone), "nv_inference_count") == [1, 3]
    assert of(totals.with_gone([], gone), "nv_inference_count") == []


def test_what_only_one_worker_has_is_kept() -> None:
    assert of(totals.families([[counted(1)], [counted(2, reason="x")]]), "nv_inference_count") == [1, 2]


def test_statistics_add_up_batch_size_by_batch_size() -> None:
    assert totals.statistics([[statistic(1, b1=1, b4=2)], [statistic(2, b4=3, b2=1)]]) == {
        ("m", "1"): {**statistic(3, b1=1, b2=1, b4=5), "last_inference": 200}
    }
