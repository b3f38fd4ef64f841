"""Revisions to clusters and their endpoints.

A revision has two clusters, one per port of its pods, and two more when it gets copies of requests: what happens to
copies must not count as what happens to users.
"""

from collections.abc import Iterable

from slipway.api.routing import Target
from slipway.gateway.render.types import ADS, CDS, EDS, duration, typed
from slipway.gateway.views import GatewaySettings, Resource, ServiceView

GATEWAYS = "slipway/gateways"
"""Cluster of the gateway pods themselves: a rate is shared by as many as it has endpoints."""
UNKNOWN_SLOTS = 1024
"""Requests in flight per replica of a runtime that does not say what it holds."""
PLENTY = 1 << 20


def cluster_name(namespace: str, revision: str, *, grpc: bool = False, shadow: bool = False) -> str:
    return f"{namespace}/{revision}{'/grpc' if grpc else ''}{'/shadow' if shadow else ''}"


def clusters(view: ServiceView, settings: GatewaySettings, gateways: int = 1) -> dict[str, Resource]:
    """Name -> cluster. `gateways`: how many share `maxConcurrency`.

    A changed cluster costs its connections, so nothing in it follows single replicas: see `_limit`.
    """
    copied = view.routing.mirror.revision if view.routing.mirror else ""
    found = {}
    for target in view.routing.targets:
        limit = _limit(view, target, gateways)
        for grpc in (False, True):
            for shadow in (False, True) if target.revision == copied else (False,):
                name = cluster_name(view.namespace, target.revision, grpc=grpc, shadow=shadow)
                found[name] = _cluster(name, view, target, settings, limit)
    return found


def assignments(view: ServiceView) -> dict[str, Resource]:
    """Name -> endpoints, of every target of the routing; also of those without any."""
    found = {}
    for target in view.routing.targets:
        pods = sorted(set(view.endpoints.get(target.revision, ())), key=lambda pod: (pod.address, pod.http_port))
        name = cluster_name(view.namespace, target.revision)
        found[name] = _assignment(name, [(pod.address, pod.http_port) for pod in pods])
        with_grpc = [(pod.address, pod.grpc_port) for pod in pods if pod.grpc_port]
        found[f"{name}/grpc"] = _assignment(f"{name}/grpc", with_grpc)
    return found


def endpoints_of(namespace: str, revision: str) -> tuple[str, str]:
    """Names of a revision's assignments."""
    name = cluster_name(namespace, revision)
    return name, f"{name}/grpc"


def room(view: ServiceView, target: Target, gateways: int) -> int:
    """Requests at once that the ready pods take from one of so many gateways; 0: there is no pod."""
    ready, shared = len(view.endpoints.get(target.revision, ())), max(gateways, 1)
    if not ready:
        return 0
    return min(max(1, (target.slots or UNKNOWN_SLOTS) * ready // shared), _limit(view, target, gateways))


def gateways(addresses: Iterable[str]) -> Resource:
    """The gateway pods that take traffic, this one included."""
    return _assignment(GATEWAYS, [(address, 8080) for address in sorted(set(addresses))])


def _cluster(name: str, view: ServiceView, target: Target, settings: GatewaySettings, limit: int) -> Resource:
    idle_s = _idle_s(target, settings)
    found: Resource = {
        "@type": CDS,
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS, "service_name": name.removesuffix("/shadow")},
        "connect_timeout": "1s",
        # Requests take long and unevenly: the pod with fewer in flight of two drawn by chance.
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [_breaker(limit)]},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _protocol(idle_s, grpc="/grpc" in name)
        },
        "metadata": {
            "filter_metadata": {
                "slipway": {
                    "namespace": view.namespace,
                    "service": view.name,
                    "revision": target.revision,
                    "variant": target.variant,
                }
            }
        },
    }
    if not target.judged and not name.endswith("/shadow"):
        found["outlier_detection"] = _ejection(settings)
    return found


def _breaker(limit: int) -> Resource:
    return {
        "max_connections": PLENTY,
        "max_pending_requests": limit,
        "max_requests": limit,
        # Of the requests in flight at most a fifth are second tries, so that trouble does not double the load.
        "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3},
    }


def _idle_s(target: Target, settings: GatewaySettings) -> float:
    """A fifth before the pod, so that it is never the pod that closes a connection which a request is about to take."""
    return target.idle_timeout_ms * 0.8 / 1000 if target.idle_timeout_ms else settings.pod_idle_timeout_s


def _protocol(idle_s: float, *, grpc: bool) -> Resource:
    upstream: Resource = {"http_protocol_options": {}}
    if grpc:
        alive = {"interval": "30s", "timeout": "10s", "connection_idle_interval": "30s"}
        upstream = {
            "http2_protocol_options": {
                "connection_keepalive": alive,
                "initial_stream_window_size": 1 << 20,
                "initial_connection_window_size": 16 << 20,
            }
        }
    return typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        common_http_protocol_options={"idle_timeout": duration(idle_s)},
        explicit_http_config=upstream,
    )


def _ejection(settings: GatewaySettings) -> Resource:
    """Set aside pods that fail while others do not, never more than half.

    By shares, not by runs: a client's bad inputs or a full queue give runs of 5xx too, but hardly 85 % of a pod's
    answers. What the network loses (no connection, reset) is the pod's fault at once.
    """
    return {
        "interval": duration(settings.ejection_interval_s),
        "base_ejection_time": duration(3 * settings.ejection_interval_s),
        "max_ejection_time": "60s",
        "max_ejection_percent": 50,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_failure_percentage": 100,
        "failure_percentage_threshold": 85,
        "failure_percentage_minimum_hosts": 2,
        "failure_percentage_request_volume": 20,
    }


def _limit(view: ServiceView, target: Target, gateways: int) -> int:
    """Requests in flight to one revision by one protocol.

    What the pods can hold is theirs to refuse, exactly; here it is a bound on what piles up before them. So it counts
    replicas in powers of two (5 as 8) and is not divided by gateways, whose connections are never shared out evenly.
    `maxConcurrency` is divided, rounded up.
    """
    ready = len(view.endpoints.get(target.revision, ()))
    held = (target.slots or UNKNOWN_SLOTS) * (1 << max(ready - 1, 0).bit_length())
    asked = view.routing.access.max_concurrency
    return min(held, -(-asked // max(gateways, 1))) if asked else held


def _assignment(name: str, places: list[tuple[str, int]]) -> Resource:
    return {"@type": EDS, "cluster_name": name, "endpoints": [{"lb_endpoints": [_place(*place) for place in places]}]}


def _place(address: str, port: int) -> Resource:
    return {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
