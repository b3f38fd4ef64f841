"""KServe's own clients, REST and gRPC, against a real process.

They run in the environment that the benchmark of the runtime makes for KServe. Where there is none it takes minutes to
make, so only the full run does.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.bench.runtime import environments
from tests.runtime.fuzz import FULL
from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(1200 if FULL else 300)

SCRIPT = Path(__file__).parent / "clients" / "kserve_clients.py"
# As the script sends them.
A, B = np.arange(32).reshape(2, 16), np.full((2, 16), 2)
BOTH = {"OUTPUT0": (A + B).tolist(), "OUTPUT1": (A - B).tolist()}
TEXTS = {"OUTPUT0": [["", "ä text", "x" * 20]]}
UNKNOWN = "Request for unknown model: 'nope' is not found"
UNEXPECTED = "unexpected inference input 'OTHER' for model 'simple', it takes ['INPUT0', 'INPUT1']"
Ask = Callable[[str], dict[str, Any]]


@pytest.fixture
def ask(examples: ServerProcess) -> Ask:
    place = environments.folder("kserve")
    if not (place / "done").exists():
        if not FULL:
            pytest.skip("KServe is not installed here: `SLIPWAY_FULL=1` or `make bench-runtime` does it")
        environments.ensure("kserve")

    def asked(protocol: str) -> dict[str, Any]:
        command = [str(place / "bin" / "python"), str(SCRIPT), f"http://{examples.http}", examples.grpc, protocol]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={}, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    return asked


def refused(answer: list[Any], code: int | str, sentence: str) -> bool:
    return bool(answer[0] == code and sentence in answer[1])


def test_kserves_rest_client_gets_answers_in_json_and_binary(ask: Ask) -> None:
    answers = ask("v2")
    assert [answers.pop(name) for name in ("live", "ready", "model ready", "no model ready")] == [
        True,
        True,
        True,
        False,
    ]
    assert refused(answers.pop("no model"), 404, UNKNOWN)
    assert refused(answers.pop("wrong input"), 400, UNEXPECTED)
    assert {answer["model"] for answer in answers.values()} == {"simple", "simple_identity"}
    assert {name: answer["outputs"] for name, answer in answers.items()} == {
        "json": BOTH,
        "binary": BOTH,
        "binary answer": {"OUTPUT1": BOTH["OUTPUT1"]},
        "texts": TEXTS,
        "binary texts": TEXTS,
    }
    assert [answers[name]["id"] for name in ("json", "binary", "binary answer")] == ["mine"] * 3


def test_kserves_rest_client_speaks_v1(ask: Ask) -> None:
    answers = ask("v1")
    rows = [{name: values[row] for name, values in BOTH.items()} for row in range(2)]
    assert (answers["live"], answers["model ready"]) == (True, True)
    assert answers["predict"] == {"predictions": rows}
    assert refused(answers["no model"], 404, UNKNOWN)
    assert answers["no model ready"][0] != "answered" or answers["no model ready"][1] == "False"


def test_kserves_grpc_client_gets_answers(ask: Ask) -> None:
    answers = ask("grpc")
    assert [answers[name] for name in ("live", "ready", "model ready")] == [True, True, True]
    assert answers["no model ready"] == ["answered", "False"]
    assert answers["a hundred at once"] is True
    mine = {"model": "simple", "version": "1", "id": "mine", "outputs": BOTH}
    assert answers["typed"] == answers["raw"] == mine
    assert answers["texts"]["outputs"] == TEXTS
    assert refused(answers["no model"], "NOT_FOUND", UNKNOWN)
    assert refused(answers["wrong input"], "INVALID_ARGUMENT", UNEXPECTED)
