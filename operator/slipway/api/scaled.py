"""What a scaling decision remembers: of one revision, in status, at most 2 kB as JSON.

Times are seconds on the decision's own clock, which counts only what it has seen pass: a wall clock that jumps, or an
operator that was away, makes nobody idle. Lists are replaced, never changed.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError

from slipway.api.schema import Schema


class Remembered(Schema):
    """Base of all here."""

    def changed(self, **news: Any) -> Self:
        """A copy with other values, unchecked. `model_copy` does the same and takes fifteen times as long."""
        twin = self.__class__.__new__(self.__class__)
        put = object.__setattr__
        put(twin, "__dict__", self.__dict__ | news)
        put(twin, "__pydantic_fields_set__", self.__pydantic_fields_set__)
        put(twin, "__pydantic_extra__", None)
        put(twin, "__pydantic_private__", None)
        return twin


class Counted(Remembered):
    """Where the counters stood at the last look."""

    epoch: str = ""
    arrived: float = 0.0
    late: float = 0.0
    judged: float = 0.0
    pods_epoch: str = ""
    answered: float = 0.0
    busy_s: float = 0.0


class Capacity(Remembered):
    """What one replica carries: sums of a fit of service time over occupancy, with forgetting."""

    windows: float = 0.0
    n: float = 0.0
    s: float = 0.0
    nn: float = 0.0
    ns: float = 0.0
    tail: float = 0.0
    """Service time at the objective's percentile over its mean; 0: not known."""
    most: float = 0.0
    """The most that ran at once in a replica while others waited; 0: none waited yet."""
    caution: float = 1.0
    """By how much the service time is taken for longer: it was learnt on another revision."""
    # Of the window that is being gathered:
    answered: float = 0.0
    busy_s: float = 0.0
    running: float = 0.0
    looks: int = 0


class Lead(Remembered):
    """How long launches took."""

    launches: list[float] = Field(default=[])
    parts: list[float] = Field(default=[])
    """Of late, in the order of `decide.scaling.types.Launch`."""
    seen: float = 0.0
    """Wall time at which the last counted one became ready."""


class Forecast(Remembered):
    """Requests per second, now and a lead time ahead."""

    recent: list[float] = Field(default=[])
    """Arrivals per 5 s, the last one growing."""
    step: int = -1
    level: float = -1.0
    trend: float = 0.0
    pending: list[list[float]] = Field(default=[])
    """When it is due, what was forecast; that it stays; that it goes as usual (-1: not known)."""
    trials: list[list[float]] = Field(default=[])
    """When it is due; that it stays; that it goes on."""
    residuals: list[float] = Field(default=[])
    highs: list[float] = Field(default=[])
    """The highest rate per five minutes, the last one growing."""
    high_end: float = 0.0
    season: list[float] = Field(default=[])
    """Mean rate per half hour of the day; -1: not seen."""
    days: list[int] = Field(default=[])
    """Of the half hours, as bits: seen on a day, seen on two."""
    slot: int = -1
    slot_sum: float = 0.0
    slot_n: int = 0
    misses: list[float] = Field(default=[])
    """Mean absolute error of late of both trials; -1: none was due yet."""
    season_misses: list[float] = Field(default=[])


class Hindsight(Remembered):
    """How many requests would have been late with each number of replicas."""

    queues: list[float] = Field(default=[])
    segments: list[list[float]] = Field(default=[])
    """Arrivals, then late ones per level; the last is growing. Levels beyond the end had none."""
    end: float = 0.0
    last: list[float] = Field(default=[])
    """When each level was too few for the last time,"""
    pauses: list[float] = Field(default=[])
    """and the longest time after which it was so again."""


class Zero(Remembered):
    """Sleep and waking."""

    idle_s: float = 0.0
    gaps: list[int] = Field(default=[])
    waking_s: float = 0.0
    failed: int = 0
    """Wakings in a row that never became ready."""
    barred_s: float = 0.0
    """How long no further one is tried."""


class Trust(Remembered):
    """Since when each signal is whole again, and what it said last."""

    gateway: float = -1.0
    every: float = 0.0
    """Since when no gateway is silent."""
    pods: float = -1.0
    promql: float = -1.0
    knows_pods: bool = False


class Limits(Remembered):
    """Changes of late, and how long growth is barred."""

    changes: list[list[float]] = Field(default=[])
    needs: list[list[float]] = Field(default=[])
    """For `behavior.up.delay`: when, how many."""
    peaks: list[list[float]] = Field(default=[])
    """When, how many were needed: falling, the first is the most in the window."""
    retry_s: float = 0.0
    blocked_s: float = 0.0
    fell: float = -1.0
    """When it went down last; -1: it never did."""
    hold_s: float = 0.0
    """How long less has to be enough: it had gone down too soon."""


class ScalingState(Remembered):
    """All of it."""

    at: float = 0.0
    """Wall time of the last decision."""
    clock: float = 0.0
    whole_since: float = 0.0
    """When it began to see everything: before a full window has passed nothing goes down."""
    target: int = -1
    in_flight: list[float] = Field(default=[])
    """At the last looks."""
    beta: float = 0.6
    judged: float = 0.0
    late: float = 0.0
    judged_at: float = 0.0
    counted: Counted = Counted()
    capacity: Capacity = Capacity()
    lead: Lead = Lead()
    forecast: Forecast = Forecast()
    hindsight: Hindsight = Hindsight()
    zero: Zero = Zero()
    trust: Trust = Trust()
    limits: Limits = Limits()


def stored(state: ScalingState) -> dict[str, Any]:
    """What goes into status: a few digits of each number, nothing that is as it is by default."""
    found: dict[str, Any] = _rounded(state.model_dump(by_alias=True, exclude_defaults=True))
    if "hindsight" in found:
        # What waits in them is over within a minute; it fills again.
        found["hindsight"].pop("queues", None)
        found["hindsight"] |= {
            "segments": list(map(_packed, found["hindsight"].get("segments", []))),
            # As ages: short where it matters most.
            "last": [round(state.clock - moment) for moment in state.hindsight.last],
        }
    return found


def restored(found: Mapping[str, Any] | None) -> ScalingState | None:
    """What stands in status; None where nothing does, or nothing that can be understood."""
    if found is None:
        return None
    try:
        state = ScalingState.model_validate(found)
        behind = state.hindsight.changed(
            segments=list(map(_unpacked, state.hindsight.segments)),
            last=[state.clock - age for age in state.hindsight.last],
        )
    except (ValidationError, ValueError):
        return None
    return state.changed(hindsight=behind) if _is_finite(state.model_dump()) else None


LEVELS_MOST = 64


def _packed(segment: list[float]) -> list[float]:
    """With so few replicas every request was late: arrivals, for how many levels, then the rest."""
    every = next((at for at, late in enumerate(segment) if late != segment[0]), len(segment))
    return [segment[0], every - 1, *segment[every:]]


def _unpacked(packed: list[float]) -> list[float]:
    arrived, every, *rest = packed
    if not 0 <= every <= LEVELS_MOST:
        raise ValueError("not a segment")
    return [arrived, *([arrived] * int(every)), *rest]


def size_bytes(state: ScalingState) -> int:
    return len(json.dumps(stored(state), separators=(",", ":")))


EXACT = frozenset(
    {"at", "clock", "seen", "arrived", "late", "judged", "answered", "busyS", "end", "highEnd", "wholeSince"}
)
"""Wall times and counters need all their digits; the rest is known to a few per cent anyway."""
ROUGH = frozenset({"pauses", "residuals"})
TIMED = frozenset({"pending", "trials", "changes", "needs", "peaks"})
"""Lists whose entries begin with a time."""


def _rounded(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one, name) for name, one in value.items()}
    if isinstance(value, list):
        if key in TIMED:
            return [[round(moment, 1), *map(_short, rest)] for moment, *rest in value]
        return [
            _short(one, 2 if key in ROUGH else 3) if isinstance(one, float) else _rounded(one, key) for one in value
        ]
    if isinstance(value, float):
        return _short(value, 14 if key in EXACT else 5)
    return value


def _short(number: float, digits: int = 3) -> float | int:
    short = float(f"{number:.{digits}g}")
    return int(short) if short.is_integer() else short


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
