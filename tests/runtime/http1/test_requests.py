"""HTTP/1.1: framing and order of requests and answers."""

import json
import socket
from collections.abc import Callable

import pytest

from tests.runtime.http1.echo_site import CHUNKED, POST, Client, Site


def test_a_connection_serves_many_requests(client: Client) -> None:
    for _ in range(3):
        assert client.send(POST).echo()["body"] == "hello"


@pytest.mark.parametrize(("request_", "body"), [(POST, "hello"), (CHUNKED, "abcde")], ids=["length", "chunked"])
def test_bytes_may_come_one_by_one(client: Client, request_: bytes, body: str) -> None:
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for index in range(len(request_)):
        client.send(request_[index : index + 1])
    assert client.echo()["body"] == body


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    paths = ["/slow", "/a", "/slow", "/b", *(f"/{n}" for n in range(50))]
    client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in paths))
    assert [client.echo()["path"] for _ in paths] == paths


def test_a_refusal_waits_for_the_answers_before_it(client: Client) -> None:
    client.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" + POST + b"GET / HTTP/1.1\r\n\r\n")
    assert client.echo()["path"] == "/slow"
    assert client.echo()["path"] == "/a"
    assert client.refused()[0] == 400


def test_many_chunks_of_a_pipelined_upload_do_not_mix(client: Client) -> None:
    for _ in range(20):
        client.send(CHUNKED[:70]).send(CHUNKED[70:] + POST)
    assert [client.echo()["body"] for _ in range(40)] == ["abcde", "hello"] * 20


def test_the_path_has_no_query_and_no_host(client: Client) -> None:
    assert client.send(b"GET /v2/x?a=/b HTTP/1.1\r\nHost: h\r\n\r\n").echo()["path"] == "/v2/x"
    assert client.send(b"GET http://h:80/v2/x?y HTTP/1.1\r\nHost: h\r\n\r\n").echo()["path"] == "/v2/x"


def test_header_names_have_one_case_and_repeats_are_joined(client: Client) -> None:
    headers = client.send(b"GET / HTTP/1.1\r\nHOST: h\r\nX-a: 1\r\nx-A: 2\r\n\r\n").echo()["headers"]
    assert headers == {"host": "h", "x-a": "1, 2"}


def test_head_gets_the_length_but_no_body(client: Client) -> None:
    status, headers, _ = client.send(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n").answer(head_only=True)
    assert (status, int(headers["content-length"]) > 0) == (200, True)
    assert client.send(POST).echo()["path"] == "/a"


def test_connection_close_is_honoured(client: Client) -> None:
    _, headers, _ = client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").answer()
    assert headers["connection"] == "close"
    assert client.is_closed()


def test_http_1_0_closes_unless_asked_to_stay(client: Client, shared: Site, connect: Callable[[Site], Client]) -> None:
    assert client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()[1]["connection"] == "keep-alive"
    assert client.send(b"GET / HTTP/1.0\r\n\r\n").answer()[1]["connection"] == "close"
    assert client.is_closed()


def test_expect_100_continue_is_answered_before_the_body(client: Client) -> None:
    client.send(b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer()[0] == 100
    assert client.send(b"ok").echo()["body"] == "ok"


def test_100_continue_waits_for_the_answer_before_it(client: Client) -> None:
    client.send(
        b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"
        b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    assert client.echo()["path"] == "/slow"
    assert client.answer()[0] == 100
    assert client.send(b"ok").echo()["body"] == "ok"


def test_an_offer_to_upgrade_is_ignored(client: Client) -> None:
    """curl --http2 and Java's client send it with their first request."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    for _ in range(2):
        client.send(b"POST /u HTTP/1.1\r\nHost: h\r\n" + upgrade + b"Content-Length: 2\r\n\r\nok" + POST)
        assert [client.echo()["path"] for _ in range(2)] == ["/u", "/a"]


def test_a_client_that_sends_no_more_is_taken_for_gone(client: Client) -> None:
    client.send(POST + b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.echo()["path"] == "/a"
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()


def test_an_error_of_the_handler_keeps_the_connection(client: Client) -> None:
    status, headers, body = client.send(b"GET /404 HTTP/1.1\r\nHost: h\r\n\r\n").answer()
    assert (status, headers["connection"], json.loads(body)) == (404, "keep-alive", {"error": "not here"})


def test_many_pipelined_requests_do_not_pile_up_on_the_stack(client: Client) -> None:
    count = 3000
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * count)
    assert all(client.echo()["path"] == "/" for _ in range(count))
