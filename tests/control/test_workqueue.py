"""The queue's promises: one run per key at a time, no lost news, backoff per key, turns by lane and namespace.

Time is virtual (looptime): a second of waiting costs nothing and is exact.
"""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Key
from slipway.control.workqueue import Lane, QueueStats, WorkQueue

pytestmark = pytest.mark.looptime

A, B, C = ("team", "a"), ("team", "b"), ("team", "c")


class Middle(random.Random):
    """Jitter of exactly one."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def queue(*, base_s: float = 0.005, cap_s: float = 300.0) -> WorkQueue:
    return WorkQueue(rng=Middle(), base_s=base_s, cap_s=cap_s)


async def drain(queue: WorkQueue) -> list[Key]:
    """What waits now, in the order it is handed out."""
    keys = []
    while len(queue):
        key = await queue.get()
        assert key is not None
        queue.done(key)
        keys.append(key)
    return keys


async def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_key_added_twice_waits_once() -> None:
    waiting = queue()
    waiting.add(A)
    waiting.add(A)
    waiting.add(B)
    assert await drain(waiting) == [A, B]


async def test_a_key_added_while_it_runs_runs_once_more_and_only_after_it_is_done() -> None:
    waiting = queue()
    waiting.add(A)
    assert await waiting.get() == A
    waiting.add(A)
    waiting.add(A)
    assert len(waiting) == 0, "it must not run twice at the same time"
    waiting.done(A)
    assert await drain(waiting) == [A]


async def test_a_key_added_as_urgent_while_it_runs_for_the_background_comes_back_as_urgent() -> None:
    waiting = queue()
    waiting.add(A, Lane.BACKGROUND)
    await waiting.get()
    waiting.add(A, Lane.BACKGROUND)
    waiting.add(A, Lane.NEWS)
    waiting.add(B, Lane.BACKGROUND)
    waiting.done(A)
    assert await drain(waiting) == [A, B]


async def test_urgent_keys_go_before_background_ones_and_move_up_when_they_become_urgent() -> None:
    waiting = queue()
    waiting.add(A, Lane.BACKGROUND)
    waiting.add(B, Lane.BACKGROUND)
    waiting.add(C)
    waiting.add(B)
    assert await drain(waiting) == [C, B, A]


async def test_a_users_change_goes_before_what_the_cluster_did_about_earlier_ones() -> None:
    waiting = queue()
    waiting.add(A)
    waiting.add(B)
    waiting.add(C, Lane.CHANGE)
    waiting.add(B, Lane.CHANGE)
    assert await drain(waiting) == [C, B, A]


@pytest.mark.parametrize("lane", [Lane.NEWS, Lane.BACKGROUND])
async def test_a_lesser_lane_is_late_but_never_starved(lane: Lane) -> None:
    waiting = queue()
    waiting.add(A, lane)
    handed_out = []
    for number in range(20):
        waiting.add(("team", f"busy-{number}"), Lane.CHANGE)
        key = await waiting.get()
        assert key is not None
        waiting.done(key)
        handed_out.append(key)
    assert A in handed_out[:8]


async def test_namespaces_take_turns_so_that_a_noisy_one_delays_nobody() -> None:
    waiting = queue()
    for number in range(100):
        waiting.add(("noisy", str(number)))
    waiting.add(("quiet", "only"))
    first = await drain(waiting)
    assert first.index(("quiet", "only")) == 1


async def test_a_delayed_key_comes_at_its_time_and_the_earliest_wish_wins() -> None:
    waiting = queue()
    start = await now()
    waiting.add_after(A, 600)
    waiting.add_after(A, 5)
    waiting.add_after(A, 60)
    assert await waiting.get() == A
    assert await now() - start == pytest.approx(5)


async def test_postpone_replaces_an_earlier_wish() -> None:
    waiting = queue()
    start = await now()
    waiting.add_after(A, 1)
    waiting.postpone(A, 30)
    await waiting.get()
    assert await now() - start == pytest.approx(30)


async def test_backoff_doubles_per_failure_up_to_the_cap_and_starts_anew_after_success() -> None:
    waiting = queue(base_s=1.0, cap_s=10.0)
    delays = []
    for _ in range(6):
        delays.append(waiting.retry(A))
        key = await waiting.get()
        assert key == A
        waiting.done(A)
    assert delays == [1, 2, 4, 8, 10, 10]
    waiting.forget(A)
    assert waiting.retry(A) == 1


async def test_backoff_survives_any_number_of_failures() -> None:
    waiting = queue(cap_s=300.0)
    for _ in range(2000):
        delay_s = waiting.retry(A)
    assert delay_s == 300.0


async def test_backoff_is_spread_by_a_fifth() -> None:
    waiting = WorkQueue(base_s=1.0, rng=random.Random(7))  # noqa: S311 (the same every time)
    delays = [waiting.retry(("team", str(number))) for number in range(200)]
    assert 0.8 <= min(delays) < 0.85
    assert 1.15 < max(delays) <= 1.2


async def test_one_key_s_backoff_does_not_delay_another() -> None:
    waiting = queue(base_s=100.0)
    waiting.retry(A)
    waiting.add(B)
    start = await now()
    assert await waiting.get() == B
    assert await now() == start


async def test_close_drops_what_waits_and_wakes_every_getter_but_lets_running_keys_finish() -> None:
    waiting = queue()
    waiting.add(A)
    assert await waiting.get() == A
    getters = [asyncio.create_task(waiting.get()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.add_after(B, 1)
    waiting.add(A)
    waiting.close()
    assert await asyncio.gather(*getters) == [None, None, None]
    waiting.done(A)
    waiting.add(C)
    await asyncio.sleep(10)
    assert len(waiting) == 0


async def test_a_getter_cancelled_in_the_moment_it_is_woken_loses_no_key() -> None:
    waiting = queue()
    first, second = asyncio.create_task(waiting.get()), asyncio.create_task(waiting.get())
    await asyncio.sleep(0)
    waiting.add(A)  # wakes the first
    first.cancel()
    assert await asyncio.wait_for(second, 1) == A


async def test_stats_tell_how_long_the_oldest_run_has_been_running() -> None:
    waiting = queue()
    for key in (A, B, C):
        waiting.add(key)
    await waiting.get()
    await asyncio.sleep(3)
    await waiting.get()
    await asyncio.sleep(1)
    assert waiting.stats() == QueueStats(depth=1, running=2, unfinished_s=5, longest_running_s=4)


class Tally:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {"waited": [], "worked": []}

    def added(self) -> None:
        self.counts["added"] += 1

    def retried(self) -> None:
        self.counts["retried"] += 1

    def waited(self, seconds: float) -> None:
        self.seconds["waited"].append(seconds)

    def worked(self, seconds: float) -> None:
        self.seconds["worked"].append(seconds)


async def test_the_observer_hears_of_waits_and_runs_in_seconds() -> None:
    tally = Tally()
    waiting = WorkQueue(observer=tally)
    waiting.add(A)
    waiting.add(A)
    await asyncio.sleep(2)
    await waiting.get()
    await asyncio.sleep(7)
    waiting.done(A)
    waiting.retry(A)
    assert tally.counts == {"added": 1, "retried": 1}
    assert tally.seconds == {"waited": [2], "worked": [7]}


Steps = st.lists(st.tuples(st.sampled_from(["add", "background", "later", "retry"]), st.integers(0, 5)), max_size=60)


@given(steps=Steps, workers=st.integers(1, 4))
async def test_whatever_is_added_is_run_after_its_last_addition_and_never_twice_at_once(
    steps: list[tuple[str, int]], workers: int
) -> None:
    waiting = queue(base_s=0.001, cap_s=0.002)
    running: set[Key] = set()
    owed: set[Key] = set()

    async def work() -> None:
        while (key := await waiting.get()) is not None:
            assert key not in running
            running.add(key)
            owed.discard(key)
            await asyncio.sleep(0)
            running.discard(key)
            waiting.done(key)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    for step, number in steps:
        key = (f"ns-{number % 2}", str(number))
        owed.add(key)
        match step:
            case "add":
                waiting.add(key)
            case "background":
                waiting.add(key, Lane.BACKGROUND)
            case "later":
                waiting.add_after(key, 0.001)
            case _:
                waiting.retry(key)
        if number == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(1)
    assert not owed
    assert not running
    assert len(waiting) == 0
    waiting.close()
    await asyncio.gather(*tasks)
