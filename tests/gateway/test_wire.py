"""The encoder gives what protobuf's own JSON parser gives, and refuses what that refuses."""

from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.access import Jwt, RateLimit
from slipway.api.routing import RoutedAccess, RoutedMirror, Sticky
from slipway.api.traffic import StickyCookie
from slipway.gateway import render, xds
from slipway.gateway.views import Endpoint, GatewaySettings, ServiceView
from slipway.gateway.wire import Malformed
from slipway.gateway.xds import Kind
from tests.gateway.services import service

POD = Endpoint("10.0.0.1", 8080, 9000)
SETTINGS = GatewaySettings()


def parsed(kind: Kind, resource: dict[str, Any]) -> Any:
    message = xds.message_class(kind.partition("/")[2])()
    plain = {name: value for name, value in resource.items() if name != "@type"}
    return json_format.ParseDict(plain, message, descriptor_pool=xds._pool())


def resources(view: ServiceView) -> list[tuple[Kind, dict[str, Any]]]:
    parts = {
        Kind.CLUSTER: render.clusters(view, SETTINGS),
        Kind.ENDPOINTS: render.assignments(view),
        Kind.ROUTES: render.routes(view, SETTINGS),
        Kind.SCOPE: render.scopes(view, ["resnet.vision", "resnet-preview.vision"], SETTINGS),
    }
    return [(kind, found) for kind, all_ in parts.items() for found in all_.values()]


VIEWS = st.builds(
    service,
    st.sampled_from([{"r1": 10_000}, {"r2": 333, "r1": 9_667}, {"r2": 0, "r1": 9_000, "b": 1_000}]),
    st.just({"r1": [POD]}),
    keys=st.just({"web": ("one", "two")}),
    jwks=st.sampled_from(["", '{"keys":[]}']),
    access=st.builds(
        RoutedAccess,
        clients=st.none() | st.just(["web"]),
        jwt=st.none() | st.just(Jwt(issuer="i", audiences=["a"], jwks='{"keys":[]}')),
        rate_limit=st.none() | st.builds(RateLimit, requests_per_second=st.integers(1, 10**6)),
        max_concurrency=st.sampled_from([0, 7]),
        max_body_bytes=st.sampled_from([0, 1 << 40]),
    ),
    sticky=st.sampled_from([None, Sticky(by="header", header="x-user"), Sticky(by="cookie", cookie=StickyCookie())]),
    mirror=st.none() | st.just(RoutedMirror(revision="r1", share=500)),
    preview=st.sampled_from(["", "r1"]),
    rules=st.sampled_from([[], [{"revision": "r1", "match": [{"header": "x-g", "regex": "a+"}]}]]),
    timeout_ms=st.integers(1, 3_600_000),
)


@given(VIEWS)
def test_what_the_renderer_writes_is_read_as_protobuf_reads_it(view: ServiceView) -> None:
    for kind, resource in resources(view):
        expected = parsed(kind, resource)
        found = type(expected).FromString(xds.encode(kind, resource))
        assert _plain(found) == _plain(expected)


def _plain(message: Any) -> dict[str, Any]:
    """Of messages within, the order of the fields in their bytes counts for nothing."""
    return json_format.MessageToDict(message, descriptor_pool=xds._pool())


@pytest.mark.parametrize(
    ("resource", "words"),
    [
        pytest.param({"nme": "x"}, "has no field nme", id="unknown field"),
        pytest.param({"name": 5}, "Cluster.name is 5", id="number for text"),
        pytest.param({"type": "EDSS"}, "EDSS", id="unknown enum value"),
        pytest.param({"connect_timeout": "1"}, "no duration", id="duration without unit"),
        pytest.param({"circuit_breakers": {"thresholds": {"max_requests": 1}}}, "not a list", id="object for list"),
        pytest.param({"circuit_breakers": "x"}, "not an object", id="list for object"),
        pytest.param({"per_connection_buffer_limit_bytes": -1}, "-1", id="negative unsigned number"),
        pytest.param({"typed_extension_protocol_options": {"a": {"x": 1}}}, "no @type", id="any without type"),
        pytest.param(
            {"typed_extension_protocol_options": {"a": {"@type": "t/a.B"}}}, "a.B is no type", id="unknown type"
        ),
        pytest.param({"respect_dns_ttl": "true"}, "'true'", id="text for bool"),
    ],
)
def test_what_is_no_message_of_its_type_is_refused_by_name(resource: dict[str, Any], words: str) -> None:
    with pytest.raises(Malformed, match=words):
        xds.encode(Kind.CLUSTER, resource)
    with pytest.raises((json_format.ParseError, TypeError, AttributeError)):
        parsed(Kind.CLUSTER, resource)
