"""HTTP/1.1: large bodies, and the memory that bodies hold."""

from collections.abc import Callable

import pytest

from slipway_runtime.wire.http1_reader import STALL_TIMEOUT_S
from tests.runtime.http1.echo_site import CHUNKED, LIMIT, POST, Client, Site, large, until


@pytest.mark.parametrize("size", [65_535, 65_536, 300_000, LIMIT])
@pytest.mark.parametrize("cut", [0, 1, 70_000], ids=["head alone", "with a byte", "with a part"])
def test_a_large_body_arrives_whole_and_the_next_request_after_it(client: Client, size: int, cut: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    expected = {"size": size, "sum": sum(body[:size:4099])}
    for _ in range(2):
        client.send(large("/sum", size) + body[: min(cut, size)])
        client.send(body[min(cut, size) : size] + POST)
        answer = client.echo()
        assert {key: answer[key] for key in expected} == expected
        assert client.echo()["body"] == "hello"


def test_the_tensors_of_a_large_body_are_aligned(client: Client) -> None:
    client.send(large("/sum", 100_000, "Inference-Header-Content-Length: 10") + bytes(100_000))
    assert client.echo()["aligned"] == 0


def test_a_large_body_may_be_announced_and_continued(client: Client) -> None:
    client.send(large("/sum", 100_000, "Expect: 100-continue"))
    assert client.answer()[0] == 100
    assert client.send(bytes(100_000)).echo()["size"] == 100_000


def test_a_large_body_that_stops_is_let_go(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(large("/sum", 100_000) + bytes(50_000))
    until(lambda: any(c._receiving for c in site.server.connections))
    site.skew_s = STALL_TIMEOUT_S + 1
    assert client.refused()[0] == 408


def test_bodies_of_all_clients_together_are_bounded_by_what_has_arrived(
    site: Site, connect: Callable[[Site], Client]
) -> None:
    held = [connect(site).send(large("/sum", LIMIT) + bytes(LIMIT - 1)) for _ in range(4)]
    until(lambda: site.server.held.count == 4 * LIMIT - 4)
    for request in (POST, large("/sum", LIMIT)):
        status, sentence = connect(site).send(request).refused()
        assert (status, "too many bytes" in sentence) == (503, True)
    held.pop().close()
    until(lambda: site.server.held.count == 3 * LIMIT - 3)
    assert connect(site).send(POST).echo()["body"] == "hello"
    for client in held:
        assert client.send(b"x").echo()["size"] == LIMIT
    until(lambda: site.server.held.count == 0)


def test_what_is_announced_and_not_sent_takes_no_room(site: Site, connect: Callable[[Site], Client]) -> None:
    announced = [connect(site).send(large("/sum", LIMIT) + b"x") for _ in range(12)]
    until(lambda: site.server.held.count == len(announced))
    assert connect(site).send(POST).echo()["body"] == "hello"


def test_a_body_that_finds_no_room_on_its_way_is_refused_and_let_go(
    site: Site, connect: Callable[[Site], Client]
) -> None:
    clients = [connect(site).send(large("/sum", LIMIT) + b"x") for _ in range(5)]
    until(lambda: site.server.held.count == 5)
    for client in clients[:4]:
        client.send(bytes(LIMIT - 2))
    until(lambda: site.server.held.count == 4 * (LIMIT - 1) + 1)
    assert clients[4].send(bytes(1000)).refused()[0] == 503
    until(lambda: site.server.held.count == 4 * (LIMIT - 1))


def test_many_tiny_chunks_take_little_more_than_their_bytes(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(CHUNKED[:57] + b"1\r\na\r\n" * 100_000)
    until(lambda: site.server.held.count == 100_000)
    assert [len(c._body) for c in site.server.connections] <= [3]
    assert client.send(b"0\r\n\r\n").echo()["body"] == "a" * 100_000


def test_nothing_stays_reserved(site: Site, connect: Callable[[Site], Client]) -> None:
    client = connect(site).send(CHUNKED + POST * 3 + large("/sum", 70_000) + bytes(70_000))
    for _ in range(5):
        client.answer()
    connect(site).send(b"GET /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" + POST)
    until(lambda: site.server.held.count == 10)
    for connection in list(site.server.connections):
        site.loop.call_soon_threadsafe(connection._transport.abort)
    until(lambda: site.server.held.count == 0)
