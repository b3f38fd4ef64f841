"""Real Tritons that the tests of a session share, started together: each needs seconds of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.process import ServerProcess, start
from tests.runtime.triton import models
from tests.runtime.triton.folders import put
from tests.runtime.triton.process import Triton, lay_out

CODE = "--allow-code=true"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("triton") / "home")


@pytest.fixture(scope="session")
def tritons(home: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Triton]]:
    folder = tmp_path_factory.mktemp("tritons")

    def launch(name: str, model: Path, *argv: str, **env: str) -> Triton:
        return Triton(home, folder / f"work-{name}", model, *argv, **env)

    running = {
        "torch": launch("torch", samples / "hello", "--allow-code=false", MODEL_FORMAT="torchscript"),
        "chain": launch("chain", models.chain(folder / "chain"), CODE, MAX_QUEUE="1000", MODEL_FORMAT="ensemble"),
        "onnx": launch("onnx", models.linear(folder / "onnx" / "net.onnx"), "--cache-bytes=1048576", MAX_QUEUE="100"),
        "slow": launch(
            "slow",
            models.slow(folder / "slow"),
            *(CODE, "--max-batch-size=1", "--warm-up=true"),
            MAX_QUEUE="2",
            DRAIN_TIMEOUT_S="20",
        ),
        "broken": launch("broken", _broken(folder), CODE),
        "loading": launch("loading", _loading(folder), CODE),
    }
    yield running
    for server in running.values():
        server.terminate()
    for server in running.values():
        server.wait()


def _broken(folder: Path) -> Path:
    model = put(folder / "broken", {"config.pbtxt": models.CONFIG})
    return put(model, {"model.py": models.code(before='raise ValueError("the weights do not fit")')})


def _loading(folder: Path) -> Path:
    model = put(folder / "loading", {"config.pbtxt": models.CONFIG})
    return put(model, {"model.py": models.code(before='print("loads", flush=True); time.sleep(600)')})


@pytest.fixture(scope="session")
def chain(tritons: dict[str, Triton]) -> Triton:
    return tritons["chain"].wait_ready()


@pytest.fixture(scope="session")
def onnx(tritons: dict[str, Triton]) -> Triton:
    return tritons["onnx"].wait_ready()


@pytest.fixture(scope="session")
def slow(tritons: dict[str, Triton]) -> Triton:
    return tritons["slow"].wait_ready()


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """slipway-runtime with the very file that Triton `onnx` has."""
    folder = tmp_path_factory.mktemp("ours")
    server = start(folder, "--model", str(models.linear(folder / "net.onnx")), "--name", "shop")
    yield server.wait_ready()
    server.kill()


@pytest.fixture
def launch(home: Path, tmp_path: Path) -> Iterator[Callable[..., Triton]]:
    """Starts a Triton of the test's own, which ends with the test."""
    running: list[Triton] = []

    def launched(model: Path, *argv: str, **env: str) -> Triton:
        running.append(Triton(home, tmp_path / "work", model, *argv, **env))
        return running[-1]

    yield launched
    for server in running:
        server.stop()
