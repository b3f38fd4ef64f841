"""Which requests go into the next batch. Pure: no clock, no threads, no tensors.

    level 1 (highest) ─┬─ tenant a ─┬─ shape s: job, job, job      Levels are strict: the next batch begins with the
                       │            └─ shape t: job                highest that has a job. Within a level who has had
                       └─ tenant b ─── shape s: job                least for its weight, in rows, is next. Within a
    level 2 ...                                                    tenant shapes take turns, oldest job first.

The first job taken decides the shape of the batch; jobs of other shapes stay, and block nobody but their own. What room
is left is filled from the other tenants in the same order, then from lower levels; it all counts. Every operation is
O(1) in the number of jobs that wait, and O(log tenants) per job that is taken.

Not by deficit round robin: when the tenants at the front have different shapes, the room that others cannot use goes
to one of them, and rounds of a fixed quantum forget by how much it was ahead.
Source: Goyal, Vin and Cheng, "Start-time fair queueing", 1996.
"""

from collections import OrderedDict
from collections.abc import Mapping
from enum import StrEnum
from heapq import heapify, heappop, heappush, heapreplace

from slipway_runtime.engine.job import Job

_ROW = 1 << 32
"""What a row costs a tenant of weight 1; integers, so that shares do not drift."""
_PATIENCE = 4
_MISFITS = 16
"""Tenants whose next job does not fit that are passed over for one batch."""


class Cut(StrEnum):
    """Why a batch was not larger."""

    FULL = "full"
    PREFERRED = "preferred"
    """It has a size that the config prefers, although more waits or could wait."""
    NO_ROOM = "no_room"
    """The next job has more rows than were left."""
    OTHER_SHAPE = "other_shape"
    """All that still waits has other shapes."""
    QUEUE_EMPTY = "queue_empty"


_Lane = OrderedDict[Job, None]
_ANY = object()


class _Tenant:
    __slots__ = ("lanes", "name", "passed", "price", "spent")

    def __init__(self, name: str, weight: int, spent: int) -> None:
        self.name = name
        self.price = _ROW // weight
        self.spent = spent
        self.passed = 0
        self.lanes: OrderedDict[object, _Lane] = OrderedDict()
        """Jobs by shape; shapes take turns."""

    def waits(self, key: object) -> bool:
        return bool(self.lanes.get(key)) if key is not _ANY else bool(self.lanes)

    def holds_back(self, key: object) -> bool:
        """Whether its own turn has to come first.

        Otherwise one who gets its whole share in batches that others began would never begin one with the shape that
        is next. While it holds back it has spent less and less compared with the others, so its turn does come.
        """
        return self.passed >= _PATIENCE and key != next(iter(self.lanes))


class _Turns:
    """Tenants that wait, least spent first: all of a level, or those with jobs of one shape.

    What a tenant has spent grows, and its last job may be cancelled, while it stands somewhere in a heap: entries are
    put right only when they get to the front, or when most of them are of nobody who waits.
    """

    __slots__ = ("_heap", "_number", "waiting")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Tenant]] = []
        self._number = 0  # the order among equals, and tenants themselves are never compared
        self.waiting = 0

    def add(self, tenant: _Tenant) -> None:
        self._number += 1
        heappush(self._heap, (tenant.spent, self._number, tenant))

    def first_with(self, key: object) -> _Tenant | None:
        heap = self._heap
        while heap:
            spent, _, tenant = heap[0]
            if not tenant.waits(key):
                heappop(heap)
            elif spent == tenant.spent:
                return tenant
            else:
                self._number += 1
                heapreplace(heap, (tenant.spent, self._number, tenant))
        return None

    def set_aside(self) -> None:
        heappop(self._heap)

    def one_left(self, key: object) -> None:
        self.waiting -= 1
        if len(self._heap) > 2 * self.waiting + 64:
            self._heap = list({entry[2]: entry for entry in self._heap if entry[2].waits(key)}.values())
            heapify(self._heap)


class _Level:
    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = weights
        self.tenants: dict[str, _Tenant] = {}
        self.shapes: dict[object, _Turns] = {}
        """With `_ANY` for the whole level. Kept from the first moment there is more than one tenant until none is."""
        self.now = 0
        """What who was served last had spent before: who comes new begins here, and has saved nothing up."""
        self._ahead: dict[str, int] = {}
        """Who has nothing waiting but has had more than its share: that is remembered until the others have too."""
        self._ahead_most = 64

    def put(self, job: Job) -> None:
        tenant = self.tenants.get(job.tenant)
        if tenant is None:
            tenant = self._enter(job.tenant)
        lane = tenant.lanes.get(job.key)
        if lane is None:
            lane = tenant.lanes[job.key] = OrderedDict()
            if self.shapes:
                self._waits(tenant, job.key)
        lane[job] = None

    def has(self, key: object) -> bool:
        if self.shapes:
            return key in self.shapes
        return any(key in tenant.lanes for tenant in self.tenants.values())

    def remove(self, job: Job) -> None:
        tenant = self.tenants[job.tenant]
        lane = tenant.lanes[job.key]
        del lane[job]
        if not lane:
            self.lane_is_empty(tenant, job.key)

    def lane_is_empty(self, tenant: _Tenant, key: object) -> None:
        del tenant.lanes[key]
        if self.shapes:
            self._waits_no_more(key)
        if not tenant.lanes:
            self._leave(tenant)

    def _enter(self, name: str) -> _Tenant:
        spent = max(self.now, self._ahead.pop(name, 0)) if self._ahead else self.now
        tenant = self.tenants[name] = _Tenant(name, self._weights.get(name, 1), spent)
        if self.shapes:
            self._waits(tenant, _ANY)
        elif len(self.tenants) > 1:
            for each in self.tenants.values():
                for key in (_ANY, *each.lanes):
                    self._waits(each, key)
        return tenant

    def _leave(self, tenant: _Tenant) -> None:
        """Nothing of it waits any more."""
        del self.tenants[tenant.name]
        ahead = self._ahead
        if not self.tenants:
            ahead.clear()
            self.shapes.clear()
            return
        self._waits_no_more(_ANY)
        if tenant.spent > self.now:
            ahead[tenant.name] = tenant.spent
            if len(ahead) > self._ahead_most:
                self._ahead = {name: spent for name, spent in ahead.items() if spent > self.now}
                self._ahead_most = 64 + 2 * len(self._ahead)

    def _waits(self, tenant: _Tenant, key: object) -> None:
        turns = self.shapes.get(key)
        if turns is None:
            turns = self.shapes[key] = _Turns()
        turns.waiting += 1
        turns.add(tenant)

    def _waits_no_more(self, key: object) -> None:
        turns = self.shapes[key]
        turns.one_left(key)
        if not turns.waiting:
            del self.shapes[key]


class _Batch:
    __slots__ = ("jobs", "key", "most", "room")

    def __init__(self, room: int, most: int) -> None:
        self.jobs: list[Job] = []
        self.key: object = None
        self.room = room
        self.most = most

    @property
    def is_full(self) -> bool:
        return self.room <= 0 or len(self.jobs) >= self.most

    def fill(self, lane: _Lane, most: int) -> int:
        """Move up to `most` jobs of a lane into the batch while they fit, the first of all in any case; their rows."""
        jobs, room = self.jobs, self.room
        most = min(self.most, len(jobs) + most)
        while lane and len(jobs) < most:
            job = next(iter(lane))
            if job.rows > room and jobs:
                break
            del lane[job]
            jobs.append(job)
            room -= job.rows
        rows, self.room = self.room - room, room
        return rows


class JobQueue:
    """`weights` are shares of tenants, 1 for who is not named."""

    def __init__(self, levels: int, weights: Mapping[str, int]) -> None:
        self._levels = [_Level(weights) for _ in range(levels)]
        self._lone: Job | None = None
        """Who waits alone needs no place among others: at a low load that is every request."""
        self.count = 0
        self.rows = 0
        self.size_bytes = 0

    def put(self, job: Job) -> None:
        if not self.count:
            self._lone = job
        else:
            if self._lone is not None:
                self._place_lone(self._lone)
            self._levels[job.level].put(job)
        self.count += 1
        self.rows += job.rows
        self.size_bytes += job.size_bytes

    def remove(self, job: Job) -> None:
        """Take out one that is in the queue, wherever it stands."""
        if self._lone is None:
            self._levels[job.level].remove(job)
        self._lone = None
        self.count -= 1
        self.rows -= job.rows
        self.size_bytes -= job.size_bytes

    def take(self, max_rows: int, max_jobs: int) -> tuple[list[Job], Cut]:
        """The next batch; empty if nobody waits. A job with more than `max_rows` is a batch of its own."""
        if (lone := self._lone) is not None:
            self.remove(lone)
            return [lone], Cut.FULL if lone.rows >= max_rows or max_jobs == 1 else Cut.QUEUE_EMPTY
        batch = _Batch(max_rows, max_jobs)
        for level in self._levels:
            if level.tenants:
                _draw(level, batch)
                if batch.is_full:
                    break
        jobs = batch.jobs
        self.count -= len(jobs)
        self.rows -= max_rows - batch.room
        self.size_bytes -= sum([job.size_bytes for job in jobs])
        return jobs, self._cut(batch)

    def oldest(self) -> Job:
        """Of those that head their lanes, who came first. O(tenants and shapes)."""
        if self._lone is not None:
            return self._lone
        heads = (
            next(iter(lane))
            for level in self._levels
            for tenant in level.tenants.values()
            for lane in tenant.lanes.values()
        )
        return min(heads, key=lambda job: job.queued_ns)

    def waiting_by_tenant(self) -> dict[tuple[int, str], int]:
        """Jobs by level (from 1) and tenant. O(tenants)."""
        if self._lone is not None:
            return {(self._lone.level + 1, self._lone.tenant): 1}
        return {
            (number, name): sum(map(len, tenant.lanes.values()))
            for number, level in enumerate(self._levels, start=1)
            for name, tenant in level.tenants.items()
        }

    def _place_lone(self, job: Job) -> None:
        self._levels[job.level].put(job)
        self._lone = None

    def _cut(self, batch: _Batch) -> Cut:
        if batch.is_full:
            return Cut.FULL
        if not self.count:
            return Cut.QUEUE_EMPTY
        same = any(level.has(batch.key) for level in self._levels)
        return Cut.NO_ROOM if same else Cut.OTHER_SHAPE


def _draw(level: _Level, batch: _Batch) -> None:
    """Fill the batch from the tenants of a level."""
    if not level.shapes:
        _serve_alone(level, batch)
        return
    served: dict[_Tenant, None] = {}
    begins = not batch.jobs
    if begins:
        first = level.shapes[_ANY].first_with(_ANY)
        assert first is not None  # noqa: S101 - for mypy: a level with tenants has one whose turn it is
        batch.key = next(iter(first.lanes))
        _give(level, first, batch)
        served[first] = None
    shape = level.shapes.get(batch.key)
    if shape is not None:
        _share(level, shape, batch, served, begins=begins)
    for tenant in served:
        _settle(level, tenant, batch.key)


def _serve_alone(level: _Level, batch: _Batch) -> None:
    """The usual case: there is nobody to share with."""
    (tenant,) = level.tenants.values()
    if not batch.jobs:
        batch.key = next(iter(tenant.lanes))
    lane = tenant.lanes.get(batch.key)
    if lane is not None and (rows := batch.fill(lane, len(lane))):
        level.now = max(level.now, tenant.spent)
        tenant.spent += rows * tenant.price
        _settle(level, tenant, batch.key)


def _share(level: _Level, shape: _Turns, batch: _Batch, served: dict[_Tenant, None], *, begins: bool) -> None:
    """Job by job to who has spent least, until the batch is full or nothing more fits."""
    key = batch.key
    aside: list[_Tenant] = []
    while not batch.is_full and len(aside) < _MISFITS and (tenant := shape.first_with(key)) is not None:
        if not (begins and tenant.holds_back(key)) and _give(level, tenant, batch):
            served[tenant] = None
        else:
            shape.set_aside()
            aside.append(tenant)
    for tenant in aside:
        shape.add(tenant)


def _give(level: _Level, tenant: _Tenant, batch: _Batch) -> int:
    rows = batch.fill(tenant.lanes[batch.key], 1)
    if rows:
        level.now = max(level.now, tenant.spent)
        tenant.spent += rows * tenant.price
    return rows


def _settle(level: _Level, tenant: _Tenant, key: object) -> None:
    """Keep the order of lanes: one that has been served stands behind those that have not."""
    tenant.passed = 0 if key == next(iter(tenant.lanes)) else tenant.passed + 1
    if tenant.lanes[key]:
        tenant.lanes.move_to_end(key)
    else:
        level.lane_is_empty(tenant, key)
