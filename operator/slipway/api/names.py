"""The names Slipway gives to things in a cluster, in one place.

Children of an InferenceService `NAME` are called `NAME` (one per service) or `NAME-HASH` (one per revision);
the bounds here keep every one of them a valid label value and DNS label of at most 63 characters.
"""

GROUP = "slipway.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MANAGED_BY = "slipway"
MANAGER = "slipway"
"""Field manager of every write but the replicas."""
SCALING_MANAGER = "slipway-scaling"
"""Field manager that creates Deployments and owns their replicas, so that no other write ever carries them."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_SERVICE = "slipway.dev/inferenceservice"
LABEL_REVISION = "slipway.dev/revision"
LABEL_SERVING = "slipway.dev/serving"
"""On gateway pods: "true" puts one behind the gateway Service, "false" takes it out."""
LABEL_VARIANT = "slipway.dev/variant"
LABEL_METRICS = "slipway.dev/metrics"
"""On pods of models that have a port for /metrics alone: its name, so that Prometheus asks there and not at `http`."""

COMMAND = "slipway.dev/command"
"""Annotation `VERB ID`: promote, promote-all, pause, resume, retry, rollback, skip-analysis. The last one wins."""
ABORT = "slipway.dev/abort"
"""Annotation `ID`. One of its own, so that no later command can overwrite it before it is seen: abort always wins."""

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes' own annotation of pods: who has the lowest leaves first when a Deployment gets fewer replicas."""

PREVIEW = "-preview"
"""After a service's name: where its candidate alone answers, before and while users get to it."""
NAME_MAX = 48
HASH_LENGTH = 10
# 48 + "-" + 10 = 59: four characters are left for a suffix.
