"""What this operator looks at: which kinds, in which namespaces, and which of their objects."""

from dataclasses import dataclass

from slipway.api.names import LABEL_MANAGED_BY, MANAGED_BY
from slipway.kube.kinds import CLUSTER_SERVING_RUNTIME, INFERENCE_SERVICE, OWNED, SERVING_RUNTIME, Kind


@dataclass(frozen=True, slots=True)
class Scope:
    namespaces: tuple[str, ...] = ()
    """Empty: all of them."""
    cluster_runtimes: bool = True
    """Whether ClusterServingRuntimes may be read; not by an installation that has namespaced rights only."""

    @property
    def written(self) -> tuple[Kind, ...]:
        """Kinds that people write."""
        cluster = (CLUSTER_SERVING_RUNTIME,) if self.cluster_runtimes else ()
        return (SERVING_RUNTIME, *cluster, INFERENCE_SERVICE)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """All kinds, services last: by then everything that belongs to them is known."""
        return (*OWNED, *self.written)

    def places(self, kind: Kind) -> tuple[str | None, ...]:
        """Namespaces to ask the server for one by one; None asks for everything at once."""
        return self.namespaces if kind.namespaced and self.namespaces else (None,)

    @staticmethod
    def selector(kind: Kind) -> str:
        """Server-side filter: of the kinds everybody uses, only what Slipway made is ever sent to us."""
        return f"{LABEL_MANAGED_BY}={MANAGED_BY}" if kind in OWNED else ""
