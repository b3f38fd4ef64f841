"""Every job expires at its time, once, unless it is answered before; with a clock that the tests set."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_runtime.engine.deadlines import Deadlines, expired
from slipway_runtime.engine.job import Job
from slipway_runtime.errors import Kind

USUAL_S = 30.0


class Timer:
    def __init__(self, when_s: float, call: Callable[[], None]) -> None:
        self.when_s, self.call = when_s, call

    def cancel(self) -> None:
        self.when_s = float("inf")


class World:
    """A loop of which only the clock and the timers are used."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[Timer] = []
        self.expired: list[tuple[Job, float]] = []
        self.deadlines = Deadlines(cast("Any", self), USUAL_S, self.on_expired)

    def on_expired(self, job: Job) -> None:
        self.expired.append((job, self.now_s))

    def time(self) -> float:
        return self.now_s

    def call_at(self, when_s: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when_s, call))
        return self.timers[-1]

    @property
    def armed(self) -> list[Timer]:
        return [timer for timer in self.timers if timer.when_s < float("inf")]

    def until(self, end_s: float) -> None:
        while (first := min(self.armed, key=lambda timer: timer.when_s, default=None)) and first.when_s <= end_s:
            self.now_s = max(self.now_s, first.when_s)
            self.timers = [timer for timer in self.armed if timer is not first]
            first.call()
        self.now_s = max(self.now_s, end_s)

    def add(self, limit_s: float | None = None) -> Job:
        job = Job([], 1)
        self.deadlines.add(job, limit_s)
        return job


def test_each_expires_at_its_time() -> None:
    world = World()
    late, early, usual = world.add(5), world.add(2), world.add()
    world.until(200)
    assert world.expired == [(early, 102), (late, 105), (usual, 130)]
    assert not world.armed


def test_nothing_expires_early() -> None:
    world = World()
    world.add(2)
    world.until(101.99)
    assert world.expired == []


@pytest.mark.parametrize("limit_s", [None, 2.0, USUAL_S, 1000.0])
def test_what_is_discarded_never_expires(limit_s: float | None) -> None:
    world = World()
    world.deadlines.discard(world.add(limit_s))
    world.until(2000)
    assert world.expired == []
    assert not world.armed


def test_a_limit_beyond_the_usual_one_is_cut() -> None:
    world = World()
    job = world.add(1000)
    assert (job.limit_s, job.deadline_s) == (USUAL_S, 130)
    error = expired(job)
    assert (error.kind, str(error)) == (Kind.DEADLINE, "Request timeout expired after 30 s")


def test_a_limit_of_nothing_expires_at_once() -> None:
    world = World()
    job = world.add(0.0)
    world.until(100)
    assert world.expired == [(job, 100)]


def test_the_usual_limit_needs_one_timer_however_many_have_it() -> None:
    world = World()
    for _ in range(1000):
        world.add()
        world.now_s += 0.001
    assert len(world.timers) == 1


def test_those_that_were_answered_are_not_kept() -> None:
    world = World()
    keep = world.add(20)
    for _ in range(10_000):
        world.deadlines.discard(world.add(10))
        world.deadlines.discard(world.add())
    assert len(world.deadlines._own) < 200
    assert len(world.deadlines._usual) == 0
    world.until(200)
    assert [job for job, _ in world.expired] == [keep]


def test_who_expires_may_add_and_discard_others() -> None:
    world = World()
    added = list[Job]()

    def on_expired(job: Job) -> None:
        world.expired.append((job, world.now_s))
        if not added:
            added.append(world.add(1))
            world.deadlines.discard(other)

    world.deadlines = Deadlines(cast("Any", world), USUAL_S, on_expired)
    first, other = world.add(1), world.add(3)
    world.until(200)
    assert world.expired == [(first, 101), (added[0], 102)]


def test_one_that_raises_leaves_the_timer_set_for_the_next() -> None:
    world = World()

    def on_expired(job: Job) -> None:
        world.expired.append((job, world.now_s))
        if len(world.expired) == 1:
            raise OSError

    world.deadlines = Deadlines(cast("Any", world), USUAL_S, on_expired)
    world.add(1)
    second = world.add(2)
    with pytest.raises(OSError):  # noqa: PT011
        world.until(200)
    world.until(200)
    assert world.expired[1] == (second, 102)


def test_close_leaves_no_timer() -> None:
    world = World()
    world.add(1)
    world.deadlines.close()
    assert not world.armed


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["usual", "own", "wait", "discard"]), st.floats(0, 40, allow_nan=False), st.integers(0, 999)
    ),
    max_size=80,
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_all_that_are_not_answered_expire_once_and_in_time(steps: list[tuple[str, float, int]]) -> None:
    world, live, dropped = World(), list[Job](), set[Job]()
    for kind, seconds, index in steps:
        if kind == "wait":
            world.until(world.now_s + seconds / 4)
        elif kind == "discard":
            waiting = [job for job in live if job not in dict[Any, float](world.expired)]
            if waiting:
                dropped.add(gone := waiting[index % len(waiting)])
                live.remove(gone)
                world.deadlines.discard(gone)
        else:
            live.append(world.add(seconds if kind == "own" else None))
    world.until(1000)
    assert sorted(map(id, live)) == sorted(id(job) for job, _ in world.expired)
    for job, when_s in world.expired:
        assert -0.001 <= when_s - job.deadline_s <= 1e-9
    assert not dropped & {job for job, _ in world.expired}
