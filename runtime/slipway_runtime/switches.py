"""Settings that clients may ask for, and some of them change, while the server runs: of tracing and of logging.

The names are those of Triton's trace and logging extensions. What we do not do is told as it is, and refused when it
is asked for.
"""

import logging
from collections.abc import Mapping
from typing import Any

from slipway_runtime.errors import Kind, RequestError, invalid

_LEVELS = {"log_verbose_level": logging.DEBUG, "log_info": logging.INFO, "log_warning": logging.WARNING}


class TraceSettings:
    """Spans go where OpenTelemetry's variables say, for every request or for none: nothing can be changed here."""

    def __init__(self, *, enabled: bool) -> None:
        self._settings: dict[str, Any] = {
            "trace_level": ["TIMESTAMPS"] if enabled else ["OFF"],
            "trace_rate": "1" if enabled else "0",
            "trace_count": "-1",
            "log_frequency": "0",
            "trace_file": "",
            "trace_mode": "opentelemetry",
        }

    def get(self, model: str) -> dict[str, Any]:
        return dict(self._settings)

    def update(self, model: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in changes.items():
            if name not in self._settings:
                raise invalid(f"there is no trace setting '{name}', there are: {', '.join(self._settings)}")
            if value is not None and value != self._settings[name]:
                raise RequestError(
                    Kind.UNSUPPORTED,
                    f"trace setting '{name}' cannot be changed while the server runs; start it with --tracing true or "
                    "false and the OTEL_* variables",
                )
        return self.get(model)


class LogSettings:
    """The level of the log can be changed; where it goes and in what form cannot."""

    def __init__(self, logger: logging.Logger, form: str) -> None:
        self._logger, self._form = logger, form

    def get(self, model: str) -> dict[str, Any]:
        level = self._logger.getEffectiveLevel()
        return {
            "log_file": "",
            "log_info": level <= logging.INFO,
            "log_warning": level <= logging.WARNING,
            "log_error": True,
            "log_verbose_level": 1 if level <= logging.DEBUG else 0,
            "log_format": self._form,
        }

    def update(self, model: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        before = self.get(model)
        wanted = {name: value for name, value in changes.items() if value is not None}
        for name, value in wanted.items():
            if name not in before:
                raise invalid(f"there is no log setting '{name}', there are: {', '.join(before)}")
            if type(value) is not type(before[name]):
                raise invalid(f"log setting '{name}' must be like {before[name]!r}, got {str(value)[:40]!r}")
            if name not in _LEVELS and value != before[name]:
                raise RequestError(Kind.UNSUPPORTED, f"log setting '{name}' cannot be changed while the server runs")
        after = before | wanted
        on = [level for name, level in _LEVELS.items() if after[name]]
        self._logger.setLevel(min(on, default=logging.ERROR))
        return self.get(model)
