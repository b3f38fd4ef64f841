"""Requests to a revision that sleeps wait inside Envoy, after credentials and limits, for the agent's leave to go.

    slipway.access -> slipway.body -> slipway.hold -> grpc_stats -> router
                                      `-- on, for targets without pods, by their routes (`asked`)

The agent is asked on its own socket. It gets neither bodies nor credentials, and without its word nobody goes.
"""

from slipway.gateway.render.types import FILTERS, duration, extension, typed
from slipway.gateway.views import GatewaySettings, Resource, ServiceView

HOLD = "slipway.hold"
SERVICE, REVISION = "service", "revision"
"""What the agent is told of the route."""
SCOPE = "x-slipway-scope"
LIMIT, LENGTH = "x-slipway-timeout-ms", "content-length"
NOBODYS = "x-slipway-hold"
"""A header that is on no request: to remove it is a change by which nothing changes."""
CLUSTER = "holds"
_EVER_S = 3660.0
"""Longer than any hold: the agent ends them."""
_AGAIN: Resource = {
    # An agent that starts anew finds those who waited at its door again.
    "retry_on": "connect-failure,refused-stream,reset,unavailable,cancelled",
    "num_retries": 12,
    # Envoy ends each try after max_interval, too.
    "retry_back_off": {"base_interval": "0.1s", "max_interval": duration(_EVER_S)},
}
_AT_ONCE = 65_536
"""Above what the agent holds at a time, so that it is the agent's bounds that count."""


def disabled() -> Resource:
    """The filter, which is off wherever a route does not ask for it."""
    config = typed(
        f"{FILTERS}.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={
            "envoy_grpc": {"cluster_name": CLUSTER, "skip_envoy_headers": True},
            "timeout": duration(_EVER_S),
            "retry_policy": _AGAIN,
        },
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        allowed_headers={"patterns": [{"exact": name} for name in (SCOPE, LIMIT, LENGTH, "grpc-timeout")]},
        clear_route_cache=True,
        # What is refused here is no answer of the revision's.
        charge_cluster_response_stats=False,
    )
    return extension(HOLD, config) | {"disabled": True}


def asked(view: ServiceView, revision: str) -> Resource:
    """Fields of what leads to a revision; none where requests need not wait."""
    if revision not in view.held:
        return {}
    about = {SERVICE: f"{view.namespace}/{view.name}", REVISION: revision}
    settings = {"context_extensions": about, "disable_request_body_buffering": True}
    on = typed(f"{FILTERS}.ext_authz.v3.ExtAuthzPerRoute", check_settings=settings)
    return {"typed_per_filter_config": {HOLD: on}}


def longest_s(view: ServiceView, *revisions: str) -> float:
    """How long requests to these may wait."""
    waits = (target.hold_ms for target in view.routing.targets if target.revision in revisions)
    return max((wait for wait in waits), default=0) / 1000 if view.held.intersection(revisions) else 0.0


def cluster(settings: GatewaySettings) -> Resource:
    """The agent, apart from what it sends: neither takes the other's place."""
    place = {"endpoint": {"address": {"pipe": {"path": settings.ads_socket}}}}
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _AT_ONCE)
    return {
        "name": CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        },
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [place]}]},
    }
