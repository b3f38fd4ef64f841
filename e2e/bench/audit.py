"""Who asked the API server for what, and when, from its audit log: one clock for everybody, nobody's own word.

Time to the first write: from when the API server had answered the change of a service, which is when its watches
tell of it, until it received the operator's first write for it. That is the new revision's ControllerRevision, which
is made before anything else of a revision and names the service.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from e2e.bench.plane import BENCH, OPERATOR

WRITES = frozenset({"create", "update", "patch", "delete"})
READS = frozenset({"get", "list"})


@dataclass(frozen=True, slots=True)
class Call:
    user: str
    verb: str
    resource: str
    name: str
    received: float
    """Seconds of the API server's clock, to the microsecond; so is `answered`."""
    answered: float


class AuditLog:
    """Every call once: each `news` brings those since the last."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def news(self) -> list[Call]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._offset += whole
        return [_call(json.loads(line)) for line in text[:whole].splitlines()]


def count(calls: Iterable[Call], verbs: frozenset[str]) -> int:
    """The operator's work on services: neither its Lease, nor Events, which are counted apart."""
    return sum(call.resource not in ("leases", "events") for call in _operators(calls, verbs))


def events(calls: Iterable[Call]) -> int:
    return sum(call.resource == "events" for call in _operators(calls, WRITES))


def revisions(calls: Iterable[Call]) -> list[Call]:
    return [call for call in _operators(calls, {"create"}) if call.resource == "controllerrevisions"]


def first_writes_ms(calls: list[Call]) -> list[float]:
    """Milliseconds from each change of the benchmark to the operator's first write for it."""
    asked = (call for call in calls if call.user == BENCH and call.verb in WRITES)
    changed = {call.name: call.answered for call in asked if call.resource == "inferenceservices"}
    writes = [(call.name.rpartition("-")[0], call.received) for call in revisions(calls)]
    # The watch may be faster than the answer: then nobody has waited.
    return [max(0.0, received - changed[name]) * 1000 for name, received in writes if name in changed]


def percentile(values: Iterable[float], percent: int) -> float:
    """The smallest value that is not below so many of them."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def _operators(calls: Iterable[Call], verbs: Iterable[str]) -> Iterator[Call]:
    return (call for call in calls if call.user == OPERATOR and call.verb in verbs)


def _call(event: dict[str, Any]) -> Call:
    about = event.get("objectRef") or {}
    return Call(
        user=event["user"]["username"],
        verb=event["verb"],
        resource=about.get("resource", ""),
        name=about.get("name", ""),
        received=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
        answered=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
    )
