"""The messages of grpc.health.v1 and of server reflection, made from descriptors written here.

The packages that carry them generated would be two more to depend on, for twelve small messages. They live in a
descriptor pool of their own: in the common one they would collide with those packages where somebody has them.
Source: grpc/health/v1/health.proto, grpc/reflection/v1/reflection.proto (v1alpha differs in the package only).
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
}
# Field = (number, name, type); a type that begins with "*" is repeated, one with "|" is a choice of a oneof; a type
# that is no scalar is the name of a message, with "#" that of an enum.
Fields = list[tuple[int, str, str]]
HEALTH = "grpc.health.v1"
REFLECTIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")

_pool = descriptor_pool.DescriptorPool()
FILES: dict[str, descriptor_pb2.FileDescriptorProto] = {}


def _message(package: str, name: str, fields: Fields, oneof: str = "") -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    if oneof:
        message.oneof_decl.add(name=oneof)
    for number, field_name, given in fields:
        kind = given.lstrip("*|#")
        field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
        if "*" in given:
            field.label = _Field.LABEL_REPEATED
        if "|" in given:
            field.oneof_index = 0
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = _Field.TYPE_ENUM if "#" in given else _Field.TYPE_MESSAGE
            field.type_name = f".{package}.{kind}"
    return message


def _health_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="grpc/health/v1/health.proto", package=HEALTH, syntax="proto3")
    answer = _message(HEALTH, "HealthCheckResponse", [(1, "status", "#HealthCheckResponse.ServingStatus")])
    states = answer.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        states.value.add(name=name, number=number)
    listed = _message(HEALTH, "HealthListResponse", [(1, "statuses", "*HealthListResponse.StatusesEntry")])
    entry = _message(HEALTH, "StatusesEntry", [(1, "key", "string"), (2, "value", "HealthCheckResponse")])
    entry.options.map_entry = True
    listed.nested_type.append(entry)
    request = _message(HEALTH, "HealthCheckRequest", [(1, "service", "string")])
    file.message_type.extend([request, answer, _message(HEALTH, "HealthListRequest", []), listed])
    service = file.service.add(name="Health")
    for rpc, given, taken in (("Check", "Check", "Check"), ("Watch", "Check", "Check"), ("List", "List", "List")):
        service.method.add(
            name=rpc,
            input_type=f".{HEALTH}.Health{given}Request",
            output_type=f".{HEALTH}.Health{taken}Response",
            server_streaming=rpc == "Watch",
        )
    return file


def _reflection_file(package: str) -> descriptor_pb2.FileDescriptorProto:
    path = package.replace(".", "/")
    file = descriptor_pb2.FileDescriptorProto(name=f"{path}/reflection.proto", package=package, syntax="proto3")
    asked: Fields = [
        (1, "host", "string"),
        (3, "file_by_filename", "|string"),
        (4, "file_containing_symbol", "|string"),
        (5, "file_containing_extension", "|ExtensionRequest"),
        (6, "all_extension_numbers_of_type", "|string"),
        (7, "list_services", "|string"),
    ]
    answered: Fields = [
        (1, "valid_host", "string"),
        (2, "original_request", "ServerReflectionRequest"),
        (4, "file_descriptor_response", "|FileDescriptorResponse"),
        (5, "all_extension_numbers_response", "|ExtensionNumberResponse"),
        (6, "list_services_response", "|ListServiceResponse"),
        (7, "error_response", "|ErrorResponse"),
    ]
    file.message_type.extend(
        [
            _message(package, "ServerReflectionRequest", asked, "message_request"),
            _message(package, "ExtensionRequest", [(1, "containing_type", "string"), (2, "extension_number", "int32")]),
            _message(package, "ServerReflectionResponse", answered, "message_response"),
            _message(package, "FileDescriptorResponse", [(1, "file_descriptor_proto", "*bytes")]),
            _message(
                package, "ExtensionNumberResponse", [(1, "base_type_name", "string"), (2, "extension_number", "*int32")]
            ),
            _message(package, "ListServiceResponse", [(1, "service", "*ServiceResponse")]),
            _message(package, "ServiceResponse", [(1, "name", "string")]),
            _message(package, "ErrorResponse", [(1, "error_code", "int32"), (2, "error_message", "string")]),
        ]
    )
    file.service.add(name="ServerReflection").method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


for _file in (_health_file(), *map(_reflection_file, REFLECTIONS)):
    FILES[_file.name] = _file
    _pool.Add(_file)


def message_class(full_name: str) -> Any:
    """The class of a message of health or reflection."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(full_name))
