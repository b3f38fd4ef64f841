"""Bad releases under load go back by themselves, with the right reason; no request fails but the candidate's own."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.support.api import Manifest
from e2e.support.history import Change, recorded
from e2e.support.installation import NAMESPACE, Installation, agent_processes, name, send
from e2e.support.releases import (
    SOON_S,
    Record,
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
    weight_of,
)
from e2e.support.rules import assert_rules
from e2e.support.site import GATEWAY_SERVICE
from e2e.support.team import Team, condition, is_ready, restarts
from e2e.support.wait import until

FULL = bool(os.environ.get("SLIPWAY_FULL"))
ROUNDS, RATE = (4, 300) if FULL else (1, 300)
CRASH_AFTER_S, CRASH_HOLD = ("30", "90s") if FULL else ("8", "20s")
"""Three lives, with the kubelet's pauses between them, are over before the steps are."""
LONG_S = 3000 if FULL else 600


@dataclass(frozen=True, slots=True)
class Case:
    """A fault of release_model, and what of it the owner must be told."""

    fault: str
    reasons: tuple[str, ...]
    words: str
    """In the sentence about it."""
    env: dict[str, str] = field(default_factory=dict)
    """Of the good version too."""
    answers: int = 50
    """Of the good version before the release."""
    deadline: str = "3m"
    within_s: float = 150
    hold: str = "20s"


CASES = (
    Case("errors", ("AnalysisFailed",), "errorRate: "),
    # Much longer than what a request waits for a busy machine, and well inside of one of the gateways' buckets.
    # And compared with how the good one does, not with how it did while ten pods started at once.
    Case("slow", ("AnalysisFailed",), "p95: ", {"WORK_MS": "230"}, answers=1500),
    # Its deadline is longer than the kubelet's pauses before the third restart, in which no pod is ready.
    Case("crash", ("AnalysisFailed", "Crashed"), "", {"CRASH_AFTER_S": CRASH_AFTER_S}, within_s=300, hold=CRASH_HOLD),
    Case("never", ("ProgressDeadlineExceeded",), "no more than 0 of its replicas became ready in 12s", deadline="12s"),
    Case("hungry", ("OutOfMemory",), "limits.memory"),
)


@pytest.mark.timeout(LONG_S, func_only=True)
def test_bad_releases_go_back_and_say_why(shop: Team) -> None:
    """Five kinds at once, 300 requests a second together; 20 of 20 in the full count."""
    for number in range(ROUNDS):
        with watched(shop) as record, ThreadPoolExecutor(len(CASES)) as pool:
            list(pool.map(lambda case: fail(shop, record, case, f"{case.fault}-{number}"), CASES))  # noqa: B023
        for case in CASES:
            assert_rules(record, f"{case.fault}-{number}", pods_die=case.fault == "crash")


def test_a_version_that_rejects_what_stable_takes_goes_back(shop: Team) -> None:
    """Answers 400 to everything, which is the caller's doing as long as nobody else takes it."""
    with watched(shop) as record:
        fail(shop, record, Case("rejects", ("AnalysisFailed",), "rejected: "), "rejects")
    assert_rules(record, "rejects")


def fail(team: Team, record: Record, case: Case, name: str) -> None:
    policy = canary(20, 50, hold=case.hold, progressDeadline=case.deadline)
    old = begin(team, name, rollout=policy, env=case.env)
    with team.traffic(name, rate=RATE / len(CASES)) as flow:
        flow.wait_answered(case.answers, within_s=60)
        team.apply(release(2, case.fault, name=name, rollout=policy, env=case.env))
        bad = candidate_of(team, name)
        found = wait_rolled_back(team, name, within_s=case.within_s)
        flow.wait_only(offset(1))
    flow.assert_unharmed_but_by(bad)
    told = found["abort"]
    assert told["reason"] in case.reasons, told
    assert case.words in told["message"], told
    assert team.status(name)["stable"] == old
    assert max(record.weights(bad, name)) <= 5000
    assert record.weights(bad, name)[-1] == 0
    assert flow.arm(bad)["failed"] <= flow.arm(bad)["answered"] + flow.arm(bad)["failed"]
    assert len(record.wait_told("RolloutAborted", name)) == 1
    assert record.largest(name) <= 4096
    team.kubectl("wait", f"infsvc/{name}", "--for=condition=RolloutHealthy=False", "--timeout=5s")
    until("its pods are gone", lambda: not team.pods(name, bad), within_s=SOON_S)
    end(team, name)


def test_07_an_image_that_is_not_there_is_given_up_and_a_lost_pod_later_is_nobodys_fault(shop: Team) -> None:
    policy = canary(50)
    old = begin(shop, "image", rollout=policy)
    lives = shop.lives("image")
    broken = release(2, name="image", rollout=policy | {"progressDeadline": "25s"})
    broken["spec"]["predictor"]["model"]["runtimeVersion"] = "no-such-tag"
    shop.apply(broken)
    found = wait_rolled_back(shop, "image")
    assert "no-such-tag" in found["abort"]["message"], found
    assert shop.lives("image").items() >= lives.items()
    shop.apply(release(2, name="image", rollout=policy))
    with shop.traffic("image", rate=60) as flow:
        new = wait_promoted(shop, "image", after=old)
    flow.assert_unharmed()
    [pod] = shop.pods("image", new)
    shop.kubectl("delete", "pod", name(pod), "--wait=false")
    until(
        "another took its place",
        lambda: any(is_ready(each) and name(each) != name(pod) for each in shop.pods("image", new)),
        within_s=SOON_S,
    )
    until("it answers", lambda: shop.answers("image", offset(2)), within_s=SOON_S)
    assert shop.wait_settled("image")["stable"] == new
    assert "abort" not in state(shop, "image")
    end(shop, "image")


def test_08_a_good_version_replaces_one_that_is_down_at_once(shop: Team) -> None:
    """The hold of ten minutes is for those who have something to lose."""
    policy = canary(5, hold="10m")
    old = begin(shop, "down", 1, "crash", rollout=policy, env={"CRASH_AFTER_S": "6"})
    until("it crashed twice", lambda: restarts(shop.pods("down")[0]) >= 2, within_s=SOON_S)
    began = time.monotonic()
    shop.apply(release(2, name="down", rollout=policy))
    until(
        "the good one is stable",
        lambda: shop.status("down")["stable"] != old,
        within_s=SOON_S,
        seen=lambda: shop.digest("down"),
    )
    assert shop.answers("down", offset(2))
    print(f"promoted {time.monotonic() - began:.1f} s after it was applied")
    end(shop, "down")


def test_23_failures_that_only_grpc_can_tell_are_found(shop: Team) -> None:
    """A call that fails is HTTP 200."""
    policy = canary(50, hold="1m")
    begin(shop, "calls", rollout=policy)
    with shop.traffic("calls", rate=100, kinds="grpc") as flow:
        shop.apply(release(2, "errors", name="calls", rollout=policy))
        bad = candidate_of(shop, "calls")
        found = wait_rolled_back(shop, "calls")
    assert "errorRate: " in found["abort"]["message"], found
    flow.assert_unharmed_but_by(bad)
    assert flow.arm(bad)["failed"]
    end(shop, "calls")


def test_25_a_gateway_that_does_not_hear_is_named_and_nothing_moves(shop: Team, slipway: Installation) -> None:
    """Its weight does not count as served. Once it is out of the Service the release goes on without it."""
    if not shop.site.is_local:
        pytest.skip("processes can be paused on `local` only")
    policy = canary({"weight": "10%", "hold": "1s", "gate": True}, 50)
    old = begin(shop, "deaf", rollout=policy)
    with (
        shop.traffic("deaf", rate=60) as flow,
        watched(shop) as record,
        recorded(shop.site.api, "endpointslices", NAMESPACE) as slices,
    ):
        shop.apply(release(2, name="deaf", rollout=policy))
        wait_state(shop, "deaf", pause="StepGate", weight=1000)
        new = candidate_of(shop, "deaf")
        deaf = slipway.gateways()[0]
        with paused_agent(deaf):
            paused = time.time()
            command(shop, "promote", "deaf")
            until(
                "it is promoted without it",
                lambda: shop.status("deaf")["stable"] == new,
                within_s=SOON_S,
                seen=lambda: shop.digest("deaf"),
            )
            resumed = time.time()  # it may be named once more on its way back
        assert wait_promoted(shop, "deaf", after=old) == new
        until("all gateways are back", slipway.is_well, within_s=60, seen=slipway.seen)
    left = [change for change in slices.changes if change.seen > paused and not leads_to(change, deaf)]
    # By what was written, not by looking now and then: how long it lasts is the kubelet's to say.
    waited = [change for change in record.statuses("deaf") if change.seen < resumed and is_named(change, deaf)]
    assert max(weight_of(change.object["status"], new) for change in waited) == 5000, "named, and nothing moves"
    moved = [change for change in record.statuses("deaf") if weight_of(change.object["status"], new) > 5000]
    assert min(change.version for change in moved) > min(change.version for change in left), (
        "it went on while the gateway was in the Service"
    )
    flow.assert_unharmed()
    assert_rules(record, "deaf")
    end(shop, "deaf")


def is_named(change: Change, gateway: Manifest) -> bool:
    """Whether the release says that it waits for the gateway."""
    return name(gateway) in str(condition(change.object, "RoutesReady")) + str(change.object["status"].get("rollout"))


def leads_to(change: Change, gateway: Manifest) -> bool:
    """Whether requests to Slipway's own Service may come to the gateway; true of every other Service."""
    if not change.name.startswith(GATEWAY_SERVICE):
        return True
    endpoints = change.object.get("endpoints") or []
    return any(one["targetRef"]["name"] == name(gateway) and one["conditions"]["serving"] for one in endpoints)


@contextmanager
def paused_agent(gateway: Manifest) -> Iterator[None]:
    """Envoy beside it goes on."""
    agents = agent_processes(gateway)
    send(agents, signal.SIGSTOP)
    try:
        yield
    finally:
        send([pid for pid in agents if Path(f"/proc/{pid}").exists()], signal.SIGCONT)
