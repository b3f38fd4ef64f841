"""What the gateway itself answers: one sentence that says what happened and what to do.

REST gets `{"error": sentence}` as from a pod, gRPC the sentence as its message.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from slipway.gateway.render.types import extension, header, typed
from slipway.gateway.views import Resource


@dataclass(frozen=True, slots=True)
class Answer:
    """`sentence` empty: Envoy's own words."""

    when: Resource
    sentence: str
    headers: tuple[tuple[str, str], ...] = ()
    grpc: int | None = None
    """Status for gRPC where Envoy's own is UNKNOWN."""


def _flag(*flags: str) -> Resource:
    return {"response_flag_filter": {"flags": list(flags)}}


def _code(code: int) -> Resource:
    value = {"default_value": code, "runtime_key": f"slipway.answers.{code}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _host(regex: str) -> Resource:
    return {"header_filter": {"header": {"name": ":authority", "string_match": {"safe_regex": {"regex": regex}}}}}


def _details(text: str) -> Resource:
    """What Envoy says was the matter."""
    kind = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    config = typed(kind, expression=f"response.code_details == '{text}'")
    return {"extension_filter": extension("envoy.access_loggers.extension_filters.cel", config)}


def _both(*filters: Resource) -> Resource:
    return {"and_filter": {"filters": list(filters)}}


DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 4, 8
SOON = (("retry-after", "1"),)
ANSWERS = (
    Answer(
        _both(_flag("NR"), _host(r"[^.:]*[^.:0-9][^.:]*")),
        "this host names no namespace: use NAME.NAMESPACE as the host, such as http://resnet.vision/v2/models/resnet",
    ),
    Answer(_both(_flag("NR"), _host(".*[A-Z].*")), "write the host in lower case: NAME.NAMESPACE"),
    Answer(
        _flag("NR"),
        "no service has this host: use NAME.NAMESPACE as the host, a path that starts with /NAMESPACE/NAME/v2, or for "
        "gRPC the header x-slipway-service: NAMESPACE/NAME",
    ),
    Answer(_flag("NC"), "the revision is not in the gateway yet; try again", SOON),
    Answer(_details("ext_authz_error"), "the gateway could not wait for a replica of this service; try again", SOON),
    Answer(_flag("UH"), "no replica of this service is ready; try again later", SOON),
    Answer(_flag("UO"), "too many requests of this service are in flight; try again later", SOON),
    Answer(
        _flag("UT"),
        "the replica did not answer in the time that this service gives a request",
        grpc=DEADLINE_EXCEEDED,
    ),
    Answer(_flag("UF"), "no connection to the replica; try again", SOON),
    Answer(_flag("UC", "UR", "LR"), "the connection to the replica broke before it answered"),
    Answer(_code(400), "the request is malformed, or has a header or a path that is not allowed"),
    Answer(
        _code(401),
        "this service needs a key or a token: send `authorization: Bearer ...`",
        (("www-authenticate", "Bearer"),),
    ),
    Answer(_code(403), "this key or token does not open this service"),
    Answer(_code(408), "the request did not arrive in time", grpc=DEADLINE_EXCEEDED),
    Answer(_code(413), "the body is larger than this service takes", grpc=RESOURCE_EXHAUSTED),
    Answer(_code(429), "too many requests of this client; try again later"),
    Answer(_code(431), "the headers are larger than the gateway takes", grpc=RESOURCE_EXHAUSTED),
    Answer(_code(504), "the request took longer than it may", grpc=DEADLINE_EXCEEDED),
)
GRPC: Resource = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
TEXT: Resource = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
JSON: Resource = {"json_format": {"error": "%LOCAL_REPLY_BODY%"}}


def local_replies() -> Resource:
    return {"mappers": list(_mappers()), "body_format": JSON}


def _mappers() -> Iterator[Resource]:
    """The first that fits is taken, so each comes twice: gRPC's message is text."""
    for answer in ANSWERS:
        common: Resource = {"body": {"inline_string": answer.sentence}}
        headers = [header(*pair, append="ADD_IF_ABSENT") for pair in answer.headers]
        status = [] if answer.grpc is None else [header("grpc-status", str(answer.grpc))]
        grpc: Resource = {"filter": _both(answer.when, GRPC), "body_format_override": TEXT}
        yield grpc | common | {"headers_to_add": [*headers, *status]}
        yield {"filter": answer.when, "headers_to_add": headers} | common
    yield {"filter": GRPC, "body_format_override": TEXT}
