"""Condition types and reasons: the whole vocabulary of status and Events.

Standard: kstatus (`Reconciling`, `Stalled` are present only while true), Kubernetes API conventions for the rest.
Every other condition is always present, in every mode, so that tools never wait for one that does not come.
"""

from enum import StrEnum


class Type(StrEnum):
    READY = "Ready"
    """Requests to the service's address are answered."""
    ACCEPTED = "Accepted"
    """The spec can be honoured. False: the last good generation is still served."""
    PREDICTOR_READY = "PredictorReady"
    """The serving revision has all the replicas it should have."""
    ROUTES_READY = "RoutesReady"
    """The address leads to the serving revision."""
    MODEL_LOADED = "ModelLoaded"
    """The newest revision's model is loaded."""
    ROLLOUT_HEALTHY = "RolloutHealthy"
    """No release is failing."""
    SCALING_ACTIVE = "ScalingActive"
    """Replicas are kept at the wanted number."""
    UPDATE_AVAILABLE = "UpdateAvailable"
    """A new revision of the same spec would run different pods (the runtime or Slipway changed)."""
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    # The spec
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    """The stored object does not fit the schema, or the API server refused an object made from it."""
    RUNTIME_NOT_FOUND = "RuntimeNotFound"
    NO_SUPPORTING_RUNTIME = "NoSupportingRuntime"
    FORMAT_NOT_SUPPORTED = "FormatNotSupported"
    RUNTIME_VERSION_PINNED = "RuntimeVersionPinned"
    """`runtimeVersion` cannot replace the tag of an image named by digest."""
    # Serving
    SERVING = "Serving"
    NOT_YET_SERVING = "NotYetServing"
    REPLICAS_READY = "ReplicasReady"
    REPLICAS_MISSING = "ReplicasMissing"
    ROUTED = "Routed"
    NOT_ROUTED = "NotRouted"
    CONFLICT = "Conflict"
    """An object of a needed name belongs to somebody else; it is left alone."""
    OBJECT_REFUSED = "ObjectRefused"
    """The API server refuses to make an object: quota, admission. It is tried again every minute."""
    # The model of a revision
    LOADED = "Loaded"
    LOADING = "Loading"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG = "ContainerConfigError"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_INVALID = "ModelInvalid"
    CONFIGURATION_INVALID = "ConfigurationInvalid"
    OUT_OF_MEMORY = "OutOfMemory"
    FETCH_FAILED = "FetchFailed"
    CRASHED = "Crashed"
    PODS_REFUSED = "PodsRefused"
    """The cluster refuses to create the pods: quota, admission, a missing service account."""
    # Rollout, scaling, updates
    HEALTHY = "Healthy"
    PROGRESSING = "Progressing"
    REVISION_FAILED = "RevisionFailed"
    FIXED_REPLICAS = "FixedReplicas"
    UP_TO_DATE = "UpToDate"
    RUNTIME_CHANGED = "RuntimeChanged"
    # Events only
    REVISION_CREATED = "RevisionCreated"
    REVISION_PROMOTED = "RevisionPromoted"
    DRIFT_REPAIRED = "DriftRepaired"


class Phase(StrEnum):
    """Where a release stands; `rollout.phase` in status."""

    HEALTHY = "Healthy"
    PROVISIONING = "Provisioning"
    DRAINING = "Draining"
