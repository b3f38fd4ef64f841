"""Which requests go into the next batch. Pure: no clock, no threads, no tensors.

    level 1 (highest) ─┬─ tenant a ─┬─ shape s: job, job, job      Levels are strict: the next batch begins with the
                       │            └─ shape t: job                highest that has a job. Within a level tenants take
                       └─ tenant b ─── shape s: job                turns by weighted deficit round robin, in rows.
    level 2 ...                                                    Within a tenant shapes take turns, oldest job first.

The first job taken decides the shape of the batch; jobs of other shapes stay, and block nobody but their own. What room
is left is filled from lower levels. Every operation is O(1) in the number of jobs that wait.

Source: Shreedhar and Varghese, "Efficient fair queueing using deficit round robin", 1995.
"""

from collections import OrderedDict
from collections.abc import Mapping
from enum import StrEnum

from slipway_runtime.engine.job import Job


class Cut(StrEnum):
    """Why a batch was not larger."""

    FULL = "full"
    NO_ROOM = "no_room"
    """The next job has more rows than were left."""
    OTHER_SHAPE = "other_shape"
    """All that still waits has other shapes."""
    QUEUE_EMPTY = "queue_empty"


class _Tenant:
    __slots__ = ("deficit", "lanes", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.deficit = 0
        self.lanes: OrderedDict[object, OrderedDict[Job, None]] = OrderedDict()
        """Jobs by shape; shapes take turns."""

    def put(self, job: Job) -> None:
        lane = self.lanes.get(job.key)
        if lane is None:
            lane = self.lanes[job.key] = OrderedDict()
        lane[job] = None

    def took_from(self, key: object) -> None:
        """Keep the order of lanes: one that has been served stands behind those that have not."""
        if self.lanes[key]:
            self.lanes.move_to_end(key)
        else:
            del self.lanes[key]

    def has_turn(self) -> bool:
        """Whether what it may still take is enough for its next job: its turn goes on with the next batch."""
        return self.deficit >= next(iter(next(iter(self.lanes.values())))).rows


class _Level:
    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = weights
        self.tenants: OrderedDict[str, _Tenant] = OrderedDict()

    def put(self, job: Job) -> None:
        tenant = self.tenants.get(job.tenant)
        if tenant is None:
            tenant = self.tenants[job.tenant] = _Tenant(self._weights.get(job.tenant, 1))
        tenant.put(job)

    def remove(self, job: Job) -> None:
        tenant = self.tenants[job.tenant]
        lane = tenant.lanes[job.key]
        del lane[job]
        if not lane:
            del tenant.lanes[job.key]
            if not tenant.lanes:
                del self.tenants[job.tenant]


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

    def fill(self, lane: OrderedDict[Job, None], limit: int) -> int:
        """Move jobs of a lane into the batch while they fit and have at most `limit` rows; returns their rows."""
        taken = 0
        while lane and len(self.jobs) < self.most:
            job = next(iter(lane))
            if job.rows > self.room or taken + job.rows > limit:
                break
            del lane[job]
            self.jobs.append(job)
            self.room -= job.rows
            taken += job.rows
        return taken


class JobQueue:
    """`weights` are shares of tenants, 1 for who is not named."""

    def __init__(self, levels: int, weights: Mapping[str, int]) -> None:
        self._levels = [_Level(weights) for _ in range(levels)]
        self.count = 0
        self.rows = 0
        self.size_bytes = 0

    def put(self, job: Job) -> None:
        self._levels[job.level].put(job)
        self.count += 1
        self.rows += job.rows
        self.size_bytes += job.size_bytes

    def remove(self, job: Job) -> None:
        """Take out one that is in the queue, wherever it stands."""
        self._levels[job.level].remove(job)
        self._left(job)

    def take(self, max_rows: int, max_jobs: int) -> tuple[list[Job], Cut]:
        """The next batch; empty if nobody waits. No job has more than `max_rows`."""
        batch = _Batch(max_rows, max_jobs)
        for level in self._levels:
            if level.tenants:
                _draw(level, batch)
                if batch.is_full:
                    break
        for job in batch.jobs:
            self._left(job)
        return batch.jobs, self._cut(batch)

    def oldest(self) -> Job:
        """Of those that head their lanes, who came first. O(tenants and shapes)."""
        heads = (
            next(iter(lane))
            for level in self._levels
            for tenant in level.tenants.values()
            for lane in tenant.lanes.values()
        )
        return min(heads, key=lambda job: job.queued_ns)

    def waiting_by_tenant(self) -> dict[tuple[int, str], int]:
        """Jobs by level (from 1) and tenant. O(tenants)."""
        return {
            (number, name): sum(map(len, tenant.lanes.values()))
            for number, level in enumerate(self._levels, start=1)
            for name, tenant in level.tenants.items()
        }

    def _left(self, job: Job) -> None:
        self.count -= 1
        self.rows -= job.rows
        self.size_bytes -= job.size_bytes

    def _cut(self, batch: _Batch) -> Cut:
        if batch.is_full:
            return Cut.FULL
        if not self.count:
            return Cut.QUEUE_EMPTY
        same = (
            batch.key in tenant.lanes for level in self._levels if level.tenants for tenant in level.tenants.values()
        )
        return Cut.NO_ROOM if any(same) else Cut.OTHER_SHAPE


def _draw(level: _Level, batch: _Batch) -> None:
    """Fill the batch from the tenants of a level, in turn, each by its share."""
    if not batch.jobs:
        first = next(iter(level.tenants.values()))
        batch.key = next(iter(first.lanes))
    if len(level.tenants) == 1:
        _serve(level, batch, None)
        return
    weights = sum(tenant.weight for tenant in level.tenants.values())
    # One round offers about half of the room, so that deficits settle who gets the rest.
    quantum = max(1, batch.room // (2 * weights))
    while not batch.is_full and _serve(level, batch, quantum):
        pass


def _serve(level: _Level, batch: _Batch, quantum: int | None) -> bool:
    """One turn for every tenant of the level; without a quantum all it has. Whether another round can bring more."""
    more = False
    for name in list(level.tenants):
        tenant = level.tenants[name]
        lane = tenant.lanes.get(batch.key)
        if lane is None:
            continue
        if quantum is None:
            taken = batch.fill(lane, batch.room)
        else:
            if tenant.deficit < next(iter(lane)).rows:
                tenant.deficit += quantum * tenant.weight
            taken = batch.fill(lane, tenant.deficit)
            tenant.deficit -= taken
            more |= bool(lane) and next(iter(lane)).rows <= batch.room
        if taken:
            tenant.took_from(batch.key)
        if not tenant.lanes:
            del level.tenants[name]  # and its deficit: who asks for nothing saves nothing up
        elif taken and not tenant.has_turn():
            level.tenants.move_to_end(name)
        if batch.is_full:
            break
    return more
