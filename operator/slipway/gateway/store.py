"""What Envoy is to have, by type and name, and what it said of it. No I/O: streams and waiters are told.

A resource's version is the hash of its content: a restarted agent and a running Envoy agree without sending anything.
An acknowledgement belongs to one stream: a new stream may be a new Envoy, which has said nothing yet.
"""

import asyncio
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from slipway.gateway.xds import Kind

Key = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Resource:
    version: str
    packed: bytes
    """Compressed: routes say much the same for every kind of request, and all services' lie in memory."""
    endpoints: str = ""
    """Of a cluster: the name of the endpoints without which it does not begin."""

    @classmethod
    def of(cls, body: bytes, endpoints: str = "") -> "Resource":
        return cls(hashlib.blake2b(body, digest_size=8).hexdigest(), zlib.compress(body, 1), endpoints)

    @property
    def body(self) -> bytes:
        """The message, without its envelope."""
        return zlib.decompress(self.packed)


class Refused(Exception):
    """Envoy did not take a resource; says which, and Envoy's words."""


class Follower(Protocol):
    """A stream, which is told what changed."""

    def touch(self, kind: Kind, name: str) -> None: ...

    def settled(self) -> None: ...


class Store:
    def __init__(self) -> None:
        self.resources: dict[Kind, dict[str, Resource]] = {kind: {} for kind in Kind}
        self.acked: dict[Key, str] = {}
        self.refused: dict[Key, tuple[str, str]] = {}
        """Key -> version and Envoy's words."""
        self._moving: set[Key] = set()
        """Endpoints of which Envoy may have others than these, whatever it has acknowledged of them."""
        self.is_settled = False
        """Everything that is to be had is here: what Envoy holds beyond it may go."""
        self._follower: Follower | None = None
        self._waiters: defaultdict[Key, list[asyncio.Future[None]]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self.resources.values()))

    def version(self, kind: Kind, name: str) -> str:
        found = self.resources[kind].get(name)
        return found.version if found else ""

    def put(self, kind: Kind, name: str, resource: Resource) -> None:
        if self.version(kind, name) == resource.version:
            return
        self.resources[kind][name] = resource
        if kind is Kind.ENDPOINTS:
            self._moving.add((kind, name))
        else:
            # Who goes from one version to another and back has to be told of both.
            self.acked.pop((kind, name), None)
        if kind is Kind.CLUSTER:
            # A changed cluster is made anew and waits for its endpoints, which Envoy does not ask for a second time.
            self.acked.pop((Kind.ENDPOINTS, resource.endpoints), None)
            self._touch(Kind.ENDPOINTS, resource.endpoints)
        self._touch(kind, name)

    def drop(self, kind: Kind, name: str) -> None:
        if self.resources[kind].pop(name, None):
            self.acked.pop((kind, name), None)
            self.refused.pop((kind, name), None)
            self._moving.discard((kind, name))
            self._touch(kind, name)

    def settle(self) -> None:
        self.is_settled = True
        if self._follower:
            self._follower.settled()

    def follow(self, follower: Follower | None) -> None:
        """From now on this stream speaks for Envoy; what the one before acknowledged is not known any more."""
        self._follower = follower
        self.acked.clear()
        self._moving = {(Kind.ENDPOINTS, name) for name in self.resources[Kind.ENDPOINTS]}

    @property
    def is_followed(self) -> bool:
        return self._follower is not None

    def is_current(self, follower: Follower) -> bool:
        return self._follower is follower

    def took(self, kind: Kind, name: str, version: str, *, is_last: bool = True) -> None:
        """Envoy has this version. An answer about an older one than the store's counts for nothing but endpoints.

        `is_last`: it was sent no other one since.
        """
        self.acked[kind, name] = version
        if is_last and version == self.version(kind, name):
            self._moving.discard((kind, name))
        self.refused.pop((kind, name), None)
        self._wake((kind, name))

    def refuse(self, kind: Kind, name: str, version: str, words: str) -> None:
        self.refused[kind, name] = (version, words)
        self._wake((kind, name))

    def is_taken(self, kind: Kind, name: str) -> bool:
        """Whether Envoy has the store's version; of endpoints any version since their cluster was sent."""
        acked = self.acked.get((kind, name))
        return acked is not None and (kind is Kind.ENDPOINTS or acked == self.version(kind, name))

    def refusal(self, kind: Kind, name: str) -> str:
        """Envoy's words about the very version in the store, else empty."""
        version, words = self.refused.get((kind, name), ("", ""))
        return words if version and version == self.version(kind, name) else ""

    @property
    def is_complete(self) -> bool:
        """Envoy has answered about everything; to be asked until it has."""
        return all(
            self.is_taken(kind, name) or self.refusal(kind, name)
            for kind, resources in self.resources.items()
            for name in resources
        )

    async def taken(self, keys: Iterable[Key], *, exactly: bool = False) -> None:
        """Wait until Envoy has all of these as they are in the store: for as long as that takes.

        `exactly`: of endpoints, too, the very version.

        Raises:
            Refused: it will not have one of them.
        """
        for key in keys:
            while not self.is_taken(*key) or (exactly and key in self._moving):
                if words := self.refusal(*key):
                    raise Refused(f"{key[0].rpartition('.')[2]} {key[1]}: {words}")
                future = asyncio.get_running_loop().create_future()
                self._waiters[key].append(future)
                try:
                    await future
                finally:
                    self._forget(key, future)

    def _touch(self, kind: Kind, name: str) -> None:
        if self._follower:
            self._follower.touch(kind, name)

    def _wake(self, key: Key) -> None:
        for future in self._waiters.get(key, ()):
            if not future.done():
                future.set_result(None)

    def _forget(self, key: Key, future: asyncio.Future[None]) -> None:
        waiting = self._waiters.get(key, [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiters.pop(key, None)
