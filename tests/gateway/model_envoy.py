"""Envoy as a delta ADS client, as far as the order of things goes: it must never be led to a cluster that is not warm.

Nor may a revision that may sleep be without pods while its routes hold no requests.

Bodies are JSON: {"bad": true} is refused; a cluster names its endpoints, a route the clusters it leads to, which of
them may sleep and which it holds requests for, a scope its route. What it refuses of an answer leaves the rest of it in
force, and the words name nothing, as with the real one.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from slipway.gateway.store import Resource
from slipway.gateway.stream import Request, Response
from slipway.gateway.xds import Kind

WILD = (Kind.CLUSTER, Kind.SCOPE)


def resource(**body: Any) -> Resource:
    return Resource.of(json.dumps(body, sort_keys=True).encode(), body.get("endpoints", ""))


@dataclass
class ModelEnvoy:
    has: dict[Kind, dict[str, tuple[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    """Name -> version and body."""
    taken: dict[Kind, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    """Name -> version that was acknowledged, which is what a new stream hears of."""
    warm: set[str] = field(default_factory=set)
    """Clusters whose endpoints came after them."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    _order: tuple[Kind, ...] = (Kind.ROUTES, Kind.SCOPE, Kind.ENDPOINTS, Kind.CLUSTER)

    def connect(self) -> list[Request]:
        """The first requests of a stream; the next time in another order, as the real one has none of its own."""
        self._order = self._order[::-1]
        return [
            Request(
                kind, subscribe=() if kind in WILD else tuple(sorted(self._names(kind))), held=dict(self.taken[kind])
            )
            for kind in self._order
            if kind in WILD or self._names(kind)
        ]

    def receive(self, response: Response) -> list[Request]:
        kind, before = response.kind, {each: self._names(each) for each in (Kind.ENDPOINTS, Kind.ROUTES)}
        is_refused = False
        for name, each in response.resources:
            body = json.loads(each.body)
            if body.get("bad"):
                self.refused.append((name, each.version))
                is_refused = True
            else:
                self._accept(kind, name, each.version, body)
        for name in response.removed:
            self._remove(kind, name)
        if not is_refused:
            self.taken[kind].update({name: each.version for name, each in response.resources})
        answers = [Request(kind, nonce=response.nonce, error="something is wrong" if is_refused else "")]
        for other, names in before.items():
            now = self._names(other)
            for gone in names - now:
                self.has[other].pop(gone, None)
                self.taken[other].pop(gone, None)
            if names != now:
                answers.append(
                    Request(other, subscribe=tuple(sorted(now - names)), unsubscribe=tuple(sorted(names - now)))
                )
        return answers

    def _accept(self, kind: Kind, name: str, version: str, body: Any) -> None:
        if kind is Kind.CLUSTER:
            self.warm.discard(name)
        if kind is Kind.ENDPOINTS:
            if not body["pods"]:
                assert not self._is_bare(name), f"{name} loses its last pod before requests are held"
            self.warm |= {
                cluster for cluster, (_, found) in self.has[Kind.CLUSTER].items() if found["endpoints"] == name
            }
        if kind is Kind.ROUTES:
            assert all(cluster in self.has[Kind.CLUSTER] for cluster in body["clusters"]), "a route before its cluster"
            fresh = set(body["clusters"]) - set(self.has[kind].get(name, ("", {"clusters": []}))[1]["clusters"])
            for bare in set(body["sleepy"]) - set(body["holds"]):
                assert self.has[Kind.ENDPOINTS][bare][1]["pods"], f"{bare} has no pod, and requests are not held"
            assert fresh <= self.warm, f"a route before its cluster is warm: {fresh - self.warm}"
        self.has[kind][name] = (version, body)

    def _is_bare(self, name: str) -> bool:
        """Whether a route leads to what may sleep as if it were awake."""
        routes = [body for _, body in self.has[Kind.ROUTES].values()]
        return any(name in body["sleepy"] and name not in body["holds"] for body in routes)

    def _remove(self, kind: Kind, name: str) -> None:
        if kind is Kind.CLUSTER:
            leading = [route for route, (_, body) in self.has[Kind.ROUTES].items() if name in body["clusters"]]
            assert not leading, f"cluster {name} goes before the routes {leading} that lead to it"
            self.warm.discard(name)
        self.has[kind].pop(name, None)
        self.taken[kind].pop(name, None)

    def _names(self, kind: Kind) -> set[str]:
        """What it subscribes to by name."""
        if kind is Kind.ENDPOINTS:
            return {body["endpoints"] for _, body in self.has[Kind.CLUSTER].values()}
        return {body["routes"] for _, body in self.has[Kind.SCOPE].values()}
