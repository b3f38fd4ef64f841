"""What a gateway's agent says of itself: `GET /report?since=TOKEN` on its own port."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway.api.manifest import Key
from slipway.decide.release import EDGES_MS, Sample

_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T")


class ReportError(Exception):
    """A gateway did not answer, or not with a report."""


class Refused(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: str
    message: str = ""


class Counters(BaseModel):
    """Of one revision, cumulative since `epoch`."""

    model_config = ConfigDict(frozen=True)

    requests: int = Field(default=0, ge=0)
    """Tries, begun: a request that the gateway tried twice is two."""
    finished: int = Field(default=0, ge=0)
    """Requests that were answered, by a pod or in its place."""
    failed: int = Field(default=0, ge=0)
    """Of those, as `decide.release.Sample` has errors."""
    rejected: int = Field(default=0, ge=0)
    """Of those, as `decide.release.Sample` has them."""
    refused: int = Field(default=0, ge=0)
    """Of finished and failed, for too many were in flight: nobody's fault, and no pod saw them."""
    active: int = Field(default=0, ge=0)
    """Tries that a pod has now."""
    held: int = Field(default=0, ge=0)
    """Requests that wait for a first pod now; in none of the others."""
    held_lost: int = Field(default=0, ge=0)
    """Requests that waited in vain, or could not wait; in none of the others."""
    latency_ms: dict[str, int] = {}
    """Upper edge in ms -> requests above the edge before it. Edges without any are left out."""
    shadow: "Counters | None" = None
    """Copies, none of which is in the rest."""


class Report(BaseModel):
    """Everything, or with a known token only what changed since. Services are `namespace/name`; None: not any more."""

    model_config = ConfigDict(frozen=True)

    gateway: str = ""
    epoch: str = ""
    """Names the start of Envoy, with which its counters begin at 0; empty: they have not been read yet."""
    token: str = ""
    ready: bool = False
    full: bool = False
    counted_s: float | None = None
    """Since Envoy's counters were read."""
    taken: dict[str, str | None] = {}
    refused: dict[str, Refused | None] = {}
    notes: dict[str, str | None] = {}
    """What a service's people should know although nothing is refused."""
    counters: dict[str, Counters | None] = {}


class Wakes(BaseModel):
    """Who is waited for now: `GET /wakes?since=NUMBER`, answered as soon as somebody else is."""

    model_config = ConfigDict(frozen=True)

    number: int = 0
    held: dict[str, int] = {}
    """`namespace/name` -> requests that wait for a first pod."""
    revisions: dict[str, int] = {}
    """The same by `namespace/revision`."""


def sample(now: Counters, before: Counters | None) -> Sample:
    """What was counted between two reports of one gateway. `before` None (nothing yet, or another epoch): from zero.

    So it is when less has finished than before: Envoy forgets whom nobody asked for an hour.

    Each of its counts it forgets by itself: a revision whose errors are an hour apart goes on with its requests.

    Example:
        finished 10, failed 2 and later 25, 3 -> 15 requests, 1 error.
    """
    start = before if before is not None and before.finished <= now.finished else Counters()
    refused = _grown(now.refused, start.refused)
    requests = max(0, now.finished - start.finished - refused)
    errors = min(requests, max(0, _grown(now.failed, start.failed) - refused))
    rejected = min(requests, _grown(now.rejected, start.rejected))
    return Sample(requests, errors, _latency(now.latency_ms, start.latency_ms), rejected)


def _grown(now: int, before: int) -> int:
    return now - before if now >= before else now


def _latency(now: dict[str, int], before: dict[str, int]) -> tuple[int, ...]:
    """Envoy sums latencies up every 5 s, so they belong to requests of a little earlier than the counts do."""
    if any(count > now.get(edge, 0) for edge, count in before.items()):
        before = {}
    found = [0] * (len(EDGES_MS) + 1)
    for edge, count in now.items():
        if (number := _bucket(edge)) is None:
            return ()  # a gateway of another version counts in other buckets, which cannot be compared with these
        found[number] += count - before.get(edge, 0)
    return tuple(found) if any(found) else ()


def _bucket(edge: str) -> int | None:
    try:
        value = float(edge)
    except ValueError:
        return None
    number = bisect_left(EDGES_MS, value)
    return number if number == len(EDGES_MS) or EDGES_MS[number] == value else None


def parse(body: bytes) -> Report:
    """Raises ReportError."""
    return _parsed(Report, body)


def parse_wakes(body: bytes) -> Wakes:
    """Raises ReportError."""
    return _parsed(Wakes, body)


def _parsed(model: type[_M], body: bytes) -> _M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ReportError(f"not a report: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def merged(before: dict[Key, _T], news: Mapping[str, _T | None]) -> dict[Key, _T]:
    """`before` with the news, in which None takes away."""
    changed = {key_of(name): value for name, value in news.items()}
    return {key: value for key, value in (before | changed).items() if value is not None}


def key_of(name: str) -> Key:
    namespace, _, service = name.partition("/")
    return namespace, service


def key_of_revision(name: str) -> Key | None:
    """The service of `namespace/service-hash`."""
    namespace, _, revision = name.partition("/")
    service = revision.rpartition("-")[0]
    return (namespace, service) if service else None
