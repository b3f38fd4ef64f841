"""The same as `observe` for calls of our own gRPC server: a log line, a span for each.

Both wrap the methods; switched off there is no wrapper and no cost.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from slipway_runtime.observe import TRACE_HEADERS, Tracer, access
from slipway_runtime.wire.grpc_calls import Call, Method, StreamCall, Streaming, streaming
from slipway_runtime.wire.grpc_messages import Code, GrpcError

Methods = Mapping[bytes, Method | Streaming]
Ended = Callable[[Code, int], None]
"""Called once: how it ended, and how many bytes the answer has, 0 if there is none or it is a stream."""
Begin = Callable[[str, Call | StreamCall, int], Ended]
"""Called with the path, the call, and how many bytes its message has, 0 for a stream."""


def logged_calls(methods: Methods) -> dict[bytes, Method | Streaming]:
    """One line per call, when it is answered or given up."""

    def begin(path: str, call: Call | StreamCall, size: int) -> Ended:
        began_s = time.perf_counter()

        def ended(code: Code, answer_size: int) -> None:
            ms = round(1000 * (time.perf_counter() - began_s), 3)
            fields = {"rpc": path, "code": code.name, "ms": ms, "bytes_in": size, "bytes_out": answer_size}
            access.info("call", extra={"f": fields})

        return ended

    return _watched(methods, begin)


def traced_calls(tracer: Tracer, methods: Methods) -> dict[bytes, Method | Streaming]:
    """A server span per call, child of the caller's `traceparent`."""

    def begin(path: str, call: Call | StreamCall, size: int) -> Ended:
        name = path.removeprefix("/")
        service, _, method = name.partition("/")
        headers = {key: value for key in _TRACE if (value := call.header(key)) is not None}
        span = tracer.begin(name, headers, {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method})

        def ended(code: Code, answer_size: int) -> None:
            tracer.end(span, ok=code not in _OUR_FAULT, attributes={"rpc.grpc.status_code": int(code)})

        return ended

    return _watched(methods, begin)


_TRACE = tuple(key.encode() for key in TRACE_HEADERS)
# Of a server's span these are errors, the others are the caller's.
# Source: OpenTelemetry, semantic conventions for gRPC.
_OUR_FAULT = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)


def _watched(methods: Methods, begin: Begin) -> dict[bytes, Method | Streaming]:
    return {
        path: _stream(path.decode(), method, begin)
        if isinstance(method, Streaming)
        else _unary(path.decode(), method, begin)
        for path, method in methods.items()
    }


class _Watched:
    """A unary call that tells how it ends. What is not about its end is the call's own."""

    def __init__(self, call: Call, ended: Ended) -> None:
        self._call, self._ended = call, ended

    def reply(self, message: Any, *metadata: Any, **more: Any) -> None:
        self.ended(Code.OK, len(message) if isinstance(message, bytes) else sum(map(len, message)))
        self._call.reply(message, *metadata, **more)

    def fail(self, code: Code, *text: Any, **more: Any) -> None:
        self.ended(code, 0)
        self._call.fail(code, *text, **more)

    @property
    def on_cancel(self) -> Callable[[], object] | None:
        return self._call.on_cancel

    @on_cancel.setter
    def on_cancel(self, cancel: Callable[[], object]) -> None:
        def cancelled() -> None:
            self.ended(Code.CANCELLED, 0)
            cancel()

        self._call.on_cancel = cancelled

    def ended(self, code: Code, size: int) -> None:
        ended, self._ended = self._ended, _nothing
        ended(code, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _nothing(code: Code, size: int) -> None:
    """It has ended already."""


def _unary(path: str, method: Method, begin: Begin) -> Method:
    def call_it(call: Call, message: bytes) -> None:
        watched = _Watched(call, begin(path, call, len(message)))
        try:
            method(cast("Call", watched), message)
        except Exception as error:
            watched.ended(error.code if isinstance(error, GrpcError) else Code.INTERNAL, 0)
            raise

    return call_it


def _stream(path: str, method: Streaming, begin: Begin) -> Streaming:
    async def converse(call: StreamCall) -> None:
        ended = begin(path, call, 0)
        code = Code.INTERNAL
        try:
            await method.function(call)
            code = Code.OK
        except GrpcError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        finally:
            ended(code, 0)

    return streaming(converse)
