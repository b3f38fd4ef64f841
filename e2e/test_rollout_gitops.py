"""A release that others meddle with: Git applied over and over, an operator that dies again and again."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.support.api import Manifest
from e2e.support.audit import Audit
from e2e.support.crash import crashing_operator
from e2e.support.installation import ACCOUNT, Installation
from e2e.support.releases import (
    SOON_S,
    WHOLE,
    begin,
    canary,
    candidate_of,
    end,
    offset,
    release,
    state,
    wait_promoted,
    wait_state,
    watched,
)
from e2e.support.rules import assert_rules
from e2e.support.team import Team
from e2e.support.wait import until

RATE = 300
EVERY_S = 5


class Git:
    """Somebody who applies the same again and again, by force, as GitOps tools do."""

    def __init__(self, team: Team, manifest: Manifest) -> None:
        self._team, self._text = team, json.dumps(manifest)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._apply_again, daemon=True)
        self.applied = 0

    def apply(self) -> None:
        argv = ("apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "--filename", "-")
        self._team.site.kubectl("--namespace", self._team.name, *argv, stdin=self._text)
        self.applied += 1

    def _apply_again(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.apply()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join(30)


def test_the_same_spec_applied_by_force_every_five_seconds_changes_nothing(shop: Team, audit: Audit) -> None:
    policy = canary(10, 50, hold="6s")
    old = begin(shop, "synced", rollout=policy)
    git = Git(shop, release(2, name="synced", rollout=policy))
    with shop.traffic("synced", rate=RATE) as flow, watched(shop) as record:
        git.apply()
        with git.at_work():
            new = wait_promoted(shop, "synced", after=old)
            until("the old pods are gone", lambda: not shop.pods("synced", old), within_s=SOON_S)
            applied, mark = git.applied, audit.mark()
            wanted = max(5, applied + 2)
            until(f"it was applied {wanted} times", lambda: git.applied >= wanted, within_s=SOON_S)
    flow.assert_unharmed()
    assert record.weights(new, "synced")[:4] == [0, 1000, 5000, WHOLE]
    assert len([note for note in record.told("RolloutStarted", "synced") if new in note]) == 1
    assert len([note for note in record.told("RevisionPromoted", "synced") if new in note]) == 1
    assert shop.must_get("inferenceservices", "synced")["metadata"]["generation"] == 2
    writes = [
        entry for entry in audit.entries(mark, user=ACCOUNT) if entry.is_write and entry.name.startswith("synced")
    ]
    assert [str(entry) for entry in writes] == []
    assert_rules(record, "synced")
    end(shop, "synced")


@pytest.fixture
def absent(slipway: Installation) -> Iterator[Installation]:
    """No operator at all, but what the scenario itself starts."""
    slipway.scale(0)
    yield slipway
    slipway.scale(2)


@pytest.mark.timeout(600, func_only=True)
def test_17_killed_at_one_write_after_the_other_both_come_to_the_same_end(shop: Team, absent: Installation) -> None:
    """A good release and a bad one at once: one is promoted, one goes back, each is told once."""
    assert absent
    policy = canary(10, 50)
    with crashing_operator(shop.site, every=2) as operator, watched(shop) as record:
        good, fine = begin(shop, "steadfast", rollout=policy), begin(shop, "doomed", rollout=policy)
        before = len(operator.fatal)
        with shop.traffic("steadfast", rate=RATE / 2) as flow, shop.traffic("doomed", rate=RATE / 2) as other:
            shop.apply(release(2, name="steadfast", rollout=policy))
            shop.apply(release(2, "errors", name="doomed", rollout=policy))
            new, bad = candidate_of(shop, "steadfast"), candidate_of(shop, "doomed")
            wait_state(shop, "doomed", phase="RolledBack", within_s=150)
            assert wait_promoted(shop, "steadfast", after=good, within_s=150) == new
            flow.wait_only(offset(2))
            other.wait_only(offset(1))
            # What somebody died of before it was told, the next one tells.
            record.wait_told("RevisionPromoted", "steadfast", new)
            record.wait_told("RolloutAborted", "doomed", bad)
        deaths = len(operator.fatal) - before
        print(*operator.fatal[before:], sep="\n")
    assert deaths >= 10, operator.fatal[before:]
    assert operator.own_ends == 0, operator.log()[-3000:]
    flow.assert_unharmed()
    other.assert_unharmed_but_by(bad)
    assert shop.status("doomed")["stable"] == fine
    assert "errorRate" in str(state(shop, "doomed")["abort"])
    assert record.weights(new, "steadfast")[:4] == [0, 1000, 5000, WHOLE]
    assert len([note for note in record.told("RevisionPromoted", "steadfast") if new in note]) == 1
    assert len([note for note in record.told("RolloutAborted", "doomed") if bad in note]) == 1
    assert_rules(record, "steadfast")
    assert_rules(record, "doomed")
    end(shop, "steadfast", "doomed")
