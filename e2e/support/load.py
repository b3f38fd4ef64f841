"""Many requests to a service at once, and who answered them; `load_client.py` is what runs, in a client pod."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.support.team import Team

SCRIPT = Path(__file__).with_name("load_client.py")
TAIL = 0.0005
"""Of the 0.1 % half is on each side."""
NEVER = 1e-8
"""As improbable on each side, for a count that is not taken once more."""


@dataclass(frozen=True, slots=True)
class Answer:
    code: str
    """HTTP's, or `grpc STATUS`; 0: none came."""
    revision: str
    offset: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Load:
    seconds: float
    codes: dict[str, int]
    revisions: dict[str, int]
    """Who answered, by the gateway's word."""
    offsets: dict[str, int]
    """Who answered, by the model's."""
    failures: list[str]
    each: list[Answer] = field(default_factory=list)

    def assert_answered(self, count: int, code: str) -> None:
        """Every one of them."""
        assert self.codes == {code: count}, f"{self.codes} {self.failures}"


def load(
    team: Team,
    service: str,
    count: int,
    *,
    protocol: str = "rest",
    headers: Sequence[dict[str, str]] = (),
    connections: int = 16,
    each: bool = False,
    through: str = "",
    host: str = "",
) -> Load:
    """`count` requests, by turns with each of `headers`; `through` an address of a gateway, else as the name leads."""
    spec = {
        "host": host or f"{service}.{team.name}",
        "model": service,
        "protocol": protocol,
        "address": through,
        "connections": min(connections, count),
        "headers": list(headers),
        "count": count,
        "each": each,
    }
    argv = ("exec", "--stdin", "client", "--", "python", "-c", SCRIPT.read_text())
    text = team.site.kubectl("--namespace", team.name, *argv, stdin=json.dumps(spec) + "\n")
    found: dict[str, Any] = json.loads(text)
    return Load(**found | {"each": [Answer(*answer) for answer in found["each"]]})


def one_each(team: Team, service: str, headers: Sequence[dict[str, str]], **more: Any) -> list[Answer]:
    """One request with each of `headers`; the answers in their order."""
    return load(team, service, len(headers), headers=headers, each=True, **more).each


def interval(share: float, count: int, tail: float = TAIL) -> tuple[int, int]:
    """Of `count` requests that each fall to an arm with the chance `share` so many do, but for `tail` on each side."""
    total, low, high = 0.0, 0, count
    for hits in range(count + 1):
        total += math.exp(_log_chance(hits, count, share))
        if total < tail:
            low = hits + 1
        if total > 1 - tail:
            high = hits
            break
    return low, high


def _log_chance(hits: int, count: int, share: float) -> float:
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return ways + hits * math.log(share) + (count - hits) * math.log1p(-share)
