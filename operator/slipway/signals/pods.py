"""What pods of models say of themselves: queues and times, asked of a bounded number of them each second.

    look: which there are ─► a round: each in turn, evenly ─► per pod the last figures; per revision what they grew by

Sums of a revision only grow: a pod that ends or starts anew takes nothing back. A pod that does not answer leaves its
last figures, which soon are too old to count, and lowers the coverage.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from slipway.decide.scaling.trust import pods_fresh_s
from slipway.decide.scaling.types import Pods

PERIOD_S, PER_SECOND, SLICE_S = 2.0, 100.0, 0.1
SELDOM = 16
"""Periods until one that floods is asked again."""
Revision = tuple[str, str]
"""Namespace and name."""


class Silent(Exception):
    """A pod did not answer, or not with figures."""


class Flood(Silent):
    """It answered with so much that reading it would keep others waiting."""


@dataclass(frozen=True, slots=True)
class Place:
    """A ready pod."""

    uid: str
    name: str
    revision: Revision
    address: str
    port: int
    model: str
    """Name of the model that requests of the service are for."""


@dataclass(frozen=True, slots=True)
class Figures:
    answered: float
    busy_s: float
    """Time that those answered were worked on, queues excluded."""
    running: float | None = None
    pending: float | None = None


Ask = Callable[[str, int], Awaitable[bytes]]
"""Address and port -> the text of its /metrics; raises Silent."""
Observe = Callable[[str], None]
"""Told the result of every question: ok or error."""

_SUCCESS, _TIME, _QUEUE = (
    "nv_inference_request_success",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
)
_PENDING, _RUNNING = "nv_inference_pending_request_count", "slipway_runtime_running_requests"
_SAMPLES_MAX, _LINE_MAX, _NEWLINE = 256, 4096, 10
_MOST = 1e15
"""No server has counted further: sums must stay numbers whatever a tenant's server says."""
_FAMILIES = tuple(name.encode() for name in (_SUCCESS, _TIME, _QUEUE, _PENDING, _RUNNING))


def parse(body: bytes, model: str) -> Figures:
    """Of a Prometheus exposition. Where a server has several models only the one of the service counts.

    Raises:
        Silent: its server tells nothing of that kind.
        Flood: it tells far too much of it.
    """
    sums: dict[str, float] = {}
    label = f'model="{model}"'.encode()
    for name in _FAMILIES:
        samples: list[tuple[bool, float]] = []
        at = -1
        # Found by search, not line by line: what is of no use costs nothing, however much of it there is.
        while (at := body.find(name, at + 1)) >= 0:
            if len(samples) >= _SAMPLES_MAX:
                raise Flood(f"more than {_SAMPLES_MAX} of {name.decode()}")
            if at and body[at - 1] != _NEWLINE:
                samples.append((False, 0.0))  # a comment, as a rule; counted, so that it cannot be repeated for ever
                continue
            end = body.find(b"\n", at, at + _LINE_MAX)
            line = body[at : end if end >= 0 else at + _LINE_MAX]
            value = _sample(line, name)
            samples.append((value is not None and label in line, value or 0.0))
            if value is not None:
                sums.setdefault(name.decode(), 0.0)
        if name.decode() in sums:
            sums[name.decode()] = _sum(samples)
    if _SUCCESS not in sums or _TIME not in sums:
        raise Silent("no figures of requests")
    busy_us = max(0.0, sums[_TIME] - sums.get(_QUEUE, 0.0))
    return Figures(sums[_SUCCESS], busy_us / 1e6, sums.get(_RUNNING), sums.get(_PENDING))


def _sample(line: bytes, name: bytes) -> float | None:
    rest = line[len(name) :]
    if rest[:1] not in (b"{", b" ", b"\t"):
        return None  # the beginning of another name
    values = (rest.rpartition(b"}")[2] if rest[:1] == b"{" else rest).split(maxsplit=1)
    try:
        value = float(values[0])
    except (IndexError, ValueError):
        return None
    return value if 0 <= value <= _MOST else None


def _sum(samples: list[tuple[bool, float]]) -> float:
    own = [value for is_own, value in samples if is_own]
    return sum(own) if own else sum(value for _, value in samples)


@dataclass(slots=True)
class _Pod:
    place: Place
    due: float
    asked: float = -math.inf
    heard: float = -math.inf
    figures: Figures | None = None
    running: float = 0.0


@dataclass(slots=True)
class _Sums:
    answered: float = 0.0
    busy_s: float = 0.0
    pods: dict[str, _Pod] = field(default_factory=dict)


class PodLoads:
    """Not for threads."""

    def __init__(
        self,
        ask: Ask,
        *,
        observe: Observe = lambda _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._observe, self._clock = ask, observe, clock
        self._epoch = secrets.token_hex(4)
        self._revisions: dict[Revision, _Sums] = {}
        self._pods: dict[str, _Pod] = {}
        self._some = asyncio.Event()

    @property
    def known_s(self) -> float:
        """So long figures count."""
        return pods_fresh_s(self.period_s)

    @property
    def period_s(self) -> float:
        """How often each pod is asked: the more there are the more seldom."""
        return max(PERIOD_S, len(self._pods) / PER_SECOND)

    def look(self, revision: Revision, places: Iterable[Place]) -> None:
        """Take over which ready pods a revision has."""
        sums, now = self._revisions.setdefault(revision, _Sums()), self._clock()
        pods = {place.uid: _known(sums.pods.get(place.uid), place, now) for place in places}
        for uid in sums.pods.keys() - pods.keys():
            self._pods.pop(uid, None)
        for uid, pod in pods.items():
            if self._pods.get(uid) is not pod:
                self._pods[uid] = pod
        sums.pods = pods
        if self._pods:
            self._some.set()

    def drop(self, revision: Revision) -> None:
        """Nobody asks for it any more."""
        self.look(revision, ())
        del self._revisions[revision]

    def of(self, revision: Revision, *, knows: bool) -> Pods | None:
        """What the pods of a revision say together; None while none has ever said anything.

        `knows`: some pod did once, so that none is no lack where none was there to be asked.
        """
        sums, now = self._revisions.get(revision) or _Sums(), self._clock()
        asked = [pod for pod in sums.pods.values() if pod.asked > -math.inf]
        if not asked and knows:
            idle = None if sums.pods else 0.0
            return Pods(0.0, 1.0, self._epoch, sums.answered, sums.busy_s, running=idle, queued=idle)
        heard = [pod for pod in asked if pod.figures is not None]
        if not heard:
            return None
        recent = [pod for pod in heard if now - pod.heard <= self.known_s]
        age_s = max((now - pod.heard for pod in recent), default=now - max(pod.heard for pod in heard))
        coverage = len(recent) / len(asked)
        return Pods(
            age_s,
            coverage,
            self._epoch,
            sums.answered,
            sums.busy_s,
            # Those who say nothing are taken to be like the others.
            running=sum(pod.running for pod in recent) / coverage if recent else None,
            queued=_whole([pod.figures.pending for pod in recent if pod.figures], coverage),
            period_s=self.period_s,
        )

    def loads(self, revision: Revision) -> Mapping[str, float]:
        """Pod -> requests that it has, of those that said so lately."""
        sums, now = self._revisions.get(revision) or _Sums(), self._clock()
        return {
            pod.place.name: pod.running + (pod.figures.pending or 0.0)
            for pod in sums.pods.values()
            if pod.figures is not None and now - pod.heard <= self.known_s
        }

    async def run(self) -> None:
        """Ask, until cancelled. Answers that take long delay nobody else's."""
        async with asyncio.TaskGroup() as group:
            while True:
                if not self._pods:
                    self._some.clear()
                    await self._some.wait()
                for pod in self.due():
                    group.create_task(self.ask(pod))
                await asyncio.sleep(SLICE_S)

    def due(self) -> list[_Pod]:
        """Pods to be asked now, as many as a slice of time allows; from now on they are not due."""
        now, period_s = self._clock(), self.period_s
        most = math.ceil(max(len(self._pods) / period_s, 1.0) * SLICE_S)
        found = [pod for pod in self._pods.values() if pod.due <= now][:most]
        for pod in found:
            pod.due = now + period_s
            # Who was asked comes last.
            self._pods[pod.place.uid] = self._pods.pop(pod.place.uid)
        return found

    async def ask(self, pod: _Pod) -> None:
        asked = self._clock()
        try:
            figures = parse(await self._ask(pod.place.address, pod.place.port), pod.place.model)
        except Silent as error:
            self._observe("error")
            pod.asked = asked
            if isinstance(error, Flood):
                pod.due = asked + SELDOM * self.period_s
            return
        self._observe("ok")
        before, since = pod.figures, pod.heard
        pod.asked = pod.heard = asked
        pod.figures = figures
        if before is None:
            pod.running = figures.running or 0.0
            return
        answered, busy_s = _growth(before.answered, figures.answered), _growth(before.busy_s, figures.busy_s)
        pod.running = figures.running if figures.running is not None else busy_s / max(0.1, asked - since)
        if (sums := self._revisions.get(pod.place.revision)) is not None:
            sums.answered += answered
            sums.busy_s += busy_s


def _known(before: _Pod | None, place: Place, now: float) -> _Pod:
    """A pod whose sandbox was made anew has another address, and counts from zero."""
    return before if before is not None and before.place == place else _Pod(place, now)


def _growth(before: float, now: float) -> float:
    """What came on top; of a server that started anew all that it has."""
    return now - before if now >= before else now


def _whole(known: list[float | None], coverage: float) -> float | None:
    said = [number for number in known if number is not None]
    return sum(said) / len(said) * len(known) / coverage if said and coverage else None
