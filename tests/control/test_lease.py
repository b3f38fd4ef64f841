"""Leadership: one leader at a time, and none that writes when it cannot be certain.

All candidates share one virtual clock; a paused process is one whose tasks do not run while time goes on.
"""

import asyncio
import logging
from dataclasses import dataclass

import pytest

from slipway.api.manifest import Manifest
from slipway.kube.errors import Conflict, Fenced, Unavailable
from slipway.kube.fence import Fence
from slipway.kube.kinds import DEPLOYMENT, LEASE, Kind
from slipway.kube.lease import Candidacy, Elector, LeaseLostError
from tests.control.conftest import logged
from tests.fake import FakeKube, Store

pytestmark = pytest.mark.looptime

PLACE = ("slipway-system", "slipway-operator")


def now() -> float:
    return asyncio.get_running_loop().time()


class Line(FakeKube):
    """One candidate's way to the API server: it can be cut, slow, or lose the answers."""

    cut = False
    answers_lost = False
    delay_s = 0.0

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        await self._pass()
        return await super().get(kind, namespace, name)

    async def create(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        await self._pass()
        return self._answer(await super().create(kind, body, manager=manager))

    async def replace(self, kind: Kind, body: Manifest, *, manager: str) -> Manifest:
        await self._pass()
        return self._answer(await super().replace(kind, body, manager=manager))

    async def _pass(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.cut:
            raise Unavailable("the line is cut")

    def _answer(self, manifest: Manifest) -> Manifest:
        if self.answers_lost:
            raise Unavailable("the answer is lost")
        return manifest


@dataclass
class Candidate:
    store: Store
    name: str
    duration_s: float = 15.0
    task: "asyncio.Task[None] | None" = None
    led_from: float | None = None
    lost_at: float | None = None

    def __post_init__(self) -> None:
        self.line = Line(self.store)
        candidacy = Candidacy(*PLACE, identity=self.name, duration_s=self.duration_s)
        self.fence = Fence(grace_s=candidacy.grace_s, clock=now)
        self.elector = Elector(self.line, candidacy, self.fence)

    def start(self) -> "Candidate":
        self.task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        await self.elector.acquire()
        self.led_from = now()
        try:
            await self.elector.hold()
        except LeaseLostError:
            self.lost_at = now()

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.elector.release()

    def may_write(self) -> bool:
        try:
            self.fence.check("a write")
        except Fenced:
            return False
        return True


@pytest.fixture
def store() -> Store:
    return Store()


def lease(store: Store) -> Manifest:
    found = store.get(LEASE, *PLACE)
    assert found is not None
    spec: Manifest = found["spec"]
    return spec


async def test_the_first_candidate_leads_at_once_and_says_so_in_the_lease(store: Store) -> None:
    first = Candidate(store, "a").start()
    await asyncio.sleep(1)
    assert first.may_write()
    assert lease(store)["holderIdentity"] == "a"
    assert lease(store)["leaseDurationSeconds"] == 15
    await first.stop()


async def test_a_second_candidate_waits_while_the_first_renews(store: Store) -> None:
    first, second = Candidate(store, "a").start(), Candidate(store, "b").start()
    await asyncio.sleep(3600)
    assert (first.may_write(), second.may_write()) == (True, False)
    assert lease(store)["leaseTransitions"] == 0
    await second.stop()
    await first.stop()


async def test_a_steady_leader_renews_without_reading(store: Store) -> None:
    leader = Candidate(store, "a").start()
    await asyncio.sleep(1)
    leader.line.calls.clear()
    await asyncio.sleep(60)
    assert {call.verb for call in leader.line.calls} == {"update"}
    assert len(leader.line.calls) == pytest.approx(30, abs=1)
    await leader.stop()


async def test_somebody_s_label_on_the_lease_is_neither_a_loss_nor_a_warning(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """As `helm upgrade` does it between two renewals."""
    leader = Candidate(store, "a").start()
    await asyncio.sleep(1)
    live = store.get(LEASE, *PLACE)
    assert live is not None
    labelled = live | {"metadata": live["metadata"] | {"labels": {"helm": "was here"}}}
    store.replace(LEASE, labelled, manager="helm")
    await asyncio.sleep(60)
    assert leader.may_write()
    assert (leader.lost_at, lease(store)["leaseTransitions"]) == (None, 0)
    assert [record.message for record in logged(caplog) if record.levelno > logging.INFO] == []
    await leader.stop()


async def test_a_clean_exit_hands_over_within_two_retries(store: Store) -> None:
    first, second = Candidate(store, "a").start(), Candidate(store, "b").start()
    await asyncio.sleep(60)
    await first.stop()
    left = now()
    await asyncio.sleep(5)
    assert second.led_from is not None
    assert second.led_from - left <= 2 * 2.4
    assert lease(store)["leaseTransitions"] == 1
    await second.stop()


async def test_a_dead_leader_is_followed_after_the_lease_duration_and_not_before(store: Store) -> None:
    first, second = Candidate(store, "a").start(), Candidate(store, "b").start()
    await asyncio.sleep(60)
    assert first.task is not None
    first.task.cancel()  # no release: it was killed
    died = now()
    await asyncio.sleep(30)
    assert second.led_from is not None
    assert 15 - 2.4 <= second.led_from - died <= 15 + 2 * 2.4
    await second.stop()


async def test_a_restarted_pod_takes_its_own_lease_back_at_once(store: Store) -> None:
    before = Candidate(store, "pod-1").start()
    await asyncio.sleep(20)
    assert before.task is not None
    before.task.cancel()
    after = Candidate(store, "pod-1").start()
    await asyncio.sleep(1)
    assert after.may_write()
    assert lease(store)["leaseTransitions"] == 0
    await after.stop()


async def test_a_leader_cut_off_stops_writing_before_another_starts(store: Store) -> None:
    first, second = Candidate(store, "a").start(), Candidate(store, "b").start()
    await asyncio.sleep(60)
    first.line.cut = True
    both, neither = 0, 0
    for _ in range(4000):
        both += first.may_write() and second.may_write()
        neither += not first.may_write() and not second.may_write()
        await asyncio.sleep(0.01)
    assert both == 0
    assert neither >= 400, "between the renew deadline and the end of the lease nobody writes"
    assert first.lost_at is not None
    assert second.may_write()
    await second.stop()


async def test_an_outage_shorter_than_the_renew_deadline_is_survived(store: Store) -> None:
    leader = Candidate(store, "a").start()
    await asyncio.sleep(60)
    leader.line.cut = True
    await asyncio.sleep(6.9)
    leader.line.cut = False
    await asyncio.sleep(60)
    assert leader.lost_at is None
    assert leader.may_write()
    await leader.stop()


async def test_lost_answers_do_not_end_a_leadership_that_the_server_confirms_later(store: Store) -> None:
    leader = Candidate(store, "a").start()
    await asyncio.sleep(60)
    leader.line.answers_lost = True
    await asyncio.sleep(5)
    leader.line.answers_lost = False
    await asyncio.sleep(60)
    assert leader.lost_at is None
    await leader.stop()


async def test_the_right_to_write_counts_from_when_the_renewal_was_sent_not_answered(store: Store) -> None:
    leader = Candidate(store, "a")
    leader.line.delay_s = 2.0
    leader.start()
    await asyncio.sleep(4.001)  # get and create, two seconds each
    assert leader.may_write()
    leader.line.cut = True
    await asyncio.sleep(5.9)
    assert leader.may_write()
    await asyncio.sleep(0.2)  # ten seconds after the attempt began
    assert not leader.may_write()
    await leader.stop()


async def test_a_leader_that_was_paused_does_not_write_when_it_wakes(store: Store) -> None:
    """SIGSTOP: nothing of this process runs, no timer fires, and time goes on."""
    first, second = Candidate(store, "a").start(), Candidate(store, "b").start()
    await asyncio.sleep(60)
    assert first.task is not None
    first.task.cancel()  # its loop does not run ...
    await asyncio.sleep(30)
    assert second.may_write()
    assert not first.may_write()  # ... and on SIGCONT the very first write already meets the fence
    with pytest.raises(LeaseLostError):
        await first.elector.hold()
    assert lease(store)["holderIdentity"] == "b"
    await second.stop()


async def test_a_paused_leader_without_rival_ends_too_for_its_cache_is_old(store: Store) -> None:
    leader = Candidate(store, "a").start()
    await asyncio.sleep(60)
    assert leader.task is not None
    leader.task.cancel()
    await asyncio.sleep(60)
    with pytest.raises(LeaseLostError, match="not renewed for 10 s"):
        await leader.elector.hold()
    assert not leader.may_write()


async def test_a_leader_whose_lease_was_taken_ends_at_its_next_renewal(store: Store) -> None:
    leader = Candidate(store, "a").start()
    await asyncio.sleep(60)

    def steal(obj: Manifest) -> None:
        obj["spec"]["holderIdentity"] = "thief"

    store.edit(LEASE, *PLACE, steal)
    await asyncio.sleep(10)
    assert leader.lost_at is not None
    assert not leader.may_write()
    assert lease(store)["holderIdentity"] == "thief"


async def test_a_deleted_lease_is_made_again_by_whoever_comes_first(store: Store) -> None:
    leader, rival = Candidate(store, "a").start(), Candidate(store, "b").start()
    await asyncio.sleep(60)
    found = store.get(LEASE, *PLACE)
    assert found is not None
    store.delete(LEASE, *PLACE, uid=found["metadata"]["uid"])
    for _ in range(3000):
        assert not (leader.may_write() and rival.may_write())
        await asyncio.sleep(0.01)
    assert leader.may_write() or rival.may_write()
    await rival.stop()
    await leader.stop()


@pytest.mark.parametrize("count", [2, 5])
async def test_candidates_that_find_an_expired_lease_together_do_not_both_win(store: Store, count: int) -> None:
    dead = Candidate(store, "dead").start()
    await asyncio.sleep(1)
    assert dead.task is not None
    dead.task.cancel()
    crowd = [Candidate(store, f"c{number}").start() for number in range(count)]
    for _ in range(4000):
        assert sum(one.may_write() for one in crowd) <= 1
        await asyncio.sleep(0.01)
    assert sum(one.may_write() for one in crowd) == 1
    for one in crowd:
        await one.stop()


async def test_a_clock_in_the_lease_that_is_wrong_by_years_changes_nothing(store: Store) -> None:
    past, future = "1999-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"
    for stamp in (past, future):
        body = {"metadata": {"namespace": PLACE[0], "name": f"lease-{stamp[:4]}"}}
        spec = {"holderIdentity": "gone", "renewTime": stamp, "leaseDurationSeconds": 15, "leaseTransitions": 3}
        store.create(LEASE, {"apiVersion": LEASE.api_version, "kind": LEASE.kind, **body, "spec": spec})
        candidacy = Candidacy(PLACE[0], f"lease-{stamp[:4]}", identity="me")
        elector = Elector(FakeKube(store), candidacy, Fence(clock=now))
        start = now()
        await elector.acquire()
        assert 15 <= now() - start <= 18


async def test_releasing_after_the_deadline_leaves_a_rival_s_lease_alone(store: Store) -> None:
    first, second = Candidate(store, "a").start(), Candidate(store, "b").start()
    await asyncio.sleep(60)
    first.line.cut = True
    await asyncio.sleep(40)
    first.line.cut = False
    await first.elector.release()
    assert lease(store)["holderIdentity"] == "b"
    await second.stop()


async def test_a_release_that_meets_a_rival_s_write_is_no_error(store: Store) -> None:
    first = Candidate(store, "a").start()
    await asyncio.sleep(1)
    store.edit(LEASE, *PLACE, lambda obj: obj["spec"].update(holderIdentity="b"))
    await first.stop()
    assert lease(store)["holderIdentity"] == "b"


async def test_a_write_under_the_fence_must_end_before_a_rival_may_lead() -> None:
    fence = Fence(grace_s=5.0, clock=now)
    with pytest.raises(Fenced, match="patch Deployment"):
        fence.check(f"patch {DEPLOYMENT.kind}")
    fence.allow_until(now() + 10)
    assert fence.check("a write") == pytest.approx(15)
    await asyncio.sleep(9)
    assert fence.check("a write") == pytest.approx(6)
    await asyncio.sleep(1)
    with pytest.raises(Fenced):
        fence.check("a write")


async def test_conflict_is_what_the_fake_answers_to_an_old_lease(store: Store) -> None:
    """Guards the tests above: without optimistic locking in the fake they would prove nothing."""
    leader = Candidate(store, "a").start()
    await asyncio.sleep(1)
    old = store.get(LEASE, *PLACE)
    assert old is not None
    await asyncio.sleep(5)
    with pytest.raises(Conflict):
        await FakeKube(store).replace(LEASE, old, manager="test")
    await leader.stop()
