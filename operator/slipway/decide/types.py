"""What decisions are made from, and what they are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.v1alpha1 import Toleration
from slipway.decide.demand import Demand
from slipway.decide.fetching import Fetching
from slipway.decide.hosts import Claim, Domains
from slipway.decide.network import Network
from slipway.decide.release import Reading, Window


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where the gateways are, as the installation has them."""

    address: str = "slipway-gateway.slipway-system.svc.cluster.local"
    """Name of the gateway Service, which every service's address leads to; it listens on port 80."""
    domains: Domains = field(default_factory=Domains)
    tls: bool = False
    """Whether the address outside is https."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What the installation says of pods that ask for a device (an entry of the chart's `placement`)."""

    resource: str
    """Its name; a * at the end is any rest."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """What the installation decides for every service."""

    fetcher_image: str
    entrance: Entrance = field(default_factory=Entrance)
    fetching: Fetching = field(default_factory=Fetching)
    placement: tuple[Rule, ...] = ()
    """The first that fits counts."""
    service_accounts: frozenset[str] = frozenset()
    """That pods may run under: NAME or NAMESPACE/NAME."""
    network: Network | None = None
    """What the pods of models may reach and who may reach them; None: Slipway makes no NetworkPolicy."""
    drain_s: float = 5.0
    """How long a revision keeps its pods after the last gateway left it: a request may be on its way there still."""
    revision_history_limit: int = 10
    checkpoint_s: float = 30.0
    """Measured numbers alone are written to status at most this often."""
    rollout_checkpoint_s: float = 5.0
    """The same while a revision comes or leaves."""


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What one gateway pod last said of one service."""

    name: str
    takes_traffic: bool
    """Whether it is behind the gateway Service, if only to end what it has."""
    age_s: float
    """Since the report; infinite when there was none."""
    taken: str = ""
    """Version of the routing that it serves; empty: none."""
    refused: str = ""
    """Version that it cannot serve."""
    words: str = ""
    """Why not."""
    note: str = ""
    """What else its people should know: keys that do not count, pods that are waited for."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a pod last said of the model that it fetches."""

    done: int
    """Bytes."""
    total: int | None
    """None: it does not know."""
    per_second: int
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """One service and everything that belongs to it. Children are owned by this very object (uid), order is free."""

    service: Manifest
    records: tuple[Manifest, ...] = ()
    """ControllerRevisions: what each revision was made to be."""
    deployments: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    budgets: tuple[Manifest, ...] = ()
    policies: tuple[Manifest, ...] = ()
    """NetworkPolicies."""
    pods: tuple[Manifest, ...] = ()
    slices: tuple[Manifest, ...] = ()
    """EndpointSlices of the revisions' Services, as the cache keeps them: `ready` has the names of ready pods."""
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
    routing_age_s: float = float("inf")
    """Seconds since our last write of another routing: what a gateway said before does not count."""
    gateways: tuple[GatewayView, ...] | None = None
    """None: not known yet, which is not the same as none."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Revision -> requests that gateways counted since they all serve the present routing."""
    window: Window | None = None
    """What they counted of a release since it was last judged; None: nothing is judged, or known."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """Metric of the spec -> as Prometheus last gave it."""
    stretch: Window | None = None
    """What they counted since an experiment was last written; None: nothing is compared, or known."""
    each: Mapping[tuple[str, str], Reading] = field(default_factory=dict)
    """Metric of the experiment and revision -> as Prometheus last gave it."""
    demand: Mapping[str, Demand] = field(default_factory=dict)
    """Variant (empty: the service itself) -> replicas as last decided; absent: not decided yet, or never scaled."""
    loads: Mapping[str, float] = field(default_factory=dict)
    """Pod -> requests that it works on or has queued, as far as is known; who goes when there are fewer replicas."""
    autoscalers: Mapping[str, str] = field(default_factory=dict)
    """Deployment -> who else scales it, such as HorizontalPodAutoscaler ns/x: its replicas are left to that one."""
    downloads: Mapping[str, Fetched] = field(default_factory=dict)
    """Pod that fetches its model -> how far it is; absent: not known."""
    rivals: tuple[Claim, ...] = ()
    """Other services whose host outside may be the same."""
    is_preview_taken: bool = False
    """Whether another service is called NAME-preview, which is then its name and no preview's."""

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
class Cost:
    """What a pod's going is worth to Kubernetes; 0 takes the mark away. An order of preference: it may fail."""

    pod: Manifest
    value: int

    def __str__(self) -> str:
        return f"mark Pod {self.pod['metadata']['name']} with {self.value}"


@dataclass(frozen=True, slots=True)
class Delete:
    target: Manifest

    def __str__(self) -> str:
        return f"delete {_title(self.target)}"


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Server-side apply of the whole status, refused when the object has changed since."""

    body: Manifest
    window: Window | None = None
    """What was counted and is in it: once this is written, it must not count again."""
    stretch: Window | None = None
    """The same of an experiment."""

    def __str__(self) -> str:
        return "write status"


Action = Create | Replace | Cost | Scale | Delete | SetStatus


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event on the InferenceService."""

    reason: Reason
    note: str
    warning: bool = False
    at: str = ""
    """Time under which history has it; empty: it is not in there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order they must happen; stop at the first that fails."""

    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None
    used_up: Window | None = None
    """A window without news: it ends although nothing is written."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a spec cannot be honoured."""

    reason: Reason
    message: str
