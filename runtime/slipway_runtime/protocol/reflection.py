"""Server reflection: what services there are and the files that define them, so that grpcurl needs no proto. Pure."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from google.protobuf import descriptor_pb2

from slipway_runtime.protocol.grpc_schemas import FILES, message_class
from slipway_runtime.protocol.schema import config_pb, pb

NOT_FOUND, UNIMPLEMENTED = 5, 12


def _files() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    files = dict(FILES)
    for module in (pb, config_pb):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files[file.name] = file
    return files


def _symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """The full names of all that a file defines and a client may ask for."""
    for message in file.message_type:
        yield from _of_message(file.package, message)
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}"
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)


def _of_message(scope: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield name
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    for nested in message.nested_type:
        yield from _of_message(name, nested)


class Reflection:
    """One version of the protocol, by its package."""

    def __init__(self, package: str, services: tuple[str, ...]) -> None:
        self.service = f"{package}.ServerReflection"
        self.request_class = message_class(f"{package}.ServerReflectionRequest")
        self._response = message_class(f"{package}.ServerReflectionResponse")
        self._services = services
        self._files = _files()
        self._symbols = {symbol: file for file in self._files.values() for symbol in _symbols(file)}

    async def ServerReflectionInfo(self, messages: AsyncIterator[Any], context: object) -> AsyncIterator[Any]:
        async for message in messages:
            yield self.answer(message)

    def answer(self, message: Any) -> Any:
        answer = self._response(valid_host=message.host, original_request=message)
        match message.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._file(answer, self._files.get(message.file_by_filename), message.file_by_filename)
            case "file_containing_symbol":
                self._file(answer, self._symbols.get(message.file_containing_symbol), message.file_containing_symbol)
            case "all_extension_numbers_of_type" | "file_containing_extension":
                _refuse(answer, NOT_FOUND, "there are no extensions here")
            case _:
                _refuse(answer, UNIMPLEMENTED, "the request asks for nothing that is known here")
        return answer

    def _file(self, answer: Any, file: descriptor_pb2.FileDescriptorProto | None, asked: str) -> None:
        """The file and all it needs, in an order in which they can be added."""
        if file is None:
            _refuse(answer, NOT_FOUND, f"'{asked[:80]}' is not known here")
            return
        needed = [self._files[name] for name in file.dependency if name in self._files]
        serialized = [each.SerializeToString() for each in (file, *needed)]
        answer.file_descriptor_response.file_descriptor_proto.extend(serialized)


def _refuse(answer: Any, code: int, sentence: str) -> None:
    answer.error_response.error_code = code
    answer.error_response.error_message = sentence
