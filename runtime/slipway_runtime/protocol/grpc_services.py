"""All RPCs that are served, in a form that any gRPC server can take: path, how bytes become a message, what answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from slipway_runtime.protocol import health, methods
from slipway_runtime.protocol.api import Api
from slipway_runtime.protocol.grpc_schemas import REFLECTIONS
from slipway_runtime.protocol.health import Health
from slipway_runtime.protocol.methods import Methods
from slipway_runtime.protocol.reflection import Reflection
from slipway_runtime.protocol.schema import pb


class Shape(Enum):
    """How `Rpc.call` is called, always with the context as second argument."""

    UNARY = "unary"  # async (message) -> message
    SERVER_STREAM = "server stream"  # (message) -> async iterator of messages
    BIDI = "bidi"  # (async iterator of messages) -> async iterator of messages


@dataclass(frozen=True, slots=True)
class Rpc:
    """What `call` gives is serialized by its own SerializeToString; it raises RequestError."""

    service: str
    name: str
    shape: Shape
    parse: Callable[[bytes], Any]
    call: Callable[[Any, Any], Any]

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def all_rpcs(api: Api, inference: Methods) -> list[Rpc]:
    names = (methods.SERVICE, health.SERVICE, *(f"{package}.ServerReflection" for package in REFLECTIONS))
    return [*_inference(inference), *_health(api), *_reflections(names)]


def _inference(inference: Methods) -> Iterator[Rpc]:
    for name in methods.UNARY:
        request = getattr(pb, f"{name}Request")
        yield Rpc(methods.SERVICE, name, Shape.UNARY, request.FromString, getattr(inference, name))
    yield Rpc(
        methods.SERVICE, "ModelStreamInfer", Shape.BIDI, pb.ModelInferRequest.FromString, inference.ModelStreamInfer
    )


def _health(api: Api) -> Iterator[Rpc]:
    served = Health(api, (methods.SERVICE,))
    yield Rpc(health.SERVICE, "Check", Shape.UNARY, health.Request.FromString, served.Check)
    yield Rpc(health.SERVICE, "List", Shape.UNARY, health.ListRequest.FromString, served.List)
    yield Rpc(health.SERVICE, "Watch", Shape.SERVER_STREAM, health.Request.FromString, served.Watch)


def _reflections(names: tuple[str, ...]) -> Iterator[Rpc]:
    for package in REFLECTIONS:
        served = Reflection(package, names)
        parse = served.request_class.FromString
        yield Rpc(served.service, "ServerReflectionInfo", Shape.BIDI, parse, served.ServerReflectionInfo)
