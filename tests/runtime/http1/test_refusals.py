"""HTTP/1.1: what is no request, or larger than allowed, is refused with a sentence."""

import socket

import pytest

from tests.runtime.http1.echo_site import CHUNKED, LIMIT, Client

GET = b"GET / HTTP/1.1\r\n"
END = b"\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        pytest.param(GET + b"A: b" + END, 400, "exactly one Host", id="no Host"),
        pytest.param(GET + b"Host: a\r\nHost: b" + END, 400, "exactly one Host", id="two Hosts"),
        pytest.param(GET + b"Host: a\r\nhost: a" + END, 400, "exactly one Host", id="the same Host twice"),
        pytest.param(b"nonsense\r\n\r\n", 400, "not valid HTTP/1.1", id="nonsense"),
        pytest.param(b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\nabc", 405, "CONNECT is not served", id="CONNECT"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not valid HTTP/1.1", id="HTTP/2 preface"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not valid HTTP/1.1", id="TLS hello"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked" + END + b"0\r\n\r\n",
            400,
            "not valid HTTP/1.1",
            id="length and chunked",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4" + END,
            400,
            "not valid HTTP/1.1",
            id="two lengths",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1" + END, 400, "not valid HTTP/1.1", id="negative length"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 40 + END, 400, "not valid", id="40-digit length"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip" + END, 400, "not valid HTTP/1.1", id="TE gzip"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked" + END + b"zz\r\n",
            400,
            "not valid HTTP/1.1",
            id="bad chunk size",
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked" + END + b"0\r\n\r\n",
            400,
            "not allowed in HTTP/1.0",
            id="chunked in HTTP/1.0",
        ),
        pytest.param(GET + b"Host: h\r\n folded: x" + END, 400, "not valid HTTP/1.1", id="folded line"),
        pytest.param(GET + b"Host : h" + END, 400, "not valid HTTP/1.1", id="space before the colon"),
        pytest.param(GET + b"Host: h\r\nA: b\x00c" + END, 400, "not valid HTTP/1.1", id="NUL"),
        pytest.param(GET + b"Host: h\nA: b" + END, 400, "not valid HTTP/1.1", id="bare LF"),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h" + END, 414, "URL is longer", id="long URL"),
        pytest.param(GET + b"Host: h\r\nA: " + b"b" * 40_000 + END, 431, "head has more", id="long header"),
        pytest.param(GET + b"Host: h\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, "head has more", id="101 headers"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d" % (LIMIT + 1) + END,
            413,
            f"larger than {LIMIT} bytes",
            id="announced body too large",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: tea" + END,
            417,
            "100-continue",
            id="expect tea",
        ),
    ],
)
def test_what_is_no_request_is_refused_and_the_client_can_read_why(
    client: Client, data: bytes, status: int, sentence: str
) -> None:
    got, message = client.send(data).refused()
    assert got == status
    assert sentence in message


def test_a_chunked_body_is_refused_when_it_passes_the_limit(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    for _ in range(LIMIT // 0x10000 + 1):
        client.send(piece)
    assert client.refused()[0] == 413


def test_a_header_that_never_ends_is_refused(client: Client) -> None:
    client.send(GET + b"Host: h\r\nA: ")
    for _ in range(10):
        client.send(b"b" * 100_000)
    assert client.refused()[0] == 431


def test_a_body_of_exactly_the_limit_is_taken(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % LIMIT + b"a" * LIMIT)
    assert len(client.echo()["body"]) == LIMIT


def test_a_refused_upload_can_read_its_answer_while_it_still_sends(client: Client) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900000000\r\n\r\n")
    for _ in range(50):
        client.send(bytes(10_000))
    assert client.answer()[0] == 413


@pytest.mark.parametrize(
    "trailers",
    [
        pytest.param(b"X: " + b"a" * 1_000_000, id="one without end"),
        pytest.param(b"X: " + b"a" * 40_000 + b"\r\n\r\n", id="a long one"),
        pytest.param(b"X: y\r\n" * 101 + b"\r\n", id="101"),
    ],
)
def test_trailers_have_the_limits_of_the_head(client: Client, trailers: bytes) -> None:
    client.send(CHUNKED[:57] + b"3\r\nabc\r\n0\r\n" + trailers)
    status, sentence = client.refused()
    assert (status, "trailers" in sentence) == (431, True)


@pytest.mark.parametrize("size", [b"5", b"f" * 16])
def test_a_request_that_is_cut_short_is_refused(client: Client, size: bytes) -> None:
    client.send(CHUNKED[:57] + size + b"\r\nabc")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.refused()[0] == 400
