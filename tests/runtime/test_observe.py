"""A line and a span for every request when they are wanted: answered, refused, given up."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slipway_runtime.observe import Tracer, logged
from slipway_runtime.wire.http1_messages import Answer, Cancel, Handler, Request, Response

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def request(**headers: str) -> Request:
    sent = {name.encode(): value.encode() for name, value in headers.items()}
    return Request("POST", "/v2/models/m/infer", sent, b"12345", keep_alive=True)


def at_once(response: Response) -> Handler:
    def handle(request: Request, answer: Answer) -> Cancel | None:
        answer(response)
        return None

    return handle


class Later:
    """A handler that answers when told, and knows who gave up."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.cancelled = 0

    def __call__(self, request: Request, answer: Answer) -> Cancel | None:
        self.answers.append(answer)
        return self._cancel

    def _cancel(self) -> None:
        self.cancelled += 1


Log = pytest.LogCaptureFixture


def lines(caplog: Log) -> list[dict[str, Any]]:
    return [dict(vars(record)["f"]) for record in caplog.records if record.name == "slipway.access"]


def test_a_line_says_what_was_asked_and_answered(caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    answers: list[Response] = []
    response = Response(404, (b"abc", b"de"))
    assert logged(at_once(response))(request(), answers.append) is None
    (line,) = lines(caplog)
    assert line.pop("ms") >= 0
    assert line == {"method": "POST", "path": "/v2/models/m/infer", "status": 404, "bytes_in": 5, "bytes_out": 5}
    assert answers == [response]


def test_a_request_that_is_answered_later_has_its_line_then(caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    handler = Later()
    answers: list[Response] = []
    assert logged(handler)(request(), answers.append) is not None
    assert lines(caplog) == []
    handler.answers[0](Response(200))
    assert [line["status"] for line in lines(caplog)] == [200]
    assert len(answers) == 1


def test_a_request_that_was_given_up_is_499_and_reaches_the_handler(caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    handler = Later()
    cancel = logged(handler)(request(), lambda response: None)
    assert cancel is not None
    cancel()
    assert [line["status"] for line in lines(caplog)] == [499]
    assert handler.cancelled == 1


def spans(ask: Callable[[Tracer], None]) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter)
    ask(tracer)
    tracer.close()
    return list(exporter.get_finished_spans())


def test_a_span_is_the_child_of_the_callers() -> None:
    asked = request(traceparent=f"00-{TRACE}-{PARENT}-01")
    (span,) = spans(lambda tracer: tracer.traced(at_once(Response(200)))(asked, lambda response: None) and None)
    assert span.name == "POST /v2/models/m/infer"
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.kind.name == "SERVER"
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/v2/models/m/infer",
        "http.response.status_code": 200,
    }
    assert span.status.is_ok
    assert span.resource.attributes["service.name"] == "slipway-runtime"


@pytest.mark.parametrize("header", [None, "00-nonsense-01", f"00-{'0' * 32}-{PARENT}-01"])
def test_without_a_usable_traceparent_a_trace_begins(header: str | None) -> None:
    asked = request(**({} if header is None else {"traceparent": header}))
    (span,) = spans(lambda tracer: tracer.traced(at_once(Response(200)))(asked, lambda response: None) and None)
    assert span.parent is None


@pytest.mark.parametrize(("status", "failed"), [(200, False), (404, False), (500, True), (503, True)])
def test_only_failures_of_the_server_mark_a_span(status: int, failed: bool) -> None:
    (span,) = spans(lambda tracer: tracer.traced(at_once(Response(status)))(request(), lambda response: None) and None)
    assert (span.status.status_code.name == "ERROR") is failed


def test_a_request_that_was_given_up_ends_its_span() -> None:
    handler = Later()

    def ask(tracer: Tracer) -> None:
        cancel = tracer.traced(handler)(request(), lambda response: None)
        assert cancel is not None
        cancel()

    (span,) = spans(ask)
    assert dict(span.attributes or {})["error.type"] == "cancelled"
    assert handler.cancelled == 1


async def test_a_line_and_a_span_together_keep_the_answer_as_it_is(caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    tracer = Tracer(InMemorySpanExporter())
    answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    response = Response(200, (b"x",), "text/plain", (("a", "b"),))
    logged(tracer.traced(at_once(response)))(request(), answered.set_result)
    assert await answered is response
    tracer.close()
