"""From a model's config and the server's settings to how its requests are treated; which models there are."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime.errors import BadConfig, BadModel, Failure, MissingModel
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.config_reader import config_of
from slipway_runtime.repository import ModelFiles, Plan, load_options, plan_of
from slipway_runtime.settings import Settings, read_settings

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things


def settings(*arguments: str) -> Settings:
    return read_settings(["serve", *(arguments if "--repository" in arguments else ("--model", "x", *arguments))], {})


def plan(config: dict[str, Any], *arguments: str) -> Plan:
    return plan_of("m", config_of(config, "config.json"), settings(*arguments))


DYNAMIC: dict[str, Any] = {
    "max_queue_delay_microseconds": 2500,
    "priority_levels": 3,
    "default_priority_level": 2,
    "default_queue_policy": {"default_timeout_microseconds": 500_000, "max_queue_size": 7},
}


@pytest.mark.parametrize(
    ("config", "arguments", "expected"),
    [
        pytest.param({}, (), {"max_rows": 1, "max_queue": 1000, "timeout_s": 60, "levels": 1}, id="nothing said"),
        pytest.param({"max_batch_size": 32}, ("--max-delay", "0.01"), {"max_rows": 32, "delay_s": 0.01}, id="server"),
        pytest.param(
            {"max_batch_size": 8, "dynamic_batching": DYNAMIC},
            ("--max-delay", "1", "--max-queue", "9"),
            {"delay_s": 0.0025, "levels": 3, "max_queue": 7, "timeout_s": 0.5},
            id="the config goes before",
        ),
        pytest.param(
            {"max_batch_size": 8, "dynamic_batching": DYNAMIC},
            ("--timeout", "0.1"),
            {"timeout_s": 0.1},
            id="least time",
        ),
        pytest.param(
            {}, ("--concurrency", "3", "--max-queue-bytes", "5"), {"max_jobs": 3, "max_queue_bytes": 5}, id="limits"
        ),
        pytest.param(
            {"dynamic_batching": {"preferred_batch_size": [4, 8]}, "max_batch_size": 8},
            (),
            {"preferred": (4, 8), "own_timeouts": True},
            id="preferred sizes",
        ),
        pytest.param(
            {"dynamic_batching": {"default_queue_policy": {"default_timeout_microseconds": 1}}},
            (),
            {"own_timeouts": False},
            id="as in Triton, a queue's policy has to allow timeouts of requests",
        ),
        pytest.param(
            {"dynamic_batching": {"default_queue_policy": {"allow_timeout_override": True}}},
            (),
            {"own_timeouts": True},
            id="which it may",
        ),
        pytest.param(
            {
                "max_batch_size": 4,
                "sequence_batching": {"oldest": {"preferred_batch_size": [2], "max_queue_delay_microseconds": 50}},
            },
            ("--max-delay", "1"),
            {"preferred": (2,), "delay_s": 5e-05},
            id="sequences",
        ),
        pytest.param({"sequence_batching": {}}, ("--max-delay", "1"), {"delay_s": 1.0}, id="sequences by the server"),
        pytest.param({}, ("--tenant-weights", "a=2,b=3"), {"weights": {"a": 2, "b": 3}}, id="weights"),
    ],
)
def test_a_config_and_the_settings_make_a_policy(
    config: dict[str, Any], arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    policy = plan(config, *arguments).policy
    assert {name: getattr(policy, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("config", "arguments", "expected"),
    [
        pytest.param({"dynamic_batching": DYNAMIC}, (), 1, id="default level, counted from 0"),
        pytest.param({}, (), 0, id="no levels"),
    ],
)
def test_a_request_without_a_priority_has_the_models_default(
    config: dict[str, Any], arguments: tuple[str, ...], expected: int
) -> None:
    assert plan(config, *arguments).default_level == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 0),
        ({"response_cache": {"enable": False}}, 0),
        ({"response_cache": {"enable": True}}, 100),
    ],
)
def test_only_a_model_that_asks_for_it_has_a_cache(config: dict[str, Any], expected: int) -> None:
    found = plan(config, "--cache-bytes", "100")
    assert found.cache_bytes == expected
    assert (found.options("m").cache is not None) is bool(expected)


def test_sequences_end_when_they_are_idle_and_are_bounded() -> None:
    oldest = {"max_sequence_idle_microseconds": 2_000_000, "oldest": {"max_candidate_sequences": 3}}
    assert plan({"sequence_batching": oldest}).sequences == (2.0, 3)
    assert plan({"sequence_batching": {}}).sequences == (1.0, 10_000)
    assert plan({}).sequences is None


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        pytest.param(
            {"dynamic_batching": {**DYNAMIC, "priority_queue_policy": {"1": {"max_queue_size": 1}}}},
            "priority_queue_policy is not served, use default_queue_policy",
            id="by priority",
        ),
        pytest.param(
            {"dynamic_batching": {"default_queue_policy": {"timeout_action": "DELAY"}}},
            "timeout_action DELAY is not served, use REJECT",
            id="delay",
        ),
        pytest.param(
            {"sequence_batching": {}, "instance_group": [{"count": 2}]}, "can have one instance only", id="instances"
        ),
    ],
)
def test_what_is_not_served_is_refused_with_the_models_name(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence) as caught:
        plan(config)
    assert "model 'm'" in str(caught.value)


def test_the_loader_gets_the_administrators_word() -> None:
    options = load_options(settings("--threads", "3", "--allow-code", "true", "--device", "cpu"))
    assert (options.threads, options.allow_code, options.device, options.allowed_classes) == (3, True, "cpu", ())


# --- which models there are


@pytest.fixture
def repository(samples: Path, tmp_path: Path) -> Path:
    for name in ("hello", "mlp"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.pt").write_bytes((samples / name / "model.pt").read_bytes())
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    return tmp_path


def test_a_repository_has_a_model_per_folder(repository: Path) -> None:
    files = ModelFiles(settings("--repository", str(repository)))
    assert files.names() == files.initial() == ["hello", "mlp"]


def test_only_those_asked_for_are_loaded_at_the_start(repository: Path) -> None:
    files = ModelFiles(settings("--repository", str(repository), "--load-models", "mlp"))
    assert (files.initial(), files.names()) == (["mlp"], ["hello", "mlp"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (lambda folder: ("--repository", str(folder / "gone")), "is no folder; check --repository"),
        (lambda folder: ("--repository", str(folder), "--load-models", "mlp,nope"), r"has no model \['nope'\]"),
    ],
)
def test_what_is_not_there_is_named(
    repository: Path, arguments: Callable[[Path], tuple[str, ...]], sentence: str
) -> None:
    with pytest.raises(MissingModel, match=sentence):
        ModelFiles(settings(*arguments(repository))).initial()


@pytest.mark.parametrize(
    ("given", "named", "expected"),
    [
        pytest.param("--model", None, "hello", id="the folder's name"),
        pytest.param("--model", {"name": "config"}, "config", id="the config's name"),
        pytest.param("--name", {"name": "config"}, "flag", id="the flag"),
    ],
)
def test_a_single_model_is_called(repository: Path, given: str, named: dict[str, str] | None, expected: str) -> None:
    if named:
        (repository / "hello" / "config.json").write_text(json.dumps(named))
    more = ("--name", "flag") if given == "--name" else ()
    files = ModelFiles(read_settings(["serve", "--model", str(repository / "hello"), *more], {}))
    assert files.names() == []
    assert files.initial() == [expected]
    assert files.names() == [expected]


def test_a_config_of_the_request_is_taken_for_the_one_on_disk(repository: Path) -> None:
    files = ModelFiles(settings("--repository", str(repository), "--threads", "1"))
    specs = {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}], "max_batch_size": 3}
    (version,) = files.load("hello", json.dumps(specs))
    try:
        assert version.version == "1"
        assert version.config()["max_batch_size"] == 3
        assert version.config()["name"] == "hello"
    finally:
        version.close()


@pytest.mark.parametrize(
    ("name", "config", "failure", "sentence"),
    [
        ("hello", "{", BadModel, "the config given for model 'hello' is not JSON"),
        ("hello", '{"max_batch": 1}', BadModel, "'max_batch', which no model config has"),
        ("hello", '{"parameters": {"compile": {"string_value": "on"}}}', BadModel, "has no meaning"),
        (".git", None, Failure, "holds no model.pt"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(
    repository: Path, name: str, config: str | None, failure: type[Failure], sentence: str
) -> None:
    with pytest.raises(failure, match=sentence):
        ModelFiles(settings("--repository", str(repository))).load(name, config)


def test_every_version_that_the_policy_wants_is_loaded(repository: Path) -> None:
    (repository / "hello" / "2").mkdir()
    (repository / "hello" / "2" / "model.pt").write_bytes((repository / "hello" / "1" / "model.pt").read_bytes())
    files = ModelFiles(settings("--repository", str(repository), "--threads", "1"))
    for policy, expected in (({}, ["2"]), ({"all": {}}, ["1", "2"]), ({"specific": {"versions": [1]}}, ["1"])):
        (repository / "hello" / "config.json").write_text(json.dumps({"version_policy": policy}))
        loaded = files.load("hello", None)
        assert [version.version for version in loaded] == expected
        for version in loaded:
            version.close()


def test_a_plan_is_of_its_config_alone() -> None:
    """Settings of one model do not leak into the plan of the next."""
    first = plan_of("a", ModelConfig(max_batch=4), settings())
    assert plan_of("b", ModelConfig(), settings()).policy == replace(first.policy, max_rows=1)


def test_code_needs_the_administrators_word(samples: Path) -> None:
    with pytest.raises(BadConfig, match="--allow-code true"):
        ModelFiles(settings("--repository", str(samples))).load("simple_string", None)


def test_when_one_version_cannot_be_loaded_those_before_it_are_closed(tmp_path: Path) -> None:
    for version, end in (("1", ""), ("2", "  def load(self, context): raise ValueError('no')\n")):
        (tmp_path / "m" / version).mkdir(parents=True)
        (tmp_path / "m" / version / "model.py").write_text(
            "import pathlib\nclass Model:\n  def infer(self, batch): return {'y': batch['x']}\n"
            f"  def close(self): pathlib.Path({str(tmp_path / 'closed')!r}).touch()\n{end}"
        )
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    config = {"input": [{"name": "x", **tensor}], "output": [{"name": "y", **tensor}], "version_policy": {"all": {}}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    files = ModelFiles(settings("--repository", str(tmp_path), "--allow-code", "true"))
    with pytest.raises(BadModel, match="failed to load: ValueError: no"):
        files.load("m", None)
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize("one", [False, True])
def test_the_version_policy_of_a_requests_config_holds(repository: Path, one: bool) -> None:
    (repository / "hello" / "2").mkdir()
    (repository / "hello" / "2" / "model.pt").write_bytes((repository / "hello" / "1" / "model.pt").read_bytes())
    model = repository / "hello"
    files = ModelFiles(
        read_settings(["serve", "--model", str(model)], {}) if one else settings("--repository", str(repository))
    )
    assert "hello" in files.initial()
    for policy, expected in (({"all": {}}, ["1", "2"]), ({"specific": {"versions": [1]}}, ["1"])):
        loaded = files.load("hello", json.dumps({"version_policy": policy}))
        assert [each.version for each in loaded] == expected
        for each in loaded:
            each.close()
