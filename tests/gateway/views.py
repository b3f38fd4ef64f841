"""Views of services for tests."""

from typing import Any

from slipway.api.routing import Routing
from slipway.gateway.apply import Wanted
from slipway.gateway.views import Endpoint, ServiceView


def routing(
    version: str = "v1", weights: dict[str, int] | None = None, *, hold_ms: int = 0, slots: int = 0, **more: Any
) -> Routing:
    """Weights by revision; all of it to r1 if nothing is said."""
    common = {"holdMs": hold_ms, "slots": slots}
    targets = [{"revision": name, "weight": weight} | common for name, weight in (weights or {"r1": 10_000}).items()]
    return Routing.model_validate({"version": version, "targets": targets, "timeoutMs": 10_000, **more})


def view(
    name: str = "a",
    namespace: str = "ns",
    *,
    table: Routing | None = None,
    endpoints: dict[str, tuple[Endpoint, ...]] | None = None,
    **more: Any,
) -> ServiceView:
    fields: dict[str, Any] = {"uid": f"uid-{name}", "created": "2026-01-01T00:00:00Z", "generation": 1} | more
    return ServiceView(namespace=namespace, name=name, routing=table or routing(), endpoints=endpoints or {}, **fields)


def wanted(found: ServiceView, *hosts: str) -> Wanted:
    return Wanted(found, hosts or (f"{found.name}.{found.namespace}",))
