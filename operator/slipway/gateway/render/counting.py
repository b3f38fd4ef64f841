"""What becomes of each request, counted once at its end and by its target: what a release is judged by.

    finished   a pod, or the gateway in its place, answered
    failed     of these: 5xx, a gRPC status that is the server's fault, an answer broken off, or more than one try
    rejected   of these: 4xx, a gRPC status that says the same; whose doing it is, only another revision tells
    refused    of the first two: the gateway itself said that too many are in flight
    held_lost  of none of these: waited for a first pod, or could not wait for one, and was answered 503

Envoy's own counters of a cluster cannot be added up to this: a timeout is a 504 too, a gRPC failure is a 200, a second
try is in the total, and an answer that a pod breaks off is a success. Whoever goes away is not in it, nor is who never
got as far as a pod (no key, too often, too large). Copies of requests do not come by here; see `gateway.counters`.
"""

from slipway.gateway.render.types import duration, extension, struct
from slipway.gateway.views import Resource

PREFIX = "slipway_requests"
TAG = "to"
COUNTS = ("finished", "failed", "rejected", "refused", "held_lost")
EVICTION_S = 3600.0
"""Counts of a revision that nobody asked for so long are forgotten; its next request counts from zero."""
_COUNTS_MAX = 50_000
"""Of each kind: what they take is bounded, whatever happens to revisions in the meantime."""
SERVERS_FAULT = ("UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""gRPC statuses. RESOURCE_EXHAUSTED is 429 and no fault; the rest is the caller's doing."""
REJECTIONS = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED")
"""gRPC statuses by which a pod says that it will not have the request."""
NO_REJECTIONS = (401, 403, 408, 429)
"""Of 4xx: who the caller is, how slow and how often it asks, is not about the request."""
_BROKEN = ("UH", "UF", "UC", "UT", "LR", "UR", "UPE", "UMSDR")
"""Envoy's flags for: no pod, no connection, connection lost, too late, reset, not HTTP."""
_TRIES = "x-envoy-attempt-count"
"""Set on the request by the router, so it tells who got that far; nobody outside can set it (`listener._clean`)."""


def loggers() -> list[Resource]:
    """Access logs that write numbers."""
    grpc = _header("content-type", string_match={"prefix": "application/grpc"})
    at_fault: Resource = {"grpc_status_filter": {"statuses": list(SERVERS_FAULT)}}
    again = _header(_TRIES, string_match={"exact": "1"}, invert_match=True)
    broken: Resource = {"response_flag_filter": {"flags": list(_BROKEN)}}
    finished = _all(_code("GE", 200), _header(_TRIES, present_match=True))
    failed = _all(finished, _any(_code("GE", 500), again, broken, _all(grpc, at_fault)))
    unwanted: Resource = {"grpc_status_filter": {"statuses": list(REJECTIONS)}}
    by_code = _all(_code("GE", 400), _code("LE", 499), *(_code("NE", code) for code in NO_REJECTIONS))
    rejected = _all(_header(_TRIES, present_match=True), _any(by_code, _all(grpc, unwanted)))
    refused: Resource = {"response_flag_filter": {"flags": ["UO"]}}
    unavailable: Resource = {"grpc_status_filter": {"statuses": ["UNAVAILABLE"]}}
    # What the agent gives no leave for (see `hold`): 404 is for who waited for a service that was deleted.
    lost = _all({"response_flag_filter": {"flags": ["UAEX"]}}, _any(_code("GE", 500), _all(grpc, unavailable)))
    filters = (finished, failed, rejected, refused, lost)
    return [_logger(name, only) for name, only in zip(COUNTS, filters, strict=True)]


def eviction() -> Resource:
    """Fields of the bootstrap."""
    return {"stats_eviction_interval": duration(EVICTION_S)}


def _logger(name: str, only: Resource) -> Resource:
    stat = {"name": name, "tags": [{"name": TAG, "value_format": "%UPSTREAM_CLUSTER_RAW%"}]}
    config = struct(
        "envoy.extensions.access_loggers.stats.v3.Config",
        stats_scope={"prefix": PREFIX, "enable_eviction": True, "max_counters": _COUNTS_MAX},
        counters=[{"stat": stat, "value_fixed": 1}],
    )
    return extension("envoy.access_loggers.stats", config) | {"filter": only}


def _code(comparison: str, code: int) -> Resource:
    value = {"default_value": code, "runtime_key": f"slipway.counting.{comparison}.{code}"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _header(name: str, **how: object) -> Resource:
    return {"header_filter": {"header": {"name": name, **how}}}


def _all(*filters: Resource) -> Resource:
    return {"and_filter": {"filters": list(filters)}}


def _any(*filters: Resource) -> Resource:
    return {"or_filter": {"filters": list(filters)}}
