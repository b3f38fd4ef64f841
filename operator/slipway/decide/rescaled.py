"""What is told of a change in the number of replicas: as an Event, and in history.

Each change of mind is told once. In history a climb within a minute is one entry, and releases keep their room.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from slipway.api.conditions import Reason
from slipway.api.status import HistoryEntry, ScalingStatus
from slipway.decide.scaled import TROUBLE
from slipway.decide.types import Event

_CLIMB_S = 60.0
_KEPT = 8
"""Changes of replicas in history, which has room for twenty decisions."""
_MOVES = frozenset({Reason.SCALED_UP, Reason.SCALED_DOWN, Reason.SCALED_TO_ZERO, Reason.WAKING})
_FORM = re.compile(r"(variant \S+: )?from ([0-9]+) to ([0-9]+) replicas")


def news(told: Sequence[ScalingStatus], before: Sequence[ScalingStatus]) -> Iterator[Event]:
    """Of every arm: another number of replicas, or a trouble that status does not name yet."""
    known = {one.variant: one for one in before}
    for new in told:
        last = known.get(new.variant)
        if last is None:
            continue
        of = f"variant {new.variant}: " if new.variant else ""
        if new.reason == Reason.AUTOSCALER_CONFLICT:
            continue  # told of the service as a whole, which may be one that does not scale
        if new.reason in TROUBLE and new.reason != last.reason:
            yield Event(Reason(new.reason), of + new.message, warning=True)
        elif new.desired != last.desired and new.revision == last.revision:  # a promotion is told as such
            yield Event(_move(last, new), f"{of}from {last.desired} to {new.desired} replicas: {new.message}")


def _move(last: ScalingStatus, new: ScalingStatus) -> Reason:
    if new.desired > last.desired:
        return Reason.SCALED_UP if last.desired else Reason.WAKING
    return Reason.SCALED_DOWN if new.desired else Reason.SCALED_TO_ZERO


def folded(history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """The newest first, as given; of the changes of replicas only the last, steps of one climb as one."""
    found: list[HistoryEntry] = []
    for entry in history:
        at = next((n for n, later in enumerate(found) if _is_of_same_arm(later, entry)), None)
        joined = _joined(found[at], entry) if at is not None else None
        if at is not None and joined is not None:
            found[at] = joined
        else:
            found.append(entry)
    moves = [entry for entry in found if entry.reason in _MOVES]
    dropped = {id(entry) for entry in moves[_KEPT:]}
    return [entry for entry in found if id(entry) not in dropped]


def _is_of_same_arm(later: HistoryEntry, entry: HistoryEntry) -> bool:
    mine, other = _FORM.match(later.message), _FORM.match(entry.message)
    return mine is not None and other is not None and mine[1] == other[1]


def _joined(later: HistoryEntry, entry: HistoryEntry) -> HistoryEntry | None:
    """Both as one, where one change goes on where the other ended, the same way and soon after."""
    mine, other = _FORM.match(later.message), _FORM.match(entry.message)
    between_s = (datetime.fromisoformat(later.time) - datetime.fromisoformat(entry.time)).total_seconds()
    if mine is None or other is None or later.reason != entry.reason or not 0 <= between_s < _CLIMB_S:
        return None
    if mine[2] != other[3]:
        return None
    start = f"{mine[1] or ''}from {other[2]} to {mine[3]} replicas"
    return later.model_copy(update={"message": start + later.message[mine.end() :]})
