"""What a release is decided from, and what is decided: the words between `situation`, `judge` and `rollout`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from slipway.api.conditions import Reason
from slipway.api.progress import Outcome, RolloutStatus, Verdict
from slipway.api.rollout import Analysis, Rollout
from slipway.api.traffic import WHOLE
from slipway.decide import edges

EDGES_MS = edges.EDGES_MS


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of one revision in some time. Copies of a mirror are never in the same sample as real requests."""

    requests: int = 0
    """Finished."""
    errors: int = 0
    """5xx, gRPC failures, resets, timeouts, and tries that the gateway made good by a retry; at most `requests`."""
    latency: tuple[int, ...] = ()
    """Requests by bucket of EDGES_MS, one more than there are edges; empty: none counted."""
    rejected: int = 0
    """4xx but 401, 403, 408, 429, and gRPC statuses that say the same of a request; at most `requests`."""


@dataclass(frozen=True, slots=True)
class Window:
    """What gateways counted since the last window was written into status, for both sides over the same time."""

    seconds: float
    """Its length until now."""
    age_s: float
    """Since the gateways were last heard, of the one that has been silent longest."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """Revision -> its requests. A revision that is not there was not counted, which is not zero errors."""
    copies: Mapping[str, Sample] = field(default_factory=dict)
    """Revision -> copies that a mirror sent it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric as Prometheus last gave it."""

    value: float | None
    """None: no number, for the reason in `words`. Never NaN or infinite."""
    words: str = ""
    age_s: float = float("inf")
    """Since it was measured, not since it was asked."""
    failed: bool = False
    """Of no number: Prometheus did not answer or not with one number. Otherwise there is nothing to measure yet."""


@dataclass(frozen=True, slots=True)
class Command:
    """An annotation of the service, whether it has been obeyed before or not."""

    verb: str
    """promote, promote-all, pause, resume, abort, retry, rollback, skip-analysis, or what somebody else wrote."""
    id: str
    by: str = ""
    """The field manager that wrote it, as far as Kubernetes tells."""


@dataclass(frozen=True, slots=True)
class Side:
    """One revision of the two, as its pods are now."""

    name: str
    replicas: int = 0
    """That it has been given; 0: no Deployment."""
    ready: int = 0
    """Ready and known to gateways."""
    is_settled: bool = True
    """Whether that is of the Deployment as it is now."""
    fault: tuple[str, str] | None = None
    """Reason and sentence, when its pods do not come up."""
    is_terminal: bool = False
    """Of the fault: trying again does not help."""
    restarts: int = 0
    """Of the containers of its present pods, together."""
    lacks: str = ""
    """Resource that no node or quota has left for its pods, such as nvidia.com/gpu; empty: none known."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that one step of a release is decided from."""

    policy: Rollout
    target: str
    """Revision that the spec asks for."""
    stable: Side | None
    """Revision that answers; None: nobody has answered yet."""
    candidate: Side
    """The target's pods, or those of the revision that is being taken back."""
    sides: Mapping[str, Side]
    """All revisions of the service itself that have pods or a record."""
    replicas: int
    """Replicas that the whole traffic needs; at least one, for what is released is proven even while nobody asks."""
    served: str
    """Version of the routing in status that every gateway acknowledged; empty: it is not acknowledged by all yet."""
    waiting_for: tuple[str, ...]
    """Gateways that have not taken it."""
    served_weight: int
    """The candidate's weight in that routing, out of 10 000 of the service's own share."""
    is_observed: bool
    """Whether every gateway that takes traffic has reported since this operator leads."""
    window: Window | None
    """None: nothing is known."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    commands: tuple[Command, ...] = ()
    previous: str = ""
    """Revision that answered before stable; empty: none."""
    is_asleep: bool = False
    """Nobody asks, and stable has no pods: requests that come are held."""
    is_fixed: bool = True
    """No load changes how many replicas are needed."""
    more: int = 0
    """Of those needed, that many were not when status was last written."""
    is_sticky: bool = False
    """Whether users keep to one revision."""
    share_max: int = WHOLE
    """The service's own share, out of 10 000, that variants leave to stable and candidate."""


class Judge(Protocol):
    """What `judge` offers to `rollout`; a protocol for the sake of tests."""

    def fold(
        self,
        evidence: dict[str, Any] | None,
        window: Window,
        stable: str,
        candidate: str,
        policy: Analysis,
        *,
        mirrored: bool,
        kept: bool = False,
        readings: Mapping[str, Reading] | None = None,
    ) -> dict[str, Any]: ...

    def verdicts(
        self, evidence: dict[str, Any] | None, policy: Analysis, readings: Mapping[str, Reading]
    ) -> tuple[Verdict, ...]: ...

    def overall(self, verdicts: Sequence[Verdict]) -> Outcome: ...


class News(NamedTuple):
    """What is told once, as an Event and in history."""

    reason: Reason
    note: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What one step decided: the state to be written, and what the service's own part looks like then."""

    state: RolloutStatus
    serving: str
    """Revision that has the service's own share, but for the candidate's."""
    candidate: str | None = None
    """Revision that stands beside it in the routing, with `weight` and `mirror`, both of which may be 0."""
    weight: int = 0
    mirror: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Of every revision that keeps pods. Others lose them once no gateway leads there and their requests are done."""
    preview: str | None = None
    """Revision at the address NAME-preview."""
    is_judged: bool = False
    """Whether candidate and stable are compared: gateways treat both alike then."""
    closes_window: bool = False
    """The window is used up: the next begins where it ended, once this is written, or now if there is no news in it."""
    events: tuple[News, ...] = ()
    requeue_after_s: float | None = None
    """When time alone would change the decision; None: never."""
