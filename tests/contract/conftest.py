"""Every test that asks for `cluster` runs on the fake, and with SLIPWAY_TEST_KUBECONFIG on a real API server too."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract import backends
from tests.contract.backends import Cluster

KUBECONFIG = os.environ.get("SLIPWAY_TEST_KUBECONFIG", "")
BACKENDS = {"fake": backends.fake} | ({"real": backends.real} if KUBECONFIG else {})
TIMES = {"fake": [], "real": [pytest.mark.timeout(2 * backends.DEADLINE_S)]}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        metafunc.parametrize("cluster", [pytest.param(name, marks=TIMES[name]) for name in BACKENDS], indirect=True)


@pytest_asyncio.fixture
async def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", KUBECONFIG)
    async with BACKENDS[request.param]() as made:
        yield made
