"""Which kinds of objects Slipway reads and writes, and where the API server keeps them.

One table, so that paths are built in one place and no typed client classes are needed.
"""

from dataclasses import dataclass

from slipway.api.names import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Path below the server's address; without a name the collection, without a namespace all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (f"{root}{place}/{self.plural}", name, subresource) if part)


INFERENCE_SERVICE = Kind(GROUP, VERSION, "inferenceservices", "InferenceService")
SERVING_RUNTIME = Kind(GROUP, VERSION, "servingruntimes", "ServingRuntime")
CLUSTER_SERVING_RUNTIME = Kind(GROUP, VERSION, "clusterservingruntimes", "ClusterServingRuntime", namespaced=False)

DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
CONTROLLER_REVISION = Kind("apps", "v1", "controllerrevisions", "ControllerRevision")
SERVICE = Kind("", "v1", "services", "Service")
POD_DISRUPTION_BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
POD = Kind("", "v1", "pods", "Pod")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
HORIZONTAL_POD_AUTOSCALER = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
SECRET_KIND = Kind("", "v1", "secrets", "Secret")

EVENT = Kind("events.k8s.io", "v1", "events", "Event")
TOKEN_REVIEW = Kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")

OWNED = (DEPLOYMENT, SERVICE, CONTROLLER_REVISION, POD_DISRUPTION_BUDGET, NETWORK_POLICY, POD, ENDPOINT_SLICE)
"""Kinds watched only where they carry Slipway's label.

Pods are made by Deployments and EndpointSlices after Services, whose labels they get; the others by Slipway.
"""
