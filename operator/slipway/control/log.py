"""How the operator logs: one line per fact, each carrying which object and which run of reconcile it is about.

The object is not passed around: `about` sets it for the current task, and every line logged below, by whatever
library, carries it.
"""

import contextlib
import datetime as dt
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039 (never changed in place)

# What every record has; anything else was passed as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET = ("kopf", "aiohttp", "asyncio")


class Form(StrEnum):
    JSON = "json"
    TEXT = "text"


def level(name: str) -> str:
    """A level's name as logging wants it. Raises KeyError."""
    return logging.getLevelName(logging.getLevelNamesMapping()[name.upper()])


@contextlib.contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Lines logged inside carry `fields`, in this task and the tasks it starts."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def configure(form: Form, least: str) -> None:
    """All loggers to stderr. Libraries tell only what goes wrong, unless the level is debug."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is Form.JSON else TextFormatter())
    logging.basicConfig(handlers=[handler], level=least, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.DEBUG if least == "DEBUG" else logging.WARNING)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + (f"  [{fields}]" if fields else "")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    extra.pop("settings", None)  # kopf attaches its whole configuration to every record
    return {**_about.get(), **extra}
