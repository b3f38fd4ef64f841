"""The RPCs of `grpc_services` on our own HTTP/2: bytes to messages and back, refusals to statuses.

ModelInfer goes by callbacks from the socket to the model and back; all others are coroutines.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from slipway_runtime.errors import RequestError
from slipway_runtime.protocol import grpc_codes
from slipway_runtime.protocol.grpc_services import Rpc, Shape
from slipway_runtime.protocol.methods import SERVICE, Methods
from slipway_runtime.wire.grpc_calls import Call, Method, StreamCall, Streaming, streaming, unary
from slipway_runtime.wire.grpc_messages import Code, GrpcError


class _Context:
    """What `methods.Context` wants, from a call."""

    __slots__ = ("_call", "timeout_s")

    def __init__(self, call: Call | StreamCall) -> None:
        self._call = call
        self.timeout_s = call.timeout_s

    def header(self, name: str) -> str | None:
        value = self._call.header(name.encode())
        return None if value is None else value.decode("latin-1")


def methods_by_path(
    rpcs: Sequence[Rpc], inference: Methods, *, full_exhausts: bool = False
) -> Mapping[bytes, Method | Streaming]:
    """For `grpc_calls.GrpcServer`."""
    edge = _Edge(full_exhausts=full_exhausts)
    made: dict[bytes, Method | Streaming] = {rpc.path.encode(): edge.method(rpc) for rpc in rpcs}
    made[f"/{SERVICE}/ModelInfer".encode()] = edge.infer(inference)
    return made


class _Edge:
    def __init__(self, *, full_exhausts: bool) -> None:
        self._full_exhausts = full_exhausts

    def _error(self, error: RequestError) -> GrpcError:
        code, message = grpc_codes.refusal(error, full_exhausts=self._full_exhausts)
        return GrpcError(Code(code), message)

    def infer(self, inference: Methods) -> Method:
        parse = pb.ModelInferRequest.FromString

        def begin(call: Call, message: bytes) -> None:
            def done(result: Any) -> None:
                if isinstance(result, RequestError):
                    error = self._error(result)
                    call.fail(error.code, error.message)
                else:
                    call.reply(result.SerializeToString())

            try:
                call.on_cancel = inference.infer(parse(message), _Context(call), done).cancel
            except RequestError as error:
                raise self._error(error) from None
            except DecodeError as error:
                raise _unreadable(error) from None

        return begin

    def method(self, rpc: Rpc) -> Method | Streaming:
        if rpc.shape is Shape.UNARY:
            return unary(lambda call, message: self._unary(rpc, call, message))
        return streaming(lambda call: self._stream(rpc, call))

    async def _unary(self, rpc: Rpc, call: Call, message: bytes) -> bytes:
        try:
            answer = await rpc.call(rpc.parse(message), _Context(call))
        except RequestError as error:
            raise self._error(error) from None
        except DecodeError as error:
            raise _unreadable(error) from None
        return bytes(answer.SerializeToString())

    async def _stream(self, rpc: Rpc, call: StreamCall) -> None:
        messages = _parsed(rpc, call)
        given = messages if rpc.shape is Shape.BIDI else await anext(messages)
        answers = rpc.call(given, _Context(call))
        try:
            async for answer in answers:
                await call.send(answer.SerializeToString())
        except RequestError as error:
            raise self._error(error) from None
        finally:
            await answers.aclose()


async def _parsed(rpc: Rpc, call: StreamCall) -> AsyncIterator[Any]:
    async for message in call:
        try:
            parsed = rpc.parse(message)
        except DecodeError as error:
            raise _unreadable(error) from None
        yield parsed


def _unreadable(error: DecodeError) -> GrpcError:
    return GrpcError(Code.INTERNAL, f"the message is not what this method takes: {error}")
