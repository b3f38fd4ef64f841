"""One server for those who leave it as it is, one for each of the others."""

from collections.abc import Callable, Iterator

import pytest

from tests.runtime.http1.echo_site import Client, Site


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    site = Site()
    yield site
    site.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.stop()


@pytest.fixture
def connect() -> Iterator[Callable[[Site], Client]]:
    clients: list[Client] = []

    def connected(site: Site) -> Client:
        clients.append(Client(site.port))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def client(shared: Site, connect: Callable[[Site], Client]) -> Client:
    return connect(shared)
