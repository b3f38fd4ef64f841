"""Releases that a real Prometheus is asked about: judged by it, paused without it, never taken back for its absence."""

import time

from e2e.support.api import Manifest
from e2e.support.prometheus import Prometheus
from e2e.support.releases import (
    begin,
    canary,
    candidate_of,
    end,
    offset,
    release,
    state,
    wait_promoted,
    wait_rolled_back,
    wait_state,
    watched,
)
from e2e.support.team import Team
from e2e.support.wait import until

ODD = {
    "name": "odd-answers",
    "promql": 'sum(increase(answers_not_numbers_total{revision="$candidate"}[1m]))',
    "max": 0,
    "for": "5s",
}
"""Only the model knows that an answer is no number; see release_model."""


def judged(*steps: int, hold: str = "2s") -> Manifest:
    return canary(*steps, hold=hold, analysis={"minRequests": 20, "metrics": [ODD]})


def test_a_version_whose_answers_are_no_numbers_goes_back_by_a_metric_on_it(shop: Team, prometheus: Prometheus) -> None:
    """For the gateway all is well: each request is answered, and soon."""
    assert prometheus
    policy = judged(20, 50, hold="1m")
    old = begin(shop, "odd", rollout=policy)
    with watched(shop) as record, shop.traffic("odd", rate=60, kinds="grpc") as flow:
        flow.wait_answered(50)
        shop.apply(release(2, "nan", name="odd", rollout=policy))
        bad = candidate_of(shop, "odd")
        found = wait_rolled_back(shop, "odd")
    assert found["abort"]["reason"] == "AnalysisFailed", found
    assert "odd-answers" in found["abort"]["message"], found
    assert shop.status("odd")["stable"] == old
    assert record.weights(bad, "odd")[-1] == 0
    end(shop, "odd")


def test_09_without_prometheus_a_release_waits_and_with_it_goes_on(shop: Team, prometheus: Prometheus) -> None:
    policy = judged(20, 50)
    old = begin(shop, "blind", rollout=policy)
    with shop.traffic("blind", rate=60) as flow:
        flow.wait_answered(50)
        prometheus.scale(0)
        shop.apply(release(2, name="blind", rollout=policy))
        paused = wait_state(shop, "blind", pause="MetricsUnavailable", phase="Progressing")
        assert "Prometheus" in paused["pause"]["message"], paused
        assert paused["weight"] == 2000
        until_weight_stays(shop, "blind", 2000, 20)
        assert "abort" not in state(shop, "blind")
        prometheus.scale(1)
        new = wait_promoted(shop, "blind", after=old)
        flow.wait_only(offset(2))
    flow.assert_unharmed()
    assert new != old
    end(shop, "blind")


def until_weight_stays(team: Team, name: str, weight: int, seconds: float) -> None:
    """What was measured before stays: nothing moves, and nothing goes back."""
    ends = time.monotonic() + seconds
    with watched(team) as record:
        until("the time is over", lambda: time.monotonic() > ends, within_s=seconds + 5)
    seen = {change.object["status"]["rollout"]["weight"] for change in record.statuses(name)}
    assert seen <= {weight}


def test_the_series_of_the_documented_jobs_bear_the_names_that_releases_go_by(
    shop: Team, prometheus: Prometheus
) -> None:
    revision = begin(shop, "seen")
    with shop.traffic("seen", rate=20) as flow:
        flow.wait_answered(100)
    whose = f'namespace="{shop.name}",service="seen",revision="{revision}"'
    wait_for(prometheus, f"sum(slipway_gateway_requests_total{{{whose},code='2xx'}}) >= 50")
    wait_for(prometheus, f"sum(nv_inference_request_success{{{whose},model='seen'}}) >= 50")
    wait_for(prometheus, f"sum(answers_not_numbers_total{{{whose},model_instance='0'}}) == 0")
    wait_for(prometheus, "count(slipway_leader{namespace='slipway-system'}) == 2 and sum(slipway_leader) == 1")
    wait_for(prometheus, "sum(slipway_prometheus_queries_total{result='ok'}) > 0")
    # The pods of the releases before this one may be on their way out still.
    until("every target is up", lambda: not prometheus.ask("up == 0"), within_s=120, seen=lambda: prometheus.ask("up"))
    end(shop, "seen")


def wait_for(prometheus: Prometheus, query: str) -> None:
    until(query, lambda: bool(prometheus.ask(query)), within_s=60, seen=lambda: prometheus.ask("up"))
