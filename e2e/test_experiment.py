"""A/B experiments tell what users met, change no weight, and go on after the operator's death."""

import os
from typing import Any

import pytest

from e2e.support.installation import Installation
from e2e.support.manifests import with_spec
from e2e.support.releases import begin, command, end, release, wait_obeyed
from e2e.support.team import Team, revisions
from e2e.support.traffic import Traffic
from e2e.support.wait import until

FULL = bool(os.environ.get("SLIPWAY_FULL"))
TOLD_S = 130
"""A stretch lasts a minute; one without any request of an arm is no stretch."""


def compared(**policy: Any) -> dict[str, Any]:
    """A good model beside one of which a fifth of the requests fail."""
    variant = {"name": "b", "weight": "50%", "model": release(2, "errors")["spec"]["predictor"]["model"]}
    return with_spec(release(1), traffic={"variants": [variant], "experiment": policy})


def arms(team: Team) -> dict[str, Any]:
    return {arm["name"]: arm for arm in team.status("hello")["experiment"]["arms"]}


def wait_counted(team: Team) -> None:
    """Until whoever leads has looked at the service, as a command that has nothing to do shows: what users send from
    then on is counted.
    """
    wait_obeyed(team, "resume", command(team, "resume"))


def wait_told(team: Team, *flows: Traffic) -> None:
    """Until status has every request that users sent, and how it ended."""
    targets = revisions(team.status("hello")["routing"]["targets"])

    def probe() -> bool:
        found = arms(team)
        return all(
            (found[name]["requests"], found[name]["errors"])
            == tuple(
                sum(flow.arm(targets[variant])[key] for flow in flows for key in keys)
                for keys in (("answered", "failed"), ("failed",))
            )
            for name, variant in (("stable", ""), ("b", "b"))
        )

    until("the experiment tells of all requests", probe, within_s=TOLD_S, seen=lambda: team.status("hello"))


def test_an_experiment_tells_what_users_met_and_outlives_the_operator(shop: Team, shared_slipway: Installation) -> None:
    begin(shop)
    shop.apply(compared())
    shop.wait_shares("hello", {"": 5000, "b": 5000})
    until("the experiment has begun", lambda: shop.status("hello").get("experiment"), within_s=30)
    since = shop.status("hello")["experiment"]["since"]
    wait_counted(shop)
    with shop.traffic("hello", rate=50) as first:
        first.wait_answered(500)
    wait_told(shop, first)
    killed = shared_slipway.leader()
    shared_slipway.kill(killed)
    until("another one leads", lambda: shared_slipway.leader() not in ("", killed), within_s=60)
    until("and has another beside it", shared_slipway.is_well, within_s=60, seen=shared_slipway.seen)
    wait_counted(shop)
    with shop.traffic("hello", rate=50) as second:
        second.wait_answered(500)
    wait_told(shop, first, second)
    found = shop.status("hello")["experiment"]
    assert (found["since"], found["outcome"], found.get("leader", "")) == (since, "Undecided", "")
    assert found["message"].startswith("no leader yet: 2 of at least 20 stretches")
    shop.wait_shares("hello", {"": 5000, "b": 5000})
    end(shop, "hello")


@pytest.mark.skipif(not FULL, reason="takes 25 minutes; SLIPWAY_FULL=1")
@pytest.mark.timeout(2400, func_only=True)
def test_the_better_of_two_leads_once_that_is_sure(shop: Team) -> None:
    begin(shop)
    shop.apply(compared())
    shop.wait_shares("hello", {"": 5000, "b": 5000})
    with shop.traffic("hello", rate=20):
        found = until(
            "somebody leads",
            lambda: (shop.status("hello").get("experiment") or {}).get("leader"),
            within_s=2000,
            seen=lambda: shop.status("hello").get("experiment"),
        )
    assert found == "stable"
    assert shop.status("hello")["experiment"]["outcome"] == "Leader"
    assert any(event["reason"] == "ExperimentDecided" for event in shop.events("hello"))
    end(shop, "hello")
