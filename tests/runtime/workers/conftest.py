"""A folder of models, and a server of two workers for those who leave it as it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.process import ServerProcess, start
from tests.runtime.workers.two_workers import Both, add_model, two


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_model(tmp_path, "hello")
    return tmp_path


@pytest.fixture(scope="module")
def server(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("workers")
    for name in ("hello", "other"):
        add_model(folder, name)
    only = ["--load-models", "hello", "--model-control", "explicit", "--debug", "true"]
    running = start(samples, *two(folder, *only))
    yield running.wait_ready()
    assert running.stop() == 0, running.lines


@pytest.fixture
def both(server: ServerProcess) -> Iterator[Both]:
    found = Both(server)
    yield found
    found.close()
