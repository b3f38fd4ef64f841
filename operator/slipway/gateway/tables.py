"""One service's view to the resources that Envoy is to have for it, ready to be sent. Pure.

In two parts, because the order matters: clusters and their endpoints must be warm before a route leads to them, and the
last endpoint of a revision goes only after its routes hold requests.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from slipway.gateway import render, xds
from slipway.gateway.store import Key, Resource
from slipway.gateway.views import GatewaySettings, ServiceView
from slipway.gateway.views import Resource as Rendered
from slipway.gateway.xds import Kind


@dataclass(frozen=True, slots=True)
class Tables:
    clusters: Mapping[Key, Resource]
    routes: Mapping[Key, Resource]
    sleepy: frozenset[Key] = frozenset()
    """Endpoints of revisions that may sleep: whether there are any decides on what becomes of requests."""
    held: frozenset[Key] = frozenset()
    """Of these, those that are empty and whose requests the routes hold."""

    @property
    def all(self) -> Mapping[Key, Resource]:
        return {**self.clusters, **self.routes}


class Compile(Protocol):
    def __call__(
        self, view: ServiceView, hosts: tuple[str, ...], routes: Mapping[Key, Resource] | None = None
    ) -> Tables:
        """A view and the hosts that are the service's own, to what Envoy is to have.

        `routes` are those of an earlier view that differs in endpoints only: they say nothing of endpoints, and are
        most of the work.

        Raises:
            ValueError: the view cannot be rendered.
        """
        ...


def compiler(settings: GatewaySettings, gateways: Callable[[], int]) -> Compile:
    """`gateways`: how many gateways share a service's limits, asked at every use."""

    def compile_(view: ServiceView, hosts: tuple[str, ...], routes: Mapping[Key, Resource] | None = None) -> Tables:
        clusters = render.clusters(view, settings, gateways())
        return Tables(
            clusters={
                **{(Kind.CLUSTER, name): _cluster(name, found) for name, found in clusters.items()},
                **_resources(Kind.ENDPOINTS, render.assignments(view)),
            },
            routes=routes
            if routes is not None
            else {
                **_resources(Kind.ROUTES, render.routes(view, settings)),
                **_resources(Kind.SCOPE, render.scopes(view, hosts, settings)),
            },
            sleepy=_endpoints(view, (target.revision for target in view.routing.targets if target.hold_ms)),
            held=_endpoints(view, (revision for revision in view.held if not view.endpoints.get(revision))),
        )

    return compile_


def _endpoints(view: ServiceView, revisions: Iterable[str]) -> frozenset[Key]:
    names = (name for revision in revisions for name in render.endpoints_of(view.namespace, revision))
    return frozenset((Kind.ENDPOINTS, name) for name in names)


def _cluster(name: str, found: Rendered) -> Resource:
    endpoints = found.get("eds_cluster_config", {}).get("service_name") or name
    return Resource.of(xds.encode(Kind.CLUSTER, found), endpoints)


def _resources(kind: Kind, found: Mapping[str, Rendered]) -> dict[Key, Resource]:
    return {(kind, name): Resource.of(xds.encode(kind, each)) for name, each in found.items()}
