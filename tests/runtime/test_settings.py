"""Settings: flag before variable before default; what is out of range is named."""

import dataclasses

import pytest

from slipway_runtime import __version__
from slipway_runtime.errors import BadConfig
from slipway_runtime.reserved import RESERVED
from slipway_runtime.settings import OPTIONS, Settings, read_command, read_settings


def test_every_setting_has_a_flag_and_a_variable() -> None:
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(Settings)}
    assert len({option.env for option in OPTIONS.values()}) == len(OPTIONS)


def test_the_flag_wins_over_the_variable_and_that_over_the_default() -> None:
    env = {"SLIPWAY_MODEL_PATH": "/env", "SLIPWAY_TIMEOUT_S": "2.5", "SLIPWAY_CONTAINER_CONCURRENCY": ""}
    settings = read_settings(["serve", "--model", "/flag"], env)
    assert (settings.model, settings.timeout_s, settings.concurrency, settings.http_port) == ("/flag", 2.5, 0, 8080)


@pytest.mark.parametrize(
    ("argv", "env", "sentence"),
    [
        pytest.param([], {}, "no model is named; give --model", id="no model"),
        pytest.param(
            ["--model", "a", "--repository", "b"], {}, "--model and --repository are both given", id="two places"
        ),
        pytest.param(
            ["--model", "a"], {"SLIPWAY_MODEL_REPOSITORY": "b"}, "are both given", id="two places, one a variable"
        ),
        pytest.param(["--model-control", "poll"], {}, "must be one of none, explicit", id="control"),
        pytest.param(["--grpc-backend", "rust"], {}, "must be one of own, grpcio", id="grpc backend"),
        pytest.param(["--full-status", "500"], {}, "--full-status is '500', must be 503 or 429", id="full"),
        pytest.param(["--metrics-port", "-1"], {}, "must be a whole number from 0 to 65535", id="metrics port"),
        pytest.param(["--max-queue-bytes", "0"], {}, "must be a whole number from 1", id="queue bytes"),
        pytest.param(["--max-held-bytes", "1.5"], {}, "must be a whole number from 1", id="held bytes"),
        pytest.param(["--max-delay", "11"], {}, "must be a number of seconds from 0 to 10", id="delay"),
        pytest.param(["--tenant-weights", "a=0"], {}, "must be NAME=1..1000, with commas", id="weight too small"),
        pytest.param(["--tenant-weights", "a=1001"], {}, "must be NAME=1..1000", id="weight too large"),
        pytest.param(["--tenant-weights", "a"], {}, "must be NAME=1..1000", id="no weight"),
        pytest.param(["--tenant-weights", "=2"], {}, "must be NAME=1..1000", id="no tenant"),
        pytest.param(["--tenant-header", "a/b"], {}, "must be a header's name", id="header"),
        pytest.param(["--allow-code", "yes"], {}, "--allow-code is 'yes', must be true or false", id="code"),
        pytest.param(["--tracing", ""], {}, "--tracing is '', must be true or false", id="tracing"),
        pytest.param(["--cache-bytes", "-1"], {}, "must be a whole number from 0", id="cache"),
        pytest.param(["--http-port", "70000"], {}, "--http-port is '70000', must be a whole number", id="port"),
        pytest.param([], {"SLIPWAY_TIMEOUT_S": "nan"}, "SLIPWAY_TIMEOUT_S is 'nan', must be a number", id="nan"),
        pytest.param([], {"SLIPWAY_TIMEOUT_S": "0"}, "SLIPWAY_TIMEOUT_S is '0', must be a number of", id="no time"),
        pytest.param([], {"SLIPWAY_CONTAINER_CONCURRENCY": "-1"}, "must be a whole number from 0", id="negative"),
        pytest.param(["--format", "keras"], {}, "--format is 'keras', must be one of auto", id="format"),
        pytest.param(["--device", "tpu"], {}, "--device is 'tpu', must be one of auto", id="device"),
        pytest.param(["--name", "a/b"], {}, "--name is 'a/b', must be a name without '/'", id="name"),
        pytest.param(
            ["--nope", "1"], {}, "unknown argument '--nope'; 'slipway-runtime serve --help' lists", id="unknown flag"
        ),
        pytest.param(["m.pt"], {}, "unknown argument 'm.pt'; name a model by --model; 'slipway", id="no flag"),
        pytest.param(["--http-port", ""], {}, "--http-port is '', must be", id="empty flag"),
    ],
)
def test_a_wrong_setting_is_named(argv: list[str], env: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadConfig, match=sentence):
        read_settings(["serve", *argv], env)


def test_another_command_is_refused() -> None:
    with pytest.raises(BadConfig, match="invalid choice"):
        read_settings(["fly"], {})


def test_every_kind_of_value_is_read_from_a_flag_or_a_variable() -> None:
    argv = [
        "--repository",
        "/models",
        "--load-models",
        "a, b,",
        "--tenant-weights",
        "blue=3,a=b=2",
        "--full-status",
        "429",
    ]
    env = {
        "SLIPWAY_ALLOW_CODE": "TRUE",
        "SLIPWAY_MODEL_CONTROL": "explicit",
        "SLIPWAY_ALLOWED_CLASSES": "mine:*,yours:Net",
        "SLIPWAY_MAX_DELAY_S": "0.002",
        "SLIPWAY_TRACING": "0",
    }
    settings = read_settings(["serve", *argv], env)
    assert (settings.repository, settings.load_models) == ("/models", ("a", "b"))
    assert settings.tenant_weights == {"blue": 3, "a=b": 2}
    assert (settings.full_status, settings.max_delay_s, settings.model_control) == (429, 0.002, "explicit")
    assert (settings.allow_code, settings.tracing, settings.allowed_classes) == (True, False, ("mine:*", "yours:Net"))


def test_what_is_not_given_is_off_or_safe() -> None:
    settings = read_settings(["serve", "--model", "/m"], {})
    assert (settings.model_control, settings.allow_code, settings.allowed_classes) == ("none", False, ())
    assert (settings.debug, settings.tracing, settings.access_log) == (False, False, False)
    assert (settings.grpc_backend, settings.full_status, settings.max_delay_s) == ("own", 503, 0)


SERVED = {"SLIPWAY_MODEL_PATH": "/mnt/models", "SLIPWAY_MODEL_NAME": "shop"}


def test_what_stands_before_serve_is_the_administrators_and_wins() -> None:
    argv = ["--allow-code", "false", "--max-queue", "9", "serve", "--threads", "2", "--timeout=5"]
    settings = read_settings(argv, SERVED | {"SLIPWAY_ALLOW_CODE": "true"})
    assert (settings.allow_code, settings.max_queue, settings.threads, settings.timeout_s) == (False, 9, 2, 5.0)
    assert read_settings(["--allow-code=true", "serve"], SERVED).allow_code


@pytest.mark.parametrize("flag", RESERVED)
@pytest.mark.parametrize("form", [["{}", "true"], ["{}=true"], ["--threads", "2", "{}", "true"]])
def test_a_service_does_not_give_what_is_the_runtimes(flag: str, form: list[str]) -> None:
    words = [word.format(flag) for word in form]
    with pytest.raises(BadConfig, match=f"argument {flag} is the runtime's to give, not a service's"):
        read_settings(["--allow-code", "false", "serve", *words], SERVED)


@pytest.mark.parametrize("word", ["--allow-c", "--allow", "--allowed-cl=os:*", "--mode", "--max-queue", "--", "serve"])
def test_nor_its_beginning_nor_what_the_runtime_has_given(word: str) -> None:
    with pytest.raises(BadConfig):
        read_settings(["--max-queue", "9", "serve", word, "7"], SERVED)


def test_check_and_bench_take_the_settings_of_one_model() -> None:
    env = {"SLIPWAY_DEVICE": "cpu", "SLIPWAY_MODEL_REPOSITORY": "/elsewhere", "SLIPWAY_TIMEOUT_S": "nonsense"}
    checked = read_command(["check", "/m", "--threads", "2", "--json", "--input", "x:FP32:4"], env)
    assert (checked.name, checked.json, checked.inputs) == ("check", True, ("x:FP32:4",))
    settings = checked.settings
    assert (settings.model, settings.repository, settings.threads, settings.device) == ("/m", "", 2, "cpu")
    assert settings.log_level == "warning", "a person reads along"
    measured = read_command(["bench", "/m", "--seconds", "2", "--max-batch", "8", "--compile", "false"], {})
    assert (measured.seconds, measured.max_batch, measured.compile, measured.output) == (2.0, 8, False, "")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        pytest.param(["check"], "the following arguments are required: MODEL", id="no model"),
        pytest.param(
            ["check", "/m", "--http-port", "1"],
            "unknown argument '--http-port'; 'slipway-runtime check",
            id="not of one model",
        ),
        pytest.param(["check", "/m", "--seconds", "1"], "unknown argument '--seconds'", id="of bench only"),
        pytest.param(["bench", "/m", "--seconds", "0"], "--seconds is '0', must be a number of seconds", id="no time"),
        pytest.param(["bench", "/m", "--max-batch", "-1"], "--max-batch is '-1', must be a whole number", id="batch"),
    ],
)
def test_a_wrong_word_for_check_or_bench_is_named(argv: list[str], sentence: str) -> None:
    with pytest.raises(BadConfig, match=sentence):
        read_command(argv, {})


def test_help_tells_what_is_allowed_and_what_is_taken_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_command(["serve", "--help"], {})
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("usage: slipway-runtime serve [options] Serve a model")
    assert (
        "--http-port HTTP_PORT REST; 0 = any free port [a whole number from 0 to 65535; SLIPWAY_HTTP_PORT; de" in told
    )
    assert "--model MODEL file, folder, or sample://NAME [a path; SLIPWAY_MODEL_PATH] " in told
    assert "[true or false; SLIPWAY_ALLOW_CODE; default: false]" in told


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_command(["--version"], {})
    assert (ended.value.code, capsys.readouterr().out) == (0, f"slipway-runtime {__version__}\n")
