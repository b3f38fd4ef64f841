"""The RPCs of `grpc_services` as methods of our own gRPC server. ModelInfer goes without a task."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from slipway_runtime.errors import RequestError, invalid
from slipway_runtime.protocol import grpc_codes, methods
from slipway_runtime.protocol.grpc_services import Rpc, Shape
from slipway_runtime.protocol.methods import Methods
from slipway_runtime.wire.grpc_calls import Call, Method, StreamCall, Streaming, streaming, unary
from slipway_runtime.wire.grpc_messages import Code, GrpcError

Status = Callable[[RequestError], tuple[Code, str]]


def http2_methods(
    rpcs: Sequence[Rpc], inference: Methods, *, full_exhausts: bool = False
) -> dict[bytes, Method | Streaming]:
    """By their paths. `full_exhausts`: see `grpc_codes.code_of`."""

    def status(error: RequestError) -> tuple[Code, str]:
        code, sentence = grpc_codes.refusal(error, full_exhausts=full_exhausts)
        return Code(code), sentence

    made = {rpc.path.encode(): _method(rpc, status) for rpc in rpcs}
    infer = f"/{methods.SERVICE}/ModelInfer".encode()
    return made | {infer: _infer(inference, next(rpc for rpc in rpcs if rpc.path.encode() == infer), status)}


def _infer(inference: Methods, rpc: Rpc, status: Status) -> Method:
    def infer(call: Call, data: bytes) -> None:
        def done(result: Any | RequestError) -> None:
            if isinstance(result, RequestError):
                call.fail(*status(result))
            else:
                call.reply(result.SerializeToString())

        try:
            ticket = inference.infer(_parsed(rpc, data), call, done)
        except RequestError as error:
            call.fail(*status(error))
        else:
            call.on_cancel = ticket.cancel

    return infer


def _method(rpc: Rpc, status: Status) -> Method | Streaming:
    return _unary(rpc, status) if rpc.shape is Shape.UNARY else _streaming(rpc, status)


def _unary(rpc: Rpc, status: Status) -> Method:
    async def answer(call: Call, data: bytes) -> bytes:
        try:
            message = await rpc.call(_parsed(rpc, data), call)
        except RequestError as error:
            raise GrpcError(*status(error)) from error
        serialized: bytes = message.SerializeToString()
        return serialized

    return unary(answer)


def _streaming(rpc: Rpc, status: Status) -> Streaming:
    async def answer(call: StreamCall) -> None:
        answers = None
        try:
            given = await _only(rpc, call) if rpc.shape is Shape.SERVER_STREAM else _messages(rpc, call)
            answers = rpc.call(given, call)
            async for message in answers:
                await call.send(message.SerializeToString())
        except RequestError as error:
            raise GrpcError(*status(error)) from error
        finally:
            if answers is not None:
                await answers.aclose()

    return streaming(answer)


async def _only(rpc: Rpc, call: StreamCall) -> Any:
    async for message in _messages(rpc, call):
        return message
    raise invalid("the request ended before its message did")


async def _messages(rpc: Rpc, call: StreamCall) -> AsyncIterator[Any]:
    async for data in call:
        yield _parsed(rpc, data)


def _parsed(rpc: Rpc, data: bytes) -> Any:
    try:
        return rpc.parse(data)
    except DecodeError:
        raise invalid(f"the message is no {rpc.name}Request: its protobuf cannot be decoded") from None
