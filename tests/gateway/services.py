"""Services as a gateway sees them, in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.api.routing import RoutedAccess, Routing, Target
from slipway.gateway.views import Endpoint, ServiceView
from tests.gateway.pods import Pod


def service(
    weights: Mapping[str, int],
    pods: Mapping[str, Sequence[Pod | Endpoint]] | None = None,
    *,
    name: str = "resnet",
    namespace: str = "vision",
    keys: Mapping[str, tuple[str, ...]] | None = None,
    jwks: str = "",
    access: RoutedAccess | None = None,
    targets: Mapping[str, dict[str, Any]] | None = None,
    **routing: Any,
) -> ServiceView:
    """`weights`: revision -> weight, in order; `targets`: more of a target."""
    more = targets or {}
    table = Routing(
        version="1",
        targets=[
            Target(revision=revision, weight=weight, **more.get(revision, {})) for revision, weight in weights.items()
        ],
        timeout_ms=routing.pop("timeout_ms", 10_000),
        access=access or RoutedAccess(),
        **routing,
    )
    endpoints = {
        revision: tuple(one.endpoint if isinstance(one, Pod) else one for one in ready)
        for revision, ready in (pods or {}).items()
    }
    return ServiceView(
        namespace=namespace,
        name=name,
        uid="u",
        created="2026-01-01T00:00:00Z",
        generation=1,
        routing=table,
        endpoints=endpoints,
        keys=keys or {},
        jwks=jwks,
    )
