"""HTTP/1.1: answers in pieces."""

from collections.abc import Callable

import pytest

from slipway_runtime.wire.http1_messages import Response
from tests.runtime.http1.echo_site import CLOSED, LATE, POST, Client, Closable, Site, until


def chunks(client: Client) -> list[bytes]:
    found = []
    while size := int(client._file.readline(), 16):
        found.append(client.read(size))
        client.read(2)
    client.read(2)
    return found


def head(client: Client) -> dict[str, str]:
    assert b" 200 " in client._file.readline()
    lines = iter(lambda: client._file.readline().strip().decode(), "")
    return dict(line.split(": ", 1) for line in lines)


def test_a_stream_is_chunked_and_the_connection_goes_on(client: Client) -> None:
    for count in (0, 1, 5):
        client.send(b"GET /stream/%d HTTP/1.1\r\nHost: h\r\n\r\n" % count)
        assert head(client)["transfer-encoding"] == "chunked"
        assert chunks(client) == [b"piece %d;" % number for number in range(count)]
    assert client.send(POST).echo()["body"] == "hello"


def test_a_stream_to_http_1_0_ends_with_the_connection(client: Client) -> None:
    client.send(b"GET /stream/3 HTTP/1.0\r\n\r\n")
    assert "transfer-encoding" not in head(client)
    assert client.read() == b"piece 0;piece 1;piece 2;"


def test_a_stream_that_breaks_is_not_taken_for_whole(client: Client) -> None:
    client.send(b"GET /stream/20 HTTP/1.1\r\nHost: h\r\n\r\n")
    head(client)
    with pytest.raises((ConnectionError, ValueError)):
        chunks(client)


def test_a_stream_that_comes_too_late_is_closed(site: Site, connect: Callable[[Site], Client]) -> None:
    LATE.clear()
    CLOSED.clear()
    client = connect(site).send(b"GET /late HTTP/1.1\r\nHost: h\r\n\r\n")
    until(lambda: len(LATE) == 1)
    client.close()
    until(lambda: not site.server.connections)
    site.loop.call_soon_threadsafe(LATE[0], Response(200, stream=Closable()))
    until(lambda: CLOSED == ["closed"])
