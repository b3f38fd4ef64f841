"""REST of the Open Inference Protocol: a `Request` to a `Response`, by way of the server behind it.

    POST /v2/models/M[/versions/V]/infer                     here, without a task: this is the hot path
         /v2/models/M[/versions/V]/generate[_stream]         rest_tasks.py, one task each
         /v1/models/M[/versions/V]:predict
    all the others                                           rest_pages.py

Errors are always {"error": sentence} with Triton's status codes, but for two: not ready is 503 (Triton: 400, which
blames the client; probes take either), and a deadline is 504 (Triton: 503, which invites a retry).
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

from slipway_runtime.errors import Kind, RequestError, invalid
from slipway_runtime.protocol import codings, load_report, rest
from slipway_runtime.protocol.api import Api, Entry
from slipway_runtime.protocol.rest_answers import render
from slipway_runtime.protocol.rest_pages import Page, Pages
from slipway_runtime.protocol.rest_tasks import Tasks
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.tensors import InferRequest, InferResponse
from slipway_runtime.wire.http1_messages import Answer, Cancel, Request, Response, refusal
from slipway_runtime.wire.inflating import INLINE_BYTES, INLINE_PLAIN_BYTES, Inflating, NoRoom

log = logging.getLogger("slipway.rest")

STATUS = {
    Kind.INVALID: 400,
    Kind.EXISTS: 400,
    Kind.NOT_FOUND: 404,
    Kind.TOO_LARGE: 413,
    Kind.UNAVAILABLE: 503,
    Kind.FULL: 503,
    Kind.UNSUPPORTED: 501,
    Kind.DEADLINE: 504,
    Kind.INTERNAL: 500,
}
_MAX_TARGETS = 1024
# Above this zlib works on a thread: it takes some 10 ms per MiB, for which others must not wait.
INLINE_COMPRESS_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class RestOptions:
    """Names of headers are in lower case.

    `full_status`: what a full queue answers, 503 as Triton does or 429. `compress_above_bytes` None: never.
    """

    max_body_bytes: int
    tenant_header: bytes = b"x-slipway-tenant"
    request_id_header: bytes = b"x-request-id"
    timeout_header: bytes = b"x-slipway-timeout-ms"
    full_status: int = 503
    compress_above_bytes: int | None = 1024


class Routes:
    """Called on the event loop, where `answer` is called too, once for each request that is not cancelled."""

    def __init__(
        self, api: Api, memory: SharedMemory, options: RestOptions, inflating: Inflating | None = None
    ) -> None:
        self._api = api
        self._memory = memory
        self._options = options
        self._status = STATUS | {Kind.FULL: options.full_status}
        self._pages = Pages(api, memory)
        self._tasks = Tasks(api, self._for_client)
        self._tasks.add_to(self._pages)
        self._targets: dict[str, tuple[str, str]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._inflating = inflating or Inflating()

    def __call__(self, request: Request, answer: Answer) -> Cancel | None:
        """Have a request answered, at once or later. Returns what cancels it, if that makes sense. Never raises."""
        try:
            coding = request.headers.get(b"content-encoding")
            return self._route(request, answer) if coding is None else self._inflate(request, coding, answer)
        except Exception as error:
            self._finish(request, self._refusal(request, error), answer)
            return None

    def _route(self, request: Request, answer: Answer) -> Cancel | None:
        target = self._targets.get(request.path) or self._target(request.path)
        if target is None:
            return self._page(request, answer)
        if request.method != "POST":
            self._finish(request, _not_allowed(request, {"POST": None}), answer)
            return None
        return self._infer(request, target, answer)

    def _inflate(self, request: Request, coding: bytes, answer: Answer) -> Cancel | None:
        """Answer the request that is in this one, whose body is compressed."""
        if self._is_refused_anyway(request):
            return self._route(request, answer)
        held = [0]
        begun: list[Cancel | None] = []

        def give_back() -> None:
            self._inflating.release(held[0])
            held[0] = 0

        def answered(response: Response) -> None:
            give_back()
            answer(response)

        def route(body: bytes | memoryview) -> None:
            self._inflating.hold(len(body))
            held[0] = len(body)
            try:
                begun.append(self._route(_plain(request, body), answered))
            except Exception:
                give_back()
                raise

        decode = partial(codings.decoded, request.body, coding)

        async def later() -> None:
            route(await self._inflating.run(partial(decode, self._options.max_body_bytes)))

        if (small := self._small_body(request, decode)) is not None:
            route(small)
        else:
            begun.append(self._start(request, later(), answer))

        def cancel() -> None:
            _cancel_all(begun)
            give_back()

        return cancel

    def _is_refused_anyway(self, request: Request) -> bool:
        """Whether a request is answered without its body being looked at. Raises RequestError for an unknown model."""
        target = self._targets.get(request.path) or self._target(request.path)
        if target is not None:
            if request.method == "POST":
                self._api.entry(*target)
            return request.method != "POST"
        found = self._pages.find(request.path)
        if found is None or (page := _page_of(request, found[0])) is None:
            return True
        self._tasks.check(page, request, found[1])
        return False

    def _small_body(self, request: Request, decode: Callable[[int], bytes | memoryview]) -> bytes | memoryview | None:
        """Inflated at once; None if that takes longer."""
        limit = self._options.max_body_bytes
        if len(request.body) > INLINE_BYTES:
            return None
        self._inflating.check_room()
        try:
            return decode(min(limit, INLINE_PLAIN_BYTES))
        except RequestError as error:
            if error.kind is Kind.TOO_LARGE and limit > INLINE_PLAIN_BYTES:
                return None
            raise

    def _target(self, path: str) -> tuple[str, str] | None:
        """The model and the version that a path of inference names; remembered, because clients ask again and again."""
        match path.strip("/").split("/"):
            case ["v2", "models", name, "infer"]:
                target = (unquote(name), "")
            case ["v2", "models", name, "versions", version, "infer"]:
                target = (unquote(name), unquote(version))
            case _:
                return None
        if len(path) < 256:
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            self._targets[path] = target
        return target

    # --- inference

    def _infer(self, request: Request, target: tuple[str, str], answer: Answer) -> Cancel:
        entry = self._api.entry(*target)
        if entry.decoupled:
            raise RequestError(
                Kind.UNSUPPORTED,
                f"model '{entry.name}' is decoupled: it may give any number of answers, use generate_stream or gRPC",
            )
        headers = request.headers
        head_length = headers.get(b"inference-header-content-length")
        parsed = rest.parse(request.body, head_length, entry.metadata, self._memory, entry.name)
        self._for_client(request, parsed)

        def done(result: InferResponse | RequestError) -> None:
            response = self._answer(request, entry, parsed, result)
            if b"accept-encoding" in headers and self._compress(request, response, answer):
                return
            self._finish(request, response, answer)

        return self._api.submit(entry, parsed, done).cancel

    def _answer(
        self, request: Request, entry: Entry, parsed: InferRequest, result: InferResponse | RequestError
    ) -> Response:
        if isinstance(result, RequestError):
            return self._refusal(request, result)
        try:
            buffers, head_length = render(result, parsed, entry, self._memory)
        except Exception as error:
            return self._refusal(request, error)
        if head_length is None:
            return Response(200, buffers)
        header = ("inference-header-content-length", str(head_length))
        return Response(200, buffers, "application/octet-stream", (header,))

    def _for_client(self, request: Request, parsed: InferRequest) -> None:
        """What the headers say about a request: whose it is and how long the client will wait."""
        headers, options = request.headers, self._options
        if (tenant := headers.get(options.tenant_header)) is not None:
            parsed.tenant = tenant.decode("latin-1")
        if (timeout := headers.get(options.timeout_header)) is not None:
            if not (timeout.isdigit() and int(timeout[:16]) > 0):
                raise invalid(f"the header {options.timeout_header.decode()} must be a number of milliseconds > 0")
            parsed.patience_s = int(timeout[:16]) / 1e3

    # --- all the others

    def _page(self, request: Request, answer: Answer) -> Cancel | None:
        found = self._pages.find(request.path)
        if found is None:
            self._finish(request, refusal(404, f"there is nothing at '{request.path[:200]}'"), answer)
            return None
        methods, names = found
        page = _page_of(request, methods)
        if page is None:
            self._finish(request, _not_allowed(request, methods), answer)
            return None
        result = page(request, *names)
        if isinstance(result, Response):
            self._finish(request, result, answer)
            return None
        return self._start(request, self._wait(request, result, answer), answer)

    async def _wait(self, request: Request, result: Awaitable[Response], answer: Answer) -> None:
        self._finish(request, await result, answer)

    def _start(self, request: Request, work: Coroutine[Any, Any, None], answer: Answer) -> Cancel:
        """Do what takes longer in a task, whose failure is the answer."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self._finish(request, self._refusal(request, error), answer)

        task = asyncio.get_running_loop().create_task(guarded())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled so soon that it never began

        def cancel() -> None:
            task.cancel()

        return cancel

    # --- answers

    def _refusal(self, request: Request, error: Exception) -> Response:
        if isinstance(error, NoRoom):
            return refusal(503, str(error))
        if not isinstance(error, RequestError):
            log.error(
                "a request failed in the server itself", exc_info=error, extra={"f": {"path": request.path[:200]}}
            )
            return refusal(500, "internal error; the server's log says more")
        status = self._status[error.kind]
        if error.retry_after_s is None:
            return refusal(status, error.message)
        return refusal(status, error.message, (("retry-after", str(max(1, math.ceil(error.retry_after_s)))),))

    def _finish(self, request: Request, response: Response, answer: Answer) -> None:
        """Add what the headers of the request ask for, and hand the answer over."""
        headers, options = request.headers, self._options
        if (request_id := headers.get(options.request_id_header)) is not None:
            response.headers += ((options.request_id_header.decode(), request_id.decode("latin-1")),)
        if (form := headers.get(load_report.REQUEST_HEADER)) is not None:
            report = load_report.rendered(form, self._api.load_report())
            if report is not None:
                response.headers += ((load_report.RESPONSE_HEADER, report),)
        answer(response)

    def _compress(self, request: Request, response: Response, answer: Answer) -> bool:
        """Whether the answer will be given later, because it is large and has to be compressed.

        Of inference only: tritonclient.http.aio says that it takes gzip everywhere, but reads it only there.
        """
        above_bytes, size = self._options.compress_above_bytes, sum(map(len, response.body))
        coding = codings.accepted(request.headers[b"accept-encoding"])
        if above_bytes is None or size <= above_bytes or coding is None:
            return False
        response.headers += (("content-encoding", coding), ("vary", "accept-encoding"))
        if size <= INLINE_COMPRESS_BYTES:
            response.body = (codings.encoded(response.body, coding),)
            return False

        async def later() -> None:
            response.body = (await asyncio.to_thread(codings.encoded, response.body, coding),)
            self._finish(request, response, answer)

        self._start(request, later(), answer)
        return True


def _cancel_all(begun: Iterable[Cancel | None]) -> None:
    for cancel in begun:
        if cancel is not None:
            cancel()


def _page_of(request: Request, methods: Mapping[str, Page]) -> Page | None:
    return methods.get("GET" if request.method == "HEAD" else request.method)


def _plain(request: Request, body: bytes | memoryview) -> Request:
    headers = {name: value for name, value in request.headers.items() if name != b"content-encoding"}
    return Request(request.method, request.path, headers, body, request.keep_alive)


def _not_allowed(request: Request, methods: Mapping[str, object]) -> Response:
    allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
    return refusal(405, f"{request.method} is not allowed here, use {allowed}", (("allow", allowed),))
