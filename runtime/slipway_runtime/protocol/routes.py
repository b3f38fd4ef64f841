"""REST routes of the Open Inference Protocol: a `Request` to a `Response`, by way of the service.

    GET  /v2 · /v2/health/live · /v2/health/ready · /v2/models/M[/versions/V][/ready] · /metrics
    POST /v2/models/M[/versions/V]/infer

Errors are always {"error": sentence} with Triton's status codes, but for two: not ready is 503 (Triton: 400, which
blames the client; probes take either), and a deadline is 504 (Triton: 503, which invites a retry).
"""

import logging
import zlib
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote

import orjson

from slipway_runtime import metrics
from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.protocol import rest
from slipway_runtime.service import Service
from slipway_runtime.wire.http1_messages import Request, Response, refusal

log = logging.getLogger("slipway.rest")

STATUS = {
    Kind.INVALID: 400,
    Kind.NOT_FOUND: 404,
    Kind.TOO_LARGE: 413,
    Kind.UNAVAILABLE: 503,
    Kind.UNSUPPORTED: 501,
    Kind.DEADLINE: 504,
    Kind.INTERNAL: 500,
}
# wbits for zlib: 16 + 15 reads a gzip stream, 15 a zlib stream, which is what "deflate" means in HTTP.
_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Routes:
    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    async def __call__(self, request: Request) -> Response:
        """Never raises but CancelledError: this is the edge where every failure becomes an answer."""
        try:
            return await self._route(request)
        except RequestError as error:
            return refusal(STATUS[error.kind], error.message)
        except Exception:
            log.exception("a request failed in the server itself", extra={"f": {"path": request.path[:200]}})
            return refusal(500, "internal error; the server's log says more")

    async def _route(self, request: Request) -> Response:
        match [unquote(part) for part in request.path.strip("/").split("/")]:
            case ["v2", "models", name, "infer"]:
                return await self._infer(request, name, "")
            case ["v2", "models", name, "versions", version, "infer"]:
                return await self._infer(request, name, version)
            case parts:
                return self._read(request, parts)

    def _read(self, request: Request, parts: list[str]) -> Response:
        answer = self._reader(parts)
        if answer is None:
            return refusal(404, f"there is nothing at '{request.path[:200]}'")
        if request.method not in ("GET", "HEAD"):
            return _not_allowed(request, "GET, HEAD")
        return answer()

    def _reader(self, parts: list[str]) -> Callable[[], Response] | None:
        answer: Callable[[], Response] | None = None
        match parts:
            case ["v2"]:
                answer = self._server_metadata
            case ["v2", "health", "live"]:
                answer = partial(_json, {"live": True})
            case ["v2", "health", "ready"]:
                answer = partial(self._ready, {"ready": True})
            case ["v2", "models", name]:
                answer = partial(self._model_metadata, name, "")
            case ["v2", "models", name, "versions", version]:
                answer = partial(self._model_metadata, name, version)
            case ["v2", "models", name, "ready"]:
                answer = partial(self._model_ready, name, "")
            case ["v2", "models", name, "versions", version, "ready"]:
                answer = partial(self._model_ready, name, version)
            case ["metrics"]:
                answer = self._metrics
        return answer

    def _server_metadata(self) -> Response:
        return _json(self._service.server_metadata())

    def _model_metadata(self, name: str, version: str) -> Response:
        return _json(self._service.model_metadata(name, version))

    def _metrics(self) -> Response:
        return Response(200, (self._service.metrics(),), content_type=metrics.CONTENT_TYPE)

    def _ready(self, answer: dict[str, object]) -> Response:
        if self._service.is_ready():
            return _json(answer)
        return refusal(503, f"not ready: {self._service.state}")

    def _model_ready(self, name: str, version: str) -> Response:
        self._service.check_name(name, version)
        return self._ready({"name": name, "ready": True})

    async def _infer(self, request: Request, name: str, version: str) -> Response:
        if request.method != "POST":
            return _not_allowed(request, "POST")
        model = self._service.model(name, version)
        body = _decoded(request, self._max_body_bytes)
        parsed = rest.parse(body, request.headers.get("inference-header-content-length"))
        response = await self._service.infer(model, parsed)
        buffers, head_length = rest.render(response, parsed)
        if head_length is None:
            return Response(200, buffers)
        header = ("inference-header-content-length", str(head_length))
        return Response(200, buffers, content_type="application/octet-stream", headers=(header,))


def _json(answer: object) -> Response:
    return Response(200, (orjson.dumps(answer),))


def _not_allowed(request: Request, allowed: str) -> Response:
    answer = refusal(405, f"{request.method} is not allowed here, use {allowed}")
    return Response(405, answer.body, headers=(("allow", allowed),))


def _decoded(request: Request, limit: int) -> bytes:
    """The body without its Content-Encoding; never grows above `limit` bytes."""
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding == "identity":
        return request.body
    if coding not in _CODINGS:
        raise invalid(f"Content-Encoding '{coding[:40]}' is not understood, use gzip, deflate or none")
    inflater = zlib.decompressobj(_CODINGS[coding])
    try:
        body = inflater.decompress(request.body, limit)
    except zlib.error as exc:
        raise invalid(f"the body is not valid {coding}: {exc}") from None
    if inflater.unconsumed_tail:
        raise RequestError(Kind.TOO_LARGE, f"the request body is larger than {limit} bytes")
    if not inflater.eof:
        raise invalid(f"the {coding} body is cut short")
    return body
