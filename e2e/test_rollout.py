"""Releases under load: good ones arrive by themselves, and what people do on the way. README.md has the numbers."""

import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor

from e2e.support.load import one_each
from e2e.support.manifests import variant, with_spec
from e2e.support.releases import (
    GATE,
    SOON_S,
    WHOLE,
    Record,
    begin,
    canary,
    candidate_of,
    command,
    end,
    offset,
    release,
    state,
    wait_obeyed,
    wait_promoted,
    wait_rolled_back,
    wait_state,
    watched,
    weight_of,
)
from e2e.support.rules import assert_rules
from e2e.support.team import Team, condition
from e2e.support.wait import until

GOOD = 20 if os.environ.get("SLIPWAY_FULL") else 3
AT_ONCE, RATE = 3, 300


def test_01_a_first_version_takes_all_requests_when_it_is_ready(shop: Team) -> None:
    """Four steps of ten minutes, longer than anybody waits here: none of them is taken, nothing is judged."""
    with watched(shop) as record:
        begin(shop, "first", rollout=canary(5, 25, 50, 75, hold="10m"))
        assert shop.answers("first", 1)
    assert set(record.path("first")) <= {"Provisioning", "Promoting", "Draining", "Healthy"}
    assert record.told("RolloutStepped", "first") == []
    assert all(not change.object["status"].get("rollout", {}).get("evidence") for change in record.statuses("first"))
    end(shop, "first")


def test_good_releases_are_promoted_and_fail_no_request(shop: Team) -> None:
    """20 of 20 in the full count; several at once, 300 requests a second together."""
    for first in range(0, GOOD, AT_ONCE):
        names = [f"good-{number}" for number in range(first, min(first + AT_ONCE, GOOD))]
        with watched(shop) as record, ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: promote(shop, record, name, RATE / len(names)), names))  # noqa: B023
        for name in names:
            assert_rules(record, name)


def promote(team: Team, record: Record, name: str, rate: float) -> None:
    old = begin(team, name, rollout=canary(10, 50))
    lives = team.lives(name)
    with team.traffic(name, rate=rate) as flow:
        flow.wait_answered(50, within_s=60)
        team.apply(release(2, name=name, rollout=canary(10, 50)))
        new = wait_promoted(team, name, after=old)
        until("the old pods are gone", lambda: not team.pods(name, old), within_s=SOON_S)
        flow.wait_only(offset(2))
    flow.assert_unharmed()
    assert record.weights(new, name)[:4] == [0, 1000, 5000, WHOLE]
    assert len(record.wait_told("RevisionPromoted", name, new)) == 1
    assert record.largest(name) <= 4096
    assert not lives.keys() & team.lives(name).keys()
    end(team, name)


def test_02_a_gate_waits_for_its_command_and_each_command_passes_one(shop: Team) -> None:
    """However long: the deadline is for pods that do not come up. Who asked stands in the history."""
    policy = canary({"weight": "5%"} | GATE, {"weight": "25%"} | GATE, 50, progressDeadline="20s")
    old = begin(shop, "gated", rollout=policy)
    with shop.traffic("gated", rate=60) as flow, watched(shop) as record:
        shop.apply(release(2, name="gated", rollout=policy))
        waiting = wait_state(shop, "gated", pause="StepGate", step=0, weight=500)
        since = time.monotonic()
        until("two deadlines have passed", lambda: time.monotonic() - since > 40, within_s=60)
        assert state(shop, "gated")["pause"]["since"] == waiting["pause"]["since"]
        command(shop, "promote", "gated")
        wait_state(shop, "gated", pause="StepGate", step=1, weight=2500)
        command(shop, "promote", "gated", number="the-second")
        command(shop, "promote", "gated", number="the-second")
        wait_promoted(shop, "gated", after=old)
    flow.assert_unharmed()
    assert_rules(record, "gated")
    for change in record.statuses("gated"):
        assert condition(change.object, "RolloutHealthy").get("status") != "False"
        assert not condition(change.object, "Stalled")
    told = [entry["message"] for entry in shop.status("gated")["history"]]
    assert len([words for words in told if "kubectl-annotate" in words]) == 2, told
    end(shop, "gated")


def test_04_a_newer_version_takes_the_place_of_a_candidate(shop: Team) -> None:
    """The second has no share before any of its pods ends and before the third has one; all steps are taken again."""
    policy = canary({"weight": "25%", "hold": "3s"}, 50)
    old = begin(shop, "hasty", rollout=policy)
    with shop.traffic("hasty", rate=RATE) as flow, watched(shop) as record:
        # Longer than until the third is there.
        shop.apply(release(2, name="hasty", rollout=canary({"weight": "25%", "hold": "10m"}, 50)))
        wait_state(shop, "hasty", weight=2500, stage="Soaking")
        second = candidate_of(shop, "hasty")
        shop.apply(release(3, name="hasty", rollout=policy))
        third = wait_promoted(shop, "hasty", after=old)
        flow.wait_only(offset(3))
    flow.assert_unharmed()
    assert_rules(record, "hasty")
    assert record.weights(second, "hasty") == [0, 2500, 0]
    assert record.weights(third, "hasty")[:4] == [0, 2500, 5000, WHOLE]
    for change in record.statuses("hasty"):
        both = [weight_of(change.object["status"], revision) for revision in (second, third)]
        assert 0 in both, both
    told = [entry["reason"] for entry in shop.status("hasty")["history"]]
    assert "RolloutSuperseded" in told, told
    end(shop, "hasty")


def test_05_the_old_version_applied_again_takes_all_back_without_steps(shop: Team) -> None:
    policy = canary(25, {"weight": "75%"} | GATE)
    old = begin(shop, "regret", replicas=2, rollout=policy)
    with shop.traffic("regret", rate=RATE) as flow, watched(shop) as record:
        shop.apply(release(2, name="regret", replicas=2, rollout=policy))
        wait_state(shop, "regret", pause="StepGate", weight=7500)
        new = candidate_of(shop, "regret")
        shop.apply(release(1, name="regret", replicas=2, rollout=policy))
        flow.wait_only(offset(1))
        until("its pods are gone", lambda: not shop.pods("regret", new), within_s=SOON_S)
        assert shop.wait_settled("regret")["stable"] == old
    flow.assert_unharmed()
    assert_rules(record, "regret")
    assert record.weights(new, "regret") == [0, 2500, 7500, 0]
    assert shop.condition("regret", "RolloutHealthy")["status"] == "True"
    end(shop, "regret")


def test_06_and_21_an_abort_is_final_until_a_retry_which_begins_anew(shop: Team) -> None:
    """A second abort changes nothing, nor does one when nothing is under way; nor the same spec once more."""
    policy = canary(10, {"weight": "50%"} | GATE)
    old = begin(shop, "torn", rollout=policy)
    # Of a spec that comes before it is heard, an abort is an abort.
    wait_obeyed(shop, "abort", command(shop, "abort", "torn"), "torn")
    with shop.traffic("torn", rate=RATE) as flow, watched(shop) as record:
        shop.apply(release(2, name="torn", rollout=policy))
        wait_state(shop, "torn", pause="StepGate", weight=5000)
        new = candidate_of(shop, "torn")
        asked = time.time()
        command(shop, "abort", "torn")
        flow.wait_only(offset(1))
        assert flow.arm(new)["last"] - asked < 5
        aborted = wait_rolled_back(shop, "torn")
        assert weight_of(shop.status("torn"), new) == 0
        second = command(shop, "abort", "torn")
        shop.apply(release(2, name="torn", rollout=policy))
        wait_obeyed(shop, "abort", second, "torn")
        assert state(shop, "torn")["abort"] == aborted["abort"]
        command(shop, "retry", "torn")
        again = wait_state(shop, "torn", pause="StepGate", weight=5000)
        assert again["attempt"] == aborted["attempt"] + 1
        assert again["candidate"] == new
        command(shop, "promote", "torn")
        assert wait_promoted(shop, "torn", after=old) == new
    flow.assert_unharmed()
    assert_rules(record, "torn")
    assert record.weights(new, "torn")[:7] == [0, 1000, 5000, 0, 1000, 5000, WHOLE]
    assert len(record.told("RolloutAborted", "torn")) == 1
    end(shop, "torn")


def test_10_without_requests_nothing_is_decided_and_with_them_it_goes_on(shop: Team) -> None:
    policy = canary(50)
    policy["analysis"] |= {"noDataAfter": "3s"}
    old = begin(shop, "lonely", rollout=policy)
    with watched(shop) as record:
        shop.apply(release(2, name="lonely", rollout=policy))
        waiting = wait_state(shop, "lonely", pause="LowTraffic", weight=5000)
        assert "20 requests" in waiting["pause"]["message"], waiting
        assert not shop.condition("lonely", "Stalled")
        with shop.traffic("lonely", rate=60) as flow:
            wait_promoted(shop, "lonely", after=old)
    flow.assert_unharmed()
    assert_rules(record, "lonely")
    end(shop, "lonely")


def test_14_and_15_steps_and_replicas_are_edited_on_the_way(shop: Team) -> None:
    """It goes on from the largest step that is not above the present weight: the same candidate, the same evidence."""
    policy = canary(5, {"weight": "25%"} | GATE, 50)
    old = begin(shop, "edited", rollout=policy)
    with shop.traffic("edited", rate=120) as flow, watched(shop) as record:
        shop.apply(release(2, name="edited", rollout=policy))
        before = wait_state(shop, "edited", pause="StepGate", weight=2500)
        other = canary(10, {"weight": "20%"} | GATE, 60)
        shop.apply(release(2, name="edited", rollout=other, replicas=2))
        after = wait_state(shop, "edited", pause="StepGate", step=1, weight=2000)
        assert [after[key] for key in ("candidate", "attempt", "started")] == [
            before[key] for key in ("candidate", "attempt", "started")
        ]
        command(shop, "promote", "edited")
        new = wait_promoted(shop, "edited", after=old)
        assert new == before["candidate"]
        assert len(shop.pods("edited", new)) == 2
    flow.assert_unharmed()
    assert record.weights(new, "edited") == [0, 500, 2500, 2000, 6000, WHOLE]
    end(shop, "edited")


def test_18_weights_that_somebody_else_writes_are_put_right(shop: Team) -> None:
    policy = canary({"weight": "25%"} | GATE)
    begin(shop, "meddled", rollout=policy)
    shop.apply(release(2, name="meddled", rollout=policy))
    with shop.traffic("meddled", rate=60) as flow:
        before = wait_state(shop, "meddled", pause="StepGate", weight=2500)
        routing = shop.status("meddled")["routing"]
        swapped = [
            target | {"weight": weight}
            for target, weight in zip(
                routing["targets"], reversed([each["weight"] for each in routing["targets"]]), strict=True
            )
        ]
        shop.site.api.merge(
            "inferenceservices", shop.name, "meddled/status", {"status": {"routing": routing | {"targets": swapped}}}
        )
        until(
            "the weights are as before",
            lambda: shop.status("meddled")["routing"]["targets"] == routing["targets"],
            within_s=10,
            seen=lambda: shop.digest("meddled"),
        )
        after = state(shop, "meddled")
        assert [after[key] for key in ("step", "weight", "attempt")] == [
            before[key] for key in ("step", "weight", "attempt")
        ]
    flow.assert_unharmed()
    end(shop, "meddled")


def test_19_users_stay_with_a_candidate_and_leave_it_with_an_abort(shop: Team) -> None:
    """Beside a variant of a test, whose users are not touched by any of it."""
    steps = [{"weight": f"{percent}%"} | GATE for percent in (1, 10, 50)]
    policy = canary(*steps)
    model = release(3)["spec"]["predictor"]["model"]
    traffic = {"variants": [variant("b", weight="20%") | {"model": model}], "stickiness": {"header": "x-user"}}
    users = [{"x-user": f"user-{number}"} for number in range(1500)]
    shop.apply(with_spec(release(1, name="sticky", rollout=policy), traffic=traffic))
    shop.wait_settled("sticky")
    shop.wait_shares("sticky", {"": 8000, "b": 2000})
    shop.apply(with_spec(release(2, name="sticky", rollout=policy), traffic=traffic))
    seen = []
    for number, percent in enumerate((1, 10, 50)):
        wait_state(shop, "sticky", pause="StepGate", step=number, weight=percent * 100)
        shop.wait("sticky", "RoutesReady")
        seen.append(groups(shop, users))
        if percent < 50:
            command(shop, "promote", "sticky")
    for before, after in itertools.pairwise(seen):
        assert before[offset(2)] <= after[offset(2)], "nobody leaves"
        assert before[offset(3)] == after[offset(3)], "nor is anybody of the variant moved"
    assert 450 < len(seen[-1][offset(2)]) < 750
    command(shop, "abort", "sticky")
    wait_rolled_back(shop, "sticky")
    back = groups(shop, users)
    assert not back[offset(2)]
    assert back[offset(3)] == seen[0][offset(3)]
    end(shop, "sticky")


def groups(team: Team, users: list[dict[str, str]]) -> dict[int, set[int]]:
    """Offset of the answer -> the users, by number, who got it."""
    answers = one_each(team, "sticky", users)
    assert {answer.code for answer in answers} == {"200"}
    found: dict[int, set[int]] = {offset(version): set() for version in (1, 2, 3)}
    for number, answer in enumerate(answers):
        found[int(answer.offset)].add(number)
    return found


def test_20_back_to_the_version_before_within_its_delay_in_five_seconds(shop: Team) -> None:
    """Nothing is loaded again: the same pods answer."""
    policy = canary(50, scaleDownDelay="30s")
    old = begin(shop, "window", rollout=policy)
    lives = shop.lives("window")
    with shop.traffic("window", rate=RATE) as flow, watched(shop) as record:
        shop.apply(release(2, name="window", rollout=policy))
        new = wait_state(shop, "window", phase="Draining")["candidate"]
        flow.wait_only(offset(2))
        asked = time.time()
        command(shop, "rollback", "window")
        flow.wait_only(offset(1))
        until("it is stable again", lambda: shop.status("window")["stable"] == old, within_s=10)
        assert lives.items() <= shop.lives("window").items()
    flow.assert_unharmed()
    # By what users met: when it is heard of here is this machine's to say.
    took = flow.arm(new)["last"] - asked
    assert took < 5, f"{took:.1f} s"
    assert_rules(record, "window")
    end(shop, "window")
