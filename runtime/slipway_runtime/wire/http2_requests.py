"""What the fields of a request must be (RFC 9113, section 8), before anybody looks at what they mean. Pure."""

import re

from slipway_runtime.wire.http2_headers import Field

_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_OF_A_CONNECTION = frozenset((b"connection", b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade"))
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_MAX_LENGTH_DIGITS = 15


class Head:
    """A header block, of a request or, where only `trailers_problem` counts, of what ends its body."""

    __slots__ = ("content_length", "fields", "method", "path", "problem", "trailers_problem")

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        pseudo: dict[bytes, bytes] = {}
        wrong = ""
        self.content_length: int | None = None
        for count, (name, value) in enumerate(fields):
            if name[:1] == b":":
                if name not in _PSEUDO or name in pseudo or count > len(pseudo):
                    wrong = f"the pseudo header {name!r} is unknown, double or too late"
                pseudo[name] = value
            elif not _NAME.fullmatch(name) or name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
                wrong = f"the header {name!r} has no place in HTTP/2"
            if _BAD_VALUE.search(value):
                wrong = f"the value of {name!r} has bytes that no header may have"
            if name == b"content-length":
                wrong = self._read_length(value) or wrong
        self.path, self.method = pseudo.get(b":path", b""), pseudo.get(b":method", b"")
        self.trailers_problem = "a pseudo header in trailers" if pseudo else wrong
        self.problem = wrong or self._missing(pseudo)

    def _read_length(self, value: bytes) -> str:
        if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS or self.content_length not in {None, int(value)}:
            return "content-length is no number, or another one the second time"
        self.content_length = int(value)
        return ""

    def _missing(self, pseudo: dict[bytes, bytes]) -> str:
        if not self.method or not pseudo.get(b":scheme"):
            return ":method or :scheme is missing"
        if self.path[:1] != b"/" and (self.path, self.method) != (b"*", b"OPTIONS"):
            return f":path is {self.path[:40]!r}, not a path"
        return ""

    def value(self, name: bytes) -> bytes | None:
        """Of a field; several are one list."""
        values = [value for key, value in self.fields if key == name]
        return b",".join(values) if values else None
