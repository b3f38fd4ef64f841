"""What the gateway's processes are told by their environment, which the chart sets."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from slipway.control import log as logs
from slipway.decide.hosts import Domains
from slipway.gateway.asks import Bounds
from slipway.gateway.views import GatewaySettings, Tls

_T = TypeVar("_T")
_YES = {"true": True, "false": False}
HEAP_RATIO = 0.8
"""Of Envoy's memory limit: what its heap may take before it sheds load; the rest is stacks, code and sockets."""
HELD_RATIO = 0.5
"""Of Envoy's heap: what bodies of requests that wait may take, so that nobody else suffers from them."""


@dataclass(frozen=True, slots=True)
class Settings:
    pod: str = "gateway"
    run_dir: Path = Path("/run/slipway")
    """Sockets, Envoy's bootstrap and the state; in memory, shared by both containers of the pod."""
    namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    domains: Domains = field(default_factory=Domains)
    replicas: int = 1
    """Gateways among which a service's limits are shared."""
    http_port: int = 8082
    drain_window_s: float = 5.0
    """From SIGTERM until nobody sends requests here any more, readiness being off."""
    drain_quiet_s: float = 5.0
    """For so long no request has come before it ends: who is slow, or asks seldom, still sends to a connection that it
    was not asked to leave yet."""
    drain_grace_s: float = 60.0
    """The longest that requests under way are waited for after that."""
    allows_private_jwks: bool = False
    holds: Bounds = field(default_factory=Bounds)
    """Of requests that wait for a service at zero."""
    envoy: GatewaySettings = field(default_factory=GatewaySettings)
    log_format: logs.Form = logs.Form.JSON
    log_level: str = "INFO"

    @property
    def state_dir(self) -> Path:
        return self.run_dir / "state"

    @property
    def bootstrap_file(self) -> Path:
        return self.run_dir / "bootstrap.json"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Raises ValueError that names the variable."""

        def read(name: str, default: str, parse: Callable[[str], _T]) -> _T:
            text = env.get(name) or default
            try:
                return parse(text)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{name} is {text!r}, which is not a valid value") from error

        run_dir, tls_dir = Path(env.get("SLIPWAY_GATEWAY_RUN_DIR") or "/run/slipway"), env.get("SLIPWAY_TLS_DIR")
        pod = env.get("POD_NAME") or os.uname().nodename
        domains = Domains(env.get("SLIPWAY_CLUSTER_DOMAIN") or "cluster.local", env.get("SLIPWAY_GATEWAY_DOMAIN", ""))
        drain_grace_s = read("SLIPWAY_DRAIN_GRACE_S", "60", _seconds)
        defaults = GatewaySettings()
        heap = read("SLIPWAY_ENVOY_MEMORY_BYTES", str(int(defaults.max_heap_bytes / HEAP_RATIO)), _count)
        bounds = Bounds()
        holds = Bounds(
            read("SLIPWAY_HOLDS_MAX", str(bounds.requests), _count),
            read("SLIPWAY_HOLDS_PER_SERVICE", str(bounds.per_service), _count),
            int(heap * HEAP_RATIO * HELD_RATIO),
        )
        return cls(
            pod=pod,
            run_dir=run_dir,
            namespaces=tuple(filter(None, map(str.strip, env.get("SLIPWAY_WATCH_NAMESPACES", "").split(",")))),
            domains=domains,
            replicas=read("SLIPWAY_GATEWAY_REPLICAS", "1", _count),
            http_port=read("SLIPWAY_HTTP_PORT", "8082", int),
            drain_window_s=read("SLIPWAY_DRAIN_WINDOW_S", "5", _seconds),
            drain_quiet_s=read("SLIPWAY_DRAIN_QUIET_S", "5", _seconds),
            drain_grace_s=drain_grace_s,
            allows_private_jwks=read("SLIPWAY_JWKS_ALLOW_PRIVATE", "false", _YES.__getitem__),
            holds=holds,
            envoy=GatewaySettings(
                node=pod,
                http_port=read("SLIPWAY_LISTEN_PORT", str(defaults.http_port), _count),
                https_port=read("SLIPWAY_TLS_PORT", str(defaults.https_port), _count),
                tls=Tls(tls_dir, str(run_dir / "tls.json")) if tls_dir else None,
                ads_socket=str(run_dir / "ads.sock"),
                admin_socket=str(run_dir / "admin.sock"),
                access_log="/dev/stdout" if read("SLIPWAY_ACCESS_LOG", "true", _YES.__getitem__) else "",
                cluster_domain=domains.cluster,
                max_body_bytes=read("SLIPWAY_MAX_BODY_BYTES", str(defaults.max_body_bytes), _count),
                max_heap_bytes=int(heap * HEAP_RATIO),
                max_connections=read("SLIPWAY_MAX_CONNECTIONS", str(defaults.max_connections), _count),
                drain_s=drain_grace_s,
            ),
            log_format=read("SLIPWAY_LOG_FORMAT", "json", logs.Form),
            log_level=read("SLIPWAY_LOG_LEVEL", "info", logs.level),
        )


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    if not 0 <= (number := float(text)) < math.inf:
        raise ValueError(text)
    return number
