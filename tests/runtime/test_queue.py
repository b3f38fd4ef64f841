"""Which jobs go into a batch: nothing lost, nobody starved, shares as weighed."""

from collections import Counter
from collections.abc import Iterator
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_runtime.engine.job import Job
from slipway_runtime.engine.queue import Cut, JobQueue

MANY = 10**6


def job(tenant: str = "", key: object = None, rows: int = 1, level: int = 0, size_bytes: int = 0) -> Job:
    made = Job([], rows)
    made.tenant, made.key, made.level, made.size_bytes = tenant, key, level, size_bytes
    return made


def queue_of(*jobs: Job, levels: int = 3, weights: dict[str, int] | None = None) -> JobQueue:
    queue = JobQueue(levels, weights or {})
    for each in jobs:
        queue.put(each)
    return queue


def batches(queue: JobQueue, max_rows: int, max_jobs: int = MANY) -> Iterator[list[Job]]:
    while queue.count:
        yield queue.take(max_rows, max_jobs)[0]


# --- what one batch is


def test_jobs_of_one_tenant_and_shape_come_first_in_first_out() -> None:
    jobs = [job() for _ in range(10)]
    queue = queue_of(*jobs)
    assert [each for batch in batches(queue, 4) for each in batch] == jobs


def test_an_empty_queue_gives_an_empty_batch() -> None:
    assert JobQueue(1, {}).take(8, 8) == ([], Cut.QUEUE_EMPTY)


@pytest.mark.parametrize(
    ("jobs", "max_rows", "max_jobs", "taken", "cut"),
    [
        pytest.param([job(), job()], 2, 9, 2, Cut.FULL, id="rows are full"),
        pytest.param([job(), job()], 2, 1, 1, Cut.FULL, id="jobs are full"),
        pytest.param([job(), job()], 3, 9, 2, Cut.QUEUE_EMPTY, id="nothing more waits"),
        pytest.param([job(), job(rows=3)], 3, 9, 1, Cut.NO_ROOM, id="the next is too large"),
        pytest.param([job(), job(key="t")], 3, 9, 1, Cut.OTHER_SHAPE, id="the next has another shape"),
        pytest.param([job("a"), job("b", rows=3)], 3, 9, 1, Cut.NO_ROOM, id="another tenant's is too large"),
        pytest.param([job("a"), job("b", key="t")], 3, 9, 1, Cut.OTHER_SHAPE, id="another tenant has another shape"),
        pytest.param([job(), job(rows=3, level=1)], 3, 9, 1, Cut.NO_ROOM, id="that of a lower level is too large"),
    ],
)
def test_why_a_batch_was_cut(jobs: list[Job], max_rows: int, max_jobs: int, taken: int, cut: Cut) -> None:
    batch, why = queue_of(*jobs).take(max_rows, max_jobs)
    assert (len(batch), why) == (taken, cut)


def test_a_large_job_is_not_overtaken_by_smaller_ones_of_its_own_lane() -> None:
    jobs = [job(rows=2), job(rows=3), job(rows=1)]
    assert list(batches(queue_of(*jobs), 4)) == [jobs[:1], jobs[1:]]


def test_a_batch_begins_with_the_highest_level_and_is_filled_from_lower_ones() -> None:
    low, other, high = job(level=2), job(level=1, key="t"), job(level=0)
    queue = queue_of(low, other, high)
    assert queue.take(8, 8)[0] == [high, low]
    assert queue.take(8, 8)[0] == [other]


def test_levels_are_strict() -> None:
    queue = queue_of(*[job(level=1) for _ in range(4)])
    assert len(queue.take(2, 8)[0]) == 2
    high = [job(level=0) for _ in range(2)]
    for each in high:
        queue.put(each)
    assert queue.take(2, 8)[0] == high


def test_a_job_leaves_from_the_middle() -> None:
    jobs = [job() for _ in range(3)]
    queue = queue_of(*jobs)
    queue.remove(jobs[1])
    assert queue.take(8, 8)[0] == [jobs[0], jobs[2]]


def test_the_oldest_is_found_in_whatever_lane() -> None:
    jobs = [job("a"), job("b", key="t"), job("c", level=2)]
    for queued_ns, each in zip((5, 3, 4), jobs, strict=True):
        each.queued_ns = queued_ns
    assert queue_of(*jobs).oldest() is jobs[1]


def test_who_waits_is_counted_by_level_and_tenant() -> None:
    queue = queue_of(job("a"), job("a", key="t"), job("b"), job("a", level=2))
    assert queue.waiting_by_tenant() == {(1, "a"): 2, (1, "b"): 1, (3, "a"): 1}


# --- whatever happens

JOBS = st.builds(
    job,
    tenant=st.sampled_from("abcd"),
    key=st.sampled_from([None, "s", "t"]),
    rows=st.integers(1, 8),
    level=st.integers(0, 2),
    size_bytes=st.integers(0, 100),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), JOBS),
        st.tuples(st.just("take"), st.tuples(st.integers(8, 12), st.integers(1, 12))),
        st.tuples(st.just("remove"), st.integers(0, 10**6)),
    ),
    max_size=120,
)


def step(queue: JobQueue, waiting: dict[Job, None], kind: str, value: object) -> None:
    if kind == "put":
        assert isinstance(value, Job)
        each = job(value.tenant, value.key, value.rows, value.level, value.size_bytes)
        queue.put(each)
        waiting[each] = None
    elif kind == "take":
        assert isinstance(value, tuple)
        check_batch(queue.take(*value), waiting, *value)
    elif waiting:
        assert isinstance(value, int)
        gone = list(waiting)[value % len(waiting)]
        queue.remove(gone)
        del waiting[gone]


def check_batch(taken: tuple[list[Job], Cut], waiting: dict[Job, None], max_rows: int, max_jobs: int) -> None:
    batch, cut = taken
    assert bool(batch) == bool(waiting)
    if not batch:
        return
    assert len(set(batch)) == len(batch) <= max_jobs
    assert sum(each.rows for each in batch) <= max_rows
    assert len({each.key for each in batch}) == 1
    assert batch[0].level == min(each.level for each in waiting)
    for each in batch:
        del waiting[each]  # a KeyError is a job that was not there
    left = [each for each in waiting if each.key == batch[0].key]
    assert (cut is Cut.QUEUE_EMPTY) == (not waiting and cut is not Cut.FULL)
    assert cut is not Cut.OTHER_SHAPE or not left
    assert cut is not Cut.NO_ROOM or left


@given(STEPS, st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)))
@settings(max_examples=400, deadline=None)
def test_no_job_is_lost_or_duplicated_and_the_counters_are_right(
    steps: list[tuple[str, object]], weights: dict[str, int]
) -> None:
    queue, waiting = JobQueue(3, weights), dict[Job, None]()
    for kind, value in steps:
        step(queue, waiting, kind, value)
        assert queue.count == len(waiting)
        assert queue.rows == sum(each.rows for each in waiting)
        assert queue.size_bytes == sum(each.size_bytes for each in waiting)
        by_tenant = Counter((each.level + 1, each.tenant) for each in waiting)
        assert queue.waiting_by_tenant() == by_tenant
    for _ in range(len(waiting)):  # at least one job each time, so this empties it
        step(queue, waiting, "take", (8, 8))
    assert not waiting


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_within_a_lane_the_order_is_kept(steps: list[tuple[str, object]]) -> None:
    queue, waiting = JobQueue(3, {}), dict[Job, None]()
    born: dict[Job, int] = {}
    last: dict[tuple[int, str, object], int] = {}
    for kind, value in steps:
        if kind == "take":
            assert isinstance(value, tuple)
            for each in queue.take(*value)[0]:
                lane = (each.level, each.tenant, each.key)
                assert born[each] > last.get(lane, -1)
                last[lane] = born[each]
                del waiting[each]
        else:
            step(queue, waiting, kind, value)
            for each in waiting:
                born.setdefault(each, len(born))


# --- shares


def served(
    weights: dict[str, int],
    kinds: dict[str, list[tuple[object, int]]],
    max_rows: int,
    depth: int = 100,
    count: int = 2000,
) -> tuple[dict[str, float], Counter[tuple[str, object]]]:
    """Rows by tenant as parts of all, and by lane, of `count` batches; every tenant always has `depth` jobs waiting."""
    queue = JobQueue(1, weights)
    coming = {tenant: cycle(kind) for tenant, kind in kinds.items()}
    for tenant, kind in coming.items():
        for _ in range(depth):
            queue.put(job(tenant, *next(kind)))
    rows, lanes = Counter[str](), Counter[tuple[str, object]]()
    for _ in range(count):
        for each in queue.take(max_rows, MANY)[0]:
            rows[each.tenant] += each.rows
            lanes[each.tenant, each.key] += each.rows
            queue.put(job(each.tenant, *next(coming[each.tenant])))
    return {tenant: rows[tenant] / rows.total() for tenant in kinds}, lanes


S, T, U = (("s", 1), ("t", 1), ("u", 1))


@pytest.mark.parametrize(
    ("weights", "kinds", "max_rows"),
    [
        pytest.param({"b": 3}, {"a": [S], "b": [S]}, 1, id="one row a batch"),
        pytest.param({"b": 3}, {"a": [S], "b": [S]}, 64, id="one shape"),
        pytest.param({"b": 2}, {"a": [S], "b": [T]}, 64, id="each a shape of its own"),
        pytest.param({"b": 5, "c": 7}, {"a": [("s", 3)], "b": [T], "c": [("s", 2)]}, 16, id="mixed sizes and shapes"),
        pytest.param({"a": 2}, {"a": [("s", 64)], "b": [S]}, 64, id="large jobs against small ones"),
        pytest.param({"a": 9}, {"a": [("s", 7), ("s", 2)], "b": [("s", 1), ("s", 5)]}, 64, id="mixed job sizes"),
        pytest.param({"a": 10}, {"a": [S, T], "b": [T, U]}, 8, id="shapes that are half shared"),
        pytest.param({"a": 1000}, {"a": [S], "b": [S], "c": [S]}, 100, id="a very large weight"),
        pytest.param({}, {str(n): [S] for n in range(100)}, 8, id="many tenants"),
    ],
)
def test_rows_are_shared_by_weight(
    weights: dict[str, int], kinds: dict[str, list[tuple[object, int]]], max_rows: int
) -> None:
    shares, _ = served(weights, kinds, max_rows)
    total = sum(weights.get(tenant, 1) for tenant in kinds)
    for tenant, share in shares.items():
        assert share == pytest.approx(weights.get(tenant, 1) / total, rel=0.1), shares


KINDS = st.lists(st.tuples(st.sampled_from(["s", "t", "u"]), st.integers(1, 8)), min_size=1, max_size=4)


@given(
    st.dictionaries(st.sampled_from("abcde"), KINDS, min_size=1, max_size=4),
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9)),
    st.integers(8, 20),
)
@settings(max_examples=60, deadline=None)
def test_no_tenant_and_no_shape_starves(
    kinds: dict[str, list[tuple[object, int]]], weights: dict[str, int], max_rows: int
) -> None:
    shares, lanes = served(weights, kinds, max_rows, depth=20, count=200)
    total = sum(weights.get(tenant, 1) for tenant in kinds)
    for tenant, kind in kinds.items():
        # Less than the share only as far as its jobs do not fill the room that is left: never below half.
        assert shares[tenant] > 0.5 * weights.get(tenant, 1) / total
        for key, _ in kind:
            assert lanes[tenant, key] > 0


def test_a_shape_is_served_although_its_tenant_gets_its_share_with_another() -> None:
    """Batches of two that a begins with shape s, in which b always has the other place for its own jobs of shape s."""
    queue = queue_of(job("a", "s"), job("b", "t"), levels=1)
    for batch in range(100):
        if batch == 99:
            pytest.fail("the job of shape t waits for ever")
        queue.put(job("a", "s"))
        queue.put(job("b", "s"))
        if "t" in {each.key for each in queue.take(2, 2)[0]}:
            break


def test_the_last_job_of_a_batch_goes_to_who_has_had_least() -> None:
    queue = queue_of(*[job(tenant) for tenant in "aaaabbbb"], levels=1)
    taken = Counter[str]()
    for _ in range(2):
        taken.update(each.tenant for each in queue.take(3, 8)[0])
    assert taken == {"a": 3, "b": 3}


def test_who_comes_back_is_not_paid_for_its_absence() -> None:
    queue = queue_of(*[job("a") for _ in range(100)], job("b"), levels=1)
    for _ in range(50):
        queue.take(1, 1)
    for _ in range(50):
        queue.put(job("b"))
    taken = Counter(queue.take(1, 1)[0][0].tenant for _ in range(20))
    assert taken == {"a": 10, "b": 10}


def test_who_took_more_than_its_share_and_has_nothing_left_waiting_does_not_begin_anew() -> None:
    """Tenant a sends one job of 64 rows after the other, each when the last is answered."""
    queue = queue_of(*[job("b") for _ in range(1000)], levels=1, weights={"b": 3})
    rows = Counter[str]()
    for _ in range(40):
        if (1, "a") not in queue.waiting_by_tenant():
            queue.put(job("a", "s", 64))
        for each in queue.take(64, MANY)[0]:
            rows[each.tenant] += each.rows
            if each.tenant == "b":
                queue.put(job("b"))
    assert rows["b"] / rows["a"] == pytest.approx(3, rel=0.1)


def waits(greedy: int) -> list[int]:
    """In batches, of a tenant that sends one job every second batch, beside one that always has `greedy` waiting."""
    queue, found, born = JobQueue(1, {}), list[int](), dict[Job, int]()
    for batch in range(1000):
        for _ in range(greedy - queue.waiting_by_tenant().get((1, "greedy"), 0)):
            queue.put(job("greedy"))
        if batch % 2 == 0:
            born[one := job("modest")] = batch
            queue.put(one)
        found += [batch - born.pop(each) for each in queue.take(4, 4)[0] if each.tenant == "modest"]
    return sorted(found)


def test_a_tenant_that_sends_ten_times_its_share_does_not_delay_another() -> None:
    beside_fair, beside_greedy = waits(2), waits(20)
    assert beside_fair[-5] + 1 <= 1.5
    assert (beside_greedy[-5] + 1) / (beside_fair[-5] + 1) <= 1.5


def test_what_comes_and_is_cancelled_for_ever_leaves_nothing_behind() -> None:
    queue = queue_of(job("stays"), job("stays too", "s"), levels=1)
    for n in range(3000):
        gone = [job("comes", "s"), job(f"once {n}", "t")]
        for each in gone:
            queue.put(each)
        for each in gone:
            queue.remove(each)
    level = queue._levels[0]
    assert {key for tenant in level.tenants.values() for key in tenant.lanes} == {None, "s"}
    assert len(level.shapes) == 3  # the two, and that of all
    assert all(len(shape._heap) < 200 for shape in level.shapes.values())


def test_tenants_that_come_once_are_forgotten() -> None:
    queue = queue_of(*[job("stays") for _ in range(20000)], levels=1)
    for n in range(5000):
        queue.put(job(f"once {n}"))
        queue.take(3, 3)
    assert len(queue._levels[0]._ahead) < 300


def test_many_who_do_not_fit_do_not_keep_those_who_do_from_the_batch_after() -> None:
    queue = queue_of(job("first"), *[job(f"big {n}", rows=8) for n in range(100)], job("small"), levels=1)
    sizes = [len(batch) for batch in batches(queue, 8)]
    assert sum(sizes) == 102
    assert max(sizes) <= 2
