"""Envoy's text to counts per revision, and the report that says only what changed."""

import json
import re

from slipway.decide.edges import EDGES_MS
from slipway.gateway.counters import Counters
from slipway.gateway.exposition import LATENCY_MS, Whose, exposition
from slipway.gateway.report import Report
from tests.gateway.views import view, wanted

HTTP = b"cluster.ns/r1.upstream_rq_total: %d\ncluster.ns/r1.upstream_rq_2xx: %d\ncluster.ns/r1.upstream_rq_active: %d\n"
ENDED = b"slipway_requests.finished.to.ns/r1: 3\nslipway_requests.failed.to.ns/r1: 1\n"
REJECTED = b"slipway_requests.rejected.to.ns/r1: 4\n"
ENDED_GRPC = b"slipway_requests.finished.to.ns/r1/grpc: 5\nslipway_requests.refused.to.ns/r1/grpc: 2\n"
TIMES = b"cluster.ns/r1.upstream_rq_time: B1(0,3) B2(1,4) B5(0,0)\n"
GRPC = b"cluster.ns/r1/grpc.upstream_rq_total: 5\ncluster.ns/r1/grpc.grpc.0: 4\ncluster.ns/r1/grpc.grpc.14: 1\n"
COPIES = (
    b"cluster.ns/r1/shadow.upstream_rq_total: 7\ncluster.ns/r1/shadow.upstream_rq_5xx: 6\n"
    b"cluster.ns/r1/shadow.upstream_rq_4xx: 3\ncluster.ns/r1/shadow.upstream_rq_429: 1\n"
)
GRPC_COPIES = b"cluster.ns/r1/grpc/shadow.upstream_rq_2xx: 9\ncluster.ns/r1/grpc/shadow.upstream_rq_5xx: 1\n"


def test_both_protocols_are_one_revisions_and_copies_are_apart() -> None:
    counters = Counters()
    text = HTTP % (3, 3, 1) + TIMES + GRPC + COPIES + ENDED + REJECTED + ENDED_GRPC
    assert counters.read("Counters", text) == {"ns/r1"}
    assert counters.of("ns/r1") == {
        "requests": 8,
        "active": 1,
        "finished": 8,
        "failed": 1,
        "rejected": 4,
        "refused": 2,
        "latency_ms": {"1": 3, "2": 4},
        "shadow": {"requests": 7, "finished": 9, "failed": 6, "rejected": 2, "refused": 0},
    }
    assert counters.of("ns/other") == {}


def pods(*counts: int, cluster: str = "ns/r1/grpc/shadow") -> bytes:
    """Envoy's page of endpoints, of which each has so many errors; none has no value in it."""
    hosts = [
        {
            "address": {"socket_address": {"address": f"10.0.0.{number}", "port_value": 8001}},
            "stats": [{"name": "rq_error", **({"value": str(count)} if count else {})}, {"name": "rq_total"}],
        }
        for number, count in enumerate(counts)
    ]
    return json.dumps({"cluster_statuses": [{"name": cluster, "host_statuses": hosts}]}).encode()


def test_copies_by_grpc_fail_by_what_their_pods_answered() -> None:
    counters = Counters()
    counters.read("Counters", HTTP % (3, 3, 1))
    needed = [counters.has_copies_by_grpc]
    counters.read("Counters", GRPC_COPIES)
    needed.append(counters.has_copies_by_grpc)
    assert needed == [False, True]
    assert counters.of("ns/r1")["shadow"] == {"finished": 10, "failed": 1, "rejected": 0, "refused": 0}
    assert counters.read_pods(pods(3, 0)) == {"ns/r1"}
    assert counters.read_pods(pods(3, 0)) == frozenset()
    assert counters.of("ns/r1")["shadow"]["failed"] == 3
    counters.read_pods(pods(3, 2))
    counters.read_pods(pods(1))
    assert counters.of("ns/r1")["shadow"]["failed"] == 6, "one pod went, the other began anew"
    counters.forget("ns/r1")
    assert counters.of("ns/r1") == {}


def test_only_revisions_whose_counts_moved_are_said_to_have() -> None:
    counters = Counters()
    other = b"cluster.ns/r2.upstream_rq_total: 1\n"
    counters.read("Counters", HTTP % (3, 3, 1) + other)
    assert counters.read("Counters", HTTP % (3, 3, 1) + other) == frozenset()
    assert counters.read("Counters", HTTP % (4, 4, 0) + other) == {"ns/r1"}
    assert counters.of("ns/r1")["active"] == 0


def test_lines_of_nobody_and_of_other_clusters_are_left_alone() -> None:
    counters = Counters()
    assert counters.read("Counters", b"cluster.agent.upstream_rq_total: 1\nserver.live: 1\nnonsense\n") == frozenset()


def report() -> Report:
    found = Report("gw-0", Counters())
    found.taken(("ns", "a"), wanted(view("a")))
    return found


def test_a_report_since_a_token_says_only_what_changed() -> None:
    found = report()
    first = found.render("", 0.0)
    assert first["full"]
    assert first["taken"] == {"ns/a": "v1"}
    found.taken(("ns", "b"), wanted(view("b")))
    found.refused(("ns", "a"), "v2", "no")
    second = found.render(first["token"], 0.0)
    assert not second["full"]
    assert (second["taken"], second["refused"]) == ({"ns/b": "v1"}, {"ns/a": {"version": "v2", "message": "no"}})
    found.healed(("ns", "a"))
    found.taken(("ns", "b"), None)
    third = found.render(second["token"], 0.0)
    assert (third["taken"], third["refused"]) == ({"ns/b": None}, {"ns/a": None})
    assert found.render(third["token"], 0.0)["taken"] == {}


def test_an_unknown_token_is_answered_with_everything() -> None:
    for token in ("", "x", "deadbeef-1", f"{report().token}"):
        assert report().render(token, 0.0)["full"]
    found = report()
    assert found.render(f"{found.token}9", 0.0)["full"], "a number that never was"


def test_counts_of_another_envoy_void_what_was_told_before() -> None:
    counters = Counters()
    found = Report("gw-0", counters)
    found.counted(counters.read("Counters", HTTP % (3, 3, 0)), "first", 10.0)
    before = found.render("", 10.5)
    assert before["counters"]["ns/r1"]["requests"] == 3
    assert before["counted_s"] == 0.5
    counters.reset()
    found.counted(counters.read("Counters", HTTP % (1, 1, 0)), "second", 11.0)
    after = found.render(before["token"], 11.0)
    assert after["full"]
    assert after["epoch"] == "second"
    assert after["counters"]["ns/r1"]["requests"] == 1
    found.forget("ns/r1")
    assert found.render(after["token"], 11.0)["counters"] == {"ns/r1": None}


def test_who_waits_is_still_told_when_the_counts_begin_anew() -> None:
    """As when Envoy's age is heard for the first time, which is a moment after it lets requests wait."""
    found = Report("gw-0", Counters())
    found.waiting({(("ns", "a"), "r1"): 2})
    found.counted(frozenset(), "first", 10.0)
    found.waiting({(("ns", "a"), "r1"): 2})
    told = found.render("", 10.0)
    assert (told["held"], told["counters"]) == ({"ns/a": 2}, {"ns/r1": {"held": 2}})


def test_series_carry_the_labels_people_ask_for() -> None:
    counters = Counters()
    counters.read("Counters", HTTP % (3, 3, 1) + TIMES + GRPC + COPIES + b"cluster.ns/gone.upstream_rq_2xx: 1\n")
    text = exposition(counters, {"ns/r1": Whose("ns", "a", "r1", "b")}, {"slipway_gateway_ready": ("Ready", 1.0)})
    labels = 'namespace="ns",service="a",revision="r1",variant="b",protocol='
    assert f'slipway_gateway_requests_total{{{labels}"http",code="2xx"}} 3' in text
    assert f'slipway_gateway_grpc_requests_total{{{labels}"grpc",code="14"}} 1' in text
    assert f'slipway_gateway_request_duration_seconds_bucket{{{labels}"http",le="0.002"}} 7' in text
    assert f'slipway_gateway_request_duration_seconds_count{{{labels}"http"}} 7' in text
    assert "gone" not in text
    buckets = re.findall(r'_bucket\{.*protocol="http",le="([^"]*)"\} (\d+)', text)
    assert [int(count) for _, count in buckets] == [3, *[7] * len(LATENCY_MS)], "also where nothing was counted"
    assert {float(edge) * 1000 for edge, _ in buckets[:-1]} == set(LATENCY_MS) <= set(EDGES_MS)
