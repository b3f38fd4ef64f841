"""Replicas follow the load: there before they are needed, gone after it, whatever else happens to the service."""

import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from e2e.cluster.paths import REPO
from e2e.support.api import Manifest
from e2e.support.load import load
from e2e.support.releases import canary, end, offset, release, share_needs, wait_promoted, weight_of
from e2e.support.scaled import (
    LIMIT_S,
    RATE,
    SERIAL,
    WORK_MS,
    asked,
    launch_s,
    scaled,
    scaling,
    told,
    wait_asked,
    wait_asleep,
    wait_ready,
    watched,
)
from e2e.support.team import Team
from e2e.support.wait import until

FULL = bool(os.environ.get("SLIPWAY_FULL"))
LATE_S = LIMIT_S + WORK_MS / 1000 + 0.1
"""An answer within the objective: what it may wait, what it takes, and what the way costs on a busy machine."""
QUIET, BUSY = 3, 22
"""Requests a second for which one replica is enough, and for which four are."""
LEARN_S, CLIMB_S, HOLD_S, DOWN_S = (60, 90, 60, 900) if FULL else (20, 45, 15, 90)
CLIMB_LEADS = 9
"""The tide takes as long as so many pods one after the other, if that is longer."""
WAITING = 5
"""Requests that may wait for the first pod."""
TOUCHES = 100
REPEAT = REPO / "runtime" / "slipway_runtime" / "sample_models" / "repeat_int32.py"
REPEATS = {
    "input": [
        {"name": "IN", "data_type": "TYPE_INT32", "dims": [-1]},
        {"name": "DELAY", "data_type": "TYPE_UINT32", "dims": [-1]},
        {"name": "WAIT", "data_type": "TYPE_UINT32", "dims": [1]},
    ],
    "output": [
        {"name": "OUT", "data_type": "TYPE_INT32", "dims": [1]},
        {"name": "IDX", "data_type": "TYPE_UINT32", "dims": [1]},
    ],
    "model_transaction_policy": {"decoupled": True},
    "instance_group": [{"count": 12, "kind": "KIND_CPU"}],
    "parameters": {"instances": {"string_value": "threads"}},
}
"""A stream: every number of IN, each after its DELAY."""


def test_a_pod_of_the_sample_carries_the_rate_that_these_scenarios_count_on(shop: Team) -> None:
    """By the best of three, since other programs have the machine too; more than that none may."""
    shop.apply(scaled("known", most=1))
    shop.wait_settled("known")
    best = 0.0
    for _ in range(3):
        found = load(shop, "known", 40, connections=8)
        found.assert_answered(40, "200")
        best = max(best, 40 / found.seconds)
        if best >= 0.7 * RATE:
            break
    assert 0.7 * RATE <= best <= 1.05 * RATE
    end(shop, "known")


def test_from_one_replica_to_four_to_one_to_none_and_back_within_the_objective(shop: Team) -> None:
    """99 % of all requests in time, those during scale-up and those that woke it included; none failed.

    By time spent waiting replicas go down ten minutes after the first look at the earliest: that is the full count.
    Where pods take long to come the tide comes more slowly, and fewer requests wait for the first of them.
    """
    objective = {"queueTime": {"p99": f"{LIMIT_S:g}s"}} if FULL else {"requestsPerSecond": 6}
    down: dict[str, Any] = {} if FULL else {"behavior": {"down": {"delay": "10s"}}}
    shop.apply(scaled("tide", least=0, objective=objective, idleAfter="5s", **down))
    shop.wait_settled("tide")
    with watched(shop) as record, shop.traffic("tide", rate=QUIET, limit_s=LATE_S) as flow:
        wait_s(LEARN_S)
        assert asked(shop, "tide") == 1, told(shop, "tide")
        lead_s = launch_s(shop, "tide")
        climb_s = min(2 * CLIMB_S, max(CLIMB_S, lead_s * CLIMB_LEADS))
        learnt = time.time()
        flow.go(BUSY, climb_s)
        wait_asked(shop, "tide", lambda count: count == 4, "four", within_s=climb_s + HOLD_S)
        wait_ready(shop, "tide", 4)
        wait_s(HOLD_S)
        assert asked(shop, "tide") == 4, told(shop, "tide")
        flow.go(QUIET, 5)
        wait_asked(shop, "tide", lambda count: count == 1, "one", within_s=DOWN_S)
        flow.go(0)
        wait_asleep(shop, "tide", within_s=60)
        flow.go(min(1.0, WAITING / lead_s))
        wait_ready(shop, "tide", 1)
        flow.wait_answered(5)
    flow.assert_unharmed()
    answered, in_time = flow.in_time(learnt)
    print(f"{in_time} of {answered} in time, a pod comes in {lead_s:.0f} s; replicas: {record.totals('tide')}")
    assert in_time >= 0.99 * answered, flow.late(learnt)
    assert max(count for _, count in record.totals("tide")) == 4
    end(shop, "tide")


def wait_s(seconds: float) -> None:
    """Of load, not of chance: a signal has to have been seen for so long."""
    ends = time.monotonic() + seconds
    until("the time is over", lambda: time.monotonic() >= ends, within_s=seconds + 5)


def test_a_hundred_reconciles_under_load_leave_replicas_untouched_and_other_hands_are_undone(shop: Team) -> None:
    shop.apply(scaled("steady", least=2, objective={"requestsPerSecond": 50}))
    shop.wait_settled("steady")
    with shop.traffic("steady", rate=10) as flow:
        flow.wait_answered(100)
        with watched(shop) as record:
            for number in range(TOUCHES):
                note = {"metadata": {"annotations": {"example.com/touched": str(number)}}}
                shop.site.api.merge("inferenceservices", shop.name, "steady", note)
            flow.wait_answered(50)
        assert [count for _, count in record.totals("steady")] == [2]
        [deployment] = [name for name in shop.names("deployments") if name.startswith("steady")]
        for other in (4, 1):
            shop.kubectl("scale", "deployment", deployment, f"--replicas={other}")
            wait_asked(shop, "steady", lambda count: count == 2, "two again", within_s=15)
            wait_ready(shop, "steady", 2)
    flow.assert_unharmed()
    end(shop, "steady")


def test_a_release_under_load_never_takes_more_than_the_need_and_its_surge(shop: Team) -> None:
    """At every step no more than all users need beside what the next step does: its pods start in the hold."""
    percents = (10, 30, 65)
    policy = canary(*percents, hold="4s")
    shop.apply(scaled("both", least=2, rollout=policy))
    old = str(shop.wait_settled("both")["stable"])
    with shop.traffic("both", rate=16, limit_s=LATE_S) as flow:
        flow.wait_answered(250)
        with watched(shop) as record:
            shop.apply(scaled("both", least=2, version=2, rollout=policy))
            new = wait_promoted(shop, "both", after=old, within_s=120)
            flow.wait_only(offset(2))
    flow.assert_unharmed()
    statuses, totals = record.statuses("both"), record.totals("both")
    desired = max(entry["desired"] for change in statuses for entry in change.object["status"].get("scaling", []))
    print(f"desired {desired}; in all {totals}")
    for percent, after in itertools.pairwise(percents):
        # By the order in which it was written: what is seen first, of two watches, may have happened last.
        ends = max(each.version for each in statuses if weight_of(each.object["status"], new) <= percent * 100)
        counts = [count for change, count in record.sums("both") if change.version <= ends]
        assert max(counts) <= desired + share_needs(desired, after * 100), (percent, totals)
    assert max(count for _, count in totals) <= 2 * desired
    assert desired <= 4
    end(shop, "both")


def test_a_variant_that_sleeps_has_its_replicas_before_its_weight_and_keeps_them_while_it_gives_it_away(
    shop: Team,
) -> None:
    """0 to 90 % under load, then out of the spec: no request fails, and no weight outruns the replicas for it."""
    work = 16
    shop.apply(shifted("0%"))
    shop.wait_settled("shift")
    with watched(shop) as record, shop.traffic("shift", rate=work) as flow:
        stable = -(-work // EACH)
        until(
            "b sleeps, and stable carries the load",
            lambda: asked(shop, "shift") == stable and not scaling(shop, "shift", "b").get("desired", 1),
            within_s=180,
            seen=lambda: told(shop, "shift"),
        )
        flow.wait_answered(300, within_s=60)
        shop.apply(shifted("90%"))
        b = shop.wait_shares("shift", {"": 1000, "b": 9000}, within_s=90)["b"]
        flow.wait_answered(200, within_s=60)
        assert flow.arm(b)["answered"] > 0
        for change in record.statuses("shift"):
            status = change.object["status"]
            ready = sum(each["ready"] for each in status.get("revisions", []) if each["name"] == b)
            assert weight_of(status, b) <= 3000 * ready, status
        assert "TrafficShifted" in {change.object["reason"] for change in record.events.changes}
        shop.apply(shifted(""))
        shop.wait_shares("shift", {"": 10_000}, within_s=90)
        flow.wait_answered(200, within_s=60)
    flow.assert_unharmed()
    print(f"replicas: {[count for _, count in record.totals('shift')]}")
    end(shop, "shift")


EACH = 6
"""Requests a second of a replica, by the objective of the next service."""


def shifted(weight: str) -> Manifest:
    """Stable with two replicas or three, and b from none to three; without a weight there is no b."""
    found = scaled("shift", least=2, most=3, objective={"requestsPerSecond": EACH}, idleAfter="5s")
    model = release(2, env={"WORK_MS": str(WORK_MS), "MODEL_CONFIG": json.dumps(SERIAL)})["spec"]["predictor"]["model"]
    variant = {"name": "b", "model": model, "weight": weight, "minReplicas": 0, "maxReplicas": 3}
    found["spec"]["traffic"] = {"variants": [variant] if weight else []}
    return found


def test_streams_are_finished_by_pods_that_scale_down(shop: Team) -> None:
    """Three replicas, a stream on each; one is enough, so two are told to go while they stream."""
    quick: dict[str, Any] = {"objective": {"requestsPerSecond": 50}, "behavior": {"down": {"delay": "3s"}}}

    def streamer(least: int) -> None:
        model = {"MODEL_PY": REPEAT.read_text(), "MODEL_CONFIG": json.dumps(REPEATS)}
        found = scaled("streamer", least=least, most=3, env=model, **quick)
        found["spec"]["predictor"]["containerConcurrency"] = 0
        shop.apply(found)

    streamer(3)
    shop.wait_settled("streamer")
    wait_ready(shop, "streamer", 3)
    with ThreadPoolExecutor(1) as pool:
        told_numbers = pool.submit(shop.run_inside, STREAMS, f"streamer.{shop.name}", "streamer", "12", "30", "1000")
        until("all twelve stream", lambda: running(shop, "streamer") == 12, within_s=25)
        streamer(1)
        wait_asked(shop, "streamer", lambda count: count == 1, "one", within_s=25)
        assert told_numbers.running(), "it went down only after the streams had ended"
        assert told_numbers.result(60).split() == ["30"] * 12
    until("two pods are gone", lambda: len(shop.pods("streamer")) == 1, within_s=60)
    end(shop, "streamer")


def running(team: Team, name: str) -> float:
    """Requests that its pods have, by their own count."""
    places = [f"/api/v1/namespaces/{team.name}/pods/{pod['metadata']['name']}:8080/proxy" for pod in team.pods(name)]
    lines = [line for place in places for line in team.site.api.text(f"{place}/metrics").splitlines()]
    return sum(float(line.split()[-1]) for line in lines if line.startswith("slipway_runtime_running_requests{"))


STREAMS = """
import http.client, json, sys, threading
host, model, streams, numbers, delay_ms = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
body = json.dumps({"IN": list(range(numbers)), "DELAY": [delay_ms] * numbers, "WAIT": 0})
found = []
def one():
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", f"/v2/models/{model}/generate_stream", body, {"content-type": "application/json"})
    found.append(connection.getresponse().read().count(b'"OUT"'))
threads = [threading.Thread(target=one) for _ in range(streams)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*found)
"""
"""How many numbers came on each of several streams."""
