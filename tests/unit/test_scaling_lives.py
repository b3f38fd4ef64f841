"""Random lives of a service: loads, silence, signals that fail, clocks that jump. Whatever comes, some things hold."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.decide.scaling.types import Gateway, Metric, Pacing, Pods, Wanted
from tests.unit.scaling import Revision

pytestmark = pytest.mark.timeout(300)  # each takes up to 5 s of CPU, and a machine may do other things

BAD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 1e300])
STEP_S = 2.0


@dataclass(frozen=True)
class Part:
    """A stretch of a life."""

    looks: int
    rate: float
    lost: tuple[str, ...] = ()
    """Signals that say nothing, or nothing that could be."""
    bad: float | None = None
    """What they say; nothing when absent."""
    jump_s: float = 0.0
    """Of the wall clock, at its begin."""


PARTS = st.builds(
    Part,
    looks=st.integers(1, 60),
    rate=st.just(0.0) | st.floats(0.0, 60.0),
    lost=st.sets(st.sampled_from(["gateway", "pods", "promql"])).map(tuple) | st.just(()),
    bad=st.none() | BAD,
    jump_s=st.just(0.0) | st.sampled_from([3600.0, -3600.0, 25 * 3600.0, -25 * 3600.0]),
)
PACES = st.just(Pacing()) | st.builds(
    Pacing,
    replicas=st.none() | st.integers(1, 4),
    percent=st.none() | st.integers(1, 100),
    period_s=st.sampled_from([15.0, 60.0]),
    delay_s=st.sampled_from([0.0, 30.0]),
)
WISHES = st.builds(
    Wanted,
    min_replicas=st.integers(0, 3),
    max_replicas=st.integers(4, 20),
    queue_s=st.none() | st.just(1.0),
    concurrency=st.none() | st.just(4.0),
    requests_per_second=st.none() | st.just(5.0),
    promql_target=st.none() | st.just(5.0),
    slots=st.integers(1, 8),
    idle_after_s=st.none() | st.just(40.0),
    up=PACES,
    down=PACES,
).filter(lambda one: one.queue_s or one.concurrency or one.requests_per_second or one.promql_target)
LIVES = st.lists(PARTS, min_size=1, max_size=8)


def signals(one: Revision, part: Part) -> dict[str, object]:
    """What is seen in place of a lost signal."""
    bad = part.bad
    there: dict[str, object] = {
        "gateway": Gateway(age_s=1.0, arrived=one.arrived, in_flight=bad, queued=0.0) if bad is not None else None,
        "pods": Pods(age_s=1.0, running=bad, answered=one.arrived) if bad is not None else None,
        "promql": Metric(1.0, bad),
    }
    return {name: value for name, value in there.items() if name in part.lost} | (
        {} if "promql" in part.lost else {"promql": Metric(1.0, part.rate / 2)}
    )


def asked(part: Part, wanted: Wanted) -> set[str]:
    """Lost signals that this service is decided by."""
    return set(part.lost) - (set() if wanted.promql_target else {"promql"})


@settings(max_examples=60, deadline=None)
@given(WISHES, LIVES)
def test_replicas_stay_within_bounds_and_never_go_down_while_a_signal_is_lost(wanted: Wanted, life: list[Part]) -> None:
    one = Revision(wanted, replicas=wanted.min_replicas, service_s=0.5)
    seen_pods = False
    for part in life:
        one.now += part.jump_s
        for _ in range(part.looks):
            one.now += STEP_S
            one.arrived += part.rate * STEP_S
            one.in_flight = part.rate * one.service_s
            before = one.replicas
            one.look(**signals(one, part))
            assert wanted.min_replicas <= one.replicas <= wanted.max_replicas
            # A server that never said anything of itself is no signal that could be lost.
            lost = asked(part, wanted) - (set() if seen_pods else {"pods"})
            assert not lost or one.replicas >= before, (lost, before, one.replicas, one.reasons)
            seen_pods = seen_pods or "pods" not in part.lost


@settings(max_examples=10, deadline=None)
@given(st.floats(0.2, 40.0), st.lists(st.sampled_from([3600.0, -3600.0, 90_000.0, -90_000.0]), min_size=1, max_size=5))
def test_however_often_the_clock_jumps_a_steady_load_keeps_its_replicas(rate: float, jumps: list[float]) -> None:
    one = Revision(Wanted(min_replicas=0, max_replicas=64, queue_s=1.0, slots=4), replicas=2, service_s=0.5)
    one.run(900, rate=rate)
    settled = one.replicas
    assert settled >= 1
    for jump in jumps:
        one.now += jump
        one.run(40, rate=rate)
        assert one.history[-20:] == [settled] * 20


@settings(max_examples=25, deadline=None)
@given(st.floats(1.0, 50.0), st.sampled_from(["gateway", "pods"]), st.none() | BAD)
def test_a_rise_is_followed_by_what_signals_are_left(rate: float, lost: str, bad: float | None) -> None:
    one = Revision(Wanted(max_replicas=64, concurrency=2.0, slots=2), replicas=1, service_s=1.0)
    one.run(120, rate=1.0)
    part = Part(looks=30, rate=rate, lost=(lost,), bad=bad)
    for _ in range(part.looks):
        one.now += STEP_S
        one.arrived += part.rate * STEP_S
        one.in_flight = part.rate
        changes = signals(one, part)
        if lost == "gateway":
            changes["pods"] = Pods(age_s=1.0, answered=one.arrived, busy_s=one.arrived, running=rate, queued=0.0)
        one.look(**changes)
    # Within the tolerance of a target nothing changes.
    assert one.replicas >= math.floor(rate / 2.0 / 1.1)


@pytest.mark.parametrize("count", [1e8, 1e11])
def test_more_requests_at_once_than_any_gateway_holds_are_no_load(count: float) -> None:
    one = Revision(Wanted(max_replicas=64, concurrency=2.0), replicas=3)
    one.in_flight = 6.0
    one.run(60)
    seen = one.see().gateway
    assert seen is not None
    one.now += STEP_S
    assert one.look(gateway=replace(seen, in_flight=count)) == 3
    assert one.look(gateway=replace(seen, queued=count)) == 3
    assert one.look(pods=Pods(age_s=1.0, running=count), gateway=None) == 3


def test_a_counter_that_leaps_beyond_what_can_arrive_is_no_burst() -> None:
    one = Revision(Wanted(max_replicas=64, requests_per_second=5.0), replicas=2, service_s=0.1)
    one.run(300, rate=9.0)
    one.arrived += 1e10
    one.run(60, rate=9.0)
    assert set(one.history[-30:]) == {2}


@pytest.mark.parametrize("gone_s", [20.0, 90.0, 400.0])
def test_what_gateways_counted_while_they_were_not_heard_is_no_burst_when_they_are_heard_again(gone_s: float) -> None:
    one = Revision(Wanted(max_replicas=64, queue_s=1.0, slots=4), replicas=3, service_s=0.5)
    one.run(900, rate=10.0)
    before = one.replicas
    one.run(gone_s, rate=10.0, gateway=None)
    one.run(120, rate=10.0)
    assert set(one.history[-60:]) == {before}


def poisson(random: Random, mean: float) -> int:
    left, number = math.exp(-mean), 0
    while (left := left / max(1e-300, random.random())) < 1.0:
        number += 1
    return number


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(Wanted(max_replicas=20, concurrency=2.0), id="requests at once"),
        pytest.param(Wanted(max_replicas=20, requests_per_second=10.0), id="requests per second"),
        pytest.param(Wanted(max_replicas=20, queue_s=0.5, slots=2), id="time in the queue"),
    ],
)
def test_chance_makes_a_steady_load_turn_seldom_and_ever_more_seldom(wanted: Wanted) -> None:
    """30 requests a second of 100 ms: how many are at work at a moment is anything from none to nine."""
    random, one = Random(5), Revision(wanted, replicas=3, service_s=0.1)  # noqa: S311 - a load
    for _ in range(2 * 1800):
        one.now += STEP_S
        one.arrived += poisson(random, 30.0 * STEP_S)
        one.in_flight = poisson(random, 30.0 * one.service_s)
        one.look()

    def turns(history: list[int]) -> int:
        deltas = [after - before for before, after in pairwise(history) if after != before]
        return sum(1 for before, after in pairwise(deltas) if before * after < 0)

    first, second = one.history[:1800], one.history[1800:]
    assert turns(second) <= 10
    assert turns(second) <= turns(first) + 2
    assert min(second) >= 2
    # Once in hours chance makes a leap, too, and what it bought is held for a while.
    assert sorted(second)[int(0.85 * len(second))] <= 4


def test_more_at_once_than_chance_makes_is_followed_in_one_look() -> None:
    one = Revision(Wanted(max_replicas=50, concurrency=2.0), replicas=2)
    one.in_flight = 4.0
    one.run(60)
    one.in_flight = 40.0
    assert one.run(2) == 20


def test_who_went_too_soon_waits_twice_as_long_the_next_time() -> None:
    """A load that comes back each three minutes turned it each time, as less had been enough for a minute."""
    one = Revision(Wanted(max_replicas=50, concurrency=2.0), replicas=2)
    kept: list[bool] = []
    for _ in range(5):
        one.in_flight = 40.0
        one.run(90)
        one.in_flight = 4.0
        one.run(90)
        kept.append(one.replicas == 20)
    assert kept == [False, True, True, True, True]
    assert one.run(600) == 2, "in the end it goes"
