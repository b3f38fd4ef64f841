"""A release where the devices of the cluster are all taken: it says so, or borrows one after the other."""

from e2e.support.manifests import GPU, GPUS
from e2e.support.releases import (
    SIZE,
    SOON_S,
    begin,
    canary,
    command,
    end,
    offset,
    release,
    wait_promoted,
    wait_state,
    watched,
)
from e2e.support.rules import assert_rules
from e2e.support.team import Team
from e2e.support.wait import until

ONE_EACH = SIZE | {"limits": SIZE["limits"] | {GPU: 1}}


def test_24_without_room_it_says_what_is_missing_and_with_leave_it_borrows(shop: Team, gpus: str) -> None:
    """Never less than one pod below what the traffic needs, and no request fails."""

    def version(number: int, capacity: str) -> None:
        policy = canary(50, capacity=capacity, progressDeadline="1m")
        shop.apply(release(number, name="dear", replicas=GPUS, resources=ONE_EACH, rollout=policy))

    old = begin(shop, "dear", replicas=GPUS, resources=ONE_EACH, rollout=canary(50, capacity="Surge"))
    with shop.traffic("dear", rate=100) as flow, watched(shop) as record:
        version(2, "Surge")
        blocked = wait_state(shop, "dear", pause="CapacityBlocked")
        assert gpus in blocked["pause"]["message"], blocked
        assert shop.condition("dear", "Ready")["status"] == "True"
        assert len(shop.pods("dear", old)) == GPUS
        version(2, "Borrow")
        new = wait_promoted(shop, "dear", after=old, within_s=150)
        flow.wait_only(offset(2))
        until(
            "all of it is there",
            lambda: len(shop.pods("dear", new)) == GPUS == len(shop.pods("dear")),
            within_s=SOON_S,
        )
    flow.assert_unharmed()
    assert_rules(record, "dear", lent=1)
    end(shop, "dear")


def test_an_abort_gives_back_what_was_borrowed_first(shop: Team, gpus: str) -> None:
    """Stable has its pods again before it has its traffic again."""
    assert gpus
    policy = canary({"weight": "50%", "gate": True}, capacity="Borrow")
    old = begin(shop, "lender", replicas=GPUS, resources=ONE_EACH, rollout=policy)
    with shop.traffic("lender", rate=100) as flow, watched(shop) as record:
        shop.apply(release(2, name="lender", replicas=GPUS, resources=ONE_EACH, rollout=policy))
        wait_state(shop, "lender", pause="StepGate", weight=5000)
        command(shop, "abort", "lender")
        wait_state(shop, "lender", phase="RolledBack")
        until("stable has all its pods", lambda: len(shop.pods("lender", old)) == GPUS, within_s=SOON_S)
        flow.wait_only(offset(1))
    flow.assert_unharmed()
    assert_rules(record, "lender", lent=1)
    end(shop, "lender")
