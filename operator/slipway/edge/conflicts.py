"""Looks for other autoscalers of the Deployments that Slipway scales: HorizontalPodAutoscalers, KEDA's among them."""

import asyncio
import logging

from slipway.api.manifest import Manifest
from slipway.edge.scope import Scope
from slipway.kube.client import Kube
from slipway.kube.errors import Forbidden, KubeError, NotFound
from slipway.kube.kinds import DEPLOYMENT, HORIZONTAL_POD_AUTOSCALER

log = logging.getLogger(__name__)

_PERIOD_S = 30.0


class Conflicts:
    """Lists them now and then; what cannot be listed stays as it was known."""

    def __init__(self, kube: Kube, scope: Scope) -> None:
        self._kube, self._scope = kube, scope
        self._found: dict[str | None, dict[tuple[str, str], str]] = {}
        self._refused: set[str | None] = set()

    def of(self, namespace: str, deployment: str) -> str:
        """The other autoscaler of a Deployment; empty: none is known."""
        found = (one.get((namespace, deployment), "") for one in self._found.values())
        return next(filter(None, found), "")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_PERIOD_S)

    async def look(self) -> None:
        """List them once, by one question for each place that the operator looks at."""
        for place in self._scope.places(HORIZONTAL_POD_AUTOSCALER):
            try:
                listed = await self._kube.list(HORIZONTAL_POD_AUTOSCALER, place)
            except (Forbidden, NotFound) as error:
                if place not in self._refused:
                    self._refused.add(place)
                    log.warning("other autoscalers of the same Deployments will not be noticed: %s", error)
                self._found.pop(place, None)
            except KubeError as error:
                log.info("other autoscalers cannot be listed now: %s", error)
            else:
                self._refused.discard(place)
                self._found[place] = dict(filter(None, map(_scaled, listed)))


def _scaled(autoscaler: Manifest) -> tuple[tuple[str, str], str] | None:
    """The Deployment that it scales, and its own name."""
    meta, target = autoscaler["metadata"], (autoscaler.get("spec") or {}).get("scaleTargetRef") or {}
    group = target.get("apiVersion", "").partition("/")[0]
    if target.get("kind") != DEPLOYMENT.kind or group not in (DEPLOYMENT.group, "extensions"):
        return None
    title = f"HorizontalPodAutoscaler {meta['namespace']}/{meta['name']}"
    return (meta["namespace"], target.get("name", "")), title
