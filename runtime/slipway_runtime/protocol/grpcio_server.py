"""gRPC of the Open Inference Protocol (Triton's `inference.GRPCInferenceService`) on the same service as REST.

Served: ServerLive, ServerReady, ModelReady, ServerMetadata, ModelMetadata, ModelInfer. Everything else answers
UNIMPLEMENTED, which grpcio does for what has no handler. The client's own deadline counts.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol import protos
from slipway_runtime.service import Service

log = logging.getLogger("slipway.grpc")

CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Kind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
Method = Callable[[Any, Any], Awaitable[Any]]


class Methods:
    """One coroutine per RPC, named as in the proto."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._service.is_ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        self._service.check_name(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._service.is_ready())

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(**self._service.server_metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        return pb.ModelMetadataResponse(**self._service.model_metadata(request.name, request.version))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        model = self._service.model(request.model_name, request.model_version)
        parsed = protos.parse(request)
        return protos.render(await self._service.infer(model, parsed, context.time_remaining()))


RPCS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")


def _answering(method: Method) -> Method:
    """The edge of one RPC: every failure becomes a status."""

    async def answer(request: Any, context: Any) -> Any:
        try:
            return await method(request, context)
        except RequestError as error:
            code, message = CODES[error.kind], error.message
        except Exception:
            log.exception("a request failed in the server itself")
            code, message = grpc.StatusCode.INTERNAL, "internal error; the server's log says more"
        # abort() raises, so it stands outside of what catches.
        return await context.abort(code, message)

    return answer


def _handler(methods: Methods, rpc: str) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        _answering(getattr(methods, rpc)),
        getattr(pb, f"{rpc}Request").FromString,
        getattr(pb, f"{rpc}Response").SerializeToString,
    )


CONNECTION_AGE_MS = 10_000


class GrpcServer:
    def __init__(self, service: Service, max_body_bytes: int) -> None:
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
        methods = Methods(service)
        handlers = {rpc: _handler(methods, rpc) for rpc in RPCS}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )

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
