"""How far weights of the spec may be in force: `step`. Capacity before traffic, for variants as for releases.

    wanted > share   its replicas first; it gets as much of the weight as those that are ready carry
    wanted < share   it gives what others can take, and nothing before

So nobody ever has more than its ready replicas carry, the weights sum to the whole, and each only moves towards what
the spec says. What does not become ready within the deadline stops: its weight stays with those who have it, but what
is to have less by the spec may still give it to the service itself. A new spec, or another replica that becomes ready,
begins anew. The shares in force are those of the stored routing; the rest of the state is `status.shift`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from slipway.api.conditions import Reason
from slipway.api.schema import timestamp
from slipway.api.shifting import ShiftArm, ShiftStatus, Stand
from slipway.decide.release import News
from slipway.decide.stops import percent

SETTLE_S = 70.0
"""A load is known by its mean over a minute: before that what has come looks like less than it is."""
_TIMELESS = frozenset({"CapacityLimited", "NoSignal"})
"""What an arm is not to blame for: no deadline runs."""


@dataclass(frozen=True, slots=True)
class Party:
    """One arm, as it is now. Shares are out of 10 000, and sum to that over all parties, as `wanted` does."""

    variant: str
    """Empty: the service itself, of which there is exactly one."""
    share: int
    """In force."""
    wanted: int
    """By the spec; of a variant that was taken out of it, 0."""
    ready: int = 0
    """Replicas that answer, as if all of its share went to them."""
    needs: Callable[[int], int | None] = lambda _share: 0
    """Replicas that a share takes; 0: nobody asks. None: the load is not known."""
    most: int | None = None
    """The most replicas that it may have; None: no bound that counts here."""
    is_fixed: bool = False
    """No load changes its replicas."""
    lacks: str = ""
    """The resource that its pods wait for."""
    fault: str = ""
    """Why its pods do not come up."""

    @property
    def title(self) -> str:
        return f"variant {self.variant}" if self.variant else "the service itself"

    @property
    def gains(self) -> bool:
        return self.wanted > self.share

    @property
    def replicas(self) -> int | None:
        """For all that it is to have."""
        return self.needs(self.wanted)

    @property
    def bounded(self) -> int | None:
        replicas = self.replicas
        return replicas if replicas is None or self.most is None else min(replicas, self.most)

    def limit(self, replicas: int | None) -> int:
        """The most that it may have, where all of `wanted` takes so many replicas."""
        if not self.gains or replicas is None:
            return self.share if self.gains else self.wanted
        if self.ready >= replicas:
            return self.wanted
        return max(self.share, self.wanted * self.ready // replicas)


@dataclass(frozen=True, slots=True)
class Terms:
    now: datetime
    deadline_s: float
    """The longest that an arm may go without a further ready replica."""
    deadline: str = ""
    """As the user wrote it."""
    is_new: bool = False
    """The spec is another than status speaks of."""
    is_served: bool = True
    """Every gateway serves the stored routing."""


@dataclass(frozen=True, slots=True)
class Shift:
    shares: Mapping[str, int] = field(default_factory=dict)
    """Variant -> what may be in force now."""
    status: ShiftStatus | None = None
    events: tuple[News, ...] = ()
    requeue_after_s: float | None = None

    def _of(self, *stands: Stand) -> list[ShiftArm]:
        return [arm for arm in (self.status.arms if self.status else ()) if arm.stand in stands]

    @property
    def is_moving(self) -> bool:
        """Whether replicas start for a weight: nobody loses any meanwhile."""
        return bool(self._of("Scaling"))

    @property
    def is_waiting(self) -> bool:
        return bool(self._of("Scaling", "CapacityLimited", "NoSignal"))

    @property
    def is_stopped(self) -> bool:
        return bool(self._of("Stopped"))


def step(last: ShiftStatus | None, parties: Sequence[Party], terms: Terms) -> Shift:
    """What may be in force now, and what is to be stored; the same again on its own result while nothing else is seen.

    Example:
        b is to have 9000 of 10 000 and has none; 2 of the 4 replicas for that are ready: it gets 4500.
    """
    before = {arm.variant: arm for arm in last.arms} if last is not None else {}
    known = {name: arm for name, arm in before.items() if arm.stand == "Settling" or not terms.is_new}
    # 1. Every variant by itself. 2. What those that stopped do not get is the service's own, which may gain by it.
    variants = [_look(party, known.get(party.variant), terms) for party in parties if party.variant]
    own = [_look(_stand_in(party, variants), known.get(""), terms) for party in parties if not party.variant]
    looks = [*own, *variants]
    arms = [look.arm for look in looks if look.arm is not None]
    told = tuple(each for look in looks for each in _news(look, before.get(look.party.variant), terms))
    status = ShiftStatus(message=_message(looks, terms), arms=arms) if arms else None
    return Shift(_shared(looks), status, told, _due_s(arms, terms))


@dataclass(frozen=True, slots=True)
class _Look:
    party: Party
    limit: int
    arm: ShiftArm | None
    """As it is to be stored."""

    @property
    def shortfall(self) -> int:
        """What it does not get although the spec says so, and is not waited for."""
        is_stopped = self.arm is not None and self.arm.stand == "Stopped"
        return self.party.wanted - self.limit if is_stopped else 0


def _stand_in(party: Party, variants: Iterable[_Look]) -> Party:
    return replace(party, wanted=party.wanted + sum(look.shortfall for look in variants))


def _look(party: Party, last: ShiftArm | None, terms: Terms) -> _Look:
    if last is not None and last.weight != party.wanted:
        last = None
    replicas = party.bounded
    if last is not None and last.stand not in ("Stopped", "NoSignal") and replicas != 0:
        # Once asked for, no fewer: what is measured varies, and replicas start for the most of it.
        replicas = max(last.replicas, (replicas or 0) if party.gains else 0)
    limit = party.limit(replicas)
    if limit < party.wanted:
        return _Look(party, limit, _waiting(party, replicas, last, terms))
    if not replicas or party.is_fixed or (last is None and not party.gains):
        return _Look(party, limit, None)
    return _Look(party, limit, _settling(party, replicas, last, terms))


def _settling(party: Party, replicas: int, last: ShiftArm | None, terms: Terms) -> ShiftArm | None:
    """It has its weight; its replicas stay until its load is known."""
    is_begun = last is not None and last.stand == "Settling" and not party.gains
    since = last.since if last is not None and is_begun else timestamp(terms.now)
    if is_begun and terms.is_served and _passed_s(since, terms) >= SETTLE_S:
        return None
    return _stored(party, replicas, party.ready, since, "Settling")


def _waiting(party: Party, replicas: int | None, last: ShiftArm | None, terms: Terms) -> ShiftArm:
    """The clock of the deadline begins anew with every further replica, and stands still while there is no room."""
    if last is not None and last.stand == "Stopped" and party.ready <= last.ready:
        return last
    if replicas is None:
        since = last.since if last is not None and last.stand == "NoSignal" else timestamp(terms.now)
        return _stored(party, 0, party.ready, since, "NoSignal")
    if last is None or last.stand == "Settling" or party.ready > last.ready:
        stand: Stand = "CapacityLimited" if party.lacks else "Scaling"
        return _stored(party, replicas, party.ready, timestamp(terms.now), stand)
    if party.lacks:
        return _stored(party, replicas, last.ready, last.since, "CapacityLimited")
    since = timestamp(terms.now) if last.stand in _TIMELESS else last.since
    is_late = _passed_s(since, terms) >= terms.deadline_s
    return _stored(party, replicas, last.ready, since, "Stopped" if is_late else "Scaling")


def _stored(party: Party, replicas: int, ready: int, since: str, stand: Stand) -> ShiftArm:
    most = min(ready, replicas)
    return ShiftArm(variant=party.variant, weight=party.wanted, replicas=replicas, ready=most, since=since, stand=stand)


def _passed_s(since: str, terms: Terms) -> float:
    return (terms.now - datetime.fromisoformat(since)).total_seconds()


def _shared(looks: Sequence[_Look]) -> dict[str, int]:
    """Who gains gets what it may have; it is taken from those who are to have less, from the service itself last."""
    found = {look.party.variant: look.party.share for look in looks}
    gained = {look.party.variant: look.limit - look.party.share for look in looks if look.party.gains}
    left = sum(gained.values())
    for look in sorted(looks, key=lambda look: (not look.party.variant, look.party.variant)):
        party = look.party
        given = min(left, max(0, party.share - party.wanted))
        found[party.variant] += gained.get(party.variant, 0) - given
        left -= given
    return found


def _due_s(arms: Iterable[ShiftArm], terms: Terms) -> float | None:
    """When time alone changes something."""
    spans = {"Scaling": terms.deadline_s, "Settling": SETTLE_S}
    ends = [
        datetime.fromisoformat(arm.since) + timedelta(seconds=spans[arm.stand]) for arm in arms if arm.stand in spans
    ]
    left = [(end - terms.now).total_seconds() for end in ends if end > terms.now]
    return max(0.1, min(left)) if left else None


# In words


def _news(look: _Look, before: ShiftArm | None, terms: Terms) -> Iterable[News]:
    arm, party = look.arm, look.party
    is_known = before is not None and arm is not None and before.weight == arm.weight
    if arm is None or (is_known and before is not None and before.stand == arm.stand):
        return
    if arm.stand == "Stopped":
        yield News(Reason.PROGRESS_DEADLINE_EXCEEDED, _stopped(look, terms), warning=True)
    if arm.stand == "Settling":
        words = f"{party.title} gets {percent(arm.weight)}: {_count(arm.replicas)} ready"
        replicas = party.replicas
        if party.most is not None and replicas is not None and replicas > party.most:
            short = f"{words}, as many as maxReplicas allows; {replicas} would be right"
            yield News(Reason.CAPACITY_LIMITED, short, warning=True)
        elif is_known:
            yield News(Reason.TRAFFIC_SHIFTED, words)


def _count(replicas: int) -> str:
    return "1 replica is" if replicas == 1 else f"{replicas} replicas are"


def _message(looks: Iterable[_Look], terms: Terms) -> str:
    return "; ".join(filter(None, (_words(look, terms) for look in looks)))[:2048]


def _words(look: _Look, terms: Terms) -> str:
    arm, party = look.arm, look.party
    if arm is None:
        return ""
    if arm.stand == "Stopped":
        return _stopped(look, terms)
    if arm.stand == "Settling":
        return f"{party.title} has {percent(arm.weight)}, and keeps {arm.replicas} replicas until its load is known"
    begun = f"{party.title} waits with {percent(look.limit)} of {percent(arm.weight)}"
    if arm.stand == "NoSignal":
        return f"{begun} until gateways tell the load"
    lacks = f"; no {party.lacks} is left" if arm.stand == "CapacityLimited" else ""
    return f"{begun} for replicas: {arm.ready} of {arm.replicas} are ready{lacks}"


def _stopped(look: _Look, terms: Terms) -> str:
    party, ready = look.party, look.arm.ready if look.arm is not None else 0
    words = f"{party.title} stays at {percent(look.limit)} of {percent(party.wanted)}: "
    cause = f"; the last: {party.fault}" if party.fault else ""
    return f"{words}no more than {ready} of its replicas became ready in {terms.deadline}{cause}"
