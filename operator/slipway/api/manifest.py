"""What a Kubernetes object looks like inside Slipway: a plain dict, as the API server sends it.

Manifests are the only dicts of dicts that cross modules; everything else is a frozen dataclass.
"""

from typing import Any

JSON = Any
Manifest = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of an InferenceService: what the work queue carries."""
