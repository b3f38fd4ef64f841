"""HTTP/1.1 requests and responses as values, and what makes a head acceptable. Pure.

llhttp refuses bad framing before anything gets here; `problem` names what it lets pass.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from slipway_runtime.tensors import Buffer

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """`path` without the query, as sent. `headers` by lower-case name; repeated ones joined by a comma."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes | memoryview
    keep_alive: bool


# Not frozen, although nothing changes them: making a frozen instance costs three times as much.
@dataclass(slots=True)
class Response:
    """Either `body`, all of it, or `stream`, whose pieces are sent as they come, chunked; it is closed in the end."""

    status: int
    body: Sequence[Buffer] = ()
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    stream: AsyncIterator[bytes] | None = None


def refusal(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, (json.dumps({"error": message}).encode(),), headers=headers)


def problem(version: str, url: bytes, fields: list[tuple[bytes, bytes]]) -> str | None:
    """What llhttp lets pass although it is not a request we may answer."""
    hosts = sum(name == b"host" for name, _ in fields)
    if hosts > 1 or (hosts == 0 and version != "1.0"):
        return "a request must have exactly one Host header"
    if version not in ("1.0", "1.1"):
        return f"HTTP version {version} is not served here"
    if version == "1.0" and any(name == b"transfer-encoding" for name, _ in fields):
        return "Transfer-Encoding is not allowed in HTTP/1.0"
    if not url:
        return "the request line has no URL"
    return None


def path_of(url: bytes) -> str:
    """The path of a URL as sent, in origin or absolute form, without its query."""
    text = url.decode("latin-1")
    if not text.startswith("/") and "://" in text:
        text = "/" + text.partition("://")[2].partition("/")[2]
    return text.partition("?")[0]


def joined(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for raw_name, value in fields:
        name = raw_name.lower()
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def head_of(response: Response, date: bytes, *, keep_alive: bool) -> bytes:
    """The status line and the headers, up to and including the empty line."""
    size = sum(len(buffer) for buffer in response.body)
    lines = [
        b"HTTP/1.1 %d %s\r\ncontent-length: %d\r\ncontent-type: %s\r\ndate: %s\r\n"
        % (response.status, _REASONS[response.status], size, response.content_type.encode(), date)
    ]
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in response.headers]
    lines.append(b"connection: keep-alive\r\n\r\n" if keep_alive else b"connection: close\r\n\r\n")
    return b"".join(lines)
