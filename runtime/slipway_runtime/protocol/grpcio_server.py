"""The RPCs of `grpc_services` behind grpc.aio: the fallback for who does not want our own HTTP/2, and its oracle."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc

from slipway_runtime.errors import RequestError
from slipway_runtime.protocol import grpc_codes
from slipway_runtime.protocol.grpc_services import Rpc, Shape

log = logging.getLogger("slipway.grpc")
CONNECTION_AGE_MS = 10_000
_STATUS = {status.value[0]: status for status in grpc.StatusCode}
_INTERNAL = "internal error; the server's log says more"


class _Context:
    """What `methods.Context` wants, from grpcio's."""

    def __init__(self, context: Any) -> None:
        self._context = context

    @property
    def timeout_s(self) -> float | None:
        left: float | None = self._context.time_remaining()
        return left

    def header(self, name: bytes) -> bytes | None:
        for key, value in self._context.invocation_metadata() or ():
            if key == name.decode():
                return value if isinstance(value, bytes) else value.encode("latin-1")
        return None


class _Edge:
    """Where every failure becomes a status."""

    def __init__(self, *, full_exhausts: bool) -> None:
        self._full_exhausts = full_exhausts

    def status(self, error: Exception) -> tuple[Any, str]:
        if isinstance(error, RequestError):
            code, message = grpc_codes.refusal(error, full_exhausts=self._full_exhausts)
            return _STATUS[code], message
        log.error("a request failed in the server itself", exc_info=error)
        return grpc.StatusCode.INTERNAL, _INTERNAL

    def handler(self, rpc: Rpc) -> Any:
        makers = {
            Shape.UNARY: (grpc.unary_unary_rpc_method_handler, self._unary),
            Shape.SERVER_STREAM: (grpc.unary_stream_rpc_method_handler, self._stream),
            Shape.BIDI: (grpc.stream_stream_rpc_method_handler, self._stream),
        }
        make, edge = makers[rpc.shape]
        return make(edge(rpc), rpc.parse, lambda message: message.SerializeToString())

    def _unary(self, rpc: Rpc) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(message: Any, context: Any) -> Any:
            try:
                return await rpc.call(message, _Context(context))
            except Exception as error:
                status, sentence = self.status(error)
            # abort() raises, so it stands outside of what catches.
            return await context.abort(status, sentence)

        return answer

    def _stream(self, rpc: Rpc) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def answers(messages: Any, context: Any) -> AsyncIterator[Any]:
            responses = rpc.call(messages, _Context(context))
            try:
                async for response in responses:
                    yield response
            except Exception as error:
                status, sentence = self.status(error)
            else:
                return
            finally:
                await responses.aclose()
            await context.abort(status, sentence)

        return answers


class GrpcServer:
    def __init__(self, rpcs: Sequence[Rpc], max_body_bytes: int, *, full_exhausts: bool = False) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_body_bytes),
                ("grpc.max_send_message_length", -1),
                # Clients are told to connect anew now and then, calls that run unharmed: so they spread over replicas,
                # and have left a server that drains before its drain is over. Stopping the server instead, grpcio
                # cancels calls that arrive in that moment.
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a coin to toss
            ]
        )
        edge = _Edge(full_exhausts=full_exhausts)
        for service in dict.fromkeys(rpc.service for rpc in rpcs):
            handlers = {rpc.name: edge.handler(rpc) for rpc in rpcs if rpc.service == service}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    async def listen(self, host: str, port: int) -> int:
        """Start; returns the port. Raises OSError when the address cannot be had."""
        address = f"[{host or '::'}]" if ":" in (host or "::") else host
        try:
            bound = self._server.add_insecure_port(f"{address}:{port}")
        except RuntimeError as exc:
            raise OSError(str(exc)) from exc
        await self._server.start()
        return int(bound)

    async def close(self, grace_s: float) -> None:
        """Tell clients to go, wait for what runs, at most `grace_s`."""
        await self._server.stop(grace_s)
