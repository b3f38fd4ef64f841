"""Requests that two parsers could read as one or as two: each is refused, or answered as exactly one.

Every form holds a second request where one of the two readings puts it. So a second answer is a request that was
smuggled past whatever stands before the server.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

from tests.runtime.process import ServerProcess

SECOND = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
Form = tuple[str, bytes]

CODINGS = [
    *(
        "chunked",
        " chunked",
        "chunked ",
        "\tchunked",
        "chunked\t",
        "\x0bchunked",
        "chunked\x0b",
        "chunked\x00",
        "CHUNKED",
    ),
    *(
        "xchunked",
        "chunkedx",
        "chunke",
        '"chunked"',
        "'chunked'",
        "chunked;q=1",
        "chunked, identity",
        "identity, chunked",
    ),
    *(
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "gzip, chunked",
        "gzip",
        "identity",
        "",
        "chunked\r\n x",
        "\r\n chunked",
    ),
    *("chunked, gzip", "chünked", "\xa0chunked", "chunked\r", "cow, chunked", "deflate,chunked"),
]
NAMES = [
    *("Transfer-Encoding ", "Transfer-Encoding\t", " Transfer-Encoding", "\tTransfer-Encoding", "Transfer_Encoding"),
    *(
        "Transfer-Encoding\x00",
        "Transfer\x00-Encoding",
        "Transfer-Encoding\x0b",
        "X: y\nTransfer-Encoding",
        "Transfer\r-Encoding",
    ),
    *(
        "X: y\rTransfer-Encoding",
        "transfer-encoding",
        "TRANSFER-ENCODING",
        "\x00Transfer-Encoding",
        "Transfer Encoding",
    ),
    *("Transfer-Encoding:", "Foo: bar\r\n\tTransfer-Encoding", "Transfer-Encoding\xa0"),
]
LENGTHS = [
    *(
        "+{0}",
        "-{0}",
        "{0},{0}",
        "{0}, {0}",
        "0{0}",
        "{0}.0",
        "{0}e0",
        "0x{1:x}",
        " {0}",
        "{0} ",
        "{0};",
        "{0} {0}",
        "{0}\x00",
    ),
    *(
        "\x0b{0}",
        "{0}\x0b",
        "",
        " ",
        "a",
        "{0}a",
        "0, {0}",
        "{0}, 0",
        "99999999999999999999",
        "18446744073709551616",
        "-1",
    ),
    *("4294967296", "{0}\t", "\t{0}", '"{0}"', "{0}_0", "0b1", "\xb2", "{0}\r\n 0", "\r\n {0}"),
]
SIZES = [
    *(
        "{0:X}",
        "0{0:x}",
        "0x{0:x}",
        "+{0:x}",
        "-{0:x}",
        " {0:x}",
        "{0:x} ",
        "\t{0:x}",
        "{0:x}\t",
        "{0:x};",
        "{0:x};a=b",
        "{0:x} ;a",
    ),
    *(
        "{0:x};\n",
        "{0:x}\n",
        "{0:x}\r",
        '{0:x};a="\r\n"',
        "{0:x}\x00",
        "{0:x}g",
        "g",
        "",
        "00000000000000000{0:x}",
        "1{0:016x}",
    ),
    *("ffffffffffffffff", "fffffffffffffffff", "{0:x},", "{0:x}_", "0_{0:x}", "{0:x};\r", "\r\n{0:x}", "{0:x}\x0b"),
]
TRAILERS = [
    *(
        "Content-Length: 99",
        "Transfer-Encoding: chunked",
        "Host: y",
        "X : y",
        " X: y",
        "X",
        "X: y\nZ: z",
        "\x00: y",
        ": y",
    ),
    *("X: y\r\n folded", "Content-Length: 99\r\nTransfer-Encoding: chunked"),
]
ENDS = ["\n", "\r", "\n\r", "\r\r\n", "\r\n\n", "\x00\r\n", "\x0b\r\n", " \r\n", "\r \n"]
LINES = [
    *(
        "POST  / HTTP/1.1",
        "POST /\tHTTP/1.1",
        " POST / HTTP/1.1",
        "POST / HTTP/1.1 ",
        "POST /",
        "POST / HTTP/1.2",
        "POST / HTTP/2.0",
    ),
    *(
        "POST / HTTP/01.1",
        "POST / http/1.1",
        "POST / HTTP/1.10",
        "POST / HTTP/1,1",
        "POST / HTTP /1.1",
        "POST\x00 / HTTP/1.1",
    ),
    *(
        "PO ST / HTTP/1.1",
        "POST / / HTTP/1.1",
        "POST /\x00 HTTP/1.1",
        "post / HTTP/1.1",
        "POST / HTTP/1.1\r\nX",
        "P\xd6ST / HTTP/1.1",
    ),
    *(
        "CONNECT x:80 HTTP/1.1",
        "POST http://y/ HTTP/1.1",
        "POST http:/// HTTP/1.1",
        "POST * HTTP/1.1",
        "\x16\x03\x01",
        "POST / HTTP/0.9",
    ),
]
HEADERS = [
    *("Host: x\r\nHost: x", "Host: x\r\nHost: y", "Host: x, y\r\nHost:", "X: y\r\nHost : x", "", "Host: x\r\n: empty"),
    *(
        "Host: x\r\nNoColon",
        "Host: x\r\n folded: y",
        "Host: x\r\nX: a\x00b",
        "Host: x\r\nX: a\nb",
        "Host: x\r\nX: a\rb",
    ),
    *(
        "Host: x\r\nExpect: 200-ok",
        "Host: x\r\nUpgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AAMAAABk",
    ),
    *(
        "Host: x\r\nUpgrade: websocket\r\nConnection: upgrade",
        "Host: x\r\nConnection: content-length",
        "Host: x\r\nConnection: close, host",
    ),
]


def posted(*headers: str, line: str = "POST /v2/models/hello/infer HTTP/1.1", host: str = "Host: x") -> bytes:
    return "\r\n".join([line, *([host] if host else []), *headers, "", ""]).encode("latin-1")


def chunked(size: str, trailer: str = "") -> bytes:
    """`size` is how that of the second request is written; the reading that takes it for 0 meets the second request."""
    return size.format(len(SECOND)).encode("latin-1") + b"\r\n" + SECOND + b"\r\n0\r\n" + trailer.encode() + b"\r\n"


def forms() -> Iterator[Form]:
    long, short = f"Content-Length: {5 + len(SECOND)}", "Content-Length: 5"
    chunk = f"{len(SECOND):x}\r\n"
    for coding in CODINGS:
        # By length the second request is in the body, by chunks it comes after it; and the other way round.
        yield f"TE {coding!r} + CL", posted(f"Transfer-Encoding:{coding}", long) + b"0\r\n\r\n" + SECOND
        yield (
            f"CL + TE {coding!r}",
            posted(short, f"Transfer-Encoding: {coding}") + chunk.encode() + SECOND + b"\r\n0\r\n\r\n",
        )
        yield f"TE {coding!r}", posted(f"Transfer-Encoding: {coding}") + chunked("{0:x}")
    for name, order in product(NAMES, (1, -1)):
        yield f"{name!r} {order}", posted(*[f"{name}: chunked", long][::order]) + b"0\r\n\r\n" + SECOND
    body = b"0\r\n\r\n" + SECOND
    for length in LENGTHS:
        text = length.format(len(body), len(body))
        yield f"CL {length!r}", posted(f"Content-Length:{text}") + body
        yield f"CL {length!r} before", posted(f"Content-Length: {text}", f"Content-Length: {len(body)}") + body
        yield f"CL {length!r} after", posted(f"Content-Length: {len(body)}", f"Content-Length: {text}") + body
    for size in SIZES:
        yield f"chunk {size!r}", posted("Transfer-Encoding: chunked") + chunked(size)
    for trailer in TRAILERS:
        yield f"trailer {trailer!r}", posted("Transfer-Encoding: chunked") + chunked("{0:x}", f"{trailer}\r\n")
    for end in ENDS:
        yield f"end {end!r}", posted(long).replace(b"\r\n", end.encode(), 2) + b"0\r\n\r\n" + SECOND
        yield f"end of head {end!r}", posted(long)[:-2] + end.encode() + b"0\r\n\r\n" + SECOND
    for line in LINES:
        yield f"line {line!r}", posted(long, line=line) + b"0\r\n\r\n" + SECOND
    for host in HEADERS:
        yield f"headers {host!r}", posted(long, host=host) + b"0\r\n\r\n" + SECOND


def answers(server: ServerProcess, form: bytes) -> list[int]:
    """The status of every answer, until the server closes or has nothing left to say."""
    got = bytearray()
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as connection, suppress(ConnectionError):
        connection.sendall(form)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            got += data
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", got)]


def test_no_form_of_one_request_is_answered_as_two(servers: dict[str, ServerProcess]) -> None:
    server, count, refused, wrong = servers["hello"], 0, 0, []
    for name, form in forms():
        count += 1
        found = answers(server, form)
        refused += found == [400]
        if len(found) > 1 or (found and found[0] < 400):
            wrong.append((name, found))
    assert wrong == []
    assert count >= 200
    assert refused > 0.7 * count, f"{refused} of {count}"
    two = posted(f"Content-Length: {len(SECOND)}") + SECOND + SECOND
    assert answers(server, two) == [400, 200], "two that are two are answered as two, or this would see nothing"
