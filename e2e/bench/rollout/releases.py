"""Releases on the cluster under 300 requests a second, REST and gRPC mixed, and what they cost.

A good one: from its first Ready pod until its revision is stable; what that takes beyond its holds is overhead.
A bad one: from the decision until the last request that was sent to it. By command the decision is the moment before
the annotation is sent; by verdict it is when a watcher sees the status that says so. Users tell by the gateway's word
who answered and when they had sent it.
"""

import secrets
import time
from dataclasses import dataclass, field

from e2e.bench.report import say
from e2e.support.releases import (
    ABORT,
    Record,
    begin,
    canary,
    command,
    end,
    offset,
    release,
    wait_promoted,
    wait_rolled_back,
    wait_state,
    watched,
)
from e2e.support.rules import assert_rules
from e2e.support.team import Team, is_ready
from e2e.support.traffic import Traffic
from e2e.support.wait import until

RATE = 300
HOLD_S, WEIGHTS = 10, (5, 25, 50)
USED_S = 15
"""How long a service is in use before its release: gateways tell latencies every five seconds."""
AFTER = 150
"""Answers that are waited for after a change, to see that nothing of it comes late."""


@dataclass(slots=True)
class Figures:
    abort_ms: list[float] = field(default_factory=list)
    """By command."""
    verdict_ms: list[float] = field(default_factory=list)
    detect_s: list[float] = field(default_factory=list)
    """From the first request that a bad candidate was asked until it was given up."""
    overhead_s: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    """From the change of the spec to the candidate's first Ready pod."""
    status_bytes: int = 0
    sent: int = 0
    failed: int = 0
    """Requests that the candidate was not to blame for."""

    def add(self, flow: Traffic, *blamed: str) -> None:
        self.sent += flow.sums["sent"]
        self.failed += sum(arm["failed"] for name, arm in flow.sums["arms"].items() if name not in blamed)


def good(team: Team, figures: Figures, name: str) -> None:
    policy = canary(*WEIGHTS, hold=f"{HOLD_S}s")
    old = begin(team, name, rollout=policy)
    with team.traffic(name, rate=RATE) as flow, watched(team) as record:
        flow.wait_answered(RATE * USED_S, within_s=3 * USED_S)
        applied = time.time()
        team.apply(release(2, name=name, rollout=policy))
        new = wait_promoted(team, name, after=old, within_s=180)
        flow.wait_only(offset(2))
    assert_rules(record, name)
    ready = min(change.seen for change in record.pods.changes if new in change.name and is_ready(change.object))
    stable = min(change.seen for change in record.statuses(name) if change.object["status"].get("stable") == new)
    figures.start_s.append(ready - applied)
    figures.overhead_s.append(stable - ready - HOLD_S * len(WEIGHTS))
    figures.status_bytes = max(figures.status_bytes, record.largest(name))
    figures.add(flow)
    say(f"a good one: promoted {stable - ready:.1f} s after it was ready, of it {HOLD_S * len(WEIGHTS)} s of holds")
    end(team, name)


def aborted(team: Team, figures: Figures, name: str, times: int) -> None:
    """One good candidate at half of the traffic, aborted and tried again."""
    policy = canary({"weight": "50%", "gate": True})
    begin(team, name, rollout=policy)
    with team.traffic(name, rate=RATE) as flow, watched(team) as record:
        team.apply(release(2, name=name, rollout=policy))
        for number in range(times):
            found = wait_state(team, name, pause="StepGate", weight=5000)
            flow.wait_answered(AFTER)
            asked = time.time()
            note = {"metadata": {"annotations": {ABORT: secrets.token_hex(4)}}}
            team.site.api.merge("inferenceservices", team.name, name, note)
            wait_state(team, name, phase="RolledBack")
            flow.wait_answered(AFTER)
            figures.abort_ms.append(max(0.0, (flow.arm(found["candidate"])["last"] - asked) * 1000))
            if number < times - 1:
                command(team, "retry", name)
    figures.status_bytes = max(figures.status_bytes, record.largest(name))
    figures.add(flow)
    assert_rules(record, name)
    say(f"{times} aborts by command: the last request was sent {max(figures.abort_ms):.0f} ms after it at the latest")
    end(team, name)


def judged(team: Team, figures: Figures, name: str, times: int) -> None:
    """A candidate that fails a fifth of its requests, found and tried again."""
    policy = canary({"weight": "20%", "hold": "5m"})
    begin(team, name, rollout=policy)
    with team.traffic(name, rate=RATE) as flow, watched(team) as record:
        team.apply(release(2, "errors", name=name, rollout=policy))
        bad = ""
        for number in range(times):
            began = time.time()
            first = _asked_after(flow, team, name, began)
            bad = str(wait_rolled_back(team, name)["candidate"])
            flow.wait_answered(AFTER)
            decided = _given_up(record, name, number)
            figures.detect_s.append(decided - first)
            figures.verdict_ms.append(max(0.0, (_last(flow, bad) - decided) * 1000))
            if number < times - 1:
                command(team, "retry", name)
    figures.status_bytes = max(figures.status_bytes, record.largest(name))
    figures.add(flow, bad)
    assert_rules(record, name)
    say(f"{times} bad ones: found {max(figures.detect_s):.1f} s after their first requests at the latest")
    end(team, name)


def bad_of(team: Team, name: str) -> str:
    return str((team.status(name).get("rollout") or {}).get("candidate", ""))


def _asked_after(flow: Traffic, team: Team, name: str, moment: float) -> float:
    """When the candidate was sent a request, for the first time since then (to half a second)."""
    until("it has requests", lambda: _last(flow, bad_of(team, name)) > moment, within_s=60)
    return _last(flow, bad_of(team, name))


def _last(flow: Traffic, revision: str) -> float:
    return float(flow.arm(revision)["last"])


def _given_up(record: Record, name: str, number: int) -> float:
    """When the abort of this number was seen."""
    found: dict[str, float] = {}
    for change in record.statuses(name):
        if abort := (change.object["status"].get("rollout") or {}).get("abort"):
            found.setdefault(abort["at"], change.seen)
    return sorted(found.values())[number]
