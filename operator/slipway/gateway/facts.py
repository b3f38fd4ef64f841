"""What is known of services, their pods, clients' keys and issuers' keys, and the view of a service made of it. Pure.

Every `take` and `drop` says which services look different now; the cost is that of those, not of all.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from slipway.api.access import SECRET
from slipway.api.manifest import Key, Manifest
from slipway.api.names import LABEL_REVISION, PREVIEW
from slipway.api.routing import Routing
from slipway.decide import matches
from slipway.decide.hosts import Claim, Domains, inside, outside, preview, previewed, winner
from slipway.gateway.keys import ClientKeys, client_keys
from slipway.gateway.views import Endpoint, ServiceView

_At = TypeVar("_At")
Keys = frozenset[Key]
_NONE: Keys = frozenset()


@dataclass(frozen=True, slots=True)
class Service:
    namespace: str
    name: str
    uid: str
    created: str
    generation: int
    routing: Routing

    @property
    def key(self) -> Key:
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice: ready pods by their names, of one revision."""

    revision: str
    pods: Mapping[str, Endpoint]


@dataclass(frozen=True, slots=True)
class Unread:
    """A routing that is not served, and why."""

    version: str
    words: str


@dataclass(slots=True)
class Facts:
    domains: Domains = field(default_factory=Domains)
    holds_back: Callable[[Key, str, bool], bool] = lambda _, __, has_pods: not has_pods
    """Whether requests to a service's revision that may sleep have to wait, given whether it has ready pods."""
    unreadable: dict[Key, Unread] = field(default_factory=dict)
    """Services whose routing this program does not understand; the last good one serves on."""
    jwks: dict[str, str] = field(default_factory=dict)
    """Address -> the issuer's keys as last fetched."""
    _services: dict[Key, Service] = field(default_factory=dict)
    _slices: dict[Key, Slice] = field(default_factory=dict)
    """Namespace and name of the slice."""
    _slices_of: defaultdict[Key, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Namespace and revision -> names of slices."""
    _keys: dict[str, ClientKeys] = field(default_factory=dict)
    _blind: dict[str | None, str] = field(default_factory=dict)
    """Namespace, or None for all -> why its Secret may not be read."""
    _served: dict[Key, ServiceView] = field(default_factory=dict)
    """What Envoy has, which is not what is wanted while a routing is refused, unreadable or on its way."""
    _uses: dict[Key, tuple[frozenset[Key], frozenset[str]]] = field(default_factory=dict)
    """Service -> what `_routed` and `_issued` have of it."""
    _routed: defaultdict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))
    """Namespace and revision -> services that lead there."""
    _issued: defaultdict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))
    """Address of an issuer's keys -> services that need them."""
    _claims: dict[Key, Claim] = field(default_factory=dict)
    """Of every service there is, routed or not."""
    _rivals: defaultdict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))
    """Host outside -> services that want it."""
    _holders: dict[str, Key] = field(default_factory=dict)
    """Host outside -> the service that Envoy leads it to."""

    @property
    def services(self) -> Keys:
        return frozenset(self._services)

    @property
    def jwks_uris(self) -> Mapping[str, frozenset[str]]:
        """Namespace -> those that some service in it needs."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for uri, services in self._issued.items():
            for namespace, _ in services:
                found[namespace].add(uri)
        return {namespace: frozenset(uris) for namespace, uris in found.items()}

    def owner(self, namespace: str, revision: str) -> Key | None:
        """A service that leads to this revision."""
        return next(iter(self._routed.get((namespace, revision), ())), None)

    def service(self, key: Key) -> Service | None:
        return self._services.get(key)

    def view(self, key: Key) -> ServiceView | None:
        """None: there is no such service, or nothing was routed for it yet."""
        if (service := self._services.get(key)) is None:
            return None
        meta = (service.namespace, service.name, service.uid, service.created, service.generation)
        return self.now(ServiceView(*meta, service.routing))

    def now(self, view: ServiceView) -> ServiceView:
        """The same table with the pods, clients' keys and issuer's keys of now."""
        routing = view.routing
        known = self._keys.get(view.namespace, ClientKeys()).keys
        endpoints = {t.revision: self.endpoints(view.namespace, t.revision) for t in routing.targets}
        key = (view.namespace, view.name)
        sleepy = (t.revision for t in routing.targets if t.hold_ms)
        return dataclasses.replace(
            view,
            endpoints=endpoints,
            held=frozenset(name for name in sleepy if self.holds_back(key, name, bool(endpoints[name]))),
            keys={client: known[client] for client in routing.access.clients or () if client in known},
            jwks=self.jwks.get(_jwks_uri(routing), ""),
        )

    def fault_of_keys(self, key: Key) -> str:
        """Why clients that this service names cannot call, or not with every key; empty if nothing is wrong."""
        if (service := self._services.get(key)) is None or service.routing.access.clients is None:
            return ""
        if words := self._blind.get(key[0]) or self._blind.get(None):
            return f"the Secret {SECRET} cannot be read, so its clients are answered 401: {words}"
        faults = self._keys.get(key[0], ClientKeys()).faults
        found = [f"client {name}: {faults[name]}" for name in service.routing.access.clients if name in faults]
        return "; ".join(found)

    def hosts(self, key: Key) -> tuple[str, ...]:
        """The names that are this service's own; of one that several want the oldest service has it."""
        found = inside(key[0], key[1], self.domains)
        if self._has_preview(key) and (key[0], key[1] + PREVIEW) not in self._claims:
            found += preview(key[0], key[1], self.domains)
        host = outside(key[0], key[1], self.domains)
        return (*found, host) if host and self._holder(host) == key else found

    def serve(self, key: Key, view: ServiceView | None, hosts: tuple[str, ...] = ()) -> Keys:
        """Envoy has this now, or nothing of the service any more. Gives whose hosts that changes."""
        host = outside(key[0], key[1], self.domains)
        before = self._holder(host)
        if view:
            self._served[key] = view
        else:
            self._served.pop(key, None)
        if view and host in hosts:
            self._holders[host] = key
        elif self._holders.get(host) == key:
            del self._holders[host]
        self._index(key)
        return self._moved(host, before)

    def endpoints(self, namespace: str, revision: str) -> tuple[Endpoint, ...]:
        """Ready pods, in the order of their addresses."""
        pods: dict[str, Endpoint] = {}
        for name in sorted(self._slices_of.get((namespace, revision), ())):
            for pod, endpoint in self._slices[namespace, name].pods.items():
                pods.setdefault(pod, endpoint)  # of a pod with two addresses one is enough
        return tuple(sorted(pods.values(), key=lambda endpoint: endpoint.address))

    def take_service(self, manifest: Manifest) -> Keys:
        """An InferenceService without a routing that had one keeps it: its status was lost, its pods were not.

        One of the same name that was made anew is another one, which has nothing of what was before.
        """
        meta = manifest["metadata"]
        key, affected = (meta["namespace"], meta["name"]), set[Key]()
        before = self._services.get(key)
        if before and before.uid != meta["uid"]:
            affected |= self.drop_service(key)
            before = None
        created, generation = str(meta.get("creationTimestamp", "")), int(meta.get("generation", 0))
        raw = (manifest.get("status") or {}).get("routing")
        affected |= self._claim(Claim(created, *key))
        try:
            routing = self._routing(raw, before)
        except ValueError as error:
            words = f"status.routing is not what this gateway understands: {_first(error)}"
            self.unreadable[key] = Unread(str(raw.get("version", "")) if raw else "", words)
            return frozenset({*affected, key})
        if self.unreadable.pop(key, None):
            affected.add(key)
        if routing:
            after = Service(*key, uid=meta["uid"], created=created, generation=generation, routing=routing)
            if after != before:
                self._services[key] = after
                self._index(key)
                affected.add(key)
        return frozenset(affected)

    def drop_service(self, key: Key) -> Keys:
        """Its InferenceService is gone."""
        host = outside(key[0], key[1], self.domains)
        before = self._holder(host)
        self.unreadable.pop(key, None)
        self._services.pop(key, None)
        self._claims.pop(key, None)
        self._discard(self._rivals, host, key)
        self._index(key)
        return self._moved(host, before) | self._preview_at(key) | {key}

    def take_slice(self, manifest: Manifest) -> Keys:
        meta = manifest["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        revision = (meta.get("labels") or {}).get(LABEL_REVISION, "")
        found, before = Slice(revision, _ready_pods(manifest)), self._slices.get((namespace, name))
        if found == before:
            return _NONE
        affected = self.drop_slice((namespace, name)) if before and before.revision != revision else _NONE
        self._slices[namespace, name] = found
        self._slices_of[namespace, revision].add(name)
        return affected | self._leading_to(namespace, revision)

    def drop_slice(self, key: Key) -> Keys:
        if (before := self._slices.pop(key, None)) is None:
            return _NONE
        names = self._slices_of[key[0], before.revision]
        names.discard(key[1])
        if not names:
            del self._slices_of[key[0], before.revision]
        return self._leading_to(key[0], before.revision)

    def take_secret(self, manifest: Manifest) -> Keys:
        """Keys beyond the bounds are left out; `fault_of_keys` says which."""
        namespace, found = manifest["metadata"]["namespace"], client_keys(manifest.get("data") or {})
        if self._keys.get(namespace) == found:
            return _NONE
        self._keys[namespace] = found
        return self._with_keys(namespace)

    def drop_secret(self, key: Key) -> Keys:
        return self._with_keys(key[0]) if self._keys.pop(key[0], None) is not None else _NONE

    def blind(self, namespace: str | None, words: str) -> Keys:
        """Secrets of a namespace, of all if None, may not be read, and why; with no words: they may."""
        if self._blind.get(namespace, "") == words:
            return _NONE
        self._blind[namespace] = words
        return self._with_keys(namespace)

    def take_jwks(self, uri: str, text: str) -> Keys:
        if self.jwks.get(uri) == text:
            return _NONE
        self.jwks[uri] = text
        return frozenset(self._issued.get(uri, ()))

    def remember(self, view: ServiceView) -> None:
        """A service, its clients' keys and its issuer's keys of an earlier life, until they are read anew."""
        key = (view.namespace, view.name)
        self._services[key] = Service(*key, view.uid, view.created, view.generation, view.routing)
        self._claim(Claim(view.created, *key))
        self._index(key)
        if view.keys:
            before = self._keys.get(view.namespace, ClientKeys())
            self._keys[view.namespace] = ClientKeys({**before.keys, **view.keys})
        if view.jwks and (uri := _jwks_uri(view.routing)):
            self.jwks.setdefault(uri, view.jwks)

    def known(self, of: str) -> Keys:
        """Namespace and name of everything known of a kind: service, slice or secret."""
        if of == "secret":
            return frozenset((namespace, "") for namespace in self._keys)
        if of == "slice":
            return frozenset(self._slices)
        return frozenset({*self._claims, *self._services})

    def _routing(self, raw: Manifest | None, before: Service | None) -> Routing | None:
        if raw is None:
            return before.routing if before else None
        if before and before.routing.version == raw.get("version"):
            return before.routing  # the version names the content: most writes of a status change other things
        # A field of a newer operator may well be a restriction: what is not understood is not served.
        found = Routing.model_validate(raw, extra="forbid")
        if words := matches.burden(match for rule in found.rules for match in rule.match):
            raise ValueError(words)  # the operator writes none such, but who else may write a status does not ask it
        return found

    def _claim(self, claim: Claim) -> Keys:
        host = outside(claim.namespace, claim.name, self.domains)
        before = self._holder(host)
        displaced = _NONE if claim.key in self._claims else self._preview_at(claim.key)
        self._claims[claim.key] = claim
        self._rivals[host].add(claim.key)
        return self._moved(host, before) | displaced

    def _has_preview(self, key: Key) -> bool:
        return any((known := each.get(key)) and known.routing.preview for each in (self._services, self._served))

    def _preview_at(self, key: Key) -> Keys:
        """The service whose preview has, or had, the name of this one."""
        other = (key[0], previewed(key[1]))
        return frozenset({other}) if other[1] and self._has_preview(other) else _NONE

    def _holder(self, host: str) -> Key | None:
        """Whose a host outside is: it moves when Envoy has a table of its new owner, and not before."""
        if not host or not (claims := [self._claims[key] for key in self._rivals.get(host, ())]):
            return None
        owner, holder = winner(claims), self._holders.get(host)
        return holder if owner not in self._served and holder in self._rivals[host] else owner

    def _moved(self, host: str, before: Key | None) -> Keys:
        after = self._holder(host)
        return frozenset(key for key in (before, after) if key) if before != after else _NONE

    def _index(self, key: Key) -> None:
        """A service is touched by what its wanted table leads to, and by what the one that serves leads to."""
        service, served = self._services.get(key), self._served.get(key)
        routings = [each.routing for each in (service, served) if each]
        revisions = frozenset((key[0], target.revision) for routing in routings for target in routing.targets)
        uris = frozenset(filter(None, map(_jwks_uri, routings)))
        old_revisions, old_uris = self._uses.pop(key, (frozenset(), frozenset()))
        if revisions or uris:
            self._uses[key] = revisions, uris
        for revision in old_revisions - revisions:
            self._discard(self._routed, revision, key)
        for revision in revisions - old_revisions:
            self._routed[revision].add(key)
        for uri in old_uris - uris:
            self._discard(self._issued, uri, key)
        for uri in uris - old_uris:
            self._issued[uri].add(key)

    def _leading_to(self, namespace: str, revision: str) -> Keys:
        return frozenset(self._routed.get((namespace, revision), ()))

    def _with_keys(self, namespace: str | None) -> Keys:
        return frozenset(
            key
            for known in (self._services, self._served)
            for key, each in known.items()
            if namespace in (None, key[0]) and each.routing.access.clients is not None
        )

    @staticmethod
    def _discard(index: defaultdict[_At, set[Key]], at: _At, key: Key) -> None:
        found = index[at]
        found.discard(key)
        if not found:
            del index[at]


def _jwks_uri(routing: Routing) -> str:
    jwt = routing.access.jwt
    return (jwt.jwks_uri or "") if jwt else ""


def _ready_pods(manifest: Manifest) -> dict[str, Endpoint]:
    ports = {port.get("name"): int(port.get("port") or 0) for port in manifest.get("ports") or ()}
    if not ports.get("http"):
        return {}
    return {
        pod: Endpoint(address, ports["http"], ports.get("grpc", 0))
        for pod, address in _ready(manifest.get("endpoints") or ())
    }


def _ready(endpoints: Iterable[Manifest]) -> Iterable[tuple[str, str]]:
    """Name and address. Only pods: whoever may write an EndpointSlice could else lead a service anywhere by hand."""
    for endpoint in endpoints:
        target = endpoint.get("targetRef") or {}
        is_ready = (endpoint.get("conditions") or {}).get("ready") is not False
        if is_ready and target.get("kind") == "Pod" and endpoint.get("addresses"):
            yield str(target.get("name")), str(endpoint["addresses"][0])


def _first(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
