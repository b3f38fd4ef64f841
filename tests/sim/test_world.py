"""The simulated service: no request is lost or counted twice, launches take their time, faults do what they say."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree as XML

import pytest

from slipway.sim import picture, traces
from slipway.sim.keda import Keda
from slipway.sim.kpa import Kpa, KpaSettings
from slipway.sim.models import VISION, ServiceModel
from slipway.sim.policy import Sight
from slipway.sim.slipway import Slipway
from slipway.sim.sweep import OURS, Point, best, dominates, dominators, interval, ours, rivals
from slipway.sim.traces import Trace
from slipway.sim.world import Fault, Terms, World, replay

ONE_SLOT = ServiceModel(base_s=1.0, each_s=0.0, slots=1, wait_s=0.5)


class Fixed:
    """Always so many."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.seen: list[Sight] = []

    def decide(self, seen: Sight) -> int:
        self.seen.append(seen)
        return self.replicas


def steady(rate: float, seconds: int, model: ServiceModel = VISION, initial: int = 1) -> Trace:
    times = [number / rate for number in range(int(rate * seconds))]
    return Trace("steady", times, [1.0] * len(times), model, initial)


def test_every_request_is_judged_once() -> None:
    outcome = replay(steady(3.0, 300, initial=2), Fixed(2), Terms(lead_s=10))
    assert outcome.requests == 900
    assert len(outcome.latencies) == 900
    assert outcome.attainment_pct == 100.0


def test_requests_wait_in_order_and_are_late_by_their_wait() -> None:
    trace = Trace("pair", [0.0, 0.1, 5.0], [1.0, 1.0, 1.0], ONE_SLOT, 1)
    outcome = replay(trace, Fixed(1), Terms(lead_s=10))
    assert outcome.late == 1
    assert outcome.latencies == pytest.approx([1.0, 1.9, 1.0])


def test_who_waits_longer_than_the_deadline_gives_up_and_counts_as_late() -> None:
    trace = Trace("rush", [0.01 * number for number in range(500)], [1.0] * 500, ONE_SLOT, 1)
    outcome = replay(trace, Fixed(1), Terms(lead_s=10))
    assert outcome.requests == 500
    assert outcome.late >= 498


def test_replicas_cost_while_they_load_and_while_they_drain() -> None:
    idle = replay(Trace("idle", [0.0, 3600.0], [1e-3, 1e-3], VISION, 1), Fixed(4), Terms(lead_s=600))
    assert idle.gpu_hours == pytest.approx(4.0, rel=0.01)


def test_a_launch_becomes_ready_after_its_lead_time() -> None:
    policy = Fixed(3)
    world = World(steady(1.0, 120), policy, Terms(lead_s=30, spread=0.0))
    world.run()
    ready = {seen.now: seen.ready for seen in policy.seen}
    assert (ready[29.0], ready[32.0]) == (1, 3)
    assert policy.seen[40].launches[-1].load_s == pytest.approx(29.0)


def test_beyond_the_quota_nothing_starts_and_the_resource_is_named() -> None:
    policy = Fixed(10)
    replay(steady(1.0, 120), policy, Terms(lead_s=10, quota=4))
    assert max(seen.ready + len(seen.loading) for seen in policy.seen) == 4
    assert policy.seen[-1].missing == "nvidia.com/gpu"


def test_launches_that_crash_are_told_and_never_ready() -> None:
    policy = Fixed(2)
    replay(steady(1.0, 200), policy, Terms(lead_s=10, crash_share=1.0))
    assert {seen.ready for seen in policy.seen} == {1}
    assert policy.seen[-1].failed > 2


def test_the_same_seed_gives_the_same_replay() -> None:
    trace, terms = traces.ghost(1), Terms(lead_s=45, seed=3)
    first, second = (replay(trace, Slipway(trace.model, terms), terms) for _ in range(2))
    assert (first.late, first.gpu_hours, first.replicas) == (second.late, second.gpu_hours, second.replicas)


@pytest.mark.parametrize("kind", ["empty", "error", "stale", "half"])
def test_ten_minutes_without_metrics_at_full_load_cost_us_no_request(kind: str) -> None:
    trace = steady(12.0, 1500, initial=6)
    terms = Terms(lead_s=60, faults=(Fault(kind, 600, 1200),))
    ours_ = replay(trace, Slipway(trace.model, terms), terms)
    assert ours_.attainment_pct == 100.0
    assert min(asked for _, asked, _ in ours_.replicas) >= 5


def test_ten_minutes_of_empty_vectors_take_replicas_from_keda_at_full_load() -> None:
    trace = steady(12.0, 1500, initial=6)
    terms = Terms(lead_s=60, faults=(Fault("empty", 600, 1200),))
    keda = replay(trace, Keda(0.7 * 8), terms)
    assert keda.attainment_pct < 90.0


def test_a_step_does_not_make_us_storm_the_cluster_as_it_does_knative() -> None:
    trace, terms = traces.step(0), Terms(lead_s=180)
    ours_ = replay(trace, Slipway(trace.model, terms), terms)
    knative = replay(trace, Kpa(KpaSettings(0.7 * 8)), terms)
    assert max(asked for _, asked, _ in ours_.replicas) < 40 <= max(asked for _, asked, _ in knative.replicas)


def test_traces_are_known_by_their_first_line(tmp_path: Path) -> None:
    azure, mooncake, counts, other = (tmp_path / name for name in ("a.csv", "m.jsonl", "c.txt", "o.txt"))
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:04.0319600,100,8\n2023-11-16 18:17:03.9799600,50,10\n"
    )
    mooncake.write_text(
        "\n".join(json.dumps({"timestamp": 1000 * k, "input_length": 50, "output_length": 3}) for k in (0, 2))
    )
    counts.write_text("3\n0\n4\n")
    other.write_text("no trace at all\n")
    found = traces.load(azure)
    assert found.times == pytest.approx([0.0, 0.052])
    assert found.sizes == [11.0, 10.0]
    assert traces.load(mooncake).times == [0.0, 2.0]
    assert all(second < 1 or second >= 2 for second in traces.load(counts).times)
    with pytest.raises(ValueError, match=r"o\.txt: not a trace"):
        traces.load(other)


def point(policy: str, attainment: float, hours: float) -> Point:
    return Point(policy, "x", attainment, hours, 1)


def test_domination_takes_clearly_more_in_time_for_less() -> None:
    mine = point(OURS, 99.0, 4.0)
    assert dominators(mine, [point("keda", 99.4, 3.0), point("kpa", 99.6, 4.1), point("ray", 90.0, 1.0)]) == []
    assert dominators(mine, [point("kpa", 99.6, 3.9)])[0].policy == "kpa"
    assert dominates(mine, [mine, point("keda", 98.0, 5.0), point("keda", 60.0, 1.0)])
    assert not dominates(mine, [mine, point("keda", 98.9, 3.0)])


def test_a_rival_is_judged_at_its_best_and_the_cheapest_of_those_as_good() -> None:
    assert best([point("k", 99.9, 9.0), point("k", 99.6, 5.0), point("k", 90.0, 1.0)]).gpu_hours == 5.0


def test_the_interval_is_of_order_statistics() -> None:
    assert interval([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 1.0, 5.0)
    middle, low, high = interval([float(number) for number in range(100)])
    assert (low, high) == (40.0, 59.0)
    assert middle == 49.5


def test_every_rival_has_settings_and_ours_has_one() -> None:
    assert {one.policy for one in rivals()} == {"hpa", "keda", "kpa", "ray"}
    assert ours().policy == OURS
    terms = Terms(lead_s=10)
    trace = steady(3.0, 60, initial=2)
    for one in rivals([0.5]):
        assert replay(trace, one.make(trace.model, terms), terms).attainment_pct > 90


def test_the_picture_is_sound_xml_and_names_every_policy() -> None:
    drawn = picture.pareto("a & b", [point(OURS, 99.0, 4.0), point("keda", 95.0, 5.0), point("keda", 97.0, 6.0)])
    root = XML.fromstring(drawn)  # noqa: S314 - our own
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a & b" in texts
    assert {OURS, "keda"} <= set(texts)
    assert not math.isnan(float(root.attrib["viewBox"].split()[2]))
