"""What the gateways serve and count: the last report of each, with its age.

Polled once a second, one request per gateway. A report that does not come changes nothing but its age: what a gateway
has taken it goes on serving. Who is silent too long is named here; taking it out of the gateway Service is the edge's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from slipway.api.manifest import Key
from slipway.decide import shares
from slipway.decide.release import Sample, Window
from slipway.decide.scaling.seen import Load
from slipway.decide.types import GatewayView
from slipway.signals.load import Side, Tally, add_up
from slipway.signals.report import Counters, Refused, Report, ReportError, key_of_revision, merged, sample
from slipway.signals.windows import Windows

_FORMER_MAX = 1000
Ask = Callable[[str, str], Awaitable[Report]]
"""Address of a gateway and the token of its last report -> its next one; raises ReportError."""
Notify = Callable[[set[Key]], None]
Observe = Callable[[str], None]
"""Told the result of every poll: ok or error."""


@dataclass(frozen=True, slots=True)
class GatewayPod:
    """A gateway pod as the API server has it."""

    name: str
    uid: str
    address: str
    takes_traffic: bool
    """Behind the gateway Service, if only to end what it has."""
    is_chosen: bool = True
    """Whether its label has it behind the gateway Service once it is ready."""
    is_alive: bool = True
    """Whether its Envoy runs, as far as is known: that goes on for who is connected, whatever becomes of the agent."""


@dataclass(slots=True)
class _Known:
    pod: GatewayPod
    since: float
    """When it was first seen."""
    asked_at: float = float("-inf")
    """When the last report that came was asked for."""
    left: float = float("-inf")
    """When it was last seen to leave the gateway Service."""
    arrived: bool = False
    """Came behind the Service, and has not reported since."""
    token: str = ""
    counted_s: float = 0.0
    """How old the counts of its last report were then."""
    epoch: str | None = None
    ready: bool = False
    taken: dict[Key, str] = field(default_factory=dict)
    refused: dict[Key, Refused] = field(default_factory=dict)
    notes: dict[Key, str] = field(default_factory=dict)
    counters: dict[str, Counters] = field(default_factory=dict)
    mixed: dict[Key, float] = field(default_factory=dict)
    """When it told of another routing; what it counts until a reading after that came by both of them."""
    former: dict[str, Counters] = field(default_factory=dict)
    """Last counts of revisions that are gone: Envoy goes on from there should one of that name come back."""


class Gateways:
    """All gateways. Not for threads."""

    def __init__(
        self,
        ask: Ask,
        notify: Notify,
        *,
        silent_s: float = 10.0,
        observe: Observe = lambda _result: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._notify, self._observe, self._clock = ask, notify, observe, clock
        self._silent_s = silent_s
        self._known: dict[str, _Known] | None = None
        self._counts: dict[Key, dict[str, int]] = {}
        self._told: dict[Key, shares.Shares] = {}
        self._windows, self._stretches = Windows(), Windows()
        self._hurry = asyncio.Event()
        self.tally = Tally()

    def hurry(self) -> None:
        """A release waits for what gateways say next."""
        self._hurry.set()

    async def hurried(self, within_s: float) -> bool:
        """Whether somebody is in a hurry, as soon as that is so."""
        try:
            async with asyncio.timeout(within_s):
                await self._hurry.wait()
        except TimeoutError:
            return False
        self._hurry.clear()
        return True

    def look(self, pods: Iterable[GatewayPod]) -> None:
        """Take over which gateways there are now.

        One more is no news before its first report: it has the routings that are in force, and to be told of every
        service that one gateway is missing, and a second later that none is, would be two writes for each.
        """
        before, now = self._known or {}, self._clock()
        found: dict[str, _Known] = {}
        for pod in pods:
            known = before.get(pod.name)
            if known is None or known.pod.uid != pod.uid:
                known = _Known(pod, since=now, arrived=pod.takes_traffic)
            elif known.pod.takes_traffic != pod.takes_traffic:
                known.arrived, known.left = pod.takes_traffic, known.left if pod.takes_traffic else now
            known.pod, found[pod.name] = pod, known
        gone = [one for name, one in before.items() if found.get(name) is not one and self._may_lead(one)]
        keys = self._keys()
        self._known = found
        if gone and keys:
            self._notify(keys)

    async def poll(self) -> None:
        """Ask every gateway once, all at the same time."""
        asked = list((self._known or {}).values())
        await asyncio.gather(*(self._poll_one(known) for known in asked if known.pod.address))
        overdue = [one for one in (self._known or {}).values() if self._is_overdue(one)]
        for one in overdue:
            one.left, one.arrived = float("-inf"), False
        if overdue and (keys := self._keys()):
            self._notify(keys)

    def views(self, key: Key) -> tuple[GatewayView, ...] | None:
        """What each says of one service; None as long as it is not known which there are."""
        if self._known is None:
            return None
        now = self._clock()
        return tuple(_view(known, key, now, leads=self._may_lead(known)) for known in self._known.values())

    def counts(self, key: Key) -> Mapping[str, int]:
        """Revision -> requests since all gateways that were asked went on to the routing they serve now."""
        return self._counts.get(key, {})

    def window(self, key: Key, stable: str) -> Window | None:
        """What was counted since the window before was closed; None as long as it is not known which gateways there
        are. The first look at a release opens it, with what was recorded of stable before.
        """
        if self._known is None:
            return None
        return self._windows.look(key, stable, self._clock(), self._age_s())

    def _age_s(self) -> float:
        """Since the one of them that is silent longest was heard."""
        now, known = self._clock(), (self._known or {}).values()
        return max((now - one.asked_at for one in known if self._may_lead(one)), default=0.0)

    def close(self, key: Key, window: Window) -> None:
        """What was in that window is written."""
        self._windows.close(key, window)

    def load(self, key: Key, revisions: Collection[str], *, copies: bool = False) -> Load | None:
        """What the gateways have of these revisions of a service; None while it is not known which there are, or none
        takes traffic: that is not the same as no requests.
        """
        known = (self._known or {}).values()
        if not any(self._may_lead(one) for one in known):
            return None
        # One whose agent has died goes on for who keeps connected to it, out of the Service or not.
        serving = [one for one in known if self._may_lead(one) or self._may_be_alive(one)]
        heard = [self._clock() - one.asked_at + one.counted_s for one in serving]
        sides = [Side(one.epoch, one.counters, not self._is_silent(one)) for one in known]
        names = [f"{key[0]}/{revision}" for revision in revisions]
        return add_up(
            sides, names, (max(heard), min(heard)), self.tally.of(key, revisions, copies=copies), copies=copies
        )

    def pods(self) -> list[GatewayPod]:
        """Those that have an address."""
        return [one.pod for one in (self._known or {}).values() if one.pod.address]

    def hold(self, gateway: str, revisions: Mapping[str, int]) -> set[str]:
        """One of them says at once, before its next report, for which revisions requests wait: all of them.

        By `namespace/revision`. Returns those for which none waited when it was last heard.
        """
        anew = set[str]()
        if (known := (self._known or {}).get(gateway)) is None:
            return anew
        for name in {name for name, one in known.counters.items() if one.held} | revisions.keys():
            before, now = known.counters.get(name), revisions.get(name, 0)
            if before is None or before.held != now:
                before = before or known.former.get(name) or Counters()
                known.counters[name] = before.model_copy(update={"held": now})
                if not before.held:
                    anew.add(name)
        return anew

    def watch(self, key: Key) -> None:
        """A release may come; how this service does until then is recorded."""
        self._windows.watch(key, self._clock())

    def rest(self, key: Key) -> None:
        """Nothing of this service is ever judged."""
        self._windows.drop(key)

    def stretch(self, key: Key) -> Window | None:
        """Like `window`, for an experiment: what was counted since the stretch before ended."""
        if self._known is None:
            return None
        return self._stretches.look(key, "", self._clock(), self._age_s())

    def end_stretch(self, key: Key, window: Window) -> None:
        """What was in that stretch is written."""
        self._stretches.close(key, window)

    def forget_stretches(self, key: Key) -> None:
        """Nothing of this service is compared."""
        self._stretches.drop(key)

    def misplaced(self) -> list[tuple[GatewayPod, bool]]:
        """Gateways whose label must change, and to what: the silent leave the Service, who speaks again comes back.

        Nobody leaves unless another one answers for the Service: when all are silent it is this process that is deaf,
        and a gateway with an old table is better than none.
        """
        known = list((self._known or {}).values())
        behind = {one.pod.name for one in known if one.pod.takes_traffic and one.ready and not self._is_silent(one)}
        wanted = ((one.pod, self._shall_be_behind(one, is_alone=not behind - {one.pod.name})) for one in known)
        return [(pod, chosen) for pod, chosen in wanted if pod.is_chosen != chosen]

    def silence_s(self) -> float:
        """How long the most silent gateway that takes traffic has said nothing."""
        known = (self._known or {}).values()
        return max((self._silence_s(one) for one in known if one.pod.takes_traffic), default=0.0)

    def number_behind(self) -> int:
        """Gateways that take traffic."""
        return len(_behind(self._known or {}))

    def _keys(self) -> set[Key]:
        return {key for known in (self._known or {}).values() for key in known.taken}

    def _may_lead(self, one: _Known) -> bool:
        """Whether requests may still come through it: behind the Service, or lately, by connections that clients keep.

        A gateway whose agent died is not ready within 3 s; Envoy goes on with what it has for those who are connected.
        """
        return one.pod.takes_traffic or (self._clock() - one.left <= self._silent_s and not self._is_silent(one))

    def _may_be_alive(self, one: _Known) -> bool:
        """A gateway that was heard once: without its agent it goes on all the same."""
        return one.epoch is not None and one.pod.is_alive

    def _is_overdue(self, one: _Known) -> bool:
        """Whether time alone changed what is to be said of it."""
        has_left = one.left > float("-inf") and not self._may_lead(one)
        return has_left or (one.arrived and self._is_silent(one))

    def _shall_be_behind(self, one: _Known, *, is_alone: bool) -> bool:
        if self._is_silent(one):
            return is_alone or (one.pod.is_chosen and not one.pod.takes_traffic)
        return is_alone or one.pod.is_chosen or one.ready

    def _is_silent(self, known: _Known) -> bool:
        return self._silence_s(known) > self._silent_s

    def _silence_s(self, known: _Known) -> float:
        return self._clock() - max(known.since, known.asked_at)

    async def _poll_one(self, known: _Known) -> None:
        asked_at = self._clock()
        try:
            report = await self._ask(known.pod.address, known.token)
        except ReportError:
            self._observe("error")
            return
        self._observe("ok")
        known.asked_at, known.ready = asked_at, report.ready
        is_full = report.full or not known.token
        known.token, known.counted_s = report.token, report.counted_s or 0.0
        is_first = known.epoch is None
        self._count(known, report, is_full=is_full)
        keys = _take(known, report, is_full=is_full)
        now = self._clock()
        known.mixed = {key: told for key, told in known.mixed.items() if now - (report.counted_s or 0.0) < told}
        if not is_first:  # what is counted from now on came by what it says now
            known.mixed |= dict.fromkeys(keys, now)
        arrived = self._keys() if known.arrived else set[Key]()
        known.arrived = False
        for key in keys:
            self._counts.pop(key, None)
            self._told.pop(key, None)
        if news := keys | arrived | self._measured_anew(report):
            self._notify(news)

    def _count(self, known: _Known, report: Report, *, is_full: bool) -> None:
        """Add what was counted since the last report. The first report only says from where to count."""
        if not report.epoch:
            return
        is_first = known.epoch is None
        if known.epoch != report.epoch:
            known.counters, known.former = {}, {}
        known.epoch = report.epoch
        gone = dict.fromkeys(known.counters.keys() - report.counters.keys()) if is_full else {}
        for name, counters in (gone | report.counters).items():
            before = known.counters.pop(name, None) or known.former.pop(name, None)
            if counters is None:
                self._forget(key_of_revision(name))
                if before is not None:
                    _retire(known, name, before)
                continue
            known.counters[name] = counters
            if not is_first and (key := key_of_revision(name)):
                revision = name.partition("/")[2]
                self._add(key, revision, counters, before, is_mixed=key in known.mixed)
                self.tally.add(key, (known.pod.name, revision), counters, before, self._clock())

    def _forget(self, key: Key | None) -> None:
        """Requests that ended after their service went were counted for nobody."""
        if key is not None and not any(key in one.taken for one in (self._known or {}).values()):
            self._counts.pop(key, None)
            self._told.pop(key, None)

    def _add(self, key: Key, revision: str, counters: Counters, before: Counters | None, *, is_mixed: bool) -> None:
        """`is_mixed`: these came by more than one routing, and say nothing about the shares of the present one."""
        if (grown := _grown(counters.requests, before.requests if before else 0)) and not is_mixed:
            counts = self._counts.setdefault(key, {})
            counts[revision] = counts.get(revision, 0) + grown
        if key in self._windows or key in self._stretches:
            copies = sample(counters.shadow, before.shadow if before else None) if counters.shadow else Sample()
            for windows in (self._windows, self._stretches):
                windows.add(key, revision, sample(counters, before), copies, self._clock())

    def _measured_anew(self, report: Report) -> set[Key]:
        """Services of which some share is news."""
        found: set[Key] = set()
        for key in {key for name in report.counters if (key := key_of_revision(name))} & self._counts.keys():
            # A revision that got nothing is not counted: without it there would be nothing to share.
            measured = shares.measure({**self._counts[key], "": 0})
            told = self._told.get(key, {})
            if any(shares.is_news(told.get(name), share) for name, share in measured.items()):
                self._told[key] = measured
                found.add(key)
        return found


def _retire(known: _Known, name: str, counters: Counters) -> None:
    known.former[name] = counters
    if len(known.former) > _FORMER_MAX:
        del known.former[next(iter(known.former))]


def _grown(now: int, before: int) -> int:
    """What came on top; after a reset all that is there."""
    return now - before if now >= before else now


def _view(known: _Known, key: Key, now: float, *, leads: bool) -> GatewayView:
    refused = known.refused.get(key)
    return GatewayView(
        name=known.pod.name,
        takes_traffic=leads,
        age_s=now - known.asked_at,
        taken=known.taken.get(key, ""),
        refused=refused.version if refused else "",
        words=refused.message if refused else "",
        note=known.notes.get(key, ""),
    )


def _take(known: _Known, report: Report, *, is_full: bool) -> set[Key]:
    """Take over what is served, refused and noted; the services of which that changed."""
    if not (is_full or report.taken or report.refused or report.notes):
        return set()
    taken = merged({} if is_full else known.taken, report.taken)
    refused = merged({} if is_full else known.refused, report.refused)
    notes = merged({} if is_full else known.notes, report.notes)
    news = _changed(known.taken, taken) | _changed(known.refused, refused) | _changed(known.notes, notes)
    known.taken, known.refused, known.notes = taken, refused, notes
    return news


def _changed(before: Mapping[Key, object], after: Mapping[Key, object]) -> set[Key]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _behind(known: Mapping[str, _Known]) -> set[str]:
    return {name for name, one in known.items() if one.pod.takes_traffic}
