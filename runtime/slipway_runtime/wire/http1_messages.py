"""HTTP/1.1 requests and responses as values, and what makes a head acceptable. Pure.

llhttp refuses bad framing before anything gets here; `Head.problem` names what it lets pass.
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from slipway_runtime.tensors import Buffer

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
MAX_FIELDS = 100
MAX_HEAD_BYTES = 32 * 1024


@dataclass(slots=True)
class Request:
    """`path` without the query. `headers` by lower-case name; repeated ones joined by a comma."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes | memoryview
    keep_alive: bool


@dataclass(slots=True)
class Response:
    """`stream` in place of `body`: sent piece by piece as it comes, and closed if the client goes away."""

    status: int
    body: Sequence[Buffer] = ()
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    stream: AsyncIterator[bytes] | None = None


Answer = Callable[[Response], None]
Cancel = Callable[[], None]
Handler = Callable[[Request, Answer], Cancel | None]
"""Begins to answer: calls `Answer` once, from within or later, unless what it returned was called before."""


def refusal(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, (json.dumps({"error": message}).encode(),), headers=headers)


@dataclass(slots=True)
class Head:
    """What is known of the request that is arriving."""

    url: bytes = b""
    fields: dict[bytes, bytes] = field(default_factory=dict)
    count: int = 0
    size_bytes: int = 0
    hosts: int = 0
    pending_bytes: int = 0
    """Fed while the head stayed unfinished: what the parser may be holding."""
    complete: bool = False

    def add(self, name: bytes, value: bytes) -> bool:
        """One more field; whether the head is still of a size that we read."""
        name = name.lower()
        self.count += 1
        self.size_bytes += len(name) + len(value)
        if name in self.fields:
            value = b"%s, %s" % (self.fields[name], value)
            self.hosts += name == b"host"
        self.fields[name] = value
        return self.count <= MAX_FIELDS and self.size_bytes <= MAX_HEAD_BYTES

    def problem(self, version: str) -> str | None:
        """What llhttp lets pass although it is not a request we may answer."""
        if self.hosts or (b"host" not in self.fields and version != "1.0"):
            return "a request must have exactly one Host header"
        if version not in ("1.1", "1.0"):
            return f"HTTP version {version} is not served here"
        if version == "1.0" and b"transfer-encoding" in self.fields:
            return "Transfer-Encoding is not allowed in HTTP/1.0"
        if not self.url:
            return "the request line has no URL"
        return None

    def length(self) -> int:
        """Of the body as announced, 0 if it is not. Differing lengths have been refused by llhttp."""
        return int(self.fields.get(b"content-length", b"0").partition(b",")[0])

    def path(self) -> str:
        """As sent, in origin or absolute form, without its query."""
        text = self.url.decode("latin-1")
        if not text.startswith("/") and "://" in text:
            text = "/" + text.partition("://")[2].partition("/")[2]
        return text.partition("?")[0]


def head_of(response: Response, date: bytes, *, keep_alive: bool) -> bytes:
    """The status line and the headers, up to and including the empty line."""
    if response.stream is None:
        size = 0
        for buffer in response.body:
            size += len(buffer)
        length = b"content-length: %d" % size
    else:
        length = b"transfer-encoding: chunked" if keep_alive else b"cache-control: no-cache"
    head = b"HTTP/1.1 %d %s\r\n%s\r\ncontent-type: %s\r\ndate: %s\r\nconnection: %s\r\n" % (
        response.status,
        _REASONS[response.status],
        length,
        response.content_type.encode(),
        date,
        b"keep-alive" if keep_alive else b"close",
    )
    for name, value in response.headers:
        head += f"{name}: {value}\r\n".encode("latin-1")
    return head + b"\r\n"
