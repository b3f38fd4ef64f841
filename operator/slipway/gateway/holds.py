"""Requests that wait in Envoy for a first pod: how many, for how long, and who goes when. No I/O; the loop's clock.

    Envoy asks (authorize.py) ─► the first of a revision wakes it ─► its pods are in Envoy: taken() ─► as many go as fit

What waits lies in Envoy; here is a future for each. Who waits is let go in order, and no more at a time than the pods
take: a thousand that waited together must not be refused by the one pod that they waited for.
"""

import asyncio
import itertools
import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from slipway.api.manifest import Key
from slipway.gateway.asks import BUFFER_BYTES, Ask, Bounds, Place, Result, Tally, Verdict

SHARE = 2
"""Of what is free at the moment so many times as much may be a namespace's own: two thirds when it is alone, and who
holds little finds room whatever others do."""
MISSED_S = 3.0
"""Who left or was refused still counts as one that waits: who looks every two seconds has to see it."""
FULL_S = 1.0
"""The shortest time for which a service that is full is not held: each change costs Envoy a table."""
BURST = 128
"""Requests on their way to one pod that have no connection yet: the queue that many servers have for new ones."""
SETTLING_S = 2.0
"""From a request's leave to go until it counts as lost on its way, if Envoy does not count it at a pod before."""
SOON_S, LATER_S = 1, 5


@dataclass(slots=True)
class _Held:
    future: asyncio.Future[Verdict]
    deadline: float
    ask: Ask


@dataclass(slots=True)
class _Line:
    """Who waits for one revision, in order."""

    uid: str
    held: dict[int, _Held] = field(default_factory=dict)
    active: int = 0
    """At the pods, as Envoy said last."""
    begun: int = 0
    """Ever begun there, as Envoy said last."""
    recent: deque[float] = field(default_factory=deque)
    """When others were let go whom Envoy has not counted at a pod yet."""

    def look(self, active: int, begun: int) -> None:
        for _ in range(min(len(self.recent), begun - self.begun)):
            self.recent.popleft()
        self.active, self.begun = active, begun

    def free(self, room: int, pods: int, now: float) -> int:
        while self.recent and self.recent[0] < now - SETTLING_S:
            self.recent.popleft()
        return max(0, min(room - self.active, BURST * pods) - len(self.recent))


class Holds:
    """`changed` is called when `holds_back` may answer otherwise for a service than before."""

    def __init__(self, bounds: Bounds, changed: Callable[[Key], None]) -> None:
        self._bounds, self._changed = bounds, changed
        self._places: dict[Key, Place] = {}
        self._lines: defaultdict[Key, dict[str, _Line]] = defaultdict(dict)
        self._counts: Counter[Key] = Counter()
        self._requests: Counter[str] = Counter()
        """By namespace; so are bytes."""
        self._bytes: Counter[str] = Counter()
        self._full: set[Key] = set()
        self._missed: dict[tuple[Key, str], float] = {}
        self._numbers = itertools.count()
        self._has_ended = False
        self._news = asyncio.Event()
        self.number = secrets.randbelow(1 << 40)
        """Grows whenever somebody is the first to wait for a revision; another process has another one."""
        self.knows_all = False
        """A service that is not known is not there."""
        self.crowd = asyncio.Event()
        """There are pods, but not for all who wait."""
        self.tally = Tally()

    def holds_back(self, key: Key, revision: str, has_pods: bool) -> bool:
        """Whether Envoy is to ask before it lets requests to a revision that may sleep.

        Not while too many wait: then Envoy's own refusal costs nothing here.
        """
        if key in self._full:
            return False
        return not has_pods or revision in self._lines.get(key, {})

    def revisions(self, now: float) -> dict[tuple[Key, str], int]:
        """How many wait, by service and revision; of those who left of late one is still counted."""
        self._missed = {at: when for at, when in self._missed.items() if when > now - MISSED_S}
        found = dict.fromkeys(self._missed, 1)
        return found | {
            (key, name): len(line.held) for key, lines in self._lines.items() for name, line in lines.items()
        }

    async def news(self, since: int) -> None:
        """Wait until `number` is another one."""
        while self.number == since:
            await self._news.wait()

    async def hold(self, ask: Ask) -> Verdict:
        """Until the request may go, or will not. Cancelled when the caller has gone."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            verdict = self._at_once(ask) or await self._wait(ask, loop)
        except asyncio.CancelledError:
            self._note(ask, Result.LEFT, begun)
            raise
        self._note(ask, verdict.result, begun)
        return verdict

    def taken(self, key: Key, place: Place | None) -> None:
        """Envoy has this of a service now, or nothing of it."""
        if place:
            self._places[key] = place
        else:
            self._places.pop(key, None)
            self._full.discard(key)
        self._move(key)

    def crowded(self) -> Iterator[tuple[Key, str, str]]:
        """Service, revision waited for, and the one whose pods are too busy for all of them."""
        for key, lines in self._lines.items():
            if place := self._places.get(key):
                yield from ((key, name, way) for name in lines if (way := place.way(name)))

    def seen(self, key: Key, revision: str, active: int, begun: int) -> None:
        """So many requests are at the pods, and have ever begun there, where those who wait for `revision` go."""
        if line := self._lines.get(key, {}).get(revision):
            line.look(active, begun)
            self._move(key)

    def end(self) -> bool:
        """Nobody waits here any more; whether anybody did."""
        self._has_ended, waited = True, bool(self._lines)
        for key in list(self._lines):
            for name in list(self._lines[key]):
                self._deny(key, name, _ENDED)
        return waited

    def _at_once(self, ask: Ask) -> Verdict | None:
        """What needs no wait; None: it has to."""
        place = self._places.get(ask.key)
        if self._has_ended:
            return _ENDED
        if place is None:
            return _GONE if self.knows_all else None
        if ask.revision in self._lines.get(ask.key, {}):
            pass  # others were here before
        elif place.way(ask.revision):
            return self._leave(ask, place)
        elif not place.hold_ms.get(ask.revision, 1):
            return _ASLEEP
        if self._fullness(ask.key, ask.bytes) > 1:
            self._fill(ask.key)
            return _FULL
        return None

    def _fullness(self, key: Key, size: int) -> float:
        """How much of its room a service would have with one more request; above 1: more than there is."""
        bounds, namespace = self._bounds, key[0]
        requests, sizes = self._requests, self._bytes
        return max(
            (self._counts[key] + 1) / bounds.per_service,
            _fullness(requests[namespace], 1, bounds.requests - requests.total()),
            _fullness(sizes[namespace], size, bounds.bytes - sizes.total()),
        )

    async def _wait(self, ask: Ask, loop: asyncio.AbstractEventLoop) -> Verdict:
        place, lines, number = self._places.get(ask.key), self._lines[ask.key], next(self._numbers)
        longest_s = (place.hold_ms.get(ask.revision, 0) / 1000 if place else 0.0) or _UNKNOWN_S
        limit_s = min(longest_s, ask.limit_s) if ask.limit_s is not None else longest_s
        line = lines.get(ask.revision)
        if line is None:
            line = lines[ask.revision] = _Line(place.uid if place else "")
            self._wake()
        held = _Held(loop.create_future(), loop.time() - ask.age_s + limit_s, ask)
        line.held[number] = held
        self._count(ask, 1)
        try:
            async with asyncio.timeout_at(held.deadline):
                return await held.future
        except TimeoutError:
            return _late(limit_s, is_callers=limit_s < longest_s)
        finally:
            self._drop(ask.key, ask.revision, number)

    def _count(self, ask: Ask, one: int) -> None:
        self._counts[ask.key] += one
        self._requests[ask.key[0]] += one
        self._bytes[ask.key[0]] += one * ask.bytes
        if not self._counts[ask.key]:
            del self._counts[ask.key]
        if not self._requests[ask.key[0]]:
            del self._requests[ask.key[0]], self._bytes[ask.key[0]]

    def _wake(self) -> None:
        self.number += 1
        self._news.set()
        self._news.clear()

    def _drop(self, key: Key, revision: str, number: int) -> None:
        """It does not wait any more."""
        line = self._lines.get(key, {}).get(revision)
        if line is None or (held := line.held.pop(number, None)) is None:
            return
        self._count(held.ask, -1)
        if not line.held:
            del self._lines[key][revision]
            if not self._lines[key]:
                del self._lines[key]
            self._changed(key)

    def _move(self, key: Key) -> None:
        """Let go who may."""
        place, now = self._places.get(key), asyncio.get_running_loop().time()
        for name, line in list(self._lines.get(key, {}).items()):
            if place is None:
                self._deny(key, name, _GONE)
            elif line.uid and line.uid != place.uid:
                self._deny(key, name, _ANEW)
            elif way := place.way(name):
                for number in list(itertools.islice(line.held, line.free(place.room[way], place.pods[way], now))):
                    held = line.held[number]
                    line.recent.append(now)
                    self._answer(key, name, number, self._leave(held.ask, place, held.deadline - now))
                if line.held:
                    self.crowd.set()

    def _leave(self, ask: Ask, place: Place, left_s: float = 0.0) -> Verdict:
        if ask.scope not in place.scopes:
            return _ANEW  # a host that moved leads to others, who did not ask for this caller's credentials
        is_timed = ask.is_rest and ask.limit_s is not None and left_s > 0
        left_ms = max(1, int(1000 * left_s)) if is_timed else 0
        return Verdict(Result.SERVED, is_rerouted=ask.revision not in place.room, left_ms=left_ms)

    def _deny(self, key: Key, revision: str, verdict: Verdict) -> None:
        for number in list(self._lines[key][revision].held):
            self._answer(key, revision, number, verdict)

    def _answer(self, key: Key, revision: str, number: int, verdict: Verdict) -> None:
        future = self._lines[key][revision].held[number].future
        if not future.done():
            future.set_result(verdict)
        self._drop(key, revision, number)

    def _fill(self, key: Key) -> None:
        if key not in self._full:
            self._full.add(key)
            asyncio.get_running_loop().call_later(FULL_S, self._empty, key)
            self._changed(key)

    def _empty(self, key: Key) -> None:
        """Half of the room is to be free again: a service at the brink would change all the time."""
        if key not in self._full:
            return
        if self._fullness(key, BUFFER_BYTES) > _HALF:
            asyncio.get_running_loop().call_later(FULL_S, self._empty, key)
            return
        self._full.discard(key)
        self._changed(key)

    def _note(self, ask: Ask, result: Result, begun: float) -> None:
        now = asyncio.get_running_loop().time()
        self.tally.add(result, now - begun)
        if result in (Result.LATE, Result.FULL, Result.LEFT):
            if (ask.key, ask.revision) not in self._missed and result is Result.FULL:
                self._wake()
            self._missed[ask.key, ask.revision] = now


def _fullness(own: int, more: int, free: int) -> float:
    return (own + more) / (SHARE * free) if more <= free else float("inf")


_HALF = 0.5
_UNKNOWN_S = 30.0
"""The longest wait where the service is not known yet: the agent has just started."""
_GONE = Verdict(Result.GONE, "there is no such service any more", 404)
_ANEW = Verdict(Result.GONE, "the service changed while this request waited; try again", retry_after_s=SOON_S)
_ASLEEP = Verdict(Result.FULL, "no replica of this service is ready; try again later", retry_after_s=LATER_S)
_ENDED = Verdict(Result.ENDED, "this gateway ends before a replica was ready; try again", retry_after_s=SOON_S)
_FULL = Verdict(
    Result.FULL,
    "no replica of this service is ready yet, and no more requests can wait for one; try again later",
    retry_after_s=LATER_S,
)


def _late(limit_s: float, *, is_callers: bool) -> Verdict:
    whose = "that its caller gives this request" if is_callers else "that a request waits for one"
    words = f"no replica of this service became ready in the {limit_s:g} s {whose}; try again later"
    return Verdict(Result.LATE, words, retry_after_s=LATER_S)
