"""What the operator's /metrics tell of scaling: only of services that scale, and only as long as they do."""

import re

import pytest

from slipway.control.metrics import Metrics
from slipway.kube.kinds import INFERENCE_SERVICE
from tests.control.scaled import ScalingWorld, scaled
from tests.control.world import service

LABELS = '{namespace="team",service="hello",variant=""}'


def series(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.exposition().decode().splitlines() if line.startswith("slipway_scaling_")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def named(found: dict[str, float]) -> set[str]:
    """Names of series that are of a service."""
    return {re.sub(r"[{].*", "", name) for name in found if "service=" in name}


async def test_a_service_that_scales_is_shown_with_its_numbers_until_it_is_gone() -> None:
    world = ScalingWorld(scaled(most=8), load_s=10)
    metrics = Metrics()
    metrics.scaling.watch(world.scaler.arms)
    await world.begin()
    await world.pass_time(90, rate=30.0)
    found = series(metrics)
    for kind in ("desired", "ready"):
        assert found[f"slipway_scaling_{kind}_replicas{LABELS}"] == world.replicas
    assert found[f"slipway_scaling_loading_replicas{LABELS}"] == 0
    assert found[f"slipway_scaling_capacity{LABELS}"] > 2
    parts = {name: value for name, value in found.items() if "lead_time_seconds" in name}
    assert len(parts) == 6
    assert parts['slipway_scaling_lead_time_seconds{namespace="team",part="all",service="hello",variant=""}'] >= 10
    world.store.delete(INFERENCE_SERVICE, *world.key)
    await world.scaler.tick()
    assert named(series(metrics)) == set()


async def test_the_share_of_requests_in_time_is_that_of_the_last_minutes() -> None:
    world = ScalingWorld(scaled(most=8, objective={"latency": {"p99": "1s"}}))
    metrics = Metrics()
    metrics.scaling.watch(world.scaler.arms)
    await world.begin()
    name = f"slipway_scaling_objective_attainment_ratio{LABELS}"
    assert name not in series(metrics), "none was judged yet"
    for number in range(1, 6):
        await world.pass_time(10)
        counted = {"320": 90 * number, "3600": 10 * number}
        world.traffic.count(world.key, world.revision, requests=100, finished=100, latency_ms=counted)
    await world.pass_time(2)
    assert series(metrics)[name] == pytest.approx(0.9)
    await world.pass_time(330)
    assert name not in series(metrics)


async def test_a_fixed_service_has_no_series() -> None:
    world = ScalingWorld(service(replicas=2))
    metrics = Metrics()
    metrics.scaling.watch(world.scaler.arms)
    await world.operate()
    await world.pass_time(10, rate=30.0)
    assert named(series(metrics)) == set()


def test_decisions_are_counted_by_their_reason_and_timed() -> None:
    metrics = Metrics()
    metrics.scaling.decided("Steady", 0.00015)
    metrics.scaling.decided("Waking", 0.00015)
    metrics.scaling.polled("error")
    found = series(metrics)
    assert found['slipway_scaling_decisions_total{code="Waking"}'] == 1
    assert found["slipway_scaling_decide_seconds_count"] == 2
    assert found['slipway_scaling_decide_seconds_bucket{le="0.0002"}'] == 2
    assert found['slipway_scaling_pod_polls_total{result="error"}'] == 1
