"""Other ways than a canary: a look before all traffic at once, and copies of requests first."""

import time

from e2e.support.releases import (
    GATE,
    SOON_S,
    WHOLE,
    begin,
    canary,
    candidate_of,
    command,
    end,
    offset,
    release,
    state,
    wait_promoted,
    wait_rolled_back,
    wait_state,
    watched,
)
from e2e.support.rules import assert_rules
from e2e.support.team import Team
from e2e.support.wait import until

RATE = 300
SHADOW = {"mirror": "50%", "hold": "2s"}


def test_blue_green_is_looked_at_switched_at_once_and_switched_back(shop: Team) -> None:
    """At NAME-preview the new one answers before anybody else is sent to it."""
    policy = {"strategy": "BlueGreen", "preview": GATE, "analysis": {"minRequests": 20}, "scaleDownDelay": "30s"}
    old = begin(shop, "colours", rollout=policy)
    with shop.traffic("colours", rate=RATE) as flow, watched(shop) as record:
        flow.wait_answered(50)
        shop.apply(release(2, name="colours", rollout=policy))
        wait_state(shop, "colours", pause="StepGate")
        new = candidate_of(shop, "colours")
        until("the preview answers", lambda: shop.answers("colours", offset(2), at="colours-preview"), within_s=SOON_S)
        assert set(flow.sums["offsets"]) == {str(offset(1))}
        command(shop, "promote", "colours")
        wait_state(shop, "colours", phase="Draining")
        flow.wait_only(offset(2))
        assert shop.status("colours")["stable"] == new
        lives = shop.lives("colours")
        asked = time.time()
        command(shop, "rollback", "colours")
        flow.wait_only(offset(1))
        until("the old one is stable", lambda: shop.status("colours")["stable"] == old, within_s=10)
        assert shop.lives("colours").items() >= {pod: life for pod, life in lives.items() if old in pod}.items()
    flow.assert_unharmed()
    took = flow.arm(new)["last"] - asked
    assert took < 5, f"{took:.1f} s"
    assert record.weights(new, "colours")[:3] == [0, WHOLE, 0]
    assert_rules(record, "colours")
    end(shop, "colours")


def test_22_copies_find_a_bad_version_before_anybody_sees_an_answer_of_it(shop: Team) -> None:
    policy = canary(SHADOW | {"hold": "1m"}, 50)
    old = begin(shop, "shade", rollout=policy)
    with shop.traffic("shade", rate=RATE) as flow, watched(shop) as record:
        shop.apply(release(2, "errors", name="shade", rollout=policy))
        bad = candidate_of(shop, "shade")
        found = wait_rolled_back(shop, "shade")
        assert "errorRate: " in found["abort"]["message"], found
    flow.assert_unharmed()
    assert set(flow.sums["arms"]) == {old}
    assert record.weights(bad, "shade") == [0]
    assert "Shadowing" in record.path("shade")
    end(shop, "shade")


def test_a_good_version_gets_copies_first_and_requests_then(shop: Team) -> None:
    policy = canary(SHADOW, 50)
    old = begin(shop, "moon", rollout=policy)
    with shop.traffic("moon", rate=RATE) as flow, watched(shop) as record:
        shop.apply(release(2, name="moon", rollout=policy))
        new = wait_promoted(shop, "moon", after=old)
    flow.assert_unharmed()
    # By what was written: a hold may be over before somebody looks.
    states = [change.object["status"].get("rollout") or {} for change in record.statuses("moon")]
    mirrored = [each for each in states if each.get("mirror")]
    assert {(each["phase"], each["mirror"]) for each in mirrored} == {("Shadowing", 5000)}
    assert not any(each["weight"] for each in mirrored)
    assert record.weights(new, "moon")[:3] == [0, 5000, WHOLE]
    assert_rules(record, "moon")
    assert state(shop, "moon")["phase"] == "Healthy"
    end(shop, "moon")
