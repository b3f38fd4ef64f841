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

NAME_MAX = 48
HASH_LENGTH = 10
# 48 + "-" + 10 = 59: four characters are left for a suffix.
