"""JSON dicts to protobuf's wire form, by tables made once per type: ten times as fast as the library's own JSON parser,
which would cost more than all the rest of a change together. Knows what the renderer writes; a test holds it to the
library's reading of the same dicts.

Refused are unknown fields, unknown enum values and values of another type. Of a oneof the last one given counts.
"""

import base64
import binascii
import functools
import re
import struct
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

Encode = Callable[[Any], bytes]
"""A value to its bytes, without the tag; of messages without the length too."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DURATION = re.compile(r"^(-?)(\d+)(?:\.(\d{1,9}))?s$")
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)


class Malformed(ValueError):
    """No message of its type: a field that is not there, or of another type."""


class Encoder:
    """`pool`: descriptors of every type that may come."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.message = functools.cache(self._message)

    def _message(self, name: str) -> Encode:
        if special := self._special(name):
            return special
        fields: dict[str, Callable[[Any], bytes]] = {}
        try:
            descriptor = self._pool.FindMessageTypeByName(name)
        except KeyError as error:
            raise Malformed(f"{name} is no type that is known here; see xdsgen.py") from error

        def encode(value: Any) -> bytes:
            if not isinstance(value, dict):
                raise Malformed(f"{name} is {value!r}, not an object")
            parts = []
            for key, each in value.items():
                if each is None or key == "@type":
                    continue
                field = fields.get(key)
                if field is None:
                    field = fields[key] = self._field(descriptor, key)
                parts.append(field(each))
            return b"".join(parts)

        return encode

    def _field(self, descriptor: Any, key: str) -> Callable[[Any], bytes]:
        """Of one field, its tags included."""
        found = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
        if found is None:
            raise Malformed(f"{descriptor.full_name} has no field {key}")
        if found.message_type and found.message_type.GetOptions().map_entry:
            return self._map(found)
        wire, encode = self._value(found)
        tag = varint(found.number << 3 | wire)
        if not found.is_repeated:
            is_bare = found.message_type is None and not found.has_presence
            return _single(tag, encode, is_sized=wire == _BYTES, is_bare=is_bare, where=found.full_name)
        return _repeated(varint(found.number << 3 | _BYTES), tag, encode, wire, found.full_name)

    def _value(self, field: Any) -> tuple[int, Encode]:
        if field.message_type:
            return _BYTES, self.message(field.message_type.full_name) if _is_simple(field) else self._late(field)
        if field.enum_type:
            numbers = {value.name: varint(value.number) for value in field.enum_type.values}
            return _VARINT, lambda value: numbers[value] if isinstance(value, str) else varint(int(value))
        return _SCALARS[field.type]

    def _late(self, field: Any) -> Encode:
        """Types refer to themselves: looked up at first use."""
        name, found = field.message_type.full_name, list[Encode]()

        def encode(value: Any) -> bytes:
            if not found:
                found.append(self.message(name))
            return found[0](value)

        return encode

    def _map(self, field: Any) -> Callable[[Any], bytes]:
        tag = varint(field.number << 3 | _BYTES)
        _, key = self._value(field.message_type.fields_by_name["key"])
        put_value = self._field(field.message_type, "value")

        def encode(value: Any) -> bytes:
            parts = []
            for name, each in value.items():
                raw = key(name)
                entry = b"\x0a" + varint(len(raw)) + raw + put_value(each)
                parts.append(tag + varint(len(entry)) + entry)
            return b"".join(parts)

        return encode

    def _special(self, name: str) -> Encode | None:
        if name in _WRAPPERS:
            kind = self._pool.FindMessageTypeByName(name).fields_by_name["value"]
            wire, encode = _SCALARS[kind.type]
            return _single(varint(8 | wire), encode, is_sized=wire == _BYTES, is_bare=True, where=name)
        return {
            "google.protobuf.Any": self._any,
            "google.protobuf.Duration": _duration,
            "google.protobuf.Struct": _struct,
            "google.protobuf.Value": _json,
            "google.protobuf.ListValue": _list,
        }.get(name)

    def _any(self, value: Any) -> bytes:
        url = value.get("@type", "") if isinstance(value, dict) else ""
        if not url:
            raise Malformed("an Any has no @type")
        name = url.rpartition("/")[2]
        inner = value["value"] if name in _WRAPPERS or name in _JSON_FORMS else value
        body = self.message(name)(inner)
        raw = url.encode()
        return b"\x0a" + varint(len(raw)) + raw + (b"\x12" + varint(len(body)) + body if body else b"")


_SHORT = [bytes((number,)) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Negative numbers take ten bytes, as protobuf has it."""
    if 0 <= number < 0x80:
        return _SHORT[number]
    number &= 0xFFFFFFFFFFFFFFFF
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _single(tag: bytes, encode: Encode, *, is_sized: bool, is_bare: bool, where: str) -> Callable[[Any], bytes]:
    """`is_bare`: a scalar without presence, which is left out when it is its type's zero."""

    def put(value: Any) -> bytes:
        try:
            raw = encode(value)
        except (KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
            raise Malformed(f"{where} is {value!r}, which is not of its type") from error
        if is_bare and not any(raw):
            return b""
        return tag + varint(len(raw)) + raw if is_sized else tag + raw

    return put


def _repeated(packed: bytes, tag: bytes, encode: Encode, wire: int, where: str) -> Callable[[Any], bytes]:
    one = _single(tag, encode, is_sized=True, is_bare=False, where=where)
    bare = _single(b"", encode, is_sized=False, is_bare=False, where=where)

    def put(value: Any) -> bytes:
        if not isinstance(value, list | tuple):
            raise Malformed(f"{where} is {value!r}, not a list")
        if wire == _BYTES:
            return b"".join([one(each) for each in value])
        raw = b"".join([bare(each) for each in value])
        return packed + varint(len(raw)) + raw if raw else b""

    return put


def _is_simple(field: Any) -> bool:
    return field.message_type.full_name in _WRAPPERS or field.message_type.full_name in _JSON_FORMS


def _text(value: Any) -> bytes:
    return value.encode()  # type: ignore[no-any-return]


def _raw(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise TypeError(value) from error


def _bool(value: Any) -> bytes:
    if value is True or value is False:
        return b"\x01" if value else b"\x00"
    raise TypeError(value)


def _integer(low: int, high: int) -> Encode:
    def encode(value: Any) -> bytes:
        number = value if type(value) is int else _whole(value)
        if not low <= number <= high:
            raise TypeError(value)
        return varint(number)

    return encode


def _whole(value: Any) -> int:
    """JSON has 64-bit numbers as text, and whole numbers as 1.0."""
    if isinstance(value, bool):
        raise TypeError(value)
    try:
        found = Decimal(str(value))
    except InvalidOperation as error:
        raise TypeError(value) from error
    if found != int(found):
        raise TypeError(value)
    return int(found)


def _number(form: str) -> Encode:
    return struct.Struct(form).pack


def _duration(value: Any) -> bytes:
    found = _DURATION.match(value) if isinstance(value, str) else None
    if not found:
        raise Malformed(f"{value!r} is no duration such as 1.5s")
    sign, seconds, part = -1 if found[1] else 1, int(found[2]), int((found[3] or "").ljust(9, "0"))
    return (b"\x08" + varint(sign * seconds) if seconds else b"") + (b"\x10" + varint(sign * part) if part else b"")


def _struct(value: Any) -> bytes:
    parts = []
    for name, each in value.items():
        key, body = name.encode(), _json(each)
        entry = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(body)) + body
        parts.append(b"\x0a" + varint(len(entry)) + entry)
    return b"".join(parts)


def _list(value: Any) -> bytes:
    bodies = [_json(each) for each in value]
    return b"".join([b"\x0a" + varint(len(body)) + body for body in bodies])


def _json(value: Any) -> bytes:
    """google.protobuf.Value: null, number, text, bool, object, list."""
    match value:
        case None:
            return b"\x08\x00"
        case bool():
            return b"\x20" + _bool(value)
        case int() | float():
            return b"\x11" + struct.pack("<d", value)
        case str():
            raw = value.encode()
            return b"\x1a" + varint(len(raw)) + raw
        case dict():
            body = _struct(value)
            return b"\x2a" + varint(len(body)) + body
        case list() | tuple():
            body = _list(value)
            return b"\x32" + varint(len(body)) + body
        case _:
            raise TypeError(value)


_JSON_FORMS = frozenset(f"google.protobuf.{name}" for name in ("Duration", "Struct", "Value", "ListValue"))
# By the numbers of FieldDescriptor.TYPE_*.
_SCALARS: dict[int, tuple[int, Encode]] = {
    1: (_FIXED64, _number("<d")),
    2: (_FIXED32, _number("<f")),
    3: (_VARINT, _integer(-(1 << 63), (1 << 63) - 1)),
    4: (_VARINT, _integer(0, (1 << 64) - 1)),
    5: (_VARINT, _integer(-(1 << 31), (1 << 31) - 1)),
    8: (_VARINT, _bool),
    9: (_BYTES, _text),
    12: (_BYTES, _raw),
    13: (_VARINT, _integer(0, (1 << 32) - 1)),
}
