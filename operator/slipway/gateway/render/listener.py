"""Where callers come in: HTTP/1.1, HTTP/2 and gRPC on one port, and on a second one with TLS.

    bytes -> codec limits -> paths made plain -> internal headers dropped -> scope (which service) -> filters -> route

A service is found by `x-slipway-scope`, which is NAMESPACE/NAME of the path /NAMESPACE/NAME/v2/... or of the header
`x-slipway-service`, else the host. It is settled before the filters: Envoy picks a service's chain of filters when it
makes them, so a filter that changed the route afterwards would let callers past the keys of the service they get to.
"""

from slipway.gateway.render import counting
from slipway.gateway.render.access import ACCESS, BODY, CLIENT, body_filter
from slipway.gateway.render.answers import local_replies
from slipway.gateway.render.hold import SCOPE, disabled
from slipway.gateway.render.routes import REVISION, SERVICE, SHADOW
from slipway.gateway.render.types import ADS, FILTERS, duration, extension, header, struct, typed
from slipway.gateway.views import GatewaySettings, Resource, Tls

CODEC = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
STATS = "gateway"
TLS_NAME = "slipway-gateway"
FORGED = (SCOPE, SHADOW, CLIENT, REVISION, "forwarded", "x-real-ip", "x-original-url", "x-rewrite-url")
"""Headers that mean something to us or to pods when the gateway sets them; nobody outside may."""
FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto")

_PATH = "^/([a-z0-9-]+/[a-z0-9-]+)/v[12]([/?].*)?$"
BY_PATH = (
    "request.path.startsWith('/v2/') || request.path.startsWith('/inference.') || request.path.startsWith('/v1/') || "
    f"!request.path.matches('{_PATH}') ? '' : re.extract(request.path, '{_PATH}', '\\\\1')"
)
"""CEL: NAMESPACE/NAME of a path such as /NAMESPACE/NAME/v2/models/NAME, else nothing."""


def listeners(settings: GatewaySettings) -> list[Resource]:
    found = [_listener("http", settings.http_port, settings)]
    if settings.tls is not None:
        found.append(_listener("https", settings.https_port, settings, settings.tls))
    return found


def _listener(name: str, port: int, settings: GatewaySettings, tls: Tls | None = None) -> Resource:
    chain: Resource = {"filters": [extension("envoy.filters.network.http_connection_manager", _manager(settings))]}
    if tls is not None:
        chain["transport_socket"] = extension("envoy.transport_sockets.tls", _tls(tls))
        chain["transport_socket_connect_timeout"] = duration(settings.headers_timeout_s)
    address: Resource = {"address": settings.bind, "port_value": port}
    if settings.bind == "::":
        address["ipv4_compat"] = True
    return {
        "name": name,
        "address": {"socket_address": address},
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": 1 << 20,
        "tcp_backlog_size": 4096,
    }


def _tls(tls: Tls) -> Resource:
    source = {"path_config_source": {"path": tls.secret_file}, "resource_api_version": "V3"}
    return typed(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [{"name": TLS_NAME, "sds_config": source}],
        },
    )


def _manager(settings: GatewaySettings) -> Resource:
    manager = typed(
        CODEC,
        stat_prefix=STATS,
        codec_type="AUTO",
        server_name="slipway",
        scoped_routes=_scoped(),
        early_header_mutation_extensions=[_clean(settings)],
        http_filters=_filters(settings),
        local_reply_config=local_replies(),
        # Who calls: the connection's other end, or what trusted proxies before us say. All are outsiders: their
        # x-envoy-* headers are dropped and their request ids replaced.
        use_remote_address=True,
        xff_num_trusted_hops=settings.trusted_hops,
        internal_address_config={"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        generate_request_id=True,
        # One form of every host and path, before anything is compared.
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        **_limits(settings),
    )
    written = [_access_log(settings.access_log)] if settings.access_log else []
    return manager | {"access_log": [*counting.loggers(), *written]}


def _limits(settings: GatewaySettings) -> Resource:
    return {
        "common_http_protocol_options": {
            "idle_timeout": duration(settings.idle_timeout_s),
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 90,  # slipway-runtime takes 100, and the gateway adds some
        },
        # Less than slipway-runtime takes (32 KiB), so that a head that passes here passes there.
        "max_request_headers_kb": 30,
        "request_headers_timeout": duration(settings.headers_timeout_s),
        "stream_idle_timeout": duration(settings.idle_timeout_s),
        "drain_timeout": duration(min(5.0, settings.drain_s)),
        "http_protocol_options": {"allow_absolute_url": True},
        "http2_protocol_options": {
            "max_concurrent_streams": settings.max_streams,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 16 << 20,
            # Answers that a client does not read, pings and resets it sends for nothing.
            "max_outbound_frames": 10_000,
            "max_outbound_control_frames": 1000,
            "max_consecutive_inbound_frames_with_empty_payload": 4,
            "max_inbound_priority_frames_per_stream": 100,
            "max_inbound_window_update_frames_per_data_frame_sent": 10,
            "connection_keepalive": {"interval": "30s", "timeout": "20s", "connection_idle_interval": "30s"},
        },
    }


def _scoped() -> Resource:
    return {
        "name": "services",
        "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": SCOPE, "index": 0}}]},
        "rds_config_source": ADS,
        "scoped_rds": {"scoped_rds_config_source": ADS},
    }


def _clean(settings: GatewaySettings) -> Resource:
    """Drop what only a proxy may say, and say by what the service is looked up."""
    forged = FORGED if settings.trusted_hops else FORGED + FORWARDED
    by_name = header(SCOPE, f"%REQ({SERVICE}?:authority)%")
    by_path = header(SCOPE, f"%CEL({BY_PATH})%", append="OVERWRITE_IF_EXISTS")
    config = typed(
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[
            {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
            *({"remove": name} for name in forged),
            {"append": by_name},
            {"append": by_path},
        ],
    )
    return extension("envoy.http.early_header_mutation.header_mutation", config)


def _filters(settings: GatewaySettings) -> list[Resource]:
    chain = f"{FILTERS}.filter_chain.v3.FilterChainConfig"
    return [
        extension(ACCESS, struct(chain)),
        extension(BODY, struct(chain, default_filter_chain={"filters": [body_filter(settings.max_body_bytes)]})),
        disabled(),
        extension("envoy.filters.http.grpc_stats", typed(f"{FILTERS}.grpc_stats.v3.FilterConfig")),
        extension("envoy.filters.http.router", typed(f"{FILTERS}.router.v3.Router", suppress_envoy_headers=True)),
    ]


LOG = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ:ORIG_OR_PATH)%",  # never the query: people put keys there
    "protocol": "%PROTOCOL%",
    "code": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "namespace": "%METADATA(CLUSTER:slipway:namespace)%",
    "service": "%METADATA(CLUSTER:slipway:service)%",
    "revision": "%METADATA(CLUSTER:slipway:revision)%",
    "variant": "%METADATA(CLUSTER:slipway:variant)%",
    "route": "%ROUTE_NAME%",
    "pod": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "client": f"%REQ({CLIENT})%",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace": "%REQ(TRACEPARENT)%",
}


def _access_log(path: str) -> Resource:
    config = typed(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=path,
        log_format={"json_format": LOG, "omit_empty_values": True},
    )
    return extension("envoy.access_loggers.file", config)
