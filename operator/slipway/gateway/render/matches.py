"""Rules and stickiness as Envoy's matchers and hash policies."""

from slipway.api.routing import Sticky
from slipway.api.schema import seconds
from slipway.api.traffic import Match, StickyCookie
from slipway.gateway.render.types import header, whole
from slipway.gateway.views import Resource

SHORT = 256
"""Bytes of a value that an expression is tried on; a longer one matches none. With the bound on the expression itself
(`decide.matches`) this is what a request can cost: RE2 takes linear time, but size of expression times length of value.
"""


def fields(match: Match) -> Resource:
    """The fields of a RouteMatch that say `match`."""
    where, name = next((kind, name) for kind in _FIELDS if (name := getattr(match, kind)) is not None)
    return {_FIELDS[where]: [{"name": name, "string_match": text} for text in _texts(match)]}


def has_cookie(name: str) -> Resource:
    """Of two with one name the first counts."""
    return {"cookies": [{"name": name, "string_match": whole(r"\C+")}]}


def hash_policy(sticky: Sticky) -> list[Resource]:
    """Where the number that picks the target comes from; by chance for a request that has no such thing."""
    if sticky.by == "header":
        return [{"header": {"header_name": sticky.header}}]
    if sticky.by == "cookie":
        return [{"cookie": {"name": (sticky.cookie or StickyCookie()).name}}]
    return [{"connection_properties": {"source_ip": True}}]


MINTED: list[Resource] = [{"header": {"header_name": "x-request-id"}}]
"""For a client without the cookie: the same text that it gets as its cookie, so that its next request goes alike."""


def minted(cookie: StickyCookie) -> Resource:
    """The answer's header that makes the client come back with the text its first request was placed by."""
    kept = f"Path=/; Max-Age={int(seconds(cookie.max_age))}; HttpOnly; SameSite=Lax"
    return header("set-cookie", f"{cookie.name}=%REQ(x-request-id)%; {kept}", append="APPEND_IF_EXISTS_OR_ADD")


_FIELDS = {"header": "headers", "cookie": "cookies", "query": "query_parameters"}


def _texts(match: Match) -> list[Resource]:
    """All of these, the first that does not hold ends it."""
    if match.exact is not None:
        return [{"exact": match.exact}]
    if match.prefix is not None:
        return [{"prefix": match.prefix}]
    return [whole(rf"\C{{0,{SHORT}}}"), whole(match.regex or "")]
