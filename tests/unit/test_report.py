"""What two reports of a gateway make a sample."""

import pytest

from slipway.decide.release import EDGES_MS, Sample
from slipway.signals.report import Counters, parse, sample


def test_a_sample_is_what_came_between_two_reports() -> None:
    before = Counters(finished=10, failed=2, latency_ms={"1": 4, "10": 6})
    now = Counters(finished=25, failed=3, latency_ms={"1": 5, "10": 6, "86400000": 2})
    found = sample(now, before)
    assert (found.requests, found.errors, sum(found.latency)) == (15, 1, 3)
    assert found.latency[EDGES_MS.index(1)] == 1
    assert found.latency[-1] == 2, "beyond the last edge"
    assert len(found.latency) == len(EDGES_MS) + 1


@pytest.mark.parametrize("before", [None, Counters(finished=500, failed=50, latency_ms={"1": 500})])
def test_an_envoy_that_began_anew_is_counted_from_zero(before: Counters | None) -> None:
    found = sample(Counters(finished=3, failed=1, latency_ms={"1": 3}), before)
    assert (found.requests, found.errors, sum(found.latency)) == (3, 1, 3)


def test_what_the_gateway_refused_for_want_of_room_is_neither_a_request_nor_an_error() -> None:
    found = sample(Counters(finished=20, failed=9, refused=8), Counters(finished=10, failed=1, refused=1))
    assert found == Sample(requests=3, errors=1)


def test_errors_are_never_more_than_requests_nor_less_than_none() -> None:
    """The numbers are read one after the other while requests go on."""
    assert sample(Counters(finished=1, failed=2), Counters()) == Sample(requests=1, errors=1)
    assert sample(Counters(finished=5, failed=4, refused=5), Counters(finished=5, failed=4)) == Sample()


def test_buckets_of_another_version_are_no_latencies_at_all() -> None:
    for edge in ("4", "1e9x", "1280"):
        assert sample(Counters(finished=1, latency_ms={"1": 1, edge: 1}), None).latency == ()


def test_latencies_that_were_not_summed_up_yet_are_none() -> None:
    assert sample(Counters(finished=9, latency_ms={"1": 4}), Counters(finished=2, latency_ms={"1": 4})).latency == ()


def test_copies_have_counts_of_their_own() -> None:
    report = parse(b'{"counters": {"ns/r1": {"requests": 3, "finished": 2, "shadow": {"finished": 7, "failed": 7}}}}')
    counters = report.counters["ns/r1"]
    assert counters
    assert counters.shadow
    assert sample(counters.shadow, None) == Sample(requests=7, errors=7)
    assert sample(counters, None) == Sample(requests=2)


def test_a_report_of_a_gateway_of_before_has_no_samples() -> None:
    counters = parse(b'{"counters": {"ns/r1": {"requests": 3, "2xx": 3}}}').counters["ns/r1"]
    assert counters
    assert sample(counters, None) == Sample()
