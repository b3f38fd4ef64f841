"""What people say to a release, and what it does with that."""

from typing import Any

import pytest

from slipway.api.conditions import Phase, Reason
from tests.unit.release_world import DRAIN_S, World, world

GATED: list[dict[str, Any]] = [
    {"weight": "5%", "gate": True},
    {"weight": "25%", "hold": "30s"},
    {"weight": "50%", "hold": "30s"},
]


def reason(service: World) -> str:
    assert service.state.abort is not None
    return service.state.abort.reason


def test_06_a_second_abort_and_an_abort_without_a_release_change_nothing() -> None:
    service = world(GATED).serve().say("abort", "0")
    assert service.phase is Phase.HEALTHY
    assert service.told(Reason.COMMAND_REFUSED) == [
        "abort 0 by kubectl: no release is under way; rollback leads back to the revision before"
    ]
    service.apply("v2").wait(10).say("abort", "1")
    assert (service.phase, service.state.weight) == (Phase.ROLLING_BACK, 0)
    at = service.state.abort
    service.say("abort", "2")
    assert service.state.abort == at
    service.until(Phase.ROLLED_BACK, limit_s=2).wait(25)
    assert service.asked == {"v1": 1, "v2": 1}, "for whoever wants to look at it"
    service.wait(4 + DRAIN_S + 1)
    assert service.asked == {"v1": 1}
    assert service.told(Reason.ROLLOUT_ABORTED) == [
        "revision v2 goes back from 5%: AbortCommanded: by command of kubectl"
    ]


def test_a_command_that_still_stands_is_obeyed_but_once() -> None:
    service = world(GATED).serve().apply("v2").wait(10).say("abort", "1").wait(60)
    for ident in "abcdef":
        service.say("retry", ident).wait(20)
        service.say("promote", ident).wait(10)
        assert service.state.weight == 2500, "the old abort is remembered"
        service.say("abort", f"again-{ident}").wait(45)
        assert len(service.state.obeyed) <= 4
    assert len(service.told(Reason.ROLLOUT_ABORTED)) == 7


def test_21_a_retry_judges_anew_and_the_same_spec_alone_is_no_retry() -> None:
    service = world(GATED).serve()
    service.model("v2").error_rate = 1
    service.apply("v2").until(Phase.ROLLED_BACK).wait(300)
    service.apply("v2")
    assert (service.phase, service.asked) == (Phase.ROLLED_BACK, {"v1": 1})
    service.model("v2").error_rate = 0
    service.say("retry", "1")
    state = service.state
    assert (state.phase, state.attempt, state.step, state.verdicts, state.abort) == (Phase.PROVISIONING, 2, 0, [], None)
    service.wait(20)
    assert service.state.evidence is not None
    assert service.state.evidence["x"] == 0
    service.say("promote", "2").until(Phase.HEALTHY)
    assert service.stable == "v2"


def test_a_retry_soon_after_finds_the_pods_ready() -> None:
    service = world(GATED).serve().apply("v2").wait(10).say("abort").wait(10)
    assert service.phase is Phase.ROLLED_BACK
    pods = list(service.pods["v2"])
    service.say("retry")
    assert (service.phase, service.state.weight, service.pods["v2"]) == (Phase.PROGRESSING, 500, pods)


def test_a_pause_holds_the_weight_until_resume_and_an_abort_ends_it() -> None:
    service = world([{"weight": "5%", "hold": "10s"}, {"weight": "50%", "hold": "10s"}]).serve().apply("v2").wait(8)
    service.say("pause").wait(300)
    assert service.state.weight == 500
    assert service.state.pause is not None
    assert service.state.pause.message == "waits for the command resume; paused by kubectl"
    service.say("resume", "2").wait(2)
    assert service.state.weight == 5000
    service.say("pause", "3").say("abort", "4")
    assert service.phase is Phase.ROLLING_BACK


def test_a_pause_does_not_keep_a_bad_candidate() -> None:
    service = world(GATED).serve().apply("v2").wait(8).say("pause")
    service.model("v2").error_rate = 1
    service.wait(30)
    assert reason(service) == "AnalysisFailed"


@pytest.mark.parametrize("how", ["abort", "superseded", "reverted", "fault"])
def test_verdicts_of_a_release_that_is_not_wanted_any_more_are_cancelled_with_their_numbers(how: str) -> None:
    """They were on the way: a Pass that stays would read as if the candidate had been found good."""
    service = world(GATED).serve().apply("v2").wait(60)
    before = service.state.verdicts
    assert [one.verdict for one in before] == ["Pass"]
    service.ack_s = 10
    if how == "fault":
        service.model("v2").restarts = 3
        service.wait(1)
        assert [one.verdict for one in service.state.verdicts] == ["Fail", "Pass"]
        return
    if how == "abort":
        service.say("abort")
    else:
        service.apply("v3" if how == "superseded" else "v1")
    assert service.phase is Phase.ROLLING_BACK
    assert service.state.verdicts == [before[0].model_copy(update={"verdict": "Cancelled"})]


def test_an_abort_wins_over_a_command_that_came_with_it() -> None:
    both = world(GATED).serve().apply("v2").wait(10)
    both.is_observed = False
    both.say("promote-all", "1").say("abort", "1")
    assert both.phase is Phase.ROLLING_BACK
    both.is_observed = True
    both.wait(1)
    assert both.told(Reason.COMMAND_REFUSED) == ["promote-all 1 by kubectl: an abort came with it"]


@pytest.mark.parametrize("before", ["nothing", "RolledBack"])
def test_an_abort_that_is_seen_together_with_the_spec_ends_its_release(before: str) -> None:
    """As when no operator led at the time."""
    service = world(GATED).serve()
    if before == "RolledBack":
        service.apply("v2").wait(8).say("abort", "1").until(Phase.ROLLED_BACK)
    service.target = "v3"
    service.say("abort", "2").wait(3)
    assert (service.phase, service.state.candidate, service.stable) == (Phase.ROLLED_BACK, "v3", "v1")
    assert reason(service) == "AbortCommanded"
    assert service.told(Reason.COMMAND_REFUSED) == []


def test_promote_all_goes_to_all_as_soon_as_the_pods_are_ready() -> None:
    service = world(GATED, replicas=3).serve().apply("v2").say("promote-all")
    service.until(Phase.DRAINING)
    assert [weight for name, weight in service.weights if name] == [10_000]
    assert service.told(Reason.COMMAND_OBEYED) == ["promote-all 1 by kubectl"]


def test_promote_all_passes_steps_that_are_only_added_afterwards() -> None:
    service = world([{"weight": "5%", "gate": True}], replicas=4).serve().apply("v2").wait(10)
    service.room = 5
    service.say("promote-all").wait(5)
    service.policy = world(GATED).policy
    service.room = None
    service.wait(30)
    assert service.stable == "v2"


def test_promote_all_takes_a_revision_that_went_back_all_the_same() -> None:
    service = world(GATED).serve().apply("v2").wait(10).say("abort").until(Phase.ROLLED_BACK)
    service.say("promote-all", "2").until(Phase.HEALTHY)
    assert service.stable == "v2"


def test_promote_all_is_for_the_revision_that_went_back_not_for_one_that_comes_with_it() -> None:
    service = world(GATED).serve().apply("v2").wait(8).say("abort").until(Phase.ROLLED_BACK)
    service.target = "v3"
    service.say("promote-all", "2").wait(20)
    assert service.told(Reason.COMMAND_REFUSED) == [
        "promote-all 2 by kubectl: the spec asks for another revision than the one that went back"
    ]
    assert (service.stable, service.state.candidate, service.state.weight) == ("v1", "v3", 500)


def test_a_command_without_an_id_is_refused_for_a_second_one_would_not_be_seen() -> None:
    service = world(GATED).serve().apply("v2").wait(10).say("promote", "").wait(3)
    assert service.told(Reason.COMMAND_REFUSED) == [
        'promote by kubectl: it has no id, by which it would be known from the next one; write "promote ID"'
    ]
    assert service.state.step == 0


def test_without_analysis_nothing_is_judged_and_no_requests_are_needed() -> None:
    service = world([{"weight": "5%", "hold": "20s"}]).serve().apply("v2").wait(8).say("skip-analysis")
    service.model("v2").error_rate = 1
    service.until(Phase.HEALTHY)
    assert service.stable == "v2"


@pytest.mark.parametrize(
    ("verb", "why"),
    [
        ("promote", "no release goes by steps at present"),
        ("promote-all", "no release goes by steps at present"),
        ("pause", "no release goes by steps at present"),
        ("resume", "it was not paused by command; promote passes a gate"),
        ("retry", "no release of this spec has gone back"),
        ("skip-analysis", "no release goes by steps at present"),
        (
            "rollback",
            "the revision before has no pods any more; set spec.predictor.model back to what it was",
        ),
        (
            "explode",
            "no such command; there are abort, pause, promote, promote-all, resume, retry, rollback, skip-analysis",
        ),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_once_with_the_reason(verb: str, why: str) -> None:
    service = world(GATED).serve().say(verb).wait(30)
    assert service.told(Reason.COMMAND_REFUSED) == [f"{verb} 1 by kubectl: {why}"]
    assert service.phase is Phase.HEALTHY
