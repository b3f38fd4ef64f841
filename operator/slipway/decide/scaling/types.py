"""What a scaling decision is made from: one revision, seen at one moment. Numbers may be absent; absent is not zero."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

INF = float("inf")


class Code(StrEnum):
    """Why a number of replicas was decided."""

    OBJECTIVE = "Objective"
    BACKLOG = "Backlog"
    RECURRENCE = "Recurrence"
    HELD = "Held"
    STEADY = "Steady"
    FEWER = "Fewer"
    IDLE = "Idle"
    WAKING = "Waking"
    ACTIVATION_FAILED = "ActivationFailed"
    METRICS_DEGRADED = "MetricsDegraded"
    NO_DATA = "NoData"
    CAPACITY_LIMITED = "CapacityLimited"
    LAUNCH_FAILED = "LaunchFailed"
    CONFLICT = "AutoscalerConflict"
    SHIFTING = "Shifting"
    PAUSED = "Paused"
    BOUND = "Bound"
    PACED = "Paced"


class Reason(NamedTuple):
    """One step of the way to the number."""

    code: Code
    note: str


class Launch(NamedTuple):
    """A replica that became ready, and how long each part of that took."""

    ready_at: float
    """Wall time."""
    schedule_s: float
    pull_s: float = 0.0
    fetch_s: float = 0.0
    load_s: float = 0.0
    warm_up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the gateways say together. Counters grow within an epoch."""

    age_s: float
    arrived: float
    in_flight: float
    """Requests that have come and are not answered, those held included."""
    epoch: str = ""
    queued: float = 0.0
    """Of those in flight: no replica has begun with them."""
    judged: float = 0.0
    late: float = 0.0
    """Of those judged, the ones that missed the objective; refused ones count as missed."""
    is_whole: bool = True
    """Whether none of them is silent: else all of this is what there is at least."""


@dataclass(frozen=True, slots=True)
class Pods:
    """What the replicas say together."""

    age_s: float
    coverage: float = 1.0
    """Share of the ready replicas that were asked and answered."""
    epoch: str = ""
    answered: float = 0.0
    busy_s: float = 0.0
    """Time that those answered were worked on, queues excluded."""
    running: float | None = None
    queued: float | None = None
    slots: float | None = None
    """Requests that one replica works on at once, where the server says so."""
    tail: float | None = None
    """Service time at the objective's percentile over its mean."""
    period_s: float = 0.0
    """How often each of them is asked."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The value of a PromQL objective."""

    age_s: float
    value: float | None


@dataclass(frozen=True, slots=True)
class Replicas:
    asked: int
    """What the Deployment is told to have."""
    ready: int
    loading: tuple[float, ...] = ()
    """For how long each that is not ready yet, and not failing, has been starting, in seconds."""
    failed: int = 0
    """Launches in a row that crashed."""
    missing: str = ""
    """What replicas wait for that the cluster does not have, such as nvidia.com/gpu."""
    launches: tuple[Launch, ...] = ()
    """Of the last minutes; those counted before are known by their time."""


@dataclass(frozen=True, slots=True)
class Pacing:
    """A compiled `Pace`."""

    replicas: int | None = None
    percent: int | None = None
    period_s: float = 60.0
    delay_s: float = 0.0

    @property
    def is_limited(self) -> bool:
        return self.replicas is not None or self.percent is not None


@dataclass(frozen=True, slots=True)
class Window:
    """A compiled `Schedule`."""

    name: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """Both kinds of day are given: one of them is enough, as in cron."""
    duration_s: float
    zone: str
    min_replicas: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asks for, compiled once per generation."""

    min_replicas: int = 1
    max_replicas: int = 1
    share_in_time: float = 0.99
    """How many of the requests the objective is for."""
    latency_s: float | None = None
    queue_s: float | None = None
    concurrency: float | None = None
    requests_per_second: float | None = None
    promql_target: float | None = None
    slots: int = 0
    """`containerConcurrency`; 0: the server chooses."""
    idle_after_s: float | None = None
    activation_replicas: int = 1
    windows: tuple[Window, ...] = ()
    up: Pacing = field(default_factory=Pacing)
    down: Pacing = field(default_factory=Pacing)
    holds_up: bool = False
    holds_down: bool = False
    progress_deadline_s: float = 600.0

    @property
    def is_timed(self) -> bool:
        """Whether an objective of time is there to be met."""
        return self.latency_s is not None or self.queue_s is not None


@dataclass(frozen=True, slots=True)
class Observation:
    wanted: Wanted
    replicas: Replicas
    gateway: Gateway | None = None
    pods: Pods | None = None
    promql: Metric | None = None
    is_shifting: bool = False
    """A rollout moves traffic: nothing goes down, nothing goes to sleep."""
    reachable: bool = True
    """Whether any route leads here: a revision without one needs no replicas beyond `floor`."""
    floor: int = 0
    """What a rollout asks for, or a weight of the spec that is to come."""
    conflict: str = ""
    """Another autoscaler of the same Deployment, such as HorizontalPodAutoscaler ns/x."""
