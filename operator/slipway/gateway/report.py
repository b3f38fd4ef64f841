"""What this gateway serves and has counted, for the operator: whole, or what changed since a token. No I/O.

    {"gateway", "epoch", "token", "full", "ready", "counted_s",
     "taken": {"NS/NAME": version or null}, "refused": {"NS/NAME": {"version", "message"} or null},
     "notes": {"NS/NAME": "sentence" or null}, "held": {"NS/NAME": requests or null},
     "counters": {"NS/REVISION": {...} or null}}

`full`: everything known before is void. Else a difference, in which null means: no more. Counters are cumulative since
the start of the Envoy that `epoch` names; `counted_s` is their age in seconds, null before the first reading. `notes`
say what a service's people should know although nothing is refused: a routing that waits, keys that do not count.
`held` are requests that wait for a first pod, of which the counters of a revision have its own.
"""

import secrets
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

from slipway.api.manifest import Key
from slipway.gateway.apply import Wanted
from slipway.gateway.counters import Counters

Entry = tuple[str, str]
"""Part and name: ("taken", "ns/a")."""
_TOMBSTONES_MAX = 10_000
"""Beyond that many changes of which some are removals, who asks with an older token is told everything."""


class Report:
    """Also the applier's witness: what Envoy took goes straight in here."""

    def __init__(self, gateway: str, counters: Counters) -> None:
        self.gateway, self._counters = gateway, counters
        self.epoch = ""
        self.is_ready = False
        self.counted_at: float | None = None
        """On the loop's clock."""
        self._id, self._number = secrets.token_hex(4), 0
        self._values: dict[str, dict[str, Any]] = {"taken": {}, "refused": {}, "notes": {}, "held": {}}
        self._waiting: dict[str, int] = {}
        """NAMESPACE/REVISION -> requests held."""
        self._notes: dict[Key, dict[str, str]] = {}
        """Service -> about what -> sentence."""
        self._revisions: set[str] = set()
        self._changes: OrderedDict[Entry, int] = OrderedDict()
        """Entry -> number of its last change, the latest last."""
        self._forgotten = 0
        """The newest change that is in `_changes` no more."""

    @property
    def token(self) -> str:
        return f"{self._id}-{self._number}"

    @property
    def served(self) -> dict[str, str]:
        return self._values["taken"]

    @property
    def complaints(self) -> dict[str, dict[str, str]]:
        return self._values["refused"]

    @property
    def revisions(self) -> frozenset[str]:
        """Those with counts."""
        return frozenset(self._revisions)

    def taken(self, key: Key, wanted: Wanted | None) -> None:
        self._set("taken", "/".join(key), wanted.view.routing.version if wanted else None)

    def refused(self, key: Key, version: str, message: str) -> None:
        self._set("refused", "/".join(key), {"version": version, "message": message[:1024]})

    def healed(self, key: Key) -> None:
        self._set("refused", "/".join(key), None)

    def held(self, key: Key, words: str) -> None:
        self.note(key, "routing", words)

    def note(self, key: Key, about: str, words: str) -> None:
        """No words: nothing to say about that any more."""
        notes = self._notes.setdefault(key, {})
        notes[about] = words
        text = "; ".join(filter(None, (notes[each] for each in sorted(notes))))[:1024]
        self._set("notes", "/".join(key), text or None)
        if not text:
            del self._notes[key]

    def waiting(self, held: Mapping[tuple[Key, str], int]) -> None:
        """Service and revision -> requests that wait for its pods; all of them."""
        services = Counter[str]()
        for (key, _), count in held.items():
            services["/".join(key)] += count
        for name in services.keys() | self._values["held"].keys():
            self._set("held", name, services.get(name))
        before, self._waiting = self._waiting, {f"{key[0]}/{name}": count for (key, name), count in held.items()}
        for revision in before.keys() | self._waiting.keys():
            if before.get(revision) != self._waiting.get(revision):
                self._revisions.add(revision)
                self._note("counters", revision)

    def counted(self, revisions: frozenset[str], epoch: str, now: float) -> None:
        """Counts of these have changed."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._renew()
        self.counted_at = now
        for revision in revisions:
            self._revisions.add(revision)
            self._note("counters", revision)

    def forget(self, revision: str) -> None:
        """There is no such revision any more."""
        if revision in self._revisions:
            self._revisions.discard(revision)
            self._note("counters", revision)

    def set_ready(self, *, is_ready: bool) -> None:
        if self.is_ready != is_ready:
            self.is_ready = is_ready
            self._number += 1

    def render(self, since: str, now: float) -> dict[str, Any]:
        start = self._since(since)
        found: dict[str, dict[str, Any]] = {part: {} for part in (*self._values, "counters")}
        for part, name in self._entries(start):
            found[part][name] = self._value(part, name)
        age = None if self.counted_at is None else round(now - self.counted_at, 3)
        head = {"gateway": self.gateway, "epoch": self.epoch, "token": self.token, "full": start is None}
        return head | {"ready": self.is_ready, "counted_s": age} | found

    def _value(self, part: str, name: str) -> Any:
        if part == "counters":
            held = {"held": self._waiting[name]} if name in self._waiting else {}
            return self._counters.of(name) | held if name in self._revisions else None
        return self._values[part].get(name)

    def _entries(self, start: int | None) -> list[Entry]:
        if start is None:
            entries = [(part, name) for part, values in self._values.items() for name in values]
            return entries + [("counters", revision) for revision in sorted(self._revisions)]
        found = []
        for entry in reversed(self._changes):
            if self._changes[entry] <= start:
                break
            found.append(entry)
        return found

    def _since(self, token: str) -> int | None:
        """Number of the change that the asker knows; None if it has to be told everything."""
        its, _, number = token.rpartition("-")
        if its != self._id or not number.isdecimal():
            return None
        return int(number) if self._forgotten <= int(number) <= self._number else None

    def _set(self, part: str, name: str, value: Any) -> None:
        values = self._values[part]
        if values.get(name) == value:
            return
        if value is None:
            del values[name]
        else:
            values[name] = value
        self._note(part, name)

    def _note(self, part: str, name: str) -> None:
        self._number += 1
        self._changes[part, name] = self._number
        self._changes.move_to_end((part, name))
        if len(self._changes) > _TOMBSTONES_MAX + 2 * len(self._values["taken"]) + len(self._revisions):
            _, self._forgotten = self._changes.popitem(last=False)

    def _renew(self) -> None:
        """Who knows the counts of another Envoy is told everything."""
        self._id, self._revisions = secrets.token_hex(4), set(self._waiting)
        self._changes.clear()
        self._forgotten = self._number
