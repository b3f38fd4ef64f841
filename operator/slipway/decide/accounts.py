"""Under which ServiceAccount the pods of a service run: the namespace's default, or one that the administrator allows.

Pods have no token of it. Where a cloud's webhook gives pods of such an account an identity (a projected token for the
cloud alone), the container that fetches gets it, and the server does not.
"""

from collections.abc import Collection

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.v1alpha1 import Predictor
from slipway.decide.types import Refusal

SERVER = "model"
"""Name of the container that serves."""
_SKIPPED = {f"{cloud}/skip-containers": SERVER for cloud in ("eks.amazonaws.com", "azure.workload.identity")}
"""Annotations by which the webhooks of EKS and of Azure leave a container out."""
_OF_AZURE = {"azure.workload.identity/use": "true"}
"""Azure's webhook looks at pods with this label only."""


def refusal(predictor: Predictor, namespace: str, allowed: Collection[str]) -> Refusal | None:
    """`allowed`: NAME, in every namespace, or NAMESPACE/NAME."""
    name = predictor.service_account_name
    if name is None or name in allowed or f"{namespace}/{name}" in allowed:
        return None
    return Refusal(
        Reason.SERVICE_ACCOUNT_REFUSED,
        f"spec.predictor.serviceAccountName: models may not run as ServiceAccount {name} of namespace {namespace}; "
        "leave it out, or have an administrator allow it (modelServiceAccounts of the chart)",
    )


def fields(predictor: Predictor) -> Manifest:
    """Of a pod's spec. The API server writes the name down under its old name, too."""
    name = predictor.service_account_name
    return {"serviceAccountName": name, "serviceAccount": name} if name else {}


def marks(spec: Manifest, storage_uri: str) -> Manifest:
    """Of a pod's metadata, by its spec: what tells the clouds' webhooks who is to have the identity."""
    if not spec.get("serviceAccountName"):
        return {}
    return {"annotations": _SKIPPED} | ({"labels": _OF_AZURE} if storage_uri.startswith("az://") else {})
