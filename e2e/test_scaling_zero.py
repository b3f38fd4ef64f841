"""A service that nobody asks has no pods; the first request wakes it, and none that waits for that is lost."""

import json
import os
import time
from typing import Any

import pytest

from e2e.support.api import Manifest
from e2e.support.load import Load, load
from e2e.support.manifests import secret, with_spec
from e2e.support.releases import canary, end, offset, wait_promoted
from e2e.support.scaled import asked, scaled, told, wait_asked, wait_asleep, wait_ready, wait_reason, watched
from e2e.support.team import Team
from e2e.support.wait import until

FULL = bool(os.environ.get("SLIPWAY_FULL"))
CROWD = 200
IDLE: dict[str, Any] = {"least": 0, "idleAfter": "3s"}
KEY = "sk-sleeper-5f2b8c1e9a"
QUICK = {"WORK_MS": "5"}


CANARY = canary(10, 50, hold="1m")


@pytest.fixture(scope="module")
def sleepers(shop: Team) -> Team:
    """All of them are proven to load and put to sleep at once: each scenario wakes its own."""
    shop.apply(secret("slipway-api-keys", web=KEY), secret("disk", fault=""))
    found = [
        scaled("crowd-rest", **IDLE, env=QUICK),
        scaled("crowd-grpc", **IDLE, env=QUICK),
        scaled("often", **IDLE, env=QUICK),
        with_spec(scaled("guarded", **IDLE, env=QUICK), access={"apiKeys": {"clients": ["web"]}}),
        scaled("dozing", **IDLE, env=QUICK, rollout=CANARY),
        stuck(),
    ]
    shop.apply(*found)
    names = [manifest["metadata"]["name"] for manifest in found]
    for name in names:
        shop.wait_settled(name, within_s=120)
    for name in names:
        wait_asleep(shop, name)
    return shop


def stuck() -> Manifest:
    """It loads as long as a Secret does not say otherwise."""
    found = scaled("stuck", **IDLE, env=QUICK, deadline="12s")
    found["spec"]["predictor"]["timeout"] = "20s"
    reference = {"secretKeyRef": {"name": "disk", "key": "fault"}}
    found["spec"]["predictor"]["model"]["env"].append({"name": "FAULT", "valueFrom": reference})
    return found


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_two_hundred_requests_at_once_to_a_service_that_sleeps_are_all_answered(sleepers: Team, protocol: str) -> None:
    name = f"crowd-{protocol}"
    with watched(sleepers) as record:
        found = load(sleepers, name, CROWD, connections=CROWD, protocol=protocol)
    found.assert_answered(CROWD, "200" if protocol == "rest" else "grpc 0")
    print(f"{CROWD} answers in {found.seconds:.2f} s")
    assert record.totals(name)[0][1] == 0
    assert sleepers.condition(name, "Ready")["status"] == "True"
    wait_asleep(sleepers, name)
    end(sleepers, name)


def test_it_sleeps_and_wakes_and_is_ready_all_the_while(sleepers: Team) -> None:
    """Again and again; who looks sees Ready, and why there are no pods."""
    with watched(sleepers) as record:
        for _ in range(20 if FULL else 3):
            load(sleepers, "often", 3, connections=3).assert_answered(3, "200")
            wait_asleep(sleepers, "often")
    statuses = [change.object["status"]["conditions"] for change in record.services.of("often")]
    assert {c["status"] for conditions in statuses for c in conditions if c["type"] == "Ready"} == {"True"}
    slept = sleepers.condition("often", "ScalingActive")
    assert "request" in slept["message"], slept
    end(sleepers, "often")


def test_a_caller_without_a_key_never_wakes_it(sleepers: Team) -> None:
    with watched(sleepers) as record:
        stranger = [{}, {"authorization": "Bearer sk-wrong"}]
        load(sleepers, "guarded", 40, connections=8, headers=stranger).assert_answered(40, "401")
        load(sleepers, "guarded", 40, connections=8, headers=stranger, protocol="grpc").assert_answered(40, "grpc 16")
        asleep_for(sleepers, "guarded", 5)
        assert [count for _, count in record.totals("guarded")] == [0]
    load(sleepers, "guarded", 5, connections=5, headers=[{"x-api-key": KEY}]).assert_answered(5, "200")
    end(sleepers, "guarded")


def asleep_for(team: Team, name: str, seconds: float) -> None:
    ends = time.monotonic() + seconds

    def probe() -> bool:
        assert asked(team, name) == 0, told(team, name)
        return time.monotonic() > ends

    until("it slept on", probe, within_s=seconds + 10)


def test_a_new_version_of_a_service_that_sleeps_is_proven_to_load_and_sleeps_too(sleepers: Team) -> None:
    old = str(sleepers.status("dozing")["stable"])
    with watched(sleepers) as record:
        sleepers.apply(scaled("dozing", version=2, env=QUICK, rollout=CANARY, **IDLE))
        new = wait_promoted(sleepers, "dozing", after=old)
        wait_asleep(sleepers, "dozing")
        assert record.first_ready(new)
        assert max(count for _, count in record.totals("dozing")) == 1
    found = load(sleepers, "dozing", 20, connections=20)
    found.assert_answered(20, "200")
    assert found.offsets == {str(offset(2)): 20}
    end(sleepers, "dozing")


def test_one_that_never_becomes_ready_stops_being_tried_and_says_so(sleepers: Team) -> None:
    """It loaded once; then something that it needs went away. Mended, it is woken again."""
    sleepers.apply(secret("disk", fault="never"))
    held = refused(load(sleepers, "stuck", 1, each=True))
    assert held.seconds < 25, held
    found = wait_reason(sleepers, "stuck", "ActivationFailed", within_s=90)
    assert found["status"] == "False", found
    wait_asked(sleepers, "stuck", lambda count: count == 0, "no")
    at_once = refused(load(sleepers, "stuck", 5, each=True))
    assert at_once.seconds < 5, "as long as that they were held"
    if FULL:
        sleepers.apply(secret("disk", fault=""))
        until("it is tried again", lambda: load(sleepers, "stuck", 1).codes == {"200": 1}, within_s=150)
        wait_ready(sleepers, "stuck", 1)
    end(sleepers, "stuck")


def refused(found: Load) -> Load:
    """All of them 503, told when to come back."""
    assert set(found.codes) == {"503"}, found
    assert all(int(answer.headers["retry-after"]) > 0 for answer in found.each), json.dumps(found.codes)
    return found
