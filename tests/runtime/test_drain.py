"""Nothing is lost when a server or a model goes in full load, time after time; a model that goes gives all back."""

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.runtime.fuzz import FULL
from tests.runtime.load import Load, until
from tests.runtime.process import ServerProcess, start

pytestmark = pytest.mark.timeout(7200 if FULL else 300)

Launch = Callable[..., ServerProcess]
DRAINS = 50 if FULL else 3
CYCLES = 1000 if FULL else 20
ROUNDS = 20 if FULL else 3


def test_sigterm_in_full_load_loses_nothing_time_after_time(launch: Launch) -> None:
    for _ in range(DRAINS):
        server = launch("--model", "sample://hello").wait_ready()
        load = Load(server, clients=4)
        until(lambda load=load: load.counts["ok"] > 200)  # type: ignore[misc]
        server.terminate()
        server.wait_log("draining")
        before = load.counts["ok"]
        until(lambda load=load, before=before: load.counts["ok"] > before + 100)  # type: ignore[misc]
        load.stop()
        assert server.wait() == 0
        assert set(load.counts) == {"ok"}, load.counts


class Wide(nn.Module):
    """32 MiB of weights, so that a model that stays in memory is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(8 << 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + self.weights[0]


@pytest.fixture(scope="module")
def repository(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("repository") / "hello"
    folder.mkdir()
    with pytest.warns((FutureWarning, DeprecationWarning)):
        torch.jit.save(torch.jit.script(Wide().eval()), folder / "model.pt")
    (folder / "config.json").write_text((samples / "hello" / "config.json").read_text())
    server = start(samples, "--repository", str(folder.parent), "--model-control", "explicit")
    yield server.wait_ready()
    server.kill()


def change(server: ServerProcess, what: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    connection.request("POST", f"/v2/repository/models/hello/{what}", "{}")
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer
    connection.close()


def test_a_model_unloaded_in_full_load_answers_or_refuses_every_request(repository: ServerProcess) -> None:
    load = Load(repository, clients=3)
    for _ in range(ROUNDS):
        before = load.counts["ok"]
        until(lambda before=before: load.counts["ok"] > before + 100)  # type: ignore[misc]
        change(repository, "unload")
        refused = load.counts["503"], load.counts["StatusCode.UNAVAILABLE"]
        until(
            lambda refused=refused: (  # type: ignore[misc]
                load.counts["503"] > refused[0] and load.counts["StatusCode.UNAVAILABLE"] > refused[1]
            )
        )
        change(repository, "load")
    before = load.counts["ok"]
    until(lambda: load.counts["ok"] > before)
    load.stop()
    assert set(load.counts) == {"ok", "503", "StatusCode.UNAVAILABLE"}, load.counts
    assert {sentence.partition(" is ")[0] for sentence in load.sentences} == {"model 'hello'"}, load.sentences


def test_a_model_reloaded_in_full_load_answers_every_request(repository: ServerProcess) -> None:
    load = Load(repository, clients=3)
    for _ in range(ROUNDS):
        before = load.counts["ok"]
        until(lambda before=before: load.counts["ok"] > before + 50)  # type: ignore[misc]
        change(repository, "load")
    load.stop()
    assert set(load.counts) == {"ok"}, load.counts


def test_loading_and_unloading_gives_the_memory_back(repository: ServerProcess) -> None:
    def cycle(times: int) -> None:
        for _ in range(times):
            change(repository, "unload")
            change(repository, "load")

    cycle(5)  # what is taken once, and stays
    before_mib = repository.rss_mib()
    cycle(CYCLES)
    after_mib = repository.rss_mib()
    print(json.dumps({"cycles": CYCLES, "before_mib": before_mib, "after_mib": after_mib}))  # noqa: T201
    assert after_mib < before_mib * 1.05
    change(repository, "unload")
    unloaded_mib = repository.rss_mib()
    change(repository, "load")
    assert unloaded_mib < before_mib - 24, "32 MiB of weights were to be given back"
