"""Arguments, environment and last words of Triton's process, without one. The lines are of a real 2.51."""

from pathlib import Path

import pytest

from slipway_runtime.triton.install import Home
from slipway_runtime.triton.server import arguments, clear_shm, environment, explain, shm_prefix
from tests.runtime.triton.folders import settings

STAMP = "2026-11-23T18:28:06Z E 15501"
TRACE = r"\n\nAt:\n  /tmp/triton/models/shop/1/model.py(2): <module>\n"
END = "error: creating server: Internal - failed to load all models"
LINES = {
    "no module": (
        (
            f"{STAMP} model_lifecycle.cc:642] \"failed to load 'shop' version 1: Internal: ModuleNotFoundError: "
            f"No module named 'mine'{TRACE}\""
        ),
        "Triton could not load model 'shop': No module named 'mine'",
    ),
    "batching": (
        (
            f"{STAMP} model_repository_manager.cc:1460] \"Poll failed for model directory 'shop': dynamic batching "
            'preferred size must be <= max batch size for shop"'
        ),
        "Triton could not load model 'shop': dynamic batching preferred size must be <= max batch size for shop",
    ),
    "versions": (
        (
            f"{STAMP} model_repository_manager.cc:724] \"failed to load model 'shop': at least one version must be "
            "available under the version policy of model 'shop'\""
        ),
        (
            "Triton could not load model 'shop': at least one version must be available under the version policy of "
            "model 'shop'"
        ),
    ),
    "shared memory": (
        (
            f"{STAMP} model_lifecycle.cc:642] \"failed to load 'shop' version 1: Internal: Failed to increase the "
            "shared memory pool size for key '/x' to 67108864 bytes: No space left on device\""
        ),
        "raise container.sharedMemory of the runtime",
    ),
}


@pytest.mark.parametrize(("line", "words"), LINES.values(), ids=LINES)
def test_the_reason_is_found_among_what_triton_writes(line: str, words: str) -> None:
    assert words in explain(["I1123 server.cc:1] starts", line, "", END])


def test_without_a_reason_the_last_error_is_told() -> None:
    ports = "The server cannot listen to GRPC requests and metrics requests at the same address and port"
    assert explain([ports]) == f"Triton did not start: {ports}"
    assert explain(["I1123 something else", END, "I1123 goes"]) == f"Triton did not start: {END}"
    assert explain([]) == "Triton did not start: it wrote nothing"


def test_a_reason_without_end_is_cut() -> None:
    assert len(explain([f"failed to load 'shop' version 1: {'x' * 100_000}"])) < 500


def told(tmp_path: Path, *, has_cache: bool = False, **env: str) -> dict[str, str]:
    words = arguments(Home(tmp_path), tmp_path / "models", settings(tmp_path, **env), has_cache=has_cache, max_batch=4)
    assert words[0] == str(tmp_path / "bin" / "tritonserver")
    names = [word.partition("=")[0].removeprefix("--") for word in words[1:]]
    assert {name for name in names if names.count(name) > 1} == {"backend-config"}
    return {name: word.partition("=")[2] for name, word in zip(names, words[1:], strict=True)}


def test_triton_is_started_closed_and_strict(tmp_path: Path) -> None:
    flags = told(tmp_path, DRAIN_TIMEOUT_S="40")
    assert (flags["model-control-mode"], flags["strict-readiness"], flags["exit-on-error"]) == ("none", "true", "true")
    assert (flags["allow-sagemaker"], flags["allow-vertex-ai"]) == ("false", "false")
    for flag in ("http-restricted-api", "grpc-restricted-protocol"):
        closed, _, word = flags[flag].partition(":slipway=")
        assert closed.split(",") == ["model-repository", "shared-memory", "trace", "logging"]
        assert len(word) >= 32
    assert flags["exit-timeout-secs"] == "40"
    assert not Path(flags["repoagent-directory"]).exists()
    assert "cache-config" not in flags


def test_a_cache_is_there_when_a_model_wants_it(tmp_path: Path) -> None:
    assert told(tmp_path, has_cache=True)["cache-config"] == "local,size=67108864"


def test_only_our_own_shared_memory_is_cleared(tmp_path: Path) -> None:
    own, other = tmp_path / "work", tmp_path / "elsewhere"
    for work in (own, other):
        (tmp_path / f"{shm_prefix(work)}0ec24653").touch()
    clear_shm(own, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{shm_prefix(other)}0ec24653"]


def test_the_python_backend_finds_this_python_first(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    found = environment(Home(tmp_path), {"PATH": "/bin", "LD_LIBRARY_PATH": "/cuda", "MINE": "kept"})
    assert (found["LD_LIBRARY_PATH"], found["MINE"]) == (f"{tmp_path}/lib:/cuda", "kept")
    assert found["PATH"].endswith(":/bin")
