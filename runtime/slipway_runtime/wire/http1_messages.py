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
Cancel = Callable[[], object]
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
    """Fed while the head stayed unfinished, so that the parser may be holding it; after the head, while nothing of the
    body came: chunk extensions, trailers."""
    seen_bytes: int = -1
    """Of the body, when we last looked for progress; -1: not yet."""
    complete: bool = False
    length: int = 0
    """Of the body, if Content-Length says it."""

    def joined(self, name: bytes, value: bytes) -> bytes:
        """A field that was there before, with one more value."""
        self.hosts += name == b"host"
        return b"%s, %s" % (self.fields[name], value)

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


def path_of(url: bytes) -> str:
    """As sent, in origin or absolute form, without its query."""
    text = url.decode("latin-1")
    if not text.startswith("/") and "://" in text:
        text = "/" + text.partition("://")[2].partition("/")[2]
    return text.partition("?")[0]


def head_before_length(status: int, content_type: str, date: bytes, *, keep_alive: bool) -> bytes:
    """The status line and the headers that are the same for many answers of one second."""
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ndate: %s\r\nconnection: %s\r\n" % (
        status,
        _REASONS[status],
        content_type.encode(),
        date,
        b"keep-alive" if keep_alive else b"close",
    )


def head_from_length(response: Response, *, keep_alive: bool) -> bytes:
    """The rest of the head, up to and including the empty line."""
    if response.stream is None:
        size = 0
        for buffer in response.body:
            size += len(buffer)
        head = b"content-length: %d\r\n" % size
    else:
        head = b"transfer-encoding: chunked\r\n" if keep_alive else b"cache-control: no-cache\r\n"
    for name, value in response.headers:
        head += f"{name}: {value}\r\n".encode("latin-1")
    return head + b"\r\n"
