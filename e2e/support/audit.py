"""Who did what to which object, from the API server's own audit log."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@dataclass(frozen=True, slots=True)
class Entry:
    at: datetime
    """When the API server received it."""
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    pod: str
    """Pod whose token it was; empty when it was none's."""
    agent: str
    code: int

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    def __str__(self) -> str:
        what = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        who = self.pod or self.user
        return f"{self.at:%H:%M:%S.%f} {self.verb} {what} {self.namespace}/{self.name} -> {self.code} ({who})"


@dataclass(frozen=True, slots=True)
class Audit:
    log: Path
    begin: int = 0
    """Mark of the moment when this session began."""

    def mark(self) -> int:
        """A place in the log: now."""
        return self.log.stat().st_size

    def entries(self, since: int, *, user: str) -> Iterator[Entry]:
        """What `user` did after the mark `since`, oldest first; with a * at the end, all whose names begin so."""
        begin, _, _ = user.partition("*")
        with self.log.open("rb") as lines:
            lines.seek(since)
            for line in lines:
                if begin.encode() in line and line.endswith(b"\n"):
                    entry = parse(json.loads(line))
                    if entry.user == user or (begin != user and entry.user.startswith(begin)):
                        yield entry


def parse(event: dict[str, object]) -> Entry:
    about, user = _dict(event, "objectRef"), _dict(event, "user")
    pod = _dict(user, "extra").get("authentication.kubernetes.io/pod-name") or [""]
    return Entry(
        at=datetime.fromisoformat(str(event["requestReceivedTimestamp"])),
        verb=str(event["verb"]),
        resource=str(about.get("resource", "")),
        subresource=str(about.get("subresource", "")),
        namespace=str(about.get("namespace", "")),
        name=str(about.get("name", "")),
        user=str(user.get("username", "")),
        pod=str(pod[0]) if isinstance(pod, list) else "",
        agent=str(event.get("userAgent", "")),
        code=int(str(_dict(event, "responseStatus").get("code", 0))),
    )


def _dict(of: dict[str, object], key: str) -> dict[str, object]:
    value = of.get(key)
    return value if isinstance(value, dict) else {}
