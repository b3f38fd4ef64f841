"""Connections: to what was judged, and nowhere else, whatever names say later."""

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from slipway_runtime.errors import BadConfig
from slipway_runtime.fetch.dial import Dialer, proxy
from slipway_runtime.fetch.failures import FetchError, Transient
from slipway_runtime.fetch.settings import Policy


@contextmanager
def listening(answer: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """A port, and what was sent there."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(2)
                    heard.append(b"")
                    if answer:
                        while b"\r\n\r\n" not in heard[-1]:
                            heard[-1] += client.recv(1 << 14)
                        client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


class Names:
    """A resolver whose answers change with each question."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


def opened(reached: list[object]) -> Callable[..., socket.socket]:
    def create_connection(where: object, _: float) -> socket.socket:
        reached.append(where)
        return socket.socket()

    return create_connection


def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(["192.0.2.10"], ["169.254.169.254"], ["127.0.0.1"])
    reached: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr(socket, "create_connection", opened(reached))
    dialer = Dialer(Policy(inside_hosts=("rebinding.example",)))
    for _ in range(3):
        dialer.connect("rebinding.example", 443, tls=True).close()
    assert names.asked == ["rebinding.example"]
    assert reached == [("192.0.2.10", 443)] * 3


@pytest.mark.parametrize(
    "addresses",
    [["169.254.169.254"], ["127.0.0.1"], ["10.0.0.1"], ["8.8.8.8", "169.254.169.254"], ["8.8.8.8", "10.0.0.1"]],
    ids=str,
)
def test_a_name_with_one_forbidden_address_is_not_connected_to_at_all(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    reached: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", Names(addresses))
    monkeypatch.setattr(socket, "create_connection", lambda *where: reached.append(where))
    with pytest.raises(FetchError, match="leads to"):
        Dialer(Policy()).connect("evil.example", 443, tls=True)
    assert reached == []


def test_an_unknown_name_and_a_closed_port_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as (port, _):
        pass
    with pytest.raises(Transient, match=r"cannot be reached on port .*refused"):
        Dialer(Policy(inside_hosts=("127.0.0.1",))).connect("127.0.0.1", port, tls=True)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Transient, match=r"host 'nowhere[.]example' is not known"):
        Dialer(Policy()).connect("nowhere.example", 443, tls=True)


def test_behind_a_proxy_the_proxy_resolves_and_names_are_judged_all_the_same() -> None:
    with listening(b"HTTP/1.1 200 Connection established\r\n\r\n") as (port, heard):
        dialer = Dialer(Policy(hosts=("store.example",)), proxy(f"http://me:p%40ss@127.0.0.1:{port}"))
        dialer.connect("store.example", 443, tls=True).close()
        with pytest.raises(FetchError, match="not among those"):
            dialer.connect("other.example", 443, tls=True)
        with pytest.raises(FetchError, match="metadata"):
            Dialer(Policy(), proxy(f"http://127.0.0.1:{port}")).connect("169.254.169.254", 443, tls=True)
    assert len(heard) == 1
    assert heard[0].startswith(b"CONNECT store.example:443 HTTP/1.1\r\n")
    assert base64.b64encode(b"me:p@ss") in heard[0]


def test_a_proxy_that_refuses_is_told_in_its_words() -> None:
    with listening(b"HTTP/1.1 403 Forbidden by policy\r\n\r\n") as (port, _), pytest.raises(Transient) as failed:
        Dialer(Policy(), proxy(f"http://127.0.0.1:{port}")).connect("store.example", 443, tls=True)
    assert "the proxy does not lead to 'store.example': HTTP/1.1 403 Forbidden by policy" in str(failed.value)


def test_hosts_of_the_inside_are_reached_without_the_proxy() -> None:
    with listening() as (port, _):
        dialer = Dialer(Policy(inside_hosts=("127.0.0.1",)), proxy("http://127.0.0.1:1"))
        with dialer.connect("127.0.0.1", port, tls=False) as connected:
            assert connected.getpeername() == ("127.0.0.1", port)


@pytest.mark.parametrize("url", ["https://proxy:3128", "socks5://proxy", "proxy:3128", "http://"])
def test_a_proxy_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(BadConfig, match="http://HOST:PORT"):
        proxy(url)


def test_a_metadata_service_is_asked_only_where_an_administrator_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match="not allowed to ask the cloud"):
        Dialer(Policy()).metadata("169.254.169.254")
    allowed = Dialer(Policy(cloud_credentials=True))
    with pytest.raises(FetchError, match="no metadata service"):
        allowed.metadata("10.0.0.1")
    reached: list[object] = []
    monkeypatch.setattr(socket, "create_connection", opened(reached))
    allowed.metadata("169.254.169.254").close()
    assert reached == [("169.254.169.254", 80)]
