"""What Envoy is started with: listeners, limits, which numbers it keeps, and where it gets everything else."""

from slipway.decide.edges import EDGES_MS
from slipway.gateway.render import counting, hold
from slipway.gateway.render.clusters import GATEWAYS
from slipway.gateway.render.listener import STATS, TLS_NAME, listeners
from slipway.gateway.render.types import ADS, SECRET, extension, typed
from slipway.gateway.views import GatewaySettings, Resource, Tls

LATENCY_MS = (*EDGES_MS, 86_400_000)
"""Upper edges of the latency buckets. Envoy does not tell what is beyond the last."""
REGEX_PROGRAM = 600
"""Largest RE2 program: the bound on a value's length needs 516, our own paths with a long name some 300. Users'
expressions are held to less (`decide.matches.SIZE_MAX`), for which Envoy has no second limit."""

_APART = "|".join(map(str, counting.NO_REJECTIONS))
_CLUSTER = (
    rf"upstream_rq_(total|completed|[1-5]xx|{_APART}|timeout|retry|retry_overflow|rx_reset|tx_reset|active|"
    "pending_active|pending_overflow|max_duration_reached|time)|upstream_cx_(active|connect_fail)|membership_(total|healthy)|"
    r"outlier_detection\.ejections_active|grpc\.(total|success|failure|[0-9]+)"
)
_CALLERS = (
    "no_route|no_cluster|downstream_rq_(total|active|[1-5]xx|too_large|overload_close)|"
    "downstream_cx_(total|active|protocol_error|drain_close)"
)
KEPT = (
    rf"cluster\.[^.]+\.({_CLUSTER})",
    rf"http\.{STATS}\.({_CALLERS})",
    r"(listener_manager\.(lds\.)?|cluster_manager\.)[a-z_.]+",
    r"listener\..+\.(downstream_cx_(overflow|overload_reject)|ssl\.connection_error)",
    r"(server\.|control_plane\.|overload\.).+",
    r".*\.?http_local_rate_limit\..+",
    rf"{counting.PREFIX}\..+",
)
"""Kept are the numbers that someone reads: at 1,000 services each one more is 2,000 counters."""


def bootstrap(settings: GatewaySettings) -> Resource:
    return {
        "node": {"id": settings.node, "cluster": GATEWAYS},
        "admin": {"address": {"pipe": {"path": settings.admin_socket, "mode": 0o600}}},
        "static_resources": {
            "listeners": listeners(settings),
            "clusters": [_agent(settings), hold.cluster(settings), _gateways()],
        },
        "dynamic_resources": {"cds_config": ADS, "ads_config": _ads()},
        "cluster_manager": {"local_cluster_name": GATEWAYS},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _runtime()}]},
        "overload_manager": _overload(settings),
        "stats_config": _stats(),
        # Latencies are summed up then, and only then. With so few numbers kept it costs little at 1,000 services.
        "stats_flush_interval": "5s",
        **counting.eviction(),
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }


def tls_secret(tls: Tls) -> Resource:
    """The content of `tls.secret_file`. Envoy reads the Secret's files again when the mount changes."""
    certificate = {
        "certificate_chain": {"filename": f"{tls.folder}/tls.crt"},
        "private_key": {"filename": f"{tls.folder}/tls.key"},
        "watched_directory": {"path": tls.folder},
    }
    return {"resources": [{"@type": SECRET, "name": TLS_NAME, "tls_certificate": certificate}]}


def _ads() -> Resource:
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [
            {
                "envoy_grpc": {
                    "cluster_name": "agent",
                    "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
                }
            }
        ],
    }


def _agent(settings: GatewaySettings) -> Resource:
    place = {"endpoint": {"address": {"pipe": {"path": settings.ads_socket}}}}
    return {
        "name": "agent",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        },
        "load_assignment": {"cluster_name": "agent", "endpoints": [{"lb_endpoints": [place]}]},
    }


def _gateways() -> Resource:
    return {
        "name": GATEWAYS,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": ADS | {"initial_fetch_timeout": "1s"}},
    }


def _runtime() -> Resource:
    return {"re2": {"max_program_size": {"error_level": REGEX_PROGRAM, "warn_level": REGEX_PROGRAM}}}


def _overload(settings: GatewaySettings) -> Resource:
    """Memory short: first give back, then take no more requests, then no more connections. Never: be killed."""
    monitors = "envoy.resource_monitors"
    heap = typed(
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=settings.max_heap_bytes
    )
    connections = typed(
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=settings.max_connections,
    )

    def at(action: str, share: float) -> Resource:
        trigger = {"name": f"{monitors}.fixed_heap", "threshold": {"value": share}}
        return {"name": f"envoy.overload_actions.{action}", "triggers": [trigger]}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            extension(f"{monitors}.fixed_heap", heap),
            extension(f"{monitors}.global_downstream_max_connections", connections),
        ],
        "actions": [
            at("shrink_heap", 0.85),
            at("disable_http_keepalive", 0.9),
            at("stop_accepting_requests", 0.92),
            at("stop_accepting_connections", 0.95),
        ],
    }


def _stats() -> Resource:
    patterns = [{"safe_regex": {"regex": regex}} for regex in KEPT]
    return {
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
        "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": list(LATENCY_MS)}],
    }
