"""Which host names lead to a service, and whose a name is that two services claim. For operator and agents alike.

Inside the cluster a name carries the namespace and is nobody else's. Outside, a service has one label below the
installation's domain, so that one wildcard certificate fits all; two services can come to the same label
(`a-b` in `c`, `a` in `b-c`), and one label may be too long for DNS.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from slipway.api.manifest import Key
from slipway.api.names import PREVIEW

LABEL_MAX = 63
_TAIL = 8
"""Hexadecimal digits that make a shortened label its service's own."""


@dataclass(frozen=True, slots=True)
class Domains:
    """Of the installation."""

    cluster: str = "cluster.local"
    outside: str = ""
    """Services have hosts below this; none when empty. Never a name that could be one inside."""

    def __post_init__(self) -> None:
        """Raises ValueError: names outside could be names inside of other services."""
        labels = self.outside.split(".")
        if self.outside and (len(labels) < 2 or not all(labels)):
            raise ValueError(f"the gateway's domain is {self.outside!r}: give one of two labels or more")
        if labels[-1] == "svc" or f".{self.outside}".endswith(f".{self.cluster}"):
            raise ValueError(f"the gateway's domain is {self.outside!r}, which is inside the cluster: give another one")


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A service that wants its hosts; the least of several wins, so the order of the fields is the rule."""

    created: str
    """creationTimestamp, which Kubernetes writes so that text order is time order."""
    namespace: str
    name: str

    @property
    def key(self) -> Key:
        return self.namespace, self.name


def label(namespace: str, name: str) -> str:
    """The label of a service below the outside domain: `name-namespace`, or the start of it and a hash."""
    whole = f"{name}-{namespace}"
    if len(whole) <= LABEL_MAX:
        return whole
    tail = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:_TAIL]
    return f"{whole[: LABEL_MAX - _TAIL - 1].rstrip('-')}-{tail}"


def inside(namespace: str, name: str, domains: Domains) -> tuple[str, ...]:
    """Hosts in the cluster, without ports, lower-case; the shortest first."""
    return f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.{domains.cluster}"


def preview(namespace: str, name: str, domains: Domains) -> tuple[str, ...]:
    """Where the preview of a service answers in the cluster, if no service is really called so."""
    return inside(namespace, name + PREVIEW, domains)


def previewed(name: str) -> str:
    """The service of which this could be the preview; empty: of none."""
    return name.removesuffix(PREVIEW) if name.endswith(PREVIEW) else ""


def outside(namespace: str, name: str, domains: Domains) -> str:
    """The host outside; empty when the installation has no domain."""
    return f"{label(namespace, name)}.{domains.outside}" if domains.outside else ""


def winner(claims: Iterable[Claim]) -> Key:
    """The service, of those that want one host outside, that has it: the oldest, whether it is routed yet or not.

    Example:
        `a-b` in `c` and `a` in `b-c` both come to `a-b-c.DOMAIN`; the older has it, the other keeps its names inside.
    """
    return min(claims).key
