"""How many replicas would have been enough, had they been there all the last while.

For every number of replicas up to the most allowed a queue is kept that nobody waits in: arrivals go in, what so many
replicas would have answered goes out. A request that would have waited longer than the objective leaves time for counts
as late there. The answer is the smallest number whose share of late ones, over the memory, is within the goal. It knows
bursts from their first one on, and counts requests, not minutes: a minute of burst weighs what it carries.

What comes back is kept ready for. For each number the longest pause is remembered after which it was too few again;
it is given up when that many times the longest pause has passed without need, at least a few lead times, as what a
missing replica costs grows with them (the hybrid histogram of Shahrad et al., ATC '20, replica by replica).
"""

import math
from bisect import bisect_right

from slipway.api.scaled import Hindsight
from slipway.decide.scaling.capacity import Carries

SEGMENTS, SEGMENT_S = 10, 300.0
KEEP_LEADS, KEEP_MIN_S, KEEP_PAUSES = 1.5, 300.0, 2.75
TALL = 6.0
"""A need of more than so many times the usual is kept for shorter: the taller a spike, the rarer is the next one."""
ONCE = 1.5
"""What was seen once is no habit yet: so many times the replicas there are, and one, may be bought for it."""
RETURN_S = 60.0
"""A pause shorter than that is no pause."""
FEW = 20.0
"""Requests below which a share of late ones says nothing."""
HEADROOM, HEADROOM_ROOT, HEADROOM_NEW, NEW_S = 0.06, 0.005, 0.025, 1800.0
"""The next burst may be larger than the largest seen, so each queue is taken to have less room: by so much, more with
the root of the lead time (in seconds; loads wander like that), and more again in the first half hour."""
TURNS, LOST_TURNS = 1.25, 0.5365
"""In a look of up to so many service times all is taken to have come at its begin, and slots to begin only then: so
1.25 - 0.5365 = 1 - exp(-1.25) turns are of use. In a longer one they begin anew within it. (Exact from 0 on would be
cheaper by an eighth, and keep less: the headroom was chosen with this.)"""
PATIENCE_S = 60.0
"""Nobody waits longer: what is beyond that has given up."""


def _levels(ratio: float = 1.3, most: int = 1000) -> tuple[int, ...]:
    """Numbers of replicas that are looked at: each up to 12, then ever wider apart. The same for every service."""
    found = list(range(1, 13))
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, round(found[-1] * ratio))))
    return tuple(found)


LEVELS = _levels()


def look(
    known: Hindsight, *, arrived: float, dt: float, carries: Carries, most: int, clock: float, lead: float
) -> Hindsight:
    """Let `dt` seconds pass in every queue."""
    segments, end = _turned(known, clock)
    service = carries.service_s
    if service <= 0 or dt <= 0:
        return known.changed(segments=segments, end=end)
    number = bisect_right(LEVELS, most)
    before = known.queues or [0.0]
    late = list(segments[-1])
    late[0] += arrived
    in_time = 1.0 + carries.spare_s / service
    patient = 1.0 + PATIENCE_S / service
    slots = carries.slots / headroom(known, clock, lead)
    alone_s = service - carries.slope_s * carries.slots
    turns = dt / service
    is_short = turns > TURNS
    # Of a look of many turns, what comes in so many of them may have come together; the rest comes evenly.
    together = arrived * TURNS / turns if is_short else arrived
    rate = (arrived - together) / dt
    useful, usual = (turns - LOST_TURNS) / dt, rate * service
    queues, last, pauses = list[float](), list(known.last), list(known.pauses)
    # This loop is the costliest part of a decision: no calls where a comparison does.
    for index, replicas in enumerate(LEVELS[:number]):
        room = replicas * slots
        queue = (before[index] if index < len(before) else before[-1]) + together
        over = queue - room * in_time
        missed = over if over > 0 else 0.0
        shrinks = room * useful - rate
        if is_short:
            missed += rate * _beyond_s(over, shrinks, dt)
        if missed > 0:
            late += [0.0] * (index + 2 - len(late))
            late[index + 1] += missed if missed < arrived else arrived
            _note(last, pauses, index, clock)
            queue = queue if queue < room * patient else room * patient
        left_s = dt
        if is_short:
            queue, left_s = _fully_used(queue, room, shrinks, dt)
        busy = queue if queue < room else room
        share = left_s / (alone_s + carries.slope_s * busy / replicas)
        # 1 - exp(-share), near enough.
        queue -= (busy - usual) * (1.0 - 1.0 / (1.0 + share * (1.0 + share * (0.5 + share / 6.0))))
        queues.append(queue)
        if queue + together < slots:
            # With more replicas it is the same queue, and nobody waits in it.
            break
    return Hindsight(queues=queues, segments=[*segments[:-1], late], end=end, last=last, pauses=pauses)


def _beyond_s(over: float, shrinks: float, dt: float) -> float:
    """For how long of `dt` a queue that shrinks evenly is too long: by `over` now, less than nothing if it is not yet.

    >>> _beyond_s(6.0, 3.0, 10.0), _beyond_s(-6.0, -3.0, 10.0), _beyond_s(-6.0, 3.0, 10.0)
    (2.0, 8.0, 0.0)
    """
    if over > 0:
        return dt if shrinks * dt <= over else over / shrinks
    return dt - over / shrinks if shrinks * dt < over else 0.0


def _fully_used(queue: float, room: float, shrinks: float, dt: float) -> tuple[float, float]:
    """The queue when a slot becomes free, or `dt` has passed; and what is left of `dt` then."""
    full_s = min(dt, max(0.0, (queue - room) / shrinks)) if shrinks > 0 else dt
    return queue - shrinks * full_s, dt - full_s


def headroom(known: Hindsight, clock: float, lead: float) -> float:
    """How many times the load of the past to be ready for."""
    seen_s = len(known.segments) * SEGMENT_S - (known.end - clock) if known.segments else 0.0
    return 1.0 + HEADROOM + (HEADROOM_ROOT + HEADROOM_NEW * max(0.0, 1.0 - seen_s / NEW_S)) * math.sqrt(lead)


def _note(last: list[float], pauses: list[float], index: int, clock: float) -> None:
    """It was too few now: how long has it been enough before?"""
    if index >= len(last):
        last += [clock] * (index + 1 - len(last))
        pauses += [0.0] * (index + 1 - len(pauses))
        return
    pause = clock - last[index]
    # Whoever was enough for the whole memory is seen for the first time.
    pauses[index] = 0.0 if pause > SEGMENTS * SEGMENT_S else max(pauses[index], pause)
    last[index] = clock


def enough(known: Hindsight, *, most: int, share_late: float, clock: float, lead: float, usual: float) -> int:
    """The smallest number of replicas that would have kept the goal; 0 where too little is known.

    `usual`: what the load of now takes.
    """
    segments = known.segments
    arrived = sum(segment[0] for segment in segments)
    if arrived < FEW:
        return 0
    allowed = share_late * arrived
    # From the top: where the larger number is still to be kept, the smaller one is too.
    for index in range(max(map(len, segments)) - 2, -1, -1):
        late = sum(segment[index + 1] for segment in segments if len(segment) > index + 1)
        if late > allowed and not _is_over(known, index, clock, lead, usual):
            return min(LEVELS[min(index + 1, len(LEVELS) - 1)], most)
    return 1


def worth_buying(known: Hindsight, replicas: int, have: int) -> int:
    """How many of `replicas`, which would have been enough, to get while there are `have`."""
    once = int(ONCE * have) + 1
    index = bisect_right(LEVELS, once) - 1
    returned = index >= 0 and index < len(known.pauses) and known.pauses[index] >= RETURN_S
    return replicas if returned else min(replicas, once)


def _is_over(known: Hindsight, index: int, clock: float, lead: float, usual: float) -> bool:
    """Whether it has been enough for so long that it is taken to stay so."""
    if index >= len(known.last):
        return True
    once = max(KEEP_MIN_S, KEEP_LEADS * lead) * min(1.0, TALL * max(1.0, usual) / LEVELS[index])
    return clock - known.last[index] > max(once, KEEP_PAUSES * known.pauses[index])


def _turned(known: Hindsight, clock: float) -> tuple[list[list[float]], float]:
    """The segments, with new ones begun for the time that has passed."""
    if not known.segments:
        return [[0.0]], clock + SEGMENT_S
    segments, end = known.segments, known.end
    for _ in range(SEGMENTS):
        if clock < end:
            break
        segments, end = [*segments, [0.0]][-SEGMENTS:], end + SEGMENT_S
    return segments, max(end, clock - SEGMENT_S)
