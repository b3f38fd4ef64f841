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
    settled: Mapping[str, str] = field(default_factory=dict)
    """Child's uid -> version that our own last write left; what is unchanged since needs no repair."""
    foreign: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of needed objects that exist and are not ours."""
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(kind, name) of an object that the API server refused to make -> its words."""
    status_age_s: float = float("inf")
    """Seconds since our last status write."""

    def is_blocked(self, kind: str, name: str) -> bool:
        """Whether there is no use in making an object now: its name is somebody else's, or it was just refused."""
        return (kind, name) in self.foreign or (kind, name) in self.refused


def _title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class Create:
    """POST: fails when somebody else's object has the name, so that nothing foreign is ever taken over."""

    body: Manifest
    manager: str

    def __str__(self) -> str:
        return f"create {_title(self.body)}"


@dataclass(frozen=True, slots=True)
class Replace:
    """PUT with uid and resourceVersion: unlike an apply it takes away what others added."""

    body: Manifest

    def __str__(self) -> str:
        return f"replace {_title(self.body)}"


@dataclass(frozen=True, slots=True)
class Scale:
    deployment: Manifest
    replicas: int

    def __str__(self) -> str:
        return f"scale {_title(self.deployment)} to {self.replicas}"


@dataclass(frozen=True, slots=True)
class Delete:
    target: Manifest

    def __str__(self) -> str:
        return f"delete {_title(self.target)}"


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Server-side apply of the whole status, refused when the object has changed since."""

    body: Manifest

    def __str__(self) -> str:
        return "write status"


Action = Create | Replace | Scale | Delete | SetStatus


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
