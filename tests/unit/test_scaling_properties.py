"""Properties of every decision, whatever is seen: bounds, no harm by bad numbers, small state, nothing hidden."""

import json
import math
from bisect import bisect_left
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.api.scaled import ScalingState, restored, size_bytes, stored
from slipway.decide.scaling import decide
from slipway.decide.scaling.hindsight import LEVELS
from slipway.decide.scaling.types import Gateway, Launch, Metric, Observation, Pods, Replicas, Wanted
from tests.unit.scaling import EPOCH, Revision, by_concurrency, by_queue

BAD = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 1e300])
ANY = st.one_of(st.floats(0, 1e6), BAD)
AGES = st.one_of(st.floats(0, 300), BAD)
GATEWAYS = st.none() | st.builds(
    Gateway, age_s=AGES, arrived=ANY, in_flight=ANY, queued=ANY, judged=ANY, late=ANY, epoch=st.sampled_from(["", "a"])
)
PODS = st.none() | st.builds(
    Pods, age_s=AGES, coverage=st.floats(0, 1), answered=ANY, busy_s=ANY, running=ANY, queued=ANY, slots=ANY, tail=ANY
)
LAUNCHES = st.lists(st.builds(Launch, ready_at=st.floats(0, 2e9), schedule_s=ANY, load_s=ANY), max_size=3).map(tuple)
REPLICAS = st.builds(
    Replicas,
    asked=st.integers(0, 40),
    ready=st.integers(0, 40),
    loading=st.lists(st.floats(0, 1e5), max_size=5).map(tuple),
    failed=st.integers(0, 4),
    missing=st.sampled_from(["", "nvidia.com/gpu"]),
    launches=LAUNCHES,
)
WANTED = st.builds(
    Wanted,
    min_replicas=st.integers(0, 4),
    max_replicas=st.integers(4, 30),
    queue_s=st.none() | st.floats(0.01, 60),
    latency_s=st.none() | st.floats(0.01, 60),
    concurrency=st.none() | st.floats(0.1, 100),
    requests_per_second=st.none() | st.floats(0.1, 100),
    promql_target=st.none() | st.floats(0.1, 100),
    slots=st.integers(0, 64),
)
METRICS = st.none() | st.builds(Metric, age_s=AGES, value=st.none() | ANY)
OBSERVATIONS = st.builds(
    Observation,
    wanted=WANTED,
    replicas=REPLICAS,
    gateway=GATEWAYS,
    pods=PODS,
    promql=METRICS,
    is_shifting=st.booleans(),
)
STEPS = st.floats(-2 * 3600, 30 * 3600) | st.floats(0, 30) | BAD


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(OBSERVATIONS, STEPS), min_size=1, max_size=6))
def test_whatever_is_seen_the_answer_is_within_bounds_and_the_state_stays_small_and_sound(
    seen: list[tuple[Observation, float]],
) -> None:
    state: ScalingState | None = None
    now = EPOCH
    for observation, step in seen:
        now = now + step if math.isfinite(step) else now
        state, replicas, reasons = decide(state, observation, now if math.isfinite(step) else step)
        asked, wanted = observation.replicas.asked, observation.wanted
        assert min(0, asked) <= replicas <= max(wanted.max_replicas, asked)
        assert reasons
        assert size_bytes(state) <= 2048
        text = json.dumps(stored(state), allow_nan=False)
        assert restored(json.loads(text)) is not None


@settings(max_examples=20, deadline=None)
@given(GATEWAYS.filter(lambda one: one is None or not math.isfinite(one.in_flight)), st.integers(1, 12))
def test_signals_without_a_sound_number_never_cost_a_replica(gateway: Gateway | None, replicas: int) -> None:
    one = Revision(by_queue(slots=4), replicas=replicas)
    one.run(200, rate=2.0)
    before = one.replicas
    one.run(400, gateway=gateway, pods=None)
    assert one.replicas >= before


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 500), st.floats(0, 500))
def test_more_load_never_asks_for_less(first: float, second: float) -> None:
    low, high = sorted((first, second))
    answers: list[int] = []
    for load in (low, high):
        one = Revision(by_concurrency(10))
        one.in_flight = load
        answers.append(one.look())
    assert answers[0] <= answers[1]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0, 30), min_size=3, max_size=12))
def test_a_restart_between_any_two_looks_never_leads_to_fewer_replicas(rates: list[float]) -> None:
    whole, restarted = (Revision(by_queue(slots=4), replicas=4, service_s=1.0) for _ in range(2))
    for rate in rates:
        whole.run(20, rate=rate)
        restarted.run(20, rate=rate)
        assert restarted.state is not None
        restarted.state = restored(json.loads(json.dumps(stored(restarted.state))))
        assert restarted.state is not None
        # Rounding may turn a tie between two of the numbers that hindsight looks at; it may not lose what is needed.
        apart = [bisect_left(LEVELS, one.replicas) for one in (restarted, whole)]
        assert abs(apart[0] - apart[1]) <= 1


def test_a_state_that_cannot_be_read_is_none() -> None:
    assert restored({"clock": "yesterday"}) is None
    assert restored({"beta": float("nan")}) is None
    assert restored(None) is None
    assert restored({"unknownOfALaterVersion": 1, "clock": 5}) == ScalingState(clock=5)


@pytest.mark.timeout(300)
def test_the_state_of_a_long_and_varied_life_is_below_two_kilobytes() -> None:
    """Every day another load, up to several hundred replicas, seen often enough for the profile of the day."""
    one = Revision(by_queue(least=0, most=1000, slots=4), replicas=4, lead_s=90, service_s=1.0)
    largest = 0
    for part in range(100):
        one.run(1800, rate=[0.0, 3.7, 55.123, 0.9, 17.77, 240.31][(part * part + part // 3) % 6], every=9.0)
        assert one.state is not None
        largest = max(largest, size_bytes(one.state))
    assert one.state is not None
    assert one.state.forecast.days[1], "two days were seen"
    assert largest <= 2048


def test_the_same_seen_gives_the_same_decision() -> None:
    one, other = (Revision(by_queue(slots=4), replicas=2, service_s=1.0) for _ in range(2))
    one.run(300, rate=9.0)
    other.run(300, rate=9.0)
    assert (one.history, one.state, one.reasons) == (other.history, other.state, other.reasons)
    assert one.state is not None
    kept = one.state.model_copy(deep=True)
    decide(one.state, one.see(), one.now + 2)
    assert one.state == kept


def test_counters_that_begin_anew_count_from_there() -> None:
    one = Revision(by_queue(slots=4), replicas=3, service_s=1.0)
    one.run(600, rate=6.0)
    before = one.replicas
    seen = one.see()
    assert seen.gateway is not None
    fresh = replace(seen.gateway, epoch="another", arrived=0.0, judged=0.0)
    one.now += 2
    assert one.look(gateway=fresh) == before
    assert one.state is not None
    assert one.state.counted.arrived == 0.0
