"""Objects that scenarios apply."""

from typing import Any

from e2e.support.api import Manifest
from e2e.support.site import RUNTIME_IMAGE

GROUP = "slipway.dev/v1alpha1"
LABEL_SERVICE, LABEL_REVISION = "slipway.dev/inferenceservice", "slipway.dev/revision"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
GPU, GPUS = "nvidia.com/gpu", 2
"""What the fixture `gpus` gives to the cluster."""
SAMPLE_SIZE = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
"""What a sample model needs. Small requests: a scenario may start a dozen of them on two cores."""


def service(name: str = "hello", uri: str = "sample://hello", *, replicas: int = 1, **model: Any) -> Manifest:
    """An InferenceService; `model` adds to spec.predictor.model."""
    chosen = {"modelFormat": {"name": "torchscript"}, "storageUri": uri, "resources": SAMPLE_SIZE} | model
    return {
        "apiVersion": GROUP,
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"model": chosen}, "scaling": {"minReplicas": replicas}},
    }


def variant(name: str, uri: str = "sample://hello-v2", weight: str = "0%", **more: Any) -> Manifest:
    """One of spec.traffic.variants; `more` adds `match` or `minReplicas`."""
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": uri, "resources": SAMPLE_SIZE}
    return {"name": name, "weight": weight, "model": model} | more


def with_spec(manifest: Manifest, **fields: Any) -> Manifest:
    """The same service with more of its spec, such as `traffic` and `access`."""
    return manifest | {"spec": manifest["spec"] | fields}


def secret(name: str, **values: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


def fetching_runtime(name: str = "fetching") -> Manifest:
    """The default runtime under another spelling of its image's name, so that samples have to be fetched."""
    container = {"image": f"docker.io/{RUNTIME_IMAGE}", "command": ["slipway-runtime"], "args": ["serve"]}
    return {
        "apiVersion": GROUP,
        "kind": "ServingRuntime",
        "metadata": {"name": name},
        "spec": {"supportedModelFormats": [{"name": "torchscript"}], "container": container},
    }


def client_pod(name: str = "client") -> Manifest:
    """A pod that waits for `kubectl exec`; the runtime's image has Python, numpy and tritonclient."""
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "client",
        "image": RUNTIME_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", "import signal; signal.pause()"],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - the pod's own
        "securityContext": security,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }
