"""What can be switched on to see single requests: a log line for each, an OpenTelemetry span for each.

Both wrap the HTTP handler; switched off there is no wrapper and no cost.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from slipway_runtime.wire.http1_messages import Answer, Cancel, Handler, Request, Response

access = logging.getLogger("slipway.access")


def logged(handler: Handler) -> Handler:
    """One line per request, when it is answered or given up."""

    def handle(request: Request, answer: Answer) -> Cancel | None:
        began_s = time.perf_counter()

        def line(status: int, size: int) -> None:
            fields = {
                "method": request.method,
                "path": request.path,
                "status": status,
                "ms": round(1000 * (time.perf_counter() - began_s), 3),
                "bytes_in": len(request.body),
                "bytes_out": size,
            }
            access.info("request", extra={"f": fields})

        def answered(response: Response) -> None:
            line(response.status, sum(map(len, response.body)))
            answer(response)

        cancel = handler(request, answered)
        if cancel is None:
            return None

        def cancelled() -> None:
            line(499, 0)
            cancel()

        return cancelled

    return handle


class Tracer:
    """Spans by OpenTelemetry's SDK, configured by its own OTEL_* variables."""

    def __init__(self, exporter: Any = None) -> None:
        """`exporter`: where spans go, in place of OTLP. Raises ImportError without the packages of slipway[tracing]."""
        from opentelemetry import trace  # noqa: PLC0415 - optional, and slow to import
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        # The variable OTEL_SERVICE_NAME goes before this name.
        self._provider = TracerProvider(resource=Resource.create({"service.name": "slipway-runtime"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _otlp()))
        self._tracer = self._provider.get_tracer("slipway_runtime")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, headers: Mapping[bytes, bytes], attributes: Mapping[str, Any]) -> Any:
        carrier = {key: headers[key.encode()].decode("latin-1") for key in TRACE_HEADERS if key.encode() in headers}
        context = self._propagator.extract(carrier)
        return self._tracer.start_span(
            name, context=context, kind=self._trace.SpanKind.SERVER, attributes=dict(attributes)
        )

    def end(self, span: Any, *, ok: bool, attributes: Mapping[str, Any]) -> None:
        span.set_attributes(dict(attributes))
        if not ok:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def traced(self, handler: Handler) -> Handler:
        """A server span per HTTP request, child of the caller's `traceparent`."""

        def handle(request: Request, answer: Answer) -> Cancel | None:
            about = {"http.request.method": request.method, "url.path": request.path}
            span = self.begin(f"{request.method} {request.path}", request.headers, about)

            def answered(response: Response) -> None:
                status = {"http.response.status_code": response.status}
                self.end(span, ok=response.status < 500, attributes=status)
                answer(response)

            cancel = handler(request, answered)
            if cancel is None:
                return None

            def cancelled() -> None:
                self.end(span, ok=False, attributes={"error.type": "cancelled"})
                cancel()

            return cancelled

        return handle

    def close(self) -> None:
        """Send what is left; at most some seconds."""
        self._provider.shutdown()


def _otlp() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


TRACE_HEADERS = ("traceparent", "tracestate")
