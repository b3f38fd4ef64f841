"""REST routes that run a model and need more than one step: `generate`, `generate_stream` and V1's `:predict`."""

import logging
from collections.abc import AsyncIterator, Callable

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import generate, v1
from slipway_runtime.protocol.api import Api, Entry, close, submitted
from slipway_runtime.protocol.rest_answers import dumps
from slipway_runtime.protocol.rest_pages import Pages
from slipway_runtime.tensors import InferRequest, InferResponse
from slipway_runtime.wire.http1_messages import Request, Response

log = logging.getLogger("slipway.rest")


class Tasks:
    """`for_client` puts what the headers say into a request."""

    def __init__(self, api: Api, for_client: Callable[[Request, InferRequest], None]) -> None:
        self._api = api
        self._for_client = for_client

    def add_to(self, pages: Pages) -> None:
        for model in ("v2/models/*", "v2/models/*/versions/*"):
            pages.add("POST", f"{model}/generate", self._generate)
            pages.add("POST", f"{model}/generate_stream", self._generate_stream)
        pages.add("POST", "v1/models/*", self._v1)
        pages.add("POST", "v1/models/*/versions/*", self._v1)

    def check(self, page: object, request: Request, names: list[str]) -> None:
        """Raises RequestError if the page needs a model that is not there, before its body costs anything."""
        if page == self._v1:
            self._v1_entry(request, *names)
        elif page in (self._generate, self._generate_stream):
            self._api.entry(*_with_version(*names))

    def _v1_entry(self, request: Request, name: str, version: str = "") -> Entry:
        # The verb stands behind the last name of the path.
        last, _, verb = (version or name).rpartition(":")
        if verb != "predict" or not last:
            raise RequestError(Kind.NOT_FOUND, f"there is nothing at '{request.path[:200]}', V1 serves ':predict'")
        return self._api.entry(*((name, last) if version else (last, "")))

    async def _v1(self, request: Request, name: str, version: str = "") -> Response:
        entry = self._v1_entry(request, name, version)
        parsed, form = v1.parse(request.body, entry.metadata)
        self._for_client(request, parsed)
        return Response(200, (v1.render(await self._single(entry, parsed), form),))

    async def _generate(self, request: Request, name: str, version: str = "") -> Response:
        entry = self._api.entry(name, version)
        parsed = generate.parse(request.body, entry.metadata)
        self._for_client(request, parsed)
        return Response(200, (generate.render(await self._single(entry, parsed)),))

    async def _generate_stream(self, request: Request, name: str, version: str = "") -> Response:
        """What goes wrong before the first answer has a status of its own; after it, it is the last event."""
        entry = self._api.entry(name, version)
        parsed = generate.parse(request.body, entry.metadata)
        self._for_client(request, parsed)
        responses = self._api.stream(entry, parsed)
        first = await anext(responses, None)
        return Response(200, content_type="text/event-stream", stream=_Events(first, responses))

    async def _single(self, entry: Entry, parsed: InferRequest) -> InferResponse:
        """The one answer there is."""
        if not entry.decoupled:
            return await submitted(self._api, entry, parsed)
        responses = self._api.stream(entry, parsed)
        try:
            only = await anext(responses, None)
            more = only is not None and await anext(responses, None) is not None
        finally:
            await close(responses)
        if only is None or more:
            count = "more than one answer" if more else "no answer"
            raise RequestError(
                Kind.INVALID, f"model '{entry.name}' gave {count} where exactly one is expected, use generate_stream"
            )
        return only


def _with_version(name: str, version: str = "") -> tuple[str, str]:
    return name, version


class _Events:
    """Server-sent events. Not a generator: closing one that was never started would not close what is behind it."""

    def __init__(self, first: InferResponse | None, responses: AsyncIterator[InferResponse]) -> None:
        self._first = first
        self._responses = responses
        self._over = first is None

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        try:
            first, self._first = self._first, None
            return generate.event(generate.render(first if first is not None else await anext(self._responses)))
        except RequestError as error:
            message = error.message
        except Exception as error:
            if isinstance(error, StopAsyncIteration):
                raise
            log.exception("a stream failed in the server itself")
            message = "internal error; the server's log says more"
        self._over = True
        return generate.event(dumps({"error": message}))

    async def aclose(self) -> None:
        self._over = True
        await close(self._responses)
