"""Sample models, and real server processes that the tests of a session share (importing torch takes seconds)."""

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.runtime.process import ServerProcess, start

Loops = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Loops:
    """A module may name the event loops its tests run on as `LOOPS`, each in turn."""
    module = item.getparent(pytest.Module)
    loops: Loops = getattr(module and module.obj, "LOOPS", {"asyncio": asyncio.new_event_loop})
    return loops


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slipway_runtime import samples as maker  # noqa: PLC0415 - torch, which most tests do without

    folder = tmp_path_factory.mktemp("samples")
    assert maker.main([str(folder)]) == 0
    return folder


# What the tests of a session need, by the name they ask for it. Started together: importing torch takes seconds.
SHARED = {
    "hello": ("--model", "sample://hello"),
    "add-sub": ("--model", "sample://add-sub", "--name", "simple"),
    "slow": ("--model", "sample://slow", "--concurrency", "1", "--max-queue", "2"),
}
# These end in the one test that uses them.
ENDING = {
    "crashes": ("--model", "sample://broken-crash"),
    "drains under load": ("--model", "sample://hello"),
    "drains with a queue": ("--model", "sample://slow", "--concurrency", "1", "--drain-idle", "0"),
    "drains too long": ("--model", "sample://slow", "--concurrency", "1", "--drain-timeout", "0.05"),
    "drains for ever": ("--model", "sample://hello", "--drain-idle", "1000"),
}


def together(samples: Path, table: dict[str, tuple[str, ...]]) -> Iterator[dict[str, ServerProcess]]:
    running = {name: start(samples, *arguments) for name, arguments in table.items()}
    yield running
    for server in running.values():
        server.kill()


@pytest.fixture(scope="session")
def servers(samples: Path) -> Iterator[dict[str, ServerProcess]]:
    for running in together(samples, SHARED):
        for server in running.values():
            server.wait_ready()
        yield running


@pytest.fixture(scope="session")
def ending(samples: Path) -> Iterator[dict[str, ServerProcess]]:
    yield from together(samples, ENDING)


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


EXAMPLES = ("simple", "simple_string", "simple_identity", "simple_sequence", "repeat_int32")


@pytest.fixture(scope="session")
def examples(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the models that the examples of Triton's clients use; clients may load and unload them."""
    folder = tmp_path_factory.mktemp("examples")
    for name in EXAMPLES:
        shutil.copytree(samples / name, folder / name)
    server = start(samples, "--repository", str(folder), "--allow-code", "true", "--model-control", "explicit")
    yield server.wait_ready()
    server.kill()
