"""What `holds` speaks of: a request that asks, the answer, what Envoy has of a service, bounds, a tally. Values."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from slipway.api.manifest import Key
from slipway.api.names import PREVIEW
from slipway.gateway import render
from slipway.gateway.views import MIB, ServiceView

BUFFER_BYTES = MIB
"""What Envoy takes of a body before it makes its sender wait."""
SECONDS = (0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper edges of the histogram of waits."""


class Result(StrEnum):
    SERVED = "served"
    LATE = "late"
    FULL = "full"
    LEFT = "left"
    """The caller went away."""
    GONE = "gone"
    """The service did."""
    ENDED = "ended"
    """The gateway does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    result: Result
    sentence: str = ""
    status: int = 503
    retry_after_s: int = 0
    is_rerouted: bool = False
    """The revision that it waited for is not served any more: Envoy is to look up the way anew."""
    left_ms: int = 0
    """Of the caller's own limit, where there is one."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that came to a revision without pods."""

    key: Key
    revision: str
    age_s: float = 0.0
    """Since it came."""
    limit_s: float | None = None
    """What its caller gives it, if anything."""
    is_rest: bool = True
    bytes: int = BUFFER_BYTES
    """What Envoy may have to keep of its body."""
    scope: str = ""
    """The name by which it found the service."""


@dataclass(frozen=True, slots=True)
class Place:
    """What Envoy has of a service, as far as it matters here."""

    uid: str
    hold_ms: Mapping[str, int]
    """Of each target."""
    room: Mapping[str, int]
    """Target -> requests at once that its ready pods take from this gateway; 0: there is none."""
    pods: Mapping[str, int]
    """Target -> ready pods."""
    heir: str = ""
    """The target that gets the most."""
    scopes: frozenset[str] = frozenset()
    """Names that lead here."""

    @classmethod
    def of(cls, view: ServiceView, hosts: Iterable[str], gateways: int) -> "Place":
        targets, own = view.routing.targets, f"{view.namespace}/{view.name}"
        return cls(
            view.uid,
            {target.revision: target.hold_ms for target in targets},
            {target.revision: render.room(view, target, gateways) for target in targets},
            {target.revision: len(view.endpoints.get(target.revision, ())) for target in targets},
            max(targets, key=lambda target: target.weight).revision if targets else "",
            frozenset((own, own + PREVIEW, *hosts)),
        )

    def way(self, revision: str) -> str:
        """The target by whose room those who asked for `revision` go; none: they have to wait.

        Those of a revision that was replaced may get to any target, so that each that may sleep has to be awake.
        """
        if revision in self.room:
            return revision if self.room[revision] else ""
        is_asleep = any(hold_ms and not self.room[target] for target, hold_ms in self.hold_ms.items())
        return "" if is_asleep else self.heir


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of what waits in one gateway."""

    requests: int = 4_000
    """Each takes 25 kB here and 60 kB in Envoy."""
    per_service: int = 1_000
    bytes: int = 400 * MIB
    """Bodies, as much of each as Envoy may have to keep."""


@dataclass(slots=True)
class Tally:
    """What became of those who waited."""

    results: Counter[Result] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, result: Result, waited_s: float) -> None:
        self.results[result] += 1
        self.buckets[next((edge for edge in SECONDS if waited_s <= edge), float("inf"))] += 1
        self.seconds += waited_s
