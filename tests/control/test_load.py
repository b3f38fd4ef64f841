"""Sums of what gateways count: they go on over restarts of the operator, and none of them is a burst that never was."""

import pytest

from slipway.api.manifest import Key
from slipway.signals.gateways import GatewayPod, Gateways
from slipway.signals.load import Tally, late
from slipway.signals.report import Counters, Report, ReportError

HELLO: Key = ("team", "hello")
BOTH = ("hello-a", "hello-b")


class Agents:
    def __init__(self) -> None:
        self.now = 100.0
        self.answers: dict[str, Report] = {}

    async def ask(self, address: str, _token: str) -> Report:
        if address not in self.answers:
            raise ReportError("connection refused")
        return self.answers[address]

    def say(self, gateway: str, *, epoch: str = "e", full: bool = False, **counters: dict[str, object] | None) -> None:
        named = {f"team/hello-{name}": counts for name, counts in counters.items()}
        body = {"epoch": f"{gateway}-{epoch}", "token": "t", "ready": True, "full": full, "counters": named}
        self.answers[gateway] = Report.model_validate(body)

    async def gateways(self, *names: str) -> Gateways:
        found = Gateways(self.ask, lambda _: None, silent_s=10, clock=lambda: self.now)
        found.look([GatewayPod(f"gw-{name}", name, name, takes_traffic=True) for name in names])
        await found.poll()
        return found


async def test_all_gateways_and_all_revisions_of_an_arm_are_added_up() -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10, "active": 2, "held": 1}, b={"requests": 5})
    agents.say("b", a={"requests": 7, "active": 4, "held_lost": 3})
    load = (await agents.gateways("a", "b")).load(HELLO, BOTH)
    assert load is not None
    assert (load.arrived, load.active, load.held, load.age_s) == (25.0, 6.0, 1.0, 0.0)
    assert load.judged == 0


async def test_an_operator_that_starts_anew_finds_the_same_sums_in_the_same_epoch() -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10})
    before = (await agents.gateways("a")).load(HELLO, BOTH)
    assert (await agents.gateways("a")).load(HELLO, BOTH) == before


@pytest.mark.parametrize(
    "change", ["another Envoy", "another gateway", "a gateway less", "another revision", "one less"]
)
async def test_whatever_could_make_a_sum_fall_is_another_epoch(change: str) -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10})
    agents.say("b", a={"requests": 4}, b={"requests": 1})
    agents.say("c", a={"requests": 4})
    gateways = await agents.gateways("a", "b")
    before = gateways.load(HELLO, BOTH)
    match change:
        case "another Envoy":
            agents.say("a", epoch="e2", a={"requests": 1})
        case "another gateway":
            gateways = await agents.gateways("a", "b", "c")
        case "a gateway less":
            gateways = await agents.gateways("a")
        case "another revision":
            agents.say("a", a={"requests": 10}, c={"requests": 1})
        case _:
            agents.say("b", b=None)
    await gateways.poll()
    after = gateways.load(HELLO, (*BOTH, "hello-c"))
    assert before is not None
    assert after is not None
    assert after.epoch != before.epoch


async def test_without_a_gateway_that_takes_traffic_nothing_is_known() -> None:
    agents = Agents()
    assert Gateways(agents.ask, lambda _: None).load(HELLO, BOTH) is None
    assert (await agents.gateways()).load(HELLO, BOTH) is None


async def test_a_gateway_that_was_never_heard_makes_the_whole_unbelievable() -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10})
    load = (await agents.gateways("a", "b")).load(HELLO, BOTH)
    assert load is not None
    assert load.age_s == float("inf")


async def test_the_age_is_that_of_the_gateway_that_has_been_silent_longest() -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10})
    agents.say("b", a={"requests": 10})
    gateways = await agents.gateways("a", "b")
    agents.now += 4
    del agents.answers["b"]
    await gateways.poll()
    load = gateways.load(HELLO, BOTH)
    assert load is not None
    assert load.age_s == 4.0


@pytest.mark.parametrize("is_alive", [True, False])
async def test_a_gateway_whose_agent_died_makes_all_of_it_old_as_long_as_its_envoy_may_serve(is_alive: bool) -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10, "active": 5})
    agents.say("b", a={"requests": 10})
    gateways = await agents.gateways("a", "b")
    del agents.answers["a"]
    gateways.look(
        [
            GatewayPod("gw-a", "a", "a", takes_traffic=False, is_chosen=False, is_alive=is_alive),
            GatewayPod("gw-b", "b", "b", takes_traffic=True),
        ]
    )
    agents.now += 60
    await gateways.poll()
    load = gateways.load(HELLO, BOTH)
    assert load is not None
    assert (load.age_s, load.heard_s, load.active) == (60.0 if is_alive else 0.0, 0.0, 0.0)


async def test_counts_that_the_gateways_agent_could_not_read_anew_are_as_old_as_it_says() -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10})
    agents.answers["a"] = agents.answers["a"].model_copy(update={"counted_s": 40.0})
    load = (await agents.gateways("a")).load(HELLO, BOTH)
    assert load is not None
    assert load.age_s == 40.0


async def test_what_a_gateway_holds_is_known_at_once_and_until_it_says_otherwise() -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10})
    gateways = await agents.gateways("a")
    assert gateways.hold("gw-a", {"team/hello-a": 3}) == {"team/hello-a"}
    assert gateways.hold("gw-a", {"team/hello-a": 4}) == set()
    assert gateways.hold("gw-a", {"team/hello-a": 3}) == set()
    load = gateways.load(HELLO, BOTH)
    assert load is not None
    assert (load.arrived, load.held) == (10.0, 3.0)
    assert gateways.hold("gw-a", {}) == set()
    load = gateways.load(HELLO, BOTH)
    assert load is not None
    assert load.held == 0.0
    gateways.hold("gw-gone", {"team/hello-a": 3})


async def test_what_is_held_before_anything_was_counted_does_not_look_like_requests_later() -> None:
    agents = Agents()
    agents.say("a", full=True)
    gateways = await agents.gateways("a")
    gateways.hold("gw-a", {"team/hello-a": 1})
    agents.say("a", a={"requests": 2})
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-a": 2}


def test_requests_are_late_beyond_the_limit_and_within_a_bucket_in_proportion() -> None:
    latency = [0] * 33
    latency[15] = 10  # 160 to 220 ms
    latency[31] = 1  # to 300 s
    assert late(latency, 190.0) == pytest.approx(6.0)
    assert late(latency, 160.0) == 11
    assert late(latency, 220.0) == 1
    assert late([0] * 32 + [1], 400_000.0) == 1, "who took longer than can be told was late"
    assert late((), 10.0) == 0


class Judged:
    """One gateway whose counts of one revision are judged."""

    def __init__(self, limit_ms: float | None = 1000.0) -> None:
        self.tally, self.now = Tally(), 100.0
        self.before: Counters | None = None
        if limit_ms is not None:
            self.limit(limit_ms)

    def limit(self, limit_ms: float) -> None:
        self.tally.judge(HELLO, {"hello-a": limit_ms})

    def count(self, after_s: float = 5.0, **counts: object) -> tuple[float, float]:
        self.now += after_s
        found = Counters.model_validate(counts)
        self.tally.add(HELLO, ("gw-a", "hello-a"), found, self.before, self.now)
        self.before = found
        return self.sums

    @property
    def sums(self) -> tuple[float, float]:
        found = self.tally.of(HELLO, BOTH)
        return found.judged, found.late


def test_only_what_is_asked_for_is_judged_and_by_the_limit_of_the_moment() -> None:
    one = Judged(limit_ms=None)
    assert one.count(finished=10, latency_ms={"220": 10}) == (0, 0)
    assert one.tally.news == set()
    one.limit(1000.0)
    assert one.count(finished=20, latency_ms={"220": 20}) == (10, 0)
    assert one.tally.news == {HELLO}
    one.limit(10.0)
    assert one.count(finished=30, latency_ms={"220": 30}) == (20, 10), "what was judged before stays judged"
    one.tally.drop(HELLO)
    assert one.sums == (0, 0)


def test_refused_and_lost_requests_are_late() -> None:
    one = Judged()
    one.count(finished=5, latency_ms={"220": 5})
    assert one.count(finished=9, refused=3, held_lost=2, latency_ms={"220": 6}) == (11, 5)


def test_requests_that_the_gateway_gave_up_are_late_although_nobody_timed_them() -> None:
    one = Judged()
    one.count(finished=100, latency_ms={"220": 100})
    # Latencies are a few seconds behind: that is no loss.
    assert one.count(1.0, finished=110, latency_ms={"220": 100}) == (100, 0)
    assert one.count(1.0, finished=120, latency_ms={"220": 110}) == (110, 0)
    assert one.count(finished=140, latency_ms={"220": 130}) == (130, 0)
    # From here on every other one is given up.
    one.count(finished=160, latency_ms={"220": 140})
    one.count(finished=180, latency_ms={"220": 150})
    judged, late_ones = one.count(finished=200, latency_ms={"220": 160})
    assert (judged, late_ones) == (160 + 20, 20)


def test_where_all_are_given_up_that_is_noticed_without_any_latency() -> None:
    one = Judged()
    one.count(finished=100, latency_ms={"220": 100})
    for finished in (110, 120, 130, 140, 150, 160):
        found = one.count(finished=finished, latency_ms={"220": 100})
    assert found[1] >= 20
    assert found[0] == found[1] + 100


def test_a_gateway_that_never_told_a_latency_has_lost_nobody() -> None:
    one = Judged()
    for finished in (100, 200, 300, 400):
        assert one.count(20.0, finished=finished) == (0, 0)


def test_an_agent_that_tells_counts_before_latencies_has_lost_nobody() -> None:
    """It started anew beside the same Envoy."""
    one = Judged()
    one.count(finished=100, latency_ms={"220": 100})
    one.before = None  # another epoch
    assert one.count(1.0, finished=101) == (100, 0)
    _, late_ones = one.count(1.0, finished=102, latency_ms={"220": 102})
    assert late_ones == 0
    # Who is given up after that is found as before.
    one.count(finished=120, latency_ms={"220": 110})
    one.count(finished=140, latency_ms={"220": 120})
    assert one.count(finished=160, latency_ms={"220": 130})[1] == 10


def test_latencies_that_stay_away_are_begun_anew() -> None:
    one = Judged()
    one.count(finished=100, latency_ms={"220": 100})
    assert one.count(20.0, finished=110, latency_ms={"220": 10}) == (110, 0)
    assert one.count(20.0, finished=120, latency_ms={"220": 20})[1] == 0


def test_an_answer_that_envoy_forgot_to_have_counted_is_no_loss() -> None:
    one = Judged()
    one.count(finished=100, latency_ms={"220": 100})
    one.count(3600.0, finished=1, latency_ms={"220": 101})
    assert one.count(finished=11, latency_ms={"220": 111})[1] == 0


def test_arrivals_are_tallied_over_restarts_of_envoy_and_without_copies_unless_asked_for() -> None:
    one = Judged()
    one.count(requests=100)
    one.count(requests=110, held_lost=2, shadow={"requests": 5})
    one.count(requests=4)
    assert one.tally.of(HELLO, BOTH).grown == {"hello-a": 116.0, "hello-b": 0.0}
    assert one.tally.of(HELLO, BOTH, copies=True).grown["hello-a"] == 121.0


def test_a_revision_that_is_gone_is_forgotten_and_counts_from_nothing_when_it_comes_back() -> None:
    one = Judged()
    one.count(requests=100, finished=10, latency_ms={"3600": 10})
    one.tally.judge(HELLO, {"hello-b": 1000.0})
    one.count(requests=150)
    one.limit(1000.0)
    one.count(requests=160)
    found = one.tally.of(HELLO, BOTH)
    assert (found.grown["hello-a"], found.judged) == (10.0, 0.0)


async def test_copies_are_the_load_of_a_variant_and_not_of_the_service_itself() -> None:
    agents = Agents()
    agents.say("a", a={"requests": 10, "active": 1, "shadow": {"requests": 4, "active": 2}})
    gateways = await agents.gateways("a")
    with_copies, without = gateways.load(HELLO, BOTH, copies=True), gateways.load(HELLO, BOTH)
    assert with_copies is not None
    assert without is not None
    assert (with_copies.arrived, with_copies.active) == (14.0, 3.0)
    assert (without.arrived, without.active) == (10.0, 1.0)
