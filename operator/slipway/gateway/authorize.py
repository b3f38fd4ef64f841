"""What Envoy's `ext_authz` filter asks before it lets a request to a revision that sleeps, and what it is told.

Only lengths, deadlines and whose request it is come here: no body, no path's query, no credential.
"""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from slipway.gateway import xds
from slipway.gateway.asks import BUFFER_BYTES, Ask, Verdict
from slipway.gateway.render.hold import LENGTH, LIMIT, NOBODYS, REVISION, SCOPE, SERVICE

_NAME = "envoy.service.auth.v3.Authorization"
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"
_DENIED = 7
"""google.rpc.Code.PERMISSION_DENIED: any code but 0 is a no, the HTTP status says which."""


def handler(hold: Callable[[Ask], Awaitable[Verdict]]) -> Any:
    """Of the gRPC server that Envoy asks."""

    async def check(request: Any, _: Any) -> bytes:
        return answer(await hold(ask(request, time.time())))

    method = grpc.unary_unary_rpc_method_handler(
        check, request_deserializer=xds.message_class("envoy.service.auth.v3.CheckRequest").FromString
    )
    return grpc.method_handlers_generic_handler(_NAME, {"Check": method})


def ask(message: Any, now: float) -> Ask:
    """`now`: the wall's, since Envoy says when the request came by that."""
    request, about = message.attributes.request, message.attributes.context_extensions
    headers, began = request.http.headers, request.time
    namespace, _, name = about[SERVICE].partition("/")
    grpc_timeout = headers.get("grpc-timeout")
    return Ask(
        key=(namespace, name),
        revision=about[REVISION],
        age_s=max(0.0, now - began.seconds - began.nanos / 1e9) if began.seconds else 0.0,
        limit_s=_grpc_s(grpc_timeout) if grpc_timeout else _rest_s(headers.get(LIMIT, "")),
        is_rest=not grpc_timeout,
        bytes=_length(headers.get(LENGTH, "")),
        scope=headers.get(SCOPE, ""),
    )


def answer(verdict: Verdict) -> bytes:
    """A CheckResponse, packed."""
    if verdict.sentence:
        return _denied(verdict)
    message = _response(status={"code": 0})
    if verdict.left_ms:
        message.ok_response.headers.add(header={"key": LIMIT, "value": str(verdict.left_ms)}, append_action=_OVERWRITE)
    if verdict.is_rerouted:  # Envoy looks the way up anew when a header was changed
        message.ok_response.headers_to_remove.append(NOBODYS)
    return bytes(message.SerializeToString())


def _denied(verdict: Verdict) -> bytes:
    message = _response(status={"code": _DENIED})
    denied = message.denied_response
    denied.status.code, denied.body = verdict.status, verdict.sentence
    if verdict.retry_after_s:
        denied.headers.add(header={"key": "retry-after", "value": str(verdict.retry_after_s)}, append_action=_OVERWRITE)
    return bytes(message.SerializeToString())


def _response(**fields: Any) -> Any:
    return xds.message_class("envoy.service.auth.v3.CheckResponse")(**fields)


def _grpc_s(text: str) -> float | None:
    """A gRPC deadline such as 250m; what is none of these is the pod's to refuse."""
    found = _TIMEOUT.fullmatch(text)
    return int(found[1]) * _UNITS_S[found[2]] if found else None


def _rest_s(text: str) -> float | None:
    return int(text) / 1000 if text.isdecimal() and len(text) < 12 else None


def _length(text: str) -> int:
    """What Envoy may have to keep of the body; what has no known length may be of any."""
    return min(int(text), BUFFER_BYTES) if text.isdecimal() and len(text) < 19 else BUFFER_BYTES
