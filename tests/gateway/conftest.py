"""What every test of the gateway leaves behind it: nothing."""

from collections.abc import Iterator

import pytest

from tests.gateway import envoy


@pytest.fixture(autouse=True)
def _ports_are_given_back() -> Iterator[None]:
    yield
    envoy.give_ports_back()
