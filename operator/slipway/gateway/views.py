"""What Envoy's resources are rendered from: frozen values, put together by the agent from what it watches.

Nothing here does I/O. The keys in a `ServiceView` are secrets: they may go into a RouteConfiguration and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway.api.routing import Routing

Resource = dict[str, Any]
"""One Envoy resource in protobuf's JSON form, with `@type`."""

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ready pod of a revision."""

    address: str
    http_port: int
    grpc_port: int = 0
    """0: the pod has no gRPC port."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """All that a gateway needs of one InferenceService."""

    namespace: str
    name: str
    uid: str
    created: str
    """creationTimestamp: of two services that claim one host the older has it."""
    generation: int
    routing: Routing
    endpoints: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    """Revision -> its ready pods, in any order."""
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """Client -> its keys, of the namespace's Secret. Clients that the routing does not name may be in it."""
    held: frozenset[str] = frozenset()
    """Revisions whose requests wait until the agent lets them go: there is no pod yet, or others wait already."""
    jwks: str = ""
    """The issuer's keys when the routing names where to fetch them; empty until they are there: nobody gets in."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a mounted Secret of type kubernetes.io/tls; read again when the mount changes."""

    folder: str = "/run/slipway/tls"
    secret_file: str = "/run/slipway/envoy/tls.json"  # noqa: S105 - where `render.tls_secret` is written to
    """Where the agent puts `render.tls_secret(...)` for Envoy."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the installation decides for every service. A change needs a new Envoy."""

    node: str = "gateway"
    """Name of the gateway's pod."""
    bind: str = "0.0.0.0"  # noqa: S104 - a gateway is for everybody; "::" takes IPv6 and IPv4, where the node has IPv6
    http_port: int = 8080
    https_port: int = 8443
    tls: Tls | None = None
    ads_socket: str = "/run/slipway/envoy/ads.sock"
    admin_socket: str = "/run/slipway/envoy/admin.sock"
    access_log: str = "/dev/stdout"
    """Empty: none."""
    cluster_domain: str = "cluster.local"
    trusted_hops: int = 0
    """Proxies before the gateway whose x-forwarded-for is believed."""
    max_body_bytes: int = 64 * MIB
    """As much as slipway-runtime takes when not told otherwise."""
    max_heap_bytes: int = 1024 * MIB
    max_connections: int = 10_000
    max_streams: int = 256
    """Requests at once on one HTTP/2 connection."""
    headers_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    """How long an upload may take beside the service's own timeout."""
    idle_timeout_s: float = 300.0
    """Of connections from clients."""
    pod_idle_timeout_s: float = 4.0
    """Of connections to pods that do not say when they close theirs: many HTTP servers do so after 5 s, and the request
    that is on its way at that moment is lost."""
    drain_s: float = 20.0
    """How long a gateway that ends may take."""
    ejection_interval_s: float = 5.0
    max_clients: int = 1000
    """Clients whose own rates are remembered per service."""
