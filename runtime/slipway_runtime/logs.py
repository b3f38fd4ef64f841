"""Log lines on stderr: JSON for machines, text for people. Fields beyond the message come by `extra={"f": {...}}`."""

import datetime
import json
import logging
import sys


class _Worker(logging.Filter):
    """Says which of several processes a line is of."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def filter(self, record: logging.LogRecord) -> bool:
        record.f = {"worker": self._number, **getattr(record, "f", {})}
        return True


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "f", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in getattr(record, "f", {}).items())
        return super().format(record) + fields


def configure(level: str, form: str, worker: int | None = None) -> None:
    """`worker`: its number, where there are several."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text("%(asctime)s %(levelname)s %(name)s %(message)s"))
    if worker is not None:
        handler.addFilter(_Worker(worker))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
