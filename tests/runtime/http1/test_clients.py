"""HTTP/1.1: clients that stop, are slow, do not read, leave, or are too many."""

import time
from collections.abc import Callable

import pytest

from slipway_runtime.wire.http1_reader import HEAD_TIMEOUT_S, STALL_TIMEOUT_S
from tests.runtime.http1.echo_site import BIG, CANCELLED, CHUNKED, IDLE_S, POST, Client, Site, large, until


@pytest.mark.parametrize(
    ("begun", "skew_s", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost", HEAD_TIMEOUT_S + 1, 408, id="a head that stops"),
        pytest.param(POST[:-1], STALL_TIMEOUT_S + 1, 408, id="a body that stops"),
        pytest.param(b"", IDLE_S + 1, None, id="silence"),
        pytest.param(POST, IDLE_S + 1, None, id="silence after a request"),
    ],
)
def test_a_client_that_stops_is_let_go(
    site: Site, connect: Callable[[Site], Client], begun: bytes, skew_s: float, status: int | None
) -> None:
    client = connect(site).send(begun)
    if begun == POST:
        client.echo()
    until(lambda: any(c._receiving == (status == 408) for c in site.server.connections))
    site.skew_s = skew_s
    assert (client.refused()[0] == 408) if status else client.is_closed()


def test_a_client_that_does_not_read_is_cut_off(site: Site, connect: Callable[[Site], Client]) -> None:
    connect(site).send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    until(lambda: any(c._write_paused for c in site.server.connections))
    site.skew_s = STALL_TIMEOUT_S + 1
    until(lambda: not site.server.connections)


def test_a_client_that_reads_slowly_gets_everything(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(b"GET /big HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    until(lambda: any(c._write_paused for c in site.server.connections))
    before = [c._transport.get_write_buffer_size() for c in site.server.connections]
    got = client.read(BIG // 2)
    until(lambda: [c._transport.get_write_buffer_size() for c in site.server.connections] < before)
    site.skew_s = STALL_TIMEOUT_S + 1
    until(lambda: all(c.expires_s > site.server.clock() for c in site.server.connections))  # looked at, and let be
    assert len(got + client.read()) > BIG


def test_a_client_that_asks_without_reading_is_not_read_either(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site)
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * 1_000_000)
    until(lambda: [c._read_paused for c in site.server.connections] == [True])


def test_a_client_that_leaves_cancels_its_request(site: Site, connect: Callable[[Site], Client]) -> None:
    connect(site).send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" * 100).close()
    until(lambda: not site.server.connections)


def test_draining_sends_clients_away_after_all_they_asked_for(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site)
    site.server.draining = True
    client.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
    answers = [client.answer()[1]["connection"] for _ in range(3)]
    assert answers == ["keep-alive", "keep-alive", "close"]
    assert client.is_closed()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(large("/sum", 100_000) + b"x", b"x", id="large"),
        pytest.param(POST[:-4], b"x", id="small"),
        pytest.param(CHUNKED[:57] + b"3\r\nabc\r\n", b"1\r\nx\r\n", id="chunked"),
    ],
)
def test_a_byte_now_and_then_does_not_keep_a_body(
    site: Site, connect: Callable[[Site], Client], head: bytes, piece: bytes
) -> None:
    client = connect(site).send(head)
    until(lambda: any(c._arriving_bytes for c in site.server.connections))
    (connection,) = site.server.connections
    seen = connection._arriving_bytes
    site.skew_s = STALL_TIMEOUT_S / 2
    until(lambda: site.server.now_s > time.monotonic() + STALL_TIMEOUT_S / 3)
    client.send(piece)
    until(lambda: connection._arriving_bytes > seen)
    site.skew_s = STALL_TIMEOUT_S + 2
    assert client.refused()[0] == 408


def test_a_slow_body_that_goes_on_is_waited_for(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(large("/sum", 400_000) + b"x")
    for step in range(1, 4):
        site.skew_s = step * STALL_TIMEOUT_S / 3
        until(lambda: site.server.now_s > time.monotonic() + site.skew_s - 2)
        client.send(bytes(133_333))
        until(lambda: site.server.held.count in (0, 1 + step * 133_333))  # noqa: B023 - called at once
    site.skew_s = STALL_TIMEOUT_S + 5
    assert client.echo()["size"] == 400_000


def test_one_connection_too_many_is_closed(site: Site, connect: Callable[[Site], Client]) -> None:
    clients = [connect(site).send(POST) for _ in range(50)]
    assert all(client.echo() for client in clients)
    extra = connect(site)
    with pytest.raises((ConnectionError, IndexError)):
        extra.send(POST).answer()
    assert clients[0].send(POST).echo()["body"] == "hello"


def test_a_client_that_leaves_cancels_what_it_waits_for(site: Site, connect: Callable[[Site], Client]) -> None:
    CANCELLED.clear()
    connect(site).send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n").close()
    until(lambda: CANCELLED == ["/wait"])
