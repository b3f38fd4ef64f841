"""The parts of a scaling decision, each by itself: capacity, lead time, forecast, hindsight, schedules, sleep."""

import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from random import Random

import pytest

from slipway.api.scaled import Capacity, Forecast, Hindsight, Lead, Zero
from slipway.api.scaling import Behavior, Objective, Pace, Percentiles, Scaling, Schedule
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide.scaling import capacity, forecast, hindsight, lead, schedules, spec, staffing, zero
from slipway.decide.scaling.capacity import Carries
from slipway.decide.scaling.settings import wanted
from slipway.decide.scaling.types import Code, Launch, Pacing, Wanted
from tests.unit.scaling import Revision, by_queue


def learnt(base_s: float, each_s: float, loads: list[float]) -> Capacity:
    known = Capacity()
    for n in loads:
        known = capacity.learn(known, answered=20, busy_s=20 * (base_s + each_s * n), running=n, waiting=0, ready=1)
    return known


def test_service_time_is_learnt_as_a_line_over_what_runs_at_once() -> None:
    found = capacity.line(learnt(0.5, 0.1, [1, 4, 8, 16] * 20))
    assert found is not None
    assert found[0] == pytest.approx(0.5, rel=0.6)
    assert found[0] + 16 * found[1] == pytest.approx(2.1, rel=0.15)


def test_a_latency_objective_limits_how_many_run_at_once() -> None:
    known = capacity.with_tail(learnt(0.5, 0.1, [1, 4, 8, 16] * 20), 1.5)
    tight = capacity.carries(known, Wanted(latency_s=1.5, slots=16), None)
    loose = capacity.carries(known, Wanted(latency_s=30.0, slots=16), None)
    assert tight.slots < 6
    assert tight.slots >= 1
    assert loose.slots == 16
    assert loose.spare_s > 20


def test_an_objective_shorter_than_a_request_alone_takes_is_told_and_buys_no_more_than_waiting_does() -> None:
    """Two seconds each, five a second, answers within half a second are asked for: ten are at work at a time."""
    one = Revision(by_queue(queue_s=None, latency_s=0.5, slots=2), replicas=6, service_s=2.0)
    for _ in range(600):
        one.now += 2
        one.arrived += 10
        one.in_flight = 10.0
        seen = one.see().gateway
        assert seen is not None
        one.look(gateway=replace(seen, late=one.arrived))
    assert 5 <= one.replicas <= 12
    assert one.reasons[0].note.endswith("a request takes 2 s by itself: no number of replicas keeps this objective")


def test_a_handful_of_answers_over_a_long_time_is_no_window() -> None:
    known = Capacity()
    for _ in range(100):
        known = capacity.learn(known, answered=0.1, busy_s=0.1, running=1, waiting=0, ready=1)
    assert known.windows == 0


def test_a_new_revision_begins_with_what_its_predecessor_carries_less_some() -> None:
    known = learnt(1.0, 0.0, [4] * 30)
    before = capacity.carries(known, Wanted(queue_s=1, slots=4), None)
    after = capacity.carries(capacity.handed_down(known), Wanted(queue_s=1, slots=4), None)
    assert after.service_s == pytest.approx(1.2 * before.service_s)
    assert after.rate < before.rate


def test_lead_time_is_the_quantile_of_the_last_launches_each_counted_once() -> None:
    launches = [Launch(100.0 + k, 1.0, load_s=10.0 + k) for k in range(10)]
    known = lead.learn(lead.learn(Lead(), launches), launches)
    assert len(known.launches) == 10
    assert lead.lead_s(known) == pytest.approx(18.2)
    assert len(known.parts) == 5
    assert known.parts[0] == 1.0


def test_few_launches_are_mixed_with_the_prior_and_bad_ones_ignored() -> None:
    known = lead.learn(Lead(), [Launch(1.0, math.nan), Launch(2.0, -1.0), Launch(3.0, 1.0, load_s=9.0)])
    assert known.launches == [10.0]
    assert 10 < lead.lead_s(known) <= 60


def test_replicas_that_load_are_expected_by_their_age_and_given_up_after_three_lead_times() -> None:
    assert lead.etas([0.0, 60.0, 95.0, 299.0, 301.0], 100.0) == [100.0, 40.0, 25.0, 25.0]


def rates(per_second: list[float], lead_s: float) -> tuple[Forecast, float]:
    known, clock = Forecast(), 0.0
    for rate in per_second:
        clock += 1.0
        before = known
        known = forecast.count(known, rate, clock, 1.0)
        known = forecast.forward(known, clock=clock, lead=lead_s, now=clock, is_new_step=known.step != before.step)
    return known, clock


def outlook(known: Forecast, clock: float, lead_s: float) -> forecast.Outlook:
    return forecast.outlook(known, clock=clock, lead=lead_s, service_s=1.0, now=clock, share=0.8, headroom=1.2)


def test_a_load_that_rises_steadily_is_continued_once_that_has_proved_right() -> None:
    known, clock = rates([2.0 + 0.02 * second for second in range(600)], 120.0)
    there = outlook(known, clock, 120.0)
    assert there.ahead > 1.08 * there.now
    assert there.ahead < 2.0 + 0.02 * (600 + 240)


def test_a_load_that_jumps_up_and_down_is_not_continued_beyond_its_height() -> None:
    on_off = ([12.0] * 60 + [0.0] * 60) * 8
    known, clock = rates(on_off, 120.0)
    there = outlook(known, clock, 120.0)
    assert there.safe <= 12.5
    known, clock = rates([*on_off, *([12.0] * 60)], 120.0)
    assert outlook(known, clock, 120.0).safe <= 12.5


def test_the_day_as_it_usually_goes_is_used_after_two_days() -> None:
    """Each day at nine the load grows to eight times within a quarter of an hour."""

    def rate(second: int) -> float:
        return 40.0 if (second // 60) % 1440 >= 540 else 5.0

    known, step = Forecast(), 5
    ahead: list[float] = []
    for second in range(0, int(3.4 * 86_400), step):
        known = forecast.count(known, rate(second) * step, float(second), float(step))
        known = forecast.forward(known, clock=float(second), lead=420.0, now=float(second), is_new_step=True)
        if second % 86_400 == 540 * 60 - 300:
            ahead.append(outlook(known, float(second), 420.0).ahead)
    assert ahead[0] == pytest.approx(5.0, rel=0.1)
    assert ahead[-1] > 15.0, "five minutes before nine it knows"


def test_hindsight_finds_the_number_that_would_have_kept_a_burst_in_time() -> None:
    carries = Carries(slots=4.0, service_s=1.0, spare_s=1.0)
    known, clock = Hindsight(), 0.0
    for second in range(600):
        clock += 1.0
        arrived = 40.0 if second % 200 == 50 else 1.0
        known = hindsight.look(known, arrived=arrived, dt=1.0, carries=carries, most=64, clock=clock, lead=60.0)
    # 40 at once, in time when begun within a second: 4 slots give 8 in two rounds.
    needed = hindsight.enough(known, most=64, share_late=0.005, clock=clock, lead=60.0, usual=1)
    assert 5 <= needed <= 9
    assert hindsight.enough(known, most=3, share_late=0.005, clock=clock, lead=60.0, usual=1) == 3


def test_hindsight_lets_go_of_what_came_once_and_keeps_what_came_back() -> None:
    carries = Carries(slots=4.0, service_s=1.0, spare_s=1.0)

    def after(bursts: set[int]) -> int:
        known, clock = Hindsight(), 0.0
        for second in range(1500):
            clock += 1.0
            arrived = 60.0 if second in bursts else 1.0
            known = hindsight.look(known, arrived=arrived, dt=1.0, carries=carries, most=64, clock=clock, lead=60.0)
        return hindsight.enough(known, most=64, share_late=0.005, clock=clock, lead=60.0, usual=1)

    assert after({500}) == 1
    assert after({100, 550, 1000}) > 5


def test_staffing_is_the_square_root_rule() -> None:
    carries = Carries(slots=1.0, service_s=1.0, spare_s=0.0)
    assert staffing.for_rate(100.0, carries, 2.0) == 120
    assert staffing.for_rate(0.0, carries, 2.0) == 0


def test_capacity_that_comes_after_the_queue_has_gone_is_not_bought() -> None:
    carries = Carries(slots=4.0, service_s=1.0, spare_s=1.0)
    assert staffing.for_backlog(50, 1.0, carries, ready=4, etas=[], lead=60.0) == 0
    assert staffing.for_backlog(500, 20.0, carries, ready=4, etas=[], lead=60.0) > 5


SEEN = Schedule(name="work", start="0 8 * * 1-5", duration="10h", time_zone="Europe/Vienna", min_replicas=4)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-03-27T07:30:00", True),  # Friday, 8:30 in Vienna
        ("2026-03-27T06:59:00", False),
        ("2026-03-27T16:59:00", True),
        ("2026-03-27T17:01:00", False),
        ("2026-03-28T10:00:00", False),  # Saturday
        ("2026-03-30T06:30:00", True),  # Monday, after clocks went forward
    ],
)
def test_a_schedule_is_in_force_in_its_own_time_zone(moment: str, expected: bool) -> None:
    window = schedules.compiled(SEEN)
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    assert (schedules.in_force([window], now) is not None) is expected


def test_schedules_of_every_minute_cost_a_decision_next_to_nothing() -> None:
    """Sixteen of them took tens of milliseconds of each decision on each arm."""
    every = Schedule(name="every", start="0-59 0-23 * * *", duration="1s", min_replicas=2)
    windows = [schedules.compiled(every.model_copy(update={"name": f"every-{number}"})) for number in range(16)]
    begin = datetime(2026, 3, 29, 0, 30, tzinfo=UTC).timestamp()
    took = time.thread_time()  # other tests may have left threads that work
    for second in range(0, 7200, 2):
        running = schedules.in_force(windows, begin + second)
        assert (running is not None) is (second % 60 == 0)
    assert time.thread_time() - took < 10.0, "under three milliseconds each"


def test_of_overlapping_schedules_the_one_that_asks_for_the_most_counts_and_is_named() -> None:
    more = Schedule(name="peak", start="*/30 * * * *", duration="29m", min_replicas=7)
    wide = Schedule(name="all-day", start="0 0 * * *", duration="24h", min_replicas=3)
    one = Revision(by_queue(windows=tuple(map(schedules.compiled, (more, wide)))))
    assert one.look() == 7
    one.replicas = 1
    one.wanted = by_queue(windows=(schedules.compiled(wide),))
    assert one.look() == 3
    assert "schedule all-day" in one.reasons[-1].note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": "0 25 * * *"}, "hour is 0 to 23"),
        ({"start": "0 8 * *"}, "needs five fields"),
        ({"time_zone": "Mars/Olympus"}, "no time zone"),
        ({"duration": "48h"}, "at most 24h"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        schedules.compiled(SEEN.model_copy(update=change))
    assert "schedule work" in str(caught.value)


def test_settings_are_compiled_from_what_the_user_writes() -> None:
    scaling = Scaling(
        min_replicas=0,
        max_replicas=8,
        objective=Objective(latency=Percentiles(p99="200ms")),
        idle_after="5m",
        behavior=Behavior(down=Pace(replicas="50%", period="1m", delay="10m")),
        paused="Down",
    )
    found = wanted(scaling, slots=4)
    assert (found.min_replicas, found.max_replicas, found.latency_s, found.share_in_time) == (0, 8, 0.2, 0.99)
    assert found.down == Pacing(percent=50, period_s=60.0, delay_s=600.0)
    assert (found.holds_down, found.holds_up, found.idle_after_s) == (True, False, 300.0)


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ValueError, match="minReplicas 5 is more than maxReplicas 2"):
        wanted(Scaling(min_replicas=5, max_replicas=2))


def test_without_a_maximum_nothing_is_scaled() -> None:
    assert wanted(Scaling(min_replicas=3)).max_replicas == 3


def test_an_idle_replica_is_kept_as_long_as_its_return_costs_or_pauses_usually_last() -> None:
    known = Zero()
    assert zero.idle_limit_s(known, Wanted(idle_after_s=42.0), 60.0) == 42.0
    assert zero.idle_limit_s(known, Wanted(), 60.0) == 60.0 + zero.PENALTY_S
    for _ in range(20):
        known = zero.pass_time(known, dt=100.0, is_busy=False, is_believed=True)
        known = zero.pass_time(known, dt=0.0, is_busy=True, is_believed=True)
    assert 100 <= zero.idle_limit_s(known, Wanted(), 60.0) <= 200
    assert known.idle_s == 0


def test_a_service_that_is_asked_each_ten_minutes_is_there_again_before_the_request() -> None:
    one = Revision(by_queue(least=0, idle_after_s=60.0), replicas=1, service_s=0.2)
    woken = 0
    for round_ in range(16):
        one.run(600, rate=0.0)
        if round_ >= 12:
            woken += one.replicas > 0
        one.run(4, rate=1.0)
    assert woken == 4


def test_two_hundred_requests_at_once_wake_as_many_as_drain_them_in_time() -> None:
    one = Revision(by_queue(least=0, most=8, slots=8), replicas=1, service_s=0.1)
    one.run(300, rate=20.0)
    one.run(3000, rate=0.0)
    assert one.replicas == 0
    one.in_flight = one.queued = 200.0
    one.now += 0.1
    assert 1 <= one.look() <= 8
    assert one.reasons[0].code is Code.WAKING


def test_headroom_grows_when_the_objective_is_missed_and_shrinks_slowly() -> None:
    one = Revision(by_queue(slots=4), replicas=3, service_s=1.0)
    one.run(300, rate=6.0)
    assert one.state is not None
    before = one.state.beta
    for _ in range(40):
        one.now += 2
        one.arrived += 12
        seen = one.see().gateway
        assert seen is not None
        one.look(gateway=type(seen)(1.0, seen.arrived, seen.in_flight, judged=seen.judged, late=0.05 * seen.arrived))
    assert one.state.beta > before
    one.run(60, rate=6.0)
    raised = one.state.beta
    one.run(600, rate=6.0)
    assert one.state.beta < raised


def test_noise_alone_does_not_make_replicas_come_and_go() -> None:
    random, one = Random(1), Revision(by_queue(slots=4), replicas=4, lead_s=60, service_s=1.0)  # noqa: S311
    for _ in range(1800):
        one.run(2, rate=max(0.0, random.gauss(8.0, 2.8)))
    settled = one.history[len(one.history) // 2 :]
    assert max(settled) - min(settled) <= 1
    assert sum(a != b for a, b in pairwise(settled)) <= 4


def _service(scaling: dict[str, object], **variant: object) -> InferenceServiceSpec:
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": "sample://hello"}
    variants = [{"name": "b", "model": model, **variant}]
    return InferenceServiceSpec.model_validate(
        {"predictor": {"model": model}, "scaling": scaling, "traffic": {"variants": variants}}
    )


@pytest.mark.parametrize(
    ("own", "bounds"),
    [
        ({}, (4, 8)),
        ({"minReplicas": 0}, (0, 8)),
        ({"maxReplicas": 2}, (2, 2)),
        ({"maxReplicas": 6}, (4, 6)),
        ({"minReplicas": 1, "maxReplicas": 3}, (1, 3)),
    ],
)
def test_a_variant_has_the_bounds_of_the_service_but_for_its_own(
    own: dict[str, object], bounds: tuple[int, int]
) -> None:
    found = _service({"minReplicas": 4, "maxReplicas": 8, "activationReplicas": 5}, **own)
    assert spec.flaw(found, "team") == ""
    scaling = spec.each(found)["b"]
    assert (scaling.min_replicas, scaling.max_replicas) == bounds


def test_schedules_are_for_the_service_itself() -> None:
    """At those times a small share of the requests would else get as many replicas as all of them."""
    day = {"name": "day", "start": "0 8 * * *", "minReplicas": 6}
    found = _service({"maxReplicas": 8, "schedules": [day]}, maxReplicas=2)
    assert spec.flaw(found, "team") == ""
    compiled = spec.wanted(found)
    assert [len(compiled[name].windows) for name in ("", "b")] == [1, 0]


def test_only_arms_whose_replicas_can_change_are_decided_on() -> None:
    assert spec.wanted(_service({"minReplicas": 2})) == {}
    assert spec.wanted(_service({"minReplicas": 2}, minReplicas=0)).keys() == {"b"}
    assert spec.wanted(_service({"minReplicas": 0}, minReplicas=1)).keys() == {""}
