"""Envoy's numbers as counts per revision, cumulative since that Envoy's start. Pure; `admin.py` reads the text.

Requests of users are counted by `render.counting`, exactly. Copies of requests pass no access log: what became of them
is made up of their clusters' own counters and, as these take a failed gRPC call for a success, of their pods'. Which
gRPC status it was neither tells, so that of copies by gRPC none is known to be rejected.

Of a thousand idle services nothing changes from one second to the next, so only lines that differ are taken apart.
Absent is not zero: what Envoy never counted is not there.
"""

import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from slipway.gateway.render import counting

Counts = dict[str, Any]
"""finished, failed, rejected, refused, held_lost; requests (tries), 2xx .. 5xx, 401, 403, 408, 429, timeouts, retries,
resets, active, overflows, connect_failures; latency_ms {edge: n, if any}, grpc {code: n}; faults of copies by gRPC."""

_APART = tuple(map(str, counting.NO_REJECTIONS))
FILTER = (
    rf"^cluster\.[^.]+/[^.]+\.(upstream_rq_(total|[1-5]xx|{'|'.join(_APART)}|timeout|retry|rx_reset|active|"
    r"pending_overflow|time)|upstream_cx_connect_fail|grpc\.(success|failure|[0-9]+))$"
    rf"|^{counting.PREFIX}\.[a-z_]+\.{counting.TAG}\.[^.]+$"
)
COPIES_BY_GRPC = "/grpc/shadow$"
"""Clusters whose pods have to be asked."""
_NAMES = {
    "upstream_rq_total": "requests",
    "upstream_rq_1xx": "1xx",
    "upstream_rq_2xx": "2xx",
    "upstream_rq_3xx": "3xx",
    "upstream_rq_4xx": "4xx",
    "upstream_rq_5xx": "5xx",
    **{f"upstream_rq_{code}": code for code in _APART},
    "upstream_rq_timeout": "timeouts",
    "upstream_rq_retry": "retries",
    "upstream_rq_rx_reset": "resets",
    "upstream_rq_active": "active",
    "upstream_rq_pending_overflow": "overflows",
    "upstream_cx_connect_fail": "connect_failures",
}
_LINE = re.compile(
    rf"^(?:cluster\.(?P<cluster>[^.]+)\.(?P<stat>[^:]+)|{counting.PREFIX}\.(?P<count>[a-z_]+)\.{counting.TAG}\.(?P<to>[^.:]+))"
    r": (?P<value>.*)$"
)
_BUCKET = re.compile(r"B(?P<edge>[0-9.e+]+|inf)\((?P<interval>\d+),(?P<total>\d+)\)")


@dataclass(frozen=True, slots=True)
class Place:
    """Whose count it is."""

    revision: str
    """NAMESPACE/REVISION."""
    protocol: str
    """http or grpc."""
    is_shadow: bool = False

    @classmethod
    def of(cls, cluster: str) -> "Place | None":
        namespace, _, rest = cluster.partition("/")
        revision, *more = rest.split("/")
        if not namespace or not revision or set(more) - {"grpc", "shadow"}:
            return None
        return cls(f"{namespace}/{revision}", "grpc" if "grpc" in more else "http", "shadow" in more)


@dataclass(slots=True)
class Counters:
    places: defaultdict[Place, Counts] = field(default_factory=lambda: defaultdict(dict))
    _lines: dict[str, frozenset[int]] = field(default_factory=dict)
    """By kind, hashes of the lines as last read."""
    _present: frozenset[str] = frozenset()
    _faults: dict[tuple[Place, str], int] = field(default_factory=dict)
    """By pod, as last read."""

    def read(self, kind: str, text: bytes) -> frozenset[str]:
        """The revisions whose counts are others than before. What is not in the text keeps its count."""
        lines, before, changed = text.splitlines(), self._lines.get(kind, frozenset()), set[str]()
        self._lines[kind] = frozenset(map(hash, lines))
        for line in lines:
            if hash(line) in before:
                continue
            if (found := _LINE.match(line.decode())) and (place := Place.of(found["cluster"] or found["to"])):
                changed.add(place.revision)
                _count(self.places[place], found["stat"] or found["count"], found["value"])
        if changed and kind == "Counters":
            clusters = {line.split(b".", 2)[1].decode() for line in lines if line.startswith(b"cluster.")}
            self._present = frozenset("/".join(name.split("/", 2)[:2]) for name in clusters)
        return frozenset(changed)

    @property
    def has_copies_by_grpc(self) -> bool:
        return any(place.is_shadow and place.protocol == "grpc" for place in self.places)

    def read_pods(self, text: bytes) -> frozenset[str]:
        """The revisions whose copies by gRPC failed since. A pod that went takes nothing back."""
        changed = set[str]()
        for cluster in json.loads(text).get("cluster_statuses", ()):
            if not (place := Place.of(cluster["name"])):
                continue
            for pod in cluster.get("host_statuses", ()):
                now = next((int(stat.get("value", 0)) for stat in pod["stats"] if stat["name"] == "rq_error"), 0)
                at = (place, json.dumps(pod["address"], sort_keys=True))
                before = self._faults.get(at, 0)
                self._faults[at] = now
                if now != before:
                    counts = self.places[place]
                    counts["faults"] = counts.get("faults", 0) + now - (before if now > before else 0)
                    changed.add(place.revision)
        return frozenset(changed)

    @property
    def present(self) -> frozenset[str]:
        """Revisions that Envoy told of at the last reading."""
        return self._present

    def reset(self) -> None:
        """Another Envoy, which starts from zero."""
        self.places.clear()
        self._lines.clear()
        self._faults.clear()

    def forget(self, revision: str) -> None:
        for place in [place for place in self.places if place.revision == revision]:
            del self.places[place]
        self._faults = {at: count for at, count in self._faults.items() if at[0].revision != revision}

    def of(self, revision: str) -> Counts:
        """Both protocols together, copies apart."""
        whole: Counts = {}
        for is_shadow, into in ((False, whole), (True, shadow := Counts())):
            for protocol in ("http", "grpc"):
                if counts := self.places.get(Place(revision, protocol, is_shadow)):
                    _add(into, _told(_of_copies(counts) if is_shadow else counts))
        if shadow:
            whole["shadow"] = shadow
        return whole


_TOLD = ("requests", "active", "latency_ms", *counting.COUNTS)


def _told(counts: Counts) -> Counts:
    return {name: counts[name] for name in _TOLD if name in counts}


def _of_copies(counts: Counts) -> Counts:
    """An answer of 5xx is in both, what the cluster counts and what its pods do; so is a time-out."""
    finished = sum(counts.get(f"{number}xx", 0) for number in range(2, 6))
    failed = max(counts.get("5xx", 0), counts.get("faults", 0))
    rejected = max(0, counts.get("4xx", 0) - sum(counts.get(code, 0) for code in _APART))
    return counts | {
        "finished": finished,
        "failed": failed,
        "rejected": rejected,
        "refused": counts.get("overflows", 0),
    }


def _count(counts: Counts, stat: str, value: str) -> None:
    if stat == "upstream_rq_time":
        buckets = ((found["edge"], int(found["total"])) for found in _BUCKET.finditer(value))
        counts["latency_ms"] = {sys.intern(edge): count for edge, count in buckets if count}
    elif stat.startswith("grpc."):
        counts.setdefault("grpc", {})[stat.removeprefix("grpc.")] = int(value)
    elif stat in counting.COUNTS:
        counts[stat] = int(value)
    elif stat in _NAMES:
        counts[_NAMES[stat]] = int(value)


def _add(into: Counts, more: Counts) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _add(into.setdefault(name, {}), value)
        else:
            into[name] = into.get(name, 0) + value
