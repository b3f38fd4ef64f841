"""The pure parts of the gateway's benchmark: what proxies are set up with, ratios, verdicts, and what is a change."""

import argparse
import json
from pathlib import Path

import pytest

from e2e.bench.gateway import __main__ as program
from e2e.bench.gateway import results, services
from e2e.bench.gateway.changes import Cost
from e2e.bench.gateway.changes import Figures as Changed
from e2e.bench.gateway.proxies import KEY, Place, haproxy_cfg, nginx_conf
from e2e.bench.gateway.requests import DIRECT, OURS, request
from e2e.bench.runtime.cells import Cell, Figures, Subject
from e2e.bench.runtime.results import Results
from slipway.api.routing import Routing

PLACE = Place(Path("/nowhere"), "192.0.2.1:9", 8001, 8002)


def requests(**per_s: float) -> Results:
    """Of everybody the same with every number of clients; one request more a second is a microsecond less."""
    found = Results()
    for name, value in per_s.items():
        for protocol in ("json", "grpc"):
            for clients in (1, 64):
                figures = Figures(value, 1000 / value, 2000 / value, 50.0, 9.0, 10.0, 2.0)
                found.add(Subject(DIRECT if name == "direct" else name), Cell("split", protocol, clients), figures)
    return found


def changed(number: int, cost: Cost) -> Changed:
    return Changed(number, tuple(map(float, range(1, 101))), (1.0,), 80.0, 200.0, number / 100, 5.0, cost)


def test_throughput_is_compared_with_each_proxy_and_latency_with_nobody_between() -> None:
    found = results.of_requests(requests(direct=10_000, slipway=2000, nginx=8000, haproxy=4000))
    assert found == {
        "overhead_p50_ms": pytest.approx(0.4),
        "overhead_p99_ms": pytest.approx(0.8),
        "rps_ratio_vs_haproxy": 0.5,
        "rps_ratio_vs_nginx": 0.25,
        "grpc_rps_ratio_vs_direct": 0.2,
    }


def test_what_was_not_measured_is_null_and_said() -> None:
    found = results.of_requests(requests(direct=10_000, haproxy=4000))
    assert set(found.values()) == {None}
    assert all(value is None for value in json.loads(results.line(found).removeprefix("RESULT ")).values())
    assert results.verdicts(found).count("not measured") == len(results.FLOORS) + len(results.CEILINGS)


def test_the_result_has_the_keys_in_the_order_asked_for() -> None:
    few, many = changed(10, Cost(1.0, 1.0, 5000.0)), changed(1000, Cost(1.0, 1.0, 5000.0))
    figures = results.of_requests(requests(direct=9.0, slipway=3.0, nginx=6.0, haproxy=6.0)) | results.of_changes(
        few, many
    )
    printed = json.loads(results.line(figures).removeprefix("RESULT "))
    assert list(printed) == list(results.KEYS)
    assert None not in printed.values()
    assert (printed["weight_to_served_p95_ms"], printed["agent_cpu_pct_1000_services"]) == (95.0, 10.0)


def test_a_floor_that_is_missed_is_said() -> None:
    lines = results.verdicts({"rps_ratio_vs_haproxy": 0.59, "agent_rss_mib": 90.0}).splitlines()
    assert [line.split()[-1] for line in lines if " - " not in line] == ["NO", "yes"]


@pytest.mark.parametrize(
    ("more", "ratio"),
    [
        pytest.param(Cost(2.0, 1.0, 1000.0), 1.5, id="CPU of both together"),
        pytest.param(Cost(1.0, 1.0, 3000.0), 3.0, id="bytes"),
    ],
)
def test_a_change_costs_as_much_more_as_the_worse_of_cpu_and_bytes(more: Cost, ratio: float) -> None:
    assert more.ratio(Cost(1.5, 0.5, 1000.0)) == ratio


def test_a_change_is_a_routing_as_the_operator_writes_it() -> None:
    written = [services.routing("a", pct) for pct in (0, 100, 0)]
    tables = [Routing.model_validate(each) for each in written]
    assert [[target.weight for target in table.targets] for table in tables] == [[0, 10_000], [10_000, 0], [0, 10_000]]
    assert tables[0] == tables[2]
    assert tables[0].version != tables[1].version
    assert tables[0].access.clients == [services.CLIENT]


@pytest.mark.parametrize("text", [nginx_conf(PLACE), haproxy_cfg(PLACE)], ids=["nginx", "haproxy"])
def test_every_proxy_asks_for_the_key_splits_and_logs_the_revision(text: str) -> None:
    assert KEY in text
    assert "401" in text
    assert '"revision":"' in text
    assert {"bench-1", "bench-2", "10"} <= set(text.replace("%", " ").replace("-rest", " ").split())


def test_requests_carry_the_key_and_name_the_service() -> None:
    rest, grpc = request("json"), request("grpc")
    assert (rest.headers["Host"], grpc.headers["x-slipway-service"]) == ("bench.bench", "bench/bench")
    assert rest.headers["x-api-key"] == grpc.headers["x-api-key"] == KEY


@pytest.mark.parametrize(
    ("words", "parts", "subjects"),
    [
        pytest.param("", ["requests", "changes"], [DIRECT, OURS, "nginx", "haproxy"], id="all"),
        pytest.param("changes", ["changes"], [DIRECT, OURS, "nginx", "haproxy"], id="a part"),
        pytest.param("requests haproxy", ["requests"], [DIRECT, "haproxy"], id="a part and a proxy"),
    ],
)
def test_words_choose_parts_and_proxies(words: str, parts: list[str], subjects: list[str]) -> None:
    assert program.choice(words) == (parts, subjects)


def test_an_unknown_word_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match="has traefik, may have: requests changes slipway nginx haproxy"
    ):
        program.choice("requests traefik")
