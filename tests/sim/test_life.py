"""A service's whole life with requests in it: few, many, few, none, and awake again; each request is looked at."""

from dataclasses import replace

import pytest

from slipway.sim.models import ServiceModel
from slipway.sim.outcome import Outcome
from slipway.sim.slipway import Slipway
from slipway.sim.traces import Trace
from slipway.sim.world import Fault, Terms, replay

SHORT = ServiceModel(base_s=0.1, each_s=0.0, slots=1, latency_s=1.0)
"""One at a time, 100 ms each: a replica carries ten a second."""


def steadily(*parts: tuple[float, float, float]) -> Trace:
    """For so many seconds, from one rate to another (requests per second), evenly spaced."""
    times, begin, due = list[float](), 0.0, 0.0
    for seconds, first, last in parts:
        at = 0.0
        while at < seconds:
            due += (first + (last - first) * at / seconds) * 0.01
            if due >= 1.0:
                due -= 1.0
                times.append(begin + at)
            at += 0.01
        begin += seconds
    return Trace("life", times, [1.0] * len(times), SHORT, 1)


def asked_at(outcome: Outcome, moment: float) -> int:
    return [asked for begin, asked, _ in outcome.replicas if begin <= moment][-1]


LIFE = steadily((300, 3, 3), (120, 3, 32), (480, 32, 32), (60, 32, 3), (900, 3, 3), (900, 0, 0), (300, 3, 3))


def test_one_to_four_to_one_to_none_to_one_with_the_objective_kept_and_no_request_lost() -> None:
    terms = Terms(lead_s=10, spread=0.1, least=0, most=8)
    outcome = replay(LIFE, Slipway(SHORT, terms), terms)
    steps = [asked_at(outcome, moment) for moment in (290, 890, 1850, 2750, 3050)]
    assert steps[1] in {4, 5}
    assert [*steps[:1], *steps[2:]] == [1, 1, 0, 1]
    assert len(outcome.latencies) == outcome.requests
    # Late were those that woke it, and until what had gathered meanwhile was done; nobody else.
    woke = sum(1 for moment in LIFE.times if 2760 <= moment < 2780)
    assert {window for window, (_, late) in outcome.windows.items() if late} == {2760 // 300}
    assert outcome.late <= woke


@pytest.mark.parametrize("kind", ["empty", "error", "stale", "half"])
def test_a_spike_while_the_pods_say_nothing_is_served_and_takes_no_replica_away(kind: str) -> None:
    trace = steadily((300, 9, 9), (60, 9, 30), (400, 30, 30))
    terms = Terms(lead_s=10, spread=0.1, most=8, faults=(Fault(kind, 280, 760),))
    outcome = replay(replace(trace, initial=2), Slipway(SHORT, terms), terms)
    wished = [asked for moment, asked, _ in outcome.replicas if moment >= 280]
    assert wished == sorted(wished)
    assert outcome.attainment_pct >= 99.0


def test_two_hundred_requests_at_once_wake_it_and_are_all_answered() -> None:
    terms = Terms(lead_s=5, spread=0.1, least=0, most=8)
    trace = Trace("rush", [0.5 + 0.001 * k for k in range(200)] + [60.0], [1.0] * 201, SHORT, 0)
    outcome = replay(trace, Slipway(SHORT, terms), terms)
    assert len(outcome.latencies) == 201
    assert max(outcome.latencies) < 30.0
    assert max(asked for _, asked, _ in outcome.replicas) <= 8


def test_a_replica_that_is_taken_away_ends_what_it_works_on() -> None:
    """Streams of forty seconds each, and fewer replicas in the midst of them: each is answered, in its own time."""

    class Fewer:
        def decide(self, seen: object) -> int:
            return 4 if getattr(seen, "now", 0.0) < 10 else 1

    streams = ServiceModel(base_s=40.0, each_s=0.0, slots=2, latency_s=45.0)
    trace = Trace("streams", [1.0 + k for k in range(8)] + [200.0], [1.0] * 9, streams, 4)
    outcome = replay(trace, Fewer(), Terms(lead_s=10))
    assert outcome.latencies == pytest.approx([40.0] * 9)
