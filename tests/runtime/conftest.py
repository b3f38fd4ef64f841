"""Sample models, and real server processes that the tests of a session share (importing torch takes seconds)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.process import ServerProcess, start


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slipway_runtime import samples as maker

    folder = tmp_path_factory.mktemp("samples")
    assert maker.main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def servers(samples: Path) -> Iterator[dict[str, ServerProcess]]:
    """One process per model, all started at once; ready when they are handed out."""
    running = {
        "hello": start(samples, "--model", "sample://hello"),
        "add-sub": start(samples, "--model", str(samples / "add-sub"), "--name", "simple"),
        "slow": start(samples, "--model", "sample://slow", "--concurrency", "1", "--max-queue", "2", "--timeout", "3"),
    }
    try:
        for server in running.values():
            server.wait_ready()
        yield running
    finally:
        for server in running.values():
            server.stop()


@pytest.fixture
def launch(samples: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts a server of the test's own, which ends with the test."""
    running: list[ServerProcess] = []

    def launched(*arguments: str) -> ServerProcess:
        running.append(start(samples, *arguments))
        return running[-1]

    yield launched
    for server in running:
        server.kill()
