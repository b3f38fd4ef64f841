"""What decisions are made from, and what they are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Config:
    """What the installation decides for every service."""

    fetcher_image: str
    drain_s: float = 5.0
    """How long a revision keeps its pods after the address left it: kube-proxy needs about a second to hear of it."""
    revision_history_limit: int = 10
    checkpoint_s: float = 5.0
    """Measured numbers alone are written to status at most this often."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One service and everything that belongs to it. Children are owned by this very object (uid), order is free."""

    service: Manifest
    records: tuple[Manifest, ...] = ()
    """ControllerRevisions: what each revision was made to be."""
    deployments: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    budgets: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()
    runtimes: tuple[Manifest, ...] = ()
    """ServingRuntimes of the namespace and ClusterServingRuntimes."""
    settled: Mapping[str, int] = field(default_factory=dict)
    """Deployment uid -> generation that our own last write left; what is unchanged since needs no repair."""
    foreign: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of needed objects that exist and are not ours."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Name of an object that the API server refused to make -> its words."""
    status_age_s: float = float("inf")
    """Seconds since our last status write."""


@dataclass(frozen=True, slots=True)
class Create:
    """POST: fails when somebody else's object has the name, so that nothing foreign is ever taken over."""

    body: Manifest
    manager: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply to an existing object of ours; the body carries its uid."""

    body: Manifest


@dataclass(frozen=True, slots=True)
class Replace:
    """PUT with uid and resourceVersion: the only way to take away what others added to a frozen template."""

    body: Manifest


@dataclass(frozen=True, slots=True)
class Scale:
    deployment: Manifest
    replicas: int


@dataclass(frozen=True, slots=True)
class Delete:
    target: Manifest


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Server-side apply of the whole status, refused when the object has changed since."""

    body: Manifest


Action = Create | Apply | Replace | Scale | Delete | SetStatus


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event on the InferenceService."""

    reason: Reason
    note: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order they must happen; stop at the first that fails."""

    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a spec cannot be honoured."""

    reason: Reason
    message: str
