"""Settings of tracing and logging that clients may read, and change where that is possible."""

import logging
from typing import Any

import pytest

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.switches import LogSettings, TraceSettings


@pytest.fixture
def logger() -> logging.Logger:
    return logging.Logger("test", logging.INFO)


def test_trace_settings_say_whether_spans_are_sent() -> None:
    on, off = TraceSettings(enabled=True).get(""), TraceSettings(enabled=False).get("m")
    assert (on["trace_level"], on["trace_rate"], on["trace_mode"]) == (["TIMESTAMPS"], "1", "opentelemetry")
    assert (off["trace_level"], off["trace_rate"]) == (["OFF"], "0")


def test_a_trace_setting_that_stays_as_it_is_is_accepted() -> None:
    settings = TraceSettings(enabled=False)
    assert settings.update("m", {"trace_rate": "0", "trace_level": None}) == settings.get("m")


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        pytest.param({"trace_rate": "5"}, Kind.UNSUPPORTED, "start it with --tracing true", id="change"),
        pytest.param({"trace_colour": "5"}, Kind.INVALID, "there is no trace setting 'trace_colour'", id="unknown"),
    ],
)
def test_a_trace_setting_that_cannot_be_changed_is_refused(changes: dict[str, Any], kind: Kind, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence) as caught:
        TraceSettings(enabled=False).update("", changes)
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"log_verbose_level": 1}, logging.DEBUG),
        ({"log_info": False}, logging.WARNING),
        ({"log_info": False, "log_warning": False}, logging.ERROR),
        ({"log_info": None}, logging.INFO),
        ({"log_format": "json", "log_file": ""}, logging.INFO),
    ],
)
def test_the_level_of_the_log_follows(logger: logging.Logger, changes: dict[str, Any], level: int) -> None:
    settings = LogSettings(logger, "json")
    after = settings.update("", changes)
    assert logger.level == level
    assert after == settings.get("")
    assert after["log_error"] is True


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        pytest.param({"log_colour": 1}, Kind.INVALID, "there is no log setting 'log_colour'", id="unknown"),
        pytest.param({"log_info": 1}, Kind.INVALID, "must be like True, got '1'", id="type"),
        pytest.param({"log_file": "/tmp/x"}, Kind.UNSUPPORTED, "cannot be changed", id="file"),  # noqa: S108
        pytest.param({"log_info": False, "log_error": False}, Kind.UNSUPPORTED, "cannot be changed", id="errors"),
    ],
)
def test_what_the_log_cannot_do_is_refused_and_nothing_is_changed(
    logger: logging.Logger, changes: dict[str, Any], kind: Kind, sentence: str
) -> None:
    with pytest.raises(RequestError, match=sentence) as caught:
        LogSettings(logger, "json").update("", changes)
    assert caught.value.kind is kind
    assert logger.level == logging.INFO
