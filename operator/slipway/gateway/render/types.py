"""Type URLs, and the few forms that every resource is made of."""

from slipway.gateway.views import Resource

URL = "type.googleapis.com/"
CDS = f"{URL}envoy.config.cluster.v3.Cluster"
EDS = f"{URL}envoy.config.endpoint.v3.ClusterLoadAssignment"
RDS = f"{URL}envoy.config.route.v3.RouteConfiguration"
SRDS = f"{URL}envoy.config.route.v3.ScopedRouteConfiguration"
SECRET = f"{URL}envoy.extensions.transport_sockets.tls.v3.Secret"
FILTERS = "envoy.extensions.filters.http"

ADS: Resource = {"ads": {}, "resource_api_version": "V3"}


def typed(kind: str, /, **fields: object) -> Resource:
    """A message in an Any; `kind` is its full name."""
    return {"@type": URL + kind, **fields}


def struct(kind: str, /, **fields: object) -> Resource:
    """The same for a message that is younger than the protos which agents have: Envoy itself turns it into the type."""
    return {"@type": f"{URL}xds.type.v3.TypedStruct", "type_url": URL + kind, "value": fields}


def extension(name: str, config: Resource) -> Resource:
    return {"name": name, "typed_config": config}


def duration(seconds: float) -> str:
    """Seconds as protobuf writes them, to the millisecond: 0.25 -> "0.250s"."""
    return f"{seconds:.3f}s"


def header(name: str, value: str, *, append: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Resource:
    return {"header": {"key": name, "value": value}, "append_action": append}


def whole(regex: str) -> Resource:
    """A StringMatcher; RE2 matches the whole text, in linear time."""
    return {"safe_regex": {"regex": regex}}
