"""Two replicas of the operator: one leads, whatever happens to either of them."""

import os
import signal
import time
from collections.abc import Callable, Iterable

import pytest

from e2e.support.audit import Audit, Entry
from e2e.support.history import History, recorded
from e2e.support.installation import ACCOUNT, LEASE, LEASE_S, NAMESPACE, Installation, name, processes, send
from e2e.support.manifests import service
from e2e.support.team import Team, restarts
from e2e.support.wait import until

TAKEOVER_S = LEASE_S + 10
"""A rival looks each 2 to 2.4 s, so it sees the last renewal that much later, and its expiry too; on a busy machine."""
HANDOVER_S = LEASE_S * 2 / 3
END_S = 40
"""A process that has to end leaves behind, after a while, what does not (`main._LAST_RESORT_S`)."""


def wait_for_a_write(audit: Audit, mark: int, team: Team) -> None:
    """The leader is in the middle of something."""

    def found() -> bool:
        return any(e.is_write and e.namespace == team.name for e in audit.entries(mark, user=ACCOUNT))

    deadline = time.monotonic() + 20
    while not found():  # tighter than `until`: the moment is what counts
        assert time.monotonic() < deadline, "the operator does nothing"
        time.sleep(0.005)


def assert_never_two(entries: Iterable[Entry]) -> None:
    """Everything that was changed was changed by the replica that took the Lease last before it."""
    holder = ""
    for entry in sorted(entries, key=lambda entry: entry.at):
        if entry.resource == "leases":
            holder = entry.pod if entry.verb in ("create", "update") and entry.code < 300 else holder
        elif entry.is_write and entry.code < 400:
            assert entry.pod == (holder or entry.pod), f"{entry}, but {holder} holds the Lease"


def test_a_paused_leader_is_replaced_and_writes_nothing_when_it_wakes(
    slipway: Installation, team: Team, audit: Audit
) -> None:
    if not team.site.is_local:
        pytest.skip("pausing needs the operator's processes to be processes of this machine")
    old = slipway.leader()
    pod, mark = slipway.pod(old), audit.mark()
    pids = processes(pod)
    assert pids
    team.apply(*(service(title) for title in ("one", "two", "three")))
    wait_for_a_write(audit, mark, team)
    send(pids, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        new = until(
            "another leads",
            lambda: slipway.leader() not in ("", old) and slipway.leader(),
            within_s=TAKEOVER_S,
            seen=slipway.leader,
        )
        print(f"taken over after {time.monotonic() - begin:.1f} s")
        # More to do for the sleeper, as its watches will tell it when it wakes.
        team.apply(service("three", "sample://hello-v2"))
        until("the new leader works", lambda: team.condition("three", "Accepted"), within_s=45)
    finally:
        send([pid for pid in pids if os.path.exists(f"/proc/{pid}")], signal.SIGCONT)
    until("the old one ends itself", lambda: not processes_of(pids), within_s=END_S)
    until("and is started again", lambda: restarts(slipway.pod(old)) > restarts(pod) and slipway.is_well(), within_s=60)
    for title in ("one", "two", "three"):
        team.wait_settled(title)
    entries = list(audit.entries(mark, user=ACCOUNT))
    taken = next(
        entry.at
        for entry in entries
        if entry.resource == "leases" and entry.is_write and entry.pod == new and entry.code < 300
    )
    # A request that was on its way in the moment of the pause still arrives; it carries the version it was decided on,
    # and the API server refuses it. Nothing is written.
    done = [
        entry for entry in entries if entry.pod == old and entry.is_write and entry.at >= taken and entry.code < 400
    ]
    assert [str(entry) for entry in done] == []
    assert slipway.leader() == new
    assert_never_two(entries)


def processes_of(pids: list[int]) -> list[int]:
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_leader_that_vanishes_is_replaced(slipway: Installation, team: Team, audit: Audit) -> None:
    old, mark = slipway.leader(), audit.mark()
    slipway.kill(old)
    begin = time.monotonic()
    team.apply(service())
    until("another leads", lambda: slipway.leader() not in ("", old), within_s=TAKEOVER_S, seen=slipway.leader)
    print(f"taken over after {time.monotonic() - begin:.1f} s")
    team.wait_settled("hello")
    assert_never_two(audit.entries(mark, user=ACCOUNT))


def test_a_leader_that_is_told_to_go_hands_over_at_once(slipway: Installation, team: Team, audit: Audit) -> None:
    """A drain or an upgrade: the Lease is let go, not left to expire."""
    old, mark = slipway.leader(), audit.mark()
    with recorded(slipway.site.api, "leases", NAMESPACE) as leases:
        slipway.site.kubectl("--namespace", NAMESPACE, "delete", "pod", old, "--wait=false")
        begin = time.time()
        let_go = until("the Lease is let go", lambda: held(leases, lambda holder: not holder), within_s=LEASE_S)
        taken = until("another leads", lambda: held(leases, lambda holder: holder not in ("", old)), within_s=LEASE_S)
    print(f"let go {let_go - begin:.1f} s after it was told, and taken {taken - let_go:.1f} s later")
    assert taken - let_go <= HANDOVER_S
    team.apply(service())
    team.wait_settled("hello")
    assert_never_two(audit.entries(mark, user=ACCOUNT))


def held(leases: History, by: Callable[[str], bool]) -> float | None:
    """Since when the Lease has had such a holder, as it was seen here."""
    holders = ((change.seen, change.object.get("spec", {}).get("holderIdentity")) for change in leases.of(LEASE))
    return next((seen for seen, holder in holders if by(holder or "")), None)


def test_the_metrics_say_who_leads(slipway: Installation) -> None:
    values = {}
    for pod in slipway.pods():
        where = f"/api/v1/namespaces/slipway-system/pods/{name(pod)}:8080/proxy/metrics"
        lines = slipway.site.api.text(where).splitlines()
        values[name(pod)] = [line for line in lines if line.startswith("slipway_leader ")]
    assert values == {
        pod: ["slipway_leader 1.0" if pod == slipway.leader() else "slipway_leader 0.0"] for pod in values
    }
