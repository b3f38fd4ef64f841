"""Services to Envoy's resources: pure functions from `gateway.views` to dicts, split by the kind of resource.

    bootstrap(settings) -> Resource                        what Envoy is started with; listeners are in it
    tls_secret(tls) -> Resource                            content of the file `tls.secret_file`
    clusters(view, settings, gateways) -> {name: Cluster}  NAMESPACE/REVISION, .../grpc, .../shadow, .../grpc/shadow
    assignments(view) -> {name: ClusterLoadAssignment}     NAMESPACE/REVISION, .../grpc (shadows use the same)
    room(view, target, gateways) -> int                    requests at once that the ready pods take by one gateway
    gateways(addresses) -> ClusterLoadAssignment           GATEWAYS: the gateway pods, among which rates are shared
    routes(view, settings) -> {name: RouteConfiguration}   NAMESPACE/NAME and, if there is one, NAMESPACE/NAME:preview
    scopes(view, hosts, settings) -> {name: ScopedRouteConfiguration}  one per host, named by it, and NAMESPACE/NAME

All but the bootstrap and the Secret go through ADS. Order: clusters and assignments, then routes, then scopes.
Dicts name their fields as the protos do (snake_case), durations are "1.5s", and 64-bit numbers stay numbers.
"""

from slipway.gateway.render.bootstrap import bootstrap, tls_secret
from slipway.gateway.render.clusters import GATEWAYS, assignments, clusters, endpoints_of, gateways, room
from slipway.gateway.render.routes import routes, scopes

__all__ = [
    "GATEWAYS",
    "assignments",
    "bootstrap",
    "clusters",
    "endpoints_of",
    "gateways",
    "room",
    "routes",
    "scopes",
    "tls_secret",
]
