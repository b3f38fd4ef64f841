"""A service to its routes and the names it is found by.

for every kind of request (protocol.py)
    the rules, in order: to one revision
    the weighted split, by the cookie if there is one, else (cookies) once more for those who get one minted
everything else: 404

The preview is a table of its own, in which one revision has everything.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from slipway.api.names import PREVIEW
from slipway.api.routing import Routing, Sticky
from slipway.api.traffic import WHOLE, StickyCookie
from slipway.decide.hosts import Domains, preview
from slipway.gateway.render import hold, matches
from slipway.gateway.render.access import BODY, CREDENTIALS, body_limit, per_route
from slipway.gateway.render.clusters import cluster_name
from slipway.gateway.render.hold import SCOPE
from slipway.gateway.render.protocol import Kind, kinds
from slipway.gateway.render.types import RDS, SRDS, duration, header, typed, whole
from slipway.gateway.views import GatewaySettings, Resource, ServiceView

SERVICE, REVISION, SHADOW = "x-slipway-service", "x-slipway-revision", "x-slipway-shadow"
NOT_OPEN = "there is nothing here: a service answers the inference, metadata and health requests of its own model only"
NO_TARGET = "this service has no revision that could answer; try again later"


def routes(view: ServiceView, settings: GatewaySettings) -> dict[str, Resource]:
    """Name -> RouteConfiguration: `NAMESPACE/NAME`, and `NAMESPACE/NAME:preview` if there is one."""
    name = f"{view.namespace}/{view.name}"
    found = {name: _table(name, view, settings, called=view.name)}
    if routed := view.routing.preview:
        whole_share = [t.model_copy(update={"weight": WHOLE}) for t in view.routing.targets if t.revision == routed]
        alone = {"targets": whole_share, "rules": [], "mirror": None, "sticky": None}
        of_preview = dataclasses.replace(view, routing=view.routing.model_copy(update=alone))
        found[_preview(name)] = _table(_preview(name), of_preview, settings, called=view.name + PREVIEW)
    return found


def _preview(name: str) -> str:
    return f"{name}:preview"


def _table(name: str, view: ServiceView, settings: GatewaySettings, *, called: str) -> Resource:
    host: Resource = {
        "name": name,
        "domains": ["*"],
        "routes": [*_served(view, settings, called), _refused("none", 404, NOT_OPEN)],
        "typed_per_filter_config": per_route(view, settings),
        "include_request_attempt_count": True,  # for `counting`
    }
    return {
        "@type": RDS,
        "name": name,
        "virtual_hosts": [host],
        # Credentials end here, also those of another service, and so does what only the gateway needs.
        "request_headers_to_remove": [*CREDENTIALS, SCOPE, SERVICE, "x-envoy-external-address"],
        "response_headers_to_remove": ["endpoint-load-metrics", "endpoint-load-metrics-bin"],
        # The router writes it on the request, so that who is turned away before (no key, too often) is told of none.
        "response_headers_to_add": [header(REVISION, f"%REQ({REVISION})%")],
    }


def scopes(view: ServiceView, hosts: Iterable[str], settings: GatewaySettings) -> dict[str, Resource]:
    """Name -> scope: one per host, named by it so that a host moves in one update, and the name of the service.

    Hosts of the preview lead to the preview, and nowhere while this table has none.
    """
    name, all_hosts = f"{view.namespace}/{view.name}", tuple(hosts)
    of_preview = set(preview(view.namespace, view.name, Domains(settings.cluster_domain)))
    found = {key: _scope(key, name) for key in (name, *all_hosts) if key not in of_preview}
    if view.routing.preview and (present := of_preview.intersection(all_hosts)):
        found |= {key: _scope(key, _preview(name)) for key in (name + PREVIEW, *sorted(present))}
    return found


def _scope(key: str, routed: str) -> Resource:
    return {
        "@type": SRDS,
        "name": key,
        "route_configuration_name": routed,
        "key": {"fragments": [{"string_key": key}]},
    }


def _served(view: ServiceView, settings: GatewaySettings, called: str) -> Iterator[Resource]:
    for kind in kinds():
        path = kind.regex(view.namespace, view.name, called)
        if not view.routing.targets:
            yield _refused(kind.name, 503, NO_TARGET) | {"match": _match(kind, path)}
            continue
        for route in _of_kind(kind, path, view, settings, _plain_path(kind, view, called)):
            if kind.stream:
                # A stream may be any length; the pod bounds its messages.
                route.setdefault("typed_per_filter_config", {})[BODY] = body_limit(1 << 62)
            yield route


def _of_kind(
    kind: Kind, path: str, view: ServiceView, settings: GatewaySettings, rewritten: Resource
) -> Iterator[Resource]:
    routing = view.routing
    for number, ruled in enumerate(routing.rules):
        to = {"cluster": cluster_name(view.namespace, ruled.revision, grpc=kind.grpc)}
        to |= _action(kind, routing, settings, hold.longest_s(view, ruled.revision)) | rewritten
        for match in ruled.match:
            yield {
                "name": f"{kind.name}:rule-{number}",
                "match": _match(kind, path, matches.fields(match)),
                "route": to,
                "request_headers_to_add": [header(REVISION, ruled.revision)],
                **hold.asked(view, ruled.revision),
            }
    common = _action(kind, routing, settings, hold.longest_s(view, *(target.revision for target in routing.targets)))
    action = {"weighted_clusters": _split(kind, view), **common, **rewritten, **_mirror(kind, view)}
    yield from _by_user(kind, path, routing.sticky, action)


def _by_user(kind: Kind, path: str, sticky: Sticky | None, action: Resource) -> Iterator[Resource]:
    if sticky is None:
        yield {"name": kind.name, "match": _match(kind, path), "route": action}
        return
    known = action | {"hash_policy": matches.hash_policy(sticky)}
    if sticky.by != "cookie":
        yield {"name": kind.name, "match": _match(kind, path), "route": known}
        return
    cookie = sticky.cookie or StickyCookie()
    with_cookie = _match(kind, path, matches.has_cookie(cookie.name))
    yield {"name": kind.name, "match": with_cookie, "route": known}
    yield {
        "name": f"{kind.name}:new",
        "match": _match(kind, path),
        "route": action | {"hash_policy": matches.MINTED},
        "response_headers_to_add": [matches.minted(cookie)],
    }


def _match(kind: Kind, path: str, more: Resource | None = None) -> Resource:
    more = more or {}
    method: Resource = {"name": ":method", "string_match": whole(kind.methods)}
    found: Resource = {"safe_regex": {"regex": path}} | more
    found["headers"] = [method, *more.get("headers", [])]
    return found | ({"grpc": {}} if kind.grpc else {})


def _split(kind: Kind, view: ServiceView) -> Resource:
    """Targets in the routing's order, those of weight 0 too: the gateway picks by place in the sum of 10 000."""
    arms = [
        {
            "name": cluster_name(view.namespace, target.revision, grpc=kind.grpc),
            "weight": target.weight,
            "request_headers_to_add": [header(REVISION, target.revision)],
            # Here, and not on the route: who is led to a revision that is awake need not wait for the others.
            **hold.asked(view, target.revision),
        }
        for target in view.routing.targets
    ]
    return {"clusters": arms, **({"use_hash_policy": True} if view.routing.sticky else {})}


def _action(kind: Kind, routing: Routing, settings: GatewaySettings, held_s: float) -> Resource:
    """Time limits and second tries, the same for every way to a pod.

    A gRPC caller's own deadline counts when it is shorter. `timeout` runs from the last byte of the request, so a slow
    upload is bounded by silence: `idle_timeout`, which is for streams the only bound. Who may have to wait for a first
    pod has that time (`held_s`) besides, where a clock runs meanwhile: `timeout` alone begins after it.
    """
    limit_s = routing.timeout_ms / 1000
    common: Resource = {"retry_policy": RETRY}
    if kind.stream:
        # Callers and pods end streams at the callers' deadlines; a gateway could only break off an answer that began.
        return common | {"timeout": "0s", **({} if kind.quiet else {"idle_timeout": duration(limit_s + held_s)})}
    common |= {
        "timeout": duration(limit_s),
        "idle_timeout": duration(max(limit_s, settings.body_timeout_s) + 1 + held_s),
    }
    if kind.grpc:
        # A duration of a stream puts `timeout` out of force, so that it has to say the same.
        both = dict.fromkeys(("max_stream_duration", "grpc_timeout_header_max"), duration(limit_s + held_s))
        common["max_stream_duration"] = both
    return common


def _plain_path(kind: Kind, view: ServiceView, called: str) -> Resource:
    """Pods know nothing of /NAMESPACE/NAME before a path."""
    if kind.grpc:
        return {}
    prefix = f"^/{view.namespace}/{called}(/v[12])"
    return {"regex_rewrite": {"pattern": {"regex": prefix}, "substitution": r"\1"}}


RETRY: Resource = {
    # Only what no pod can have begun: a second inference is no small thing, and it need not be harmless.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
        }
    ],
    # Each is a draw by chance: of two pods with one gone, after 5 of them the same one came again in one of 64.
    "host_selection_retry_max_attempts": 15,
    "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.050s"},
}


def _mirror(kind: Kind, view: ServiceView) -> Resource:
    mirror = view.routing.mirror
    if mirror is None or not kind.mirrored:
        return {}
    policy = {
        "cluster": cluster_name(view.namespace, mirror.revision, grpc=kind.grpc, shadow=True),
        "runtime_fraction": {"default_value": {"numerator": mirror.share, "denominator": "TEN_THOUSAND"}},
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [
            {"append": header(SHADOW, "true")},
            {"append": header(REVISION, mirror.revision)},
        ],
    }
    return {"request_mirror_policies": [policy]}


def _refused(name: str, status: int, sentence: str) -> Resource:
    return {
        "name": name,
        "match": {"prefix": "/"},
        "direct_response": {"status": status, "body": {"inline_string": sentence}},
        **({"response_headers_to_add": [header("retry-after", "1")]} if status == 503 else {}),
    }
