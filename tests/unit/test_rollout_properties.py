"""Whatever happens to a release: what holds of every routing stored, and that it always ends or says what it waits for.

The rules about weights and pods themselves are checked by the world at each write (`World.check`, `check_shrink`).
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from slipway.api.conditions import Phase, Reason
from slipway.api.rollout import Rollout
from slipway.decide.turn import UNDER_WAY
from tests.unit.release_world import World, world

LEAST = 20
ENDS = {Phase.HEALTHY, Phase.ROLLED_BACK}
PATIENT = {"Manual", "StepGate", "CapacityBlocked"}
"""Pauses that only somebody outside can end."""

SHARES = st.sampled_from(["1%", "5%", "25%", "33.33%", "50%", "100%"])
STEP = st.fixed_dictionaries({"weight": SHARES, "hold": st.sampled_from(["0s", "7s", "20s"])})
SHADOW = st.fixed_dictionaries({"mirror": SHARES, "hold": st.just("10s")})
STEPS = st.lists(STEP, max_size=3).flatmap(
    lambda steps: st.lists(SHADOW, max_size=1).map(lambda shadows: [*shadows, *steps])
)
COMMANDS = ["promote", "promote-all", "pause", "resume", "abort", "retry", "rollback", "skip-analysis"]


def policy(steps: list[dict[str, Any]], strategy: str, capacity: str) -> Rollout:
    spec = {
        "strategy": strategy,
        "capacity": capacity,
        "analysis": {"minRequests": LEAST, "noDataAfter": "1m"},
        "progressDeadline": "2m",
        "scaleDownDelay": "10s",
    }
    return Rollout.model_validate(spec | ({"steps": steps} if strategy == "Canary" else {}))


class Releases(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = world().serve()
        self.idents = itertools.count()
        self.excused = False
        """Something other than requests may have passed a step."""
        self.seen = 0

    @initialize(
        steps=STEPS,
        strategy=st.sampled_from(["Canary", "Canary", "Canary", "BlueGreen", "None"]),
        capacity=st.sampled_from(["Surge", "Borrow"]),
        replicas=st.integers(1, 5),
    )
    def begin(self, steps: list[dict[str, Any]], strategy: str, capacity: str, replicas: int) -> None:
        self.world = world(replicas=replicas).serve()
        self.world.look_s = 5
        self.world.policy = policy(steps, strategy, capacity)
        self.world.apply("v2")

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        self.world.wait(seconds)

    @rule(seconds=st.integers(20, 90))
    def more_time_passes(self, seconds: int) -> None:
        self.world.wait(seconds)

    @rule()
    def all_is_well_for_a_while(self) -> None:
        heal(self.world)
        self.world.wait(60)

    @rule(wanted=st.sampled_from(["v1", "v2", "v2", "v3"]))
    def the_user_applies(self, wanted: str) -> None:
        self.world.apply(wanted)

    @rule(steps=STEPS, strategy=st.sampled_from(["Canary", "BlueGreen", "None"]))
    def the_user_edits_the_rollout(self, steps: list[dict[str, Any]], strategy: str) -> None:
        self.world.policy, self.excused = policy(steps, strategy, self.world.policy.capacity), True
        self.world.operate()

    @rule(replicas=st.integers(1, 5))
    def the_user_scales(self, replicas: int) -> None:
        self.world.replicas = replicas
        self.world.operate()

    @rule(replicas=st.integers(0, 6))
    def the_load_scales(self, replicas: int) -> None:
        """To zero only while nothing is released, and then nobody asks."""
        is_free = self.world.phase in ENDS and self.world.target == self.world.stable
        self.world.is_fixed = False
        self.world.replicas = replicas if is_free or replicas > self.world.replicas else max(1, self.world.replicas)
        self.world.rps = 100 if self.world.replicas else 0
        self.world.operate()

    @rule(verb=st.sampled_from(COMMANDS))
    def the_user_says(self, verb: str) -> None:
        self.excused = self.excused or verb in ("promote", "promote-all", "skip-analysis")
        self.world.say(verb, str(next(self.idents)))

    @rule(rate=st.sampled_from([0.0, 0.3, 1.0]), both=st.sampled_from([False, False, True]))
    def a_model_fails_requests(self, rate: float, *, both: bool) -> None:
        self.world.model(self.world.state.candidate or self.world.target).error_rate = rate
        if both:
            self.world.model(self.world.stable or "").error_rate = rate

    @rule(name=st.sampled_from(["v1", "v2", "v3"]), down=st.integers(0, 3), restarts=st.integers(0, 1))
    def pods_come_and_go(self, name: str, down: int, restarts: int) -> None:
        self.world.model(name).down = down
        self.world.model(name).restarts += restarts
        self.excused = self.excused or self.world.ready(self.world.stable) == 0
        self.world.operate()

    @rule(room=st.none() | st.integers(2, 8))
    def room_changes(self, room: int | None) -> None:
        self.world.room = room

    @rule(silent=st.sampled_from([(), (), ("gw-1",)]), ack_s=st.integers(0, 8), unheard_s=st.sampled_from([0, 0, 7]))
    def gateways_change(self, silent: tuple[str, ...], ack_s: int, unheard_s: int) -> None:
        """An operator that has just begun to lead has not heard them."""
        self.world.silent, self.world.ack_s = silent, ack_s
        self.world.is_observed = not unheard_s
        self.world.wait(unheard_s)
        self.world.is_observed = True

    @rule(rps=st.sampled_from([0, 1, 100]))
    def traffic_changes(self, rps: int) -> None:
        self.world.rps = rps

    @rule(at=st.sampled_from(["status", "pods"]))
    def the_operator_dies(self, at: str) -> None:
        self.world.act(self.world.decide(), dies_before=at)

    @invariant()
    def a_promotion_has_its_evidence(self) -> None:
        news = self.world.news[self.seen :]
        self.seen = len(self.world.news)
        for one in news:
            if one.reason is Reason.ROLLOUT_STARTED:
                self.excused = self.world.ready(self.world.stable) == 0
            is_stepped = self.world.policy.strategy == "Canary" and not self.excused
            if one.reason is Reason.REVISION_PROMOTED and is_stepped:
                steps = len(self.world.policy.steps)
                assert self.world.answered.get(self.world.stable or "", 0) >= 0.9 * LEAST * steps, one.note

    @invariant()
    def ids_of_commands_are_few(self) -> None:
        assert len(self.world.state.obeyed) <= 4

    @precondition(lambda self: self.world.phase in UNDER_WAY and self.world.ready(self.world.stable))
    @rule()
    def an_abort_leads_back_from_every_phase(self) -> None:
        service = self.world
        heal(service)
        candidate = service.state.candidate
        service.say("abort", str(next(self.idents)))
        assert service.phase not in UNDER_WAY or service.state.candidate != candidate
        for _ in range(300):
            if service.phase is not Phase.ROLLING_BACK:
                break
            service.wait(1)
        assert service.stable != candidate
        assert service.route is not None
        assert service.route.candidate != candidate

    def teardown(self) -> None:
        heal(self.world)
        if self.world.policy.strategy == "None":  # is what it always was: it waits for room without a word
            self.world.room = None
        for _ in range(400):
            pause = self.world.state.pause
            if self.world.phase in ENDS or (pause is not None and pause.reason in PATIENT):
                return
            self.world.wait(4)
        raise AssertionError(f"never ends: {self.world.state}")


def heal(service: World) -> None:
    service.silent, service.ack_s, service.is_observed, service.rps = (), 1, True, 100
    service.window_age_s = 0
    for model in service.models.values():
        model.down, model.error_rate = 0, 0


def test_whatever_happens_a_release_keeps_the_rules_and_ends_or_says_what_it_waits_for() -> None:
    run_state_machine_as_test(
        Releases,
        settings=settings(
            max_examples=30,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def promoted(service: World) -> World:
    return service.apply("v2").wait(90)


def gone_back(service: World) -> World:
    service.model("v2").error_rate = 1
    return service.apply("v2").wait(90)


@pytest.mark.parametrize("run", [promoted, gone_back], ids=["a good candidate", "a bad candidate"])
@pytest.mark.parametrize("at", ["status", "pods"])
def test_17_an_operator_that_dies_at_any_write_comes_to_the_same_end_and_tells_it_once(
    run: Callable[[World], World], at: str
) -> None:
    def release(dies_at: int) -> tuple[World, int]:
        service = Mortal(policy=world([{"weight": "50%", "hold": "10s"}], scaleDownDelay="10s").policy)
        service.serve()
        service.dies_at, service.dies_before = dies_at, at
        run(service)
        return service, service.decisions

    intact, decisions = release(-1)
    ends = [reason for reason in intact.reasons if reason in (Reason.REVISION_PROMOTED, Reason.ROLLED_BACK)]
    assert len(ends) == 1
    for dies_at in range(decisions):
        killed, _ = release(dies_at)
        assert (killed.phase, killed.stable, killed.asked) == (intact.phase, intact.stable, intact.asked)
        assert killed.reasons == intact.reasons


class Mortal(World):
    """Its operator dies at one of its decisions that change anything, and starts again a moment later."""

    dies_at = -1
    dies_before = ""
    decisions = 0

    def act(self, decision: Any, *, dies_before: str = "") -> None:
        text = decision.state.model_dump_json(by_alias=True, exclude_none=True)
        is_news = text != self.stored or dict(decision.replicas) != self.asked
        dies = is_news and self.decisions == self.dies_at
        self.decisions += is_news
        super().act(decision, dies_before=self.dies_before if dies else dies_before)
