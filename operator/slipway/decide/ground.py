"""What is there, before anything is decided: a service's children by name, and how the pods of a revision do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_REVISION
from slipway.api.status import Condition, InferenceServiceStatus
from slipway.decide import pods
from slipway.decide.revision import Record
from slipway.decide.types import Observed


@dataclass(frozen=True, slots=True)
class Ground:
    observed: Observed
    now: datetime
    status: InferenceServiceStatus
    """As last written."""
    conditions: Mapping[str, Condition]
    """Of that status, by type."""
    records: Mapping[str, Record]
    deployments: Mapping[str, Manifest]

    @property
    def namespace(self) -> str:
        return str(self.observed.service["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.observed.service["metadata"]["name"])

    @property
    def generation(self) -> int:
        return int(self.observed.service["metadata"]["generation"])

    def ready(self, name: str | None) -> int:
        """Ready pods of the template as it is now."""
        status = (self.deployments.get(name or "") or {}).get("status") or {}
        return int(min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0)))

    def reachable(self, name: str | None) -> int:
        """Ready pods that gateways know of: they go by the EndpointSlices, which may be behind the pods."""
        slices = (one for one in self.observed.slices if one["metadata"]["labels"].get(LABEL_REVISION) == name)
        return len({pod for one in slices for pod in one["ready"]})

    def answering(self, name: str) -> int:
        """Pods of any template, what an edit by hand left included, that may have requests."""
        ready = int((self.deployments[name].get("status") or {}).get("readyReplicas", 0))
        return max(ready, self.reachable(name))

    def replicas_now(self, name: str) -> int:
        """Replicas that a revision has been given."""
        if name in self.deployments:
            return int(self.deployments[name]["spec"].get("replicas", 1))
        return next((known.replicas for known in self.status.revisions if known.name == name), 1)

    def is_settled(self, name: str) -> bool:
        """Whether what is known of a revision's pods is about its Deployment as it is now."""
        deployment = self.deployments.get(name)
        if deployment is None:
            return False
        return bool(
            (deployment.get("status") or {}).get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        )

    def is_complete(self, name: str, replicas: int) -> bool:
        return self.is_settled(name) and min(self.ready(name), self.reachable(name)) >= replicas

    def pods_of(self, name: str) -> list[Manifest]:
        return [pod for pod in self.observed.pods if pod["metadata"]["labels"].get(LABEL_REVISION) == name]

    def fault(self, name: str) -> pods.Fault | None:
        """Why a revision's pods do not serve."""
        if refused := _replica_failure(self.deployments.get(name)):
            return pods.Fault(Reason.PODS_REFUSED, refused, terminal=False)
        return pods.worst(self.pods_of(name), self.now, _memory_limit(self.records.get(name)))

    def lacks(self, name: str) -> str:
        """The resource that a revision's pods wait for; empty: none is known."""
        return lacks(self.deployments.get(name), self.pods_of(name), self.now)

    def failed(self, name: str) -> int:
        """Pods of a revision whose last start failed."""
        return sum(pods.fault(pod, self.now) is not None for pod in self.pods_of(name))


def lacks(deployment: Manifest | None, own: Iterable[Manifest], now: datetime) -> str:
    """The resource that pods of a Deployment wait for; empty: none is known."""
    faults = [_replica_failure(deployment) or ""]
    faults += [known.message for pod in own if (known := pods.fault(pod, now))]
    return next(filter(None, map(pods.lacking, faults)), "")


def _replica_failure(deployment: Manifest | None) -> str | None:
    conditions = ((deployment or {}).get("status") or {}).get("conditions") or []
    failure = next((c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"), None)
    return str(failure.get("message", "the cluster refuses to create pods")) if failure else None


def _memory_limit(record: Record | None) -> str | None:
    if record is None:
        return None
    resources = record.template["spec"]["containers"][0].get("resources", {})
    limit: str | None = resources.get("limits", {}).get("memory")
    return limit
