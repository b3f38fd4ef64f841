"""The init container that fetches a model: what it is told, and which keys of which Secret it sees.

It alone sees them: the server's container has neither the variables nor a volume of the Secret. A key that is not
there is no fault of the pod's; the fetcher tells what it lacks.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway.api.manifest import Manifest
from slipway.api.storage import Storage
from slipway.decide.drift import quantity
from slipway.decide.storage import MOUNT, REMOTE

FETCHER = "fetch"
PROGRESS, PROGRESS_PORT = "progress", 8098
"""Where a fetcher tells how far it is (`slipway_runtime.fetch.board`)."""
CA_VOLUME, CA_PATH = "ca", "/etc/slipway/ca"
TOKEN_VOLUME, TOKEN_PATH = "cache-token", "/var/run/secrets/slipway-cache"
AUDIENCE, TOKEN_S = "slipway-cache", 600
"""Of the token by which a pod proves to the node's cache whose it is; the shortest life that there is."""
KEYS: Mapping[str, tuple[str, ...]] = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "gs": ("service-account.json",),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
        "AZURE_TENANT_ID",
    ),
    "https": ("token", "username", "password"),
    "hf": ("HF_TOKEN",),
    "oci": (".dockerconfigjson", "username", "password"),
}
"""Keys of the Secret that are passed on, by scheme; `ca.crt` always."""
VARIABLES: Mapping[str, str] = {
    "service-account.json": "GOOGLE_SERVICE_ACCOUNT",
    "token": "TOKEN",
    "HF_TOKEN": "TOKEN",
    "username": "USERNAME",
    "password": "PASSWORD",
    ".dockerconfigjson": "DOCKERCONFIGJSON",
    "ca.crt": "CA",
}
"""Key -> variable, where they differ, behind SLIPWAY_SECRET_."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """What the installation decides about fetching (the chart's `fetch`)."""

    policy: Mapping[str, Any] = field(default_factory=dict)
    """As the fetcher reads it; empty: its own defaults."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    proxy: str = ""
    ca_config_map: str = ""
    """ConfigMap with `ca.crt` in the namespace of each service, if there is one."""
    cache: str = ""
    """URL of the node's cache; empty: there is none."""


def parse(text: str) -> Fetching:
    """Of the operator's own variable.

    Raises:
        ValueError: it is not what the chart writes.
    """
    given = json.loads(text or "{}")
    if not isinstance(given, dict) or not isinstance(given.get("limits", {}), dict):
        raise TypeError(text)
    limits = {_LIMITS[name]: _whole(value) for name, value in given.get("limits", {}).items()}
    return Fetching(
        given.get("policy", {}), limits, given.get("proxy", ""), given.get("caConfigMap", ""), given.get("cache", "")
    )


_LIMITS = {
    "maxSize": "maxBytes",
    "maxFileSize": "maxFileBytes",
    "maxFiles": "maxFiles",
    "maxRatio": "maxRatio",
    "connections": "connections",
    "minSpeed": "minBytesPerSecond",
}


def _whole(value: Any) -> int:
    amount = quantity(value)
    if amount is None or amount < 1:
        raise ValueError(value)
    return int(amount)


def is_remote(uri: str) -> bool:
    return uri.partition("://")[0] in REMOTE


def container(uri: str, storage: Storage | None, image: str, fetching: Fetching) -> Manifest:
    """Without what is common to all containers of a pod."""
    made: Manifest = {
        "name": FETCHER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "slipway_runtime.fetch"],
        "args": [uri, MOUNT],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [{"name": "model", "mountPath": MOUNT}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    if is_remote(uri):
        told = storage or Storage()
        made["env"] = [
            {"name": "SLIPWAY_FETCH", "value": _settings(told, fetching)},
            {"name": "SLIPWAY_FETCH_PROGRESS_PORT", "value": str(PROGRESS_PORT)},
            *_secrets(uri, told),
        ]
        made["ports"] = [{"name": PROGRESS, "containerPort": PROGRESS_PORT, "protocol": "TCP"}]
        if fetching.ca_config_map:
            made["volumeMounts"].append({"name": CA_VOLUME, "mountPath": CA_PATH, "readOnly": True})
        if fetching.cache:
            made["env"] += [
                {"name": "SLIPWAY_FETCH_CACHE", "value": fetching.cache},
                {"name": "SLIPWAY_FETCH_CACHE_TOKEN", "value": f"{TOKEN_PATH}/token"},
            ]
            made["volumeMounts"].append({"name": TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": True})
    return made


def volumes(uri: str, fetching: Fetching) -> list[Manifest]:
    """Beside the model's own."""
    made: list[Manifest] = []
    if is_remote(uri) and fetching.ca_config_map:
        items = [{"key": "ca.crt", "path": "ca.crt"}]
        source = {"name": fetching.ca_config_map, "items": items, "optional": True, "defaultMode": 0o644}
        made.append({"name": CA_VOLUME, "configMap": source})
    if is_remote(uri) and fetching.cache:
        token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_S, "path": "token"}
        made.append(
            {"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}], "defaultMode": 0o644}}
        )
    return made


def _settings(storage: Storage, fetching: Fetching) -> str:
    chosen = storage.model_dump(by_alias=True, exclude_defaults=True, exclude={"max_size"})
    limits = dict(fetching.limits)
    if storage.max_size is not None and (own := quantity(storage.max_size)) is not None:
        limits["maxBytes"] = max(1, min(int(own), limits.get("maxBytes", int(own))))
    parts = {"policy": fetching.policy, "limits": limits, "proxy": fetching.proxy, "storage": chosen}
    return json.dumps({name: part for name, part in parts.items() if part}, sort_keys=True, separators=(",", ":"))


def _secrets(uri: str, storage: Storage) -> list[Manifest]:
    if not storage.secret_name:
        return []
    return [
        {
            "name": f"SLIPWAY_SECRET_{VARIABLES.get(key, key)}",
            "valueFrom": {"secretKeyRef": {"name": storage.secret_name, "key": key, "optional": True}},
        }
        for key in (*KEYS[uri.partition("://")[0]], "ca.crt")
    ]
