"""Who may call and how much, as filters of one service.

    slipway.access (keys or token, then rate) -> slipway.body (size) -> grpc_stats -> router
    `---- of each service, in its RouteConfiguration ----´

The chains are part of the routes, so a service's keys or token issuer change without touching a listener, and nothing
that is wrong with them reaches another service. The credentials themselves never go on to a pod.
"""

from collections.abc import Mapping

from slipway.api.access import Jwt, RateLimit
from slipway.gateway.render.types import FILTERS, extension, header, struct, typed, whole
from slipway.gateway.views import GatewaySettings, Resource, ServiceView

ACCESS, BODY = "slipway.access", "slipway.body"
CLIENT = "x-slipway-tenant"
"""Who calls, for rates, for the access log and for slipway-runtime's fairness. Taken from credentials only."""
CREDENTIALS = ("authorization", "x-api-key")
EVER = 2_000_000_000
_ALWAYS: Resource = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def per_route(view: ServiceView, settings: GatewaySettings) -> dict[str, Resource]:
    """`typed_per_filter_config` of all routes of a service."""
    found = {}
    if filters := [*_authentication(view), *_rate(view, settings)]:
        found[ACCESS] = _chain(filters)
    if view.routing.access.max_body_bytes:
        found[BODY] = body_limit(view.routing.access.max_body_bytes)
    return found


def body_limit(limit_bytes: int) -> Resource:
    return _chain([body_filter(limit_bytes)])


def body_filter(limit_bytes: int) -> Resource:
    limit = struct(f"{FILTERS}.body_size_limit.v3.BodySizeLimit", max_request_bytes=str(limit_bytes))
    return extension("envoy.filters.http.body_size_limit", limit)


def _chain(filters: list[Resource]) -> Resource:
    return struct(f"{FILTERS}.filter_chain.v3.FilterChainConfigPerRoute", filter_chain={"filters": filters})


def _authentication(view: ServiceView) -> list[Resource]:
    access = view.routing.access
    if access.clients is not None:
        return [extension("envoy.filters.http.api_key_auth", _api_keys(_owners(view, access.clients)))]
    if access.jwt is None:
        return []
    if keys := access.jwt.jwks or view.jwks:
        return [extension("envoy.filters.http.jwt_authn", _tokens(access.jwt, keys))]
    return [extension("envoy.filters.http.api_key_auth", _api_keys({}))]  # the issuer's keys are not there yet


def _owners(view: ServiceView, clients: list[str]) -> dict[str, str]:
    """Key -> client. Envoy refuses the same key twice: of two clients with one key the first by name has it."""
    owners: dict[str, str] = {}
    for client in sorted(set(clients)):
        for key in sorted(set(view.keys.get(client, ()))):
            if key:
                owners.setdefault(key, client)
    return owners


def _api_keys(owners: Mapping[str, str]) -> Resource:
    """Without any key nobody gets in: the list then has one that nobody can send, with a line break in it."""
    return typed(
        f"{FILTERS}.api_key_auth.v3.ApiKeyAuth",
        credentials=[{"key": key, "client": client} for key, client in (owners or {"\n": "nobody"}).items()],
        key_sources=[{"header": name} for name in CREDENTIALS],
        forwarding={"header": CLIENT, "hide_credentials": True},
    )


def _tokens(jwt: Jwt, keys: str) -> Resource:
    provider: Resource = {
        "issuer": jwt.issuer,
        "local_jwks": {"inline_string": keys},
        # Envoy's own choice has the query parameter access_token besides, which logs and histories keep.
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        # It becomes a header: with a line break in it the pod would not get the request.
        "subjects": whole(r"[^\x00-\x1f\x7f]*"),
        "forward": False,
        "claim_to_headers": [{"header_name": CLIENT, "claim_name": "sub"}],
        "require_expiration": True,
    }
    if jwt.audiences:
        provider["audiences"] = list(jwt.audiences)
    return typed(
        f"{FILTERS}.jwt_authn.v3.JwtAuthentication",
        providers={"issuer": provider},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
    )


def _rate(view: ServiceView, settings: GatewaySettings) -> list[Resource]:
    limit = view.routing.access.rate_limit
    if limit is None:
        return []
    known = view.routing.access.clients is not None or view.routing.access.jwt is not None
    config = typed(
        f"{FILTERS}.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="slipway",
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        response_headers_to_add=[header("retry-after", "1")],
        rate_limited_as_resource_exhausted=True,
        # Each gateway gives out its part; with one more or one less the parts change by themselves.
        local_cluster_rate_limit={},
        **(_each(limit, settings, known=known) if limit.per == "client" else {"token_bucket": _bucket(limit)}),
    )
    return [extension("envoy.filters.http.local_ratelimit", config)]


def _each(limit: RateLimit, settings: GatewaySettings, *, known: bool) -> Resource:
    """A bucket for every client, made when it first calls; without credentials an address is a client."""
    key = "client" if known else "remote_address"
    by_name = [{"request_headers": {"header_name": CLIENT, "descriptor_key": key}}]
    # Tokens need not name their subject: those that do not are one client.
    unnamed = {"headers": [{"name": CLIENT, "present_match": True}], "expect_match": False}
    nobody = [{"header_value_match": {"descriptor_key": key, "descriptor_value": "nobody", **unnamed}}]
    by_address: list[Resource] = [{"remote_address": {}}]
    return {
        "token_bucket": {"max_tokens": EVER, "tokens_per_fill": EVER, "fill_interval": "1s"},
        "always_consume_default_token_bucket": False,
        "descriptors": [{"entries": [{"key": key}], "token_bucket": _bucket(limit)}],
        "max_dynamic_descriptors": settings.max_clients,
        "rate_limits": [{"actions": actions} for actions in ([by_name, nobody] if known else [by_address])],
    }


def _bucket(limit: RateLimit) -> Resource:
    return {
        "max_tokens": limit.burst or limit.requests_per_second,
        "tokens_per_fill": limit.requests_per_second,
        "fill_interval": "1s",
    }
