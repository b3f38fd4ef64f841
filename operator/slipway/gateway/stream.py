"""One delta ADS stream as a state machine: what Envoy says goes in, what is to be sent comes out. No I/O, no clock.

    receive(Request)  ->  state  ->  due(): Response, one at a time, looked up at the moment of sending

Pitfalls it is made for (all met on Envoy 1.40): an answer must be sent even if there is nothing to say, since Envoy's
start waits for it; an unknown name must be answered as removed; a refused answer names no guilty resource, so it is
sent again in halves; a version that was refused is not sent again; after a reconnect Envoy says what it holds, and what
of that is not known here goes only when everything that is to be had is known, routes before clusters.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from slipway.gateway.store import Resource, Store
from slipway.gateway.xds import Kind

BATCH = 250
"""Resources per answer, which bounds the time that one takes; the first answer of a type is whole: Envoy's start ends
with it."""
_WILD = "*"
_REMOVED_BY_US = (Kind.SCOPE, Kind.CLUSTER)
"""Of the others Envoy unsubscribes itself, and is told only what it asks in vain for."""
_REMOVALS = (*reversed([kind for kind in Kind if kind is not Kind.CLUSTER]), Kind.CLUSTER)
_LEADS = (Kind.ROUTES, Kind.SCOPE)


@dataclass(frozen=True, slots=True)
class Request:
    kind: Kind
    nonce: str = ""
    error: str = ""
    """Envoy's words; empty: taken."""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    """Name -> version, in the first request of a type only."""


@dataclass(frozen=True, slots=True)
class Response:
    kind: Kind
    nonce: str
    resources: tuple[tuple[str, Resource], ...] = ()
    removed: tuple[str, ...] = ()


class _Type:
    """What this stream knows of one type."""

    def __init__(self, *, is_wild: bool) -> None:
        self.is_wild = is_wild
        self.names: set[str] = set()
        self.dirty: dict[str, None] = {}
        """To be looked at; a dict because it keeps the order and coalesces."""
        self.halves: deque[tuple[str, ...]] = deque()
        self.orphans: set[str] = set()
        self.owes_answer = True

    def adopt(self) -> None:
        """What Envoy holds and nobody wants may go now."""
        self.dirty.update(dict.fromkeys(sorted(self.orphans)))
        self.orphans.clear()


class Stream:
    """`wake` is called whenever something may be due."""

    def __init__(self, store: Store, wake: Callable[[], None]) -> None:
        self._store, self._wake = store, wake
        self._types: dict[Kind, _Type] = {}
        self._in_flight: dict[str, tuple[Kind, tuple[tuple[str, str], ...]]] = {}
        self._sent = 0
        self._endpoints_sent: dict[str, str] = {}
        """Name of endpoints -> nonce of the last answer with them."""
        self._clusters_sent: dict[str, int] = {}
        """Name of endpoints -> number of the answer that last carried a cluster that waits for them."""

    @property
    def is_quiet(self) -> bool:
        """Nothing is due, and everything sent was answered."""
        return not self._in_flight and not any(kind.dirty or kind.halves for kind in self._types.values())

    def touch(self, kind: Kind, name: str) -> None:
        known = self._types.get(kind)
        if known is None or not (known.is_wild or name in known.names):
            return
        if kind in _REMOVED_BY_US or name in self._store.resources[kind]:
            known.dirty[name] = None
            self._wake()

    def settled(self) -> None:
        for known in self._types.values():
            known.adopt()
        self._wake()

    def receive(self, request: Request) -> None:
        known = self._types.get(request.kind)
        if known is None:
            known = self._types[request.kind] = self._begin(request)
        else:
            _subscribe(known, request.subscribe)
        if request.nonce:
            self._answered(request, known)
        for name in request.unsubscribe:
            known.names.discard(name)
            known.dirty.pop(name, None)
            if request.kind is Kind.ENDPOINTS:
                self._clusters_sent.pop(name, None)
                self._endpoints_sent.pop(name, None)
            self._store.acked.pop((request.kind, name), None)
        self._wake()

    def _begin(self, request: Request) -> _Type:
        names = {name for name in request.subscribe if name != _WILD}
        known = _Type(is_wild=not request.subscribe or _WILD in request.subscribe)
        known.names = names
        everything = {*names, *request.held, *(self._store.resources[request.kind] if known.is_wild else ())}
        for name in sorted(everything):
            version, held = self._store.version(request.kind, name), request.held.get(name)
            # What it has is not what a cluster that was sent since waits for.
            is_awaited = request.kind is Kind.ENDPOINTS and name in self._clusters_sent
            if version and version == held and not is_awaited:
                self._store.took(request.kind, name, version)
            elif version or held is None:
                known.dirty[name] = None
            elif request.kind in _REMOVED_BY_US:
                known.orphans.add(name)
        if self._store.is_settled:
            known.adopt()
        return known

    def _answered(self, request: Request, known: _Type) -> None:
        kind, sent = self._in_flight.pop(request.nonce, (request.kind, ()))
        if request.error and len(sent) > 1:
            names = tuple(name for name, _ in sent)
            middle = len(names) // 2
            known.halves += (names[:middle], names[middle:])
        elif request.error:
            for name, version in sent:
                self._store.refuse(kind, name, version, request.error)
        else:
            for name, version in sent:
                if kind is not Kind.ENDPOINTS or not self._precedes_cluster(name, request.nonce):
                    self._store.took(kind, name, version, is_last=self._is_last(kind, name, request.nonce))

    def _is_last(self, kind: Kind, name: str, nonce: str) -> bool:
        return kind is not Kind.ENDPOINTS or self._endpoints_sent.get(name) == nonce

    def _precedes_cluster(self, name: str, nonce: str) -> bool:
        """A cluster that is due, or was sent after these endpoints, waits for others."""
        clusters, found = self._types.get(Kind.CLUSTER), self._store.resources[Kind.CLUSTER]
        waiting = clusters.dirty if clusters else ()
        is_due = any(cluster in found and found[cluster].endpoints == name for cluster in waiting)
        return is_due or int(nonce) < self._clusters_sent.get(name, 0)

    def due(self) -> Response | None:
        """The next answer to send, or None when there is nothing to say."""
        for kind in Kind:
            if (known := self._types.get(kind)) and (response := self._addition(kind, known)):
                return response
        for kind in _REMOVALS:
            if (known := self._types.get(kind)) and (response := self._removal(kind, known)):
                return response
        return None

    def _addition(self, kind: Kind, known: _Type) -> Response | None:
        while known.halves:
            if response := self._send(kind, known, known.halves.popleft()):
                return response
        present = [name for name in known.dirty if name in self._store.resources[kind]]
        batch = present if known.owes_answer else present[:BATCH]
        for name in batch:
            del known.dirty[name]
        if response := self._send(kind, known, batch, is_owed=known.owes_answer):
            known.owes_answer = False
            return response
        return None

    def _send(self, kind: Kind, known: _Type, names: Iterable[str], *, is_owed: bool = False) -> Response | None:
        found = self._store.resources[kind]
        sent = tuple((name, found[name]) for name in names if name in found and not self._store.refusal(kind, name))
        if not sent and not is_owed:
            return None
        return self._response(kind, sent, ())

    def _removal(self, kind: Kind, known: _Type) -> Response | None:
        gone = tuple(name for name in known.dirty if name not in self._store.resources[kind])
        if not gone or (kind is Kind.CLUSTER and self._are_routes_on_their_way()):
            return None
        for name in gone:
            del known.dirty[name]
        return self._response(kind, (), gone)

    def _are_routes_on_their_way(self) -> bool:
        """A cluster must not go before the routes without it were taken, whoever changed them."""
        in_flight = any(kind in _LEADS for kind, _ in self._in_flight.values())
        return in_flight or any(
            known.dirty or known.halves for kind in _LEADS if (known := self._types.get(kind)) is not None
        )

    def _response(self, kind: Kind, sent: tuple[tuple[str, Resource], ...], gone: tuple[str, ...]) -> Response:
        self._sent += 1
        nonce = str(self._sent)
        self._in_flight[nonce] = (kind, tuple((name, resource.version) for name, resource in sent))
        if kind is Kind.ENDPOINTS:
            self._endpoints_sent.update((name, nonce) for name, _ in sent)
        if kind is Kind.CLUSTER:
            for _, resource in sent:
                self._clusters_sent[resource.endpoints] = self._sent
                # It waits for endpoints anew, also those that an Envoy which reconnects has asked for first.
                self._store.acked.pop((Kind.ENDPOINTS, resource.endpoints), None)
                self.touch(Kind.ENDPOINTS, resource.endpoints)
        return Response(kind, nonce, sent, gone)


def _subscribe(known: _Type, names: Iterable[str]) -> None:
    """Envoy wants these, whatever it was sent before."""
    for name in names:
        if name == _WILD:
            known.is_wild = True
            continue
        known.names.add(name)
        known.dirty[name] = None
