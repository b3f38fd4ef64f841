"""What the administrator allows and what the service asks for: one JSON object in `SLIPWAY_FETCH`.

    {"policy": {...}, "limits": {...}, "proxy": "http://...", "storage": {...}}

Credentials are never in it: they are variables of the container (`credentials.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

from slipway_runtime.errors import BadConfig

GIB = 1 << 30
SCHEMES = ("s3", "gs", "az", "https", "hf", "oci", "pvc", "file", "sample")


@dataclass(frozen=True, slots=True)
class Policy:
    """Where models may come from. A host is NAME, *.SUFFIX (any name below it) or NAME:PORT."""

    schemes: tuple[str, ...] = SCHEMES
    hosts: tuple[str, ...] = ()
    """The only ones, besides `inside_hosts`; empty: every host of the internet."""
    inside_hosts: tuple[str, ...] = ()
    """These may have private addresses, and be spoken to without TLS."""
    redirect_hosts: tuple[str, ...] = ("*.huggingface.co", "*.hf.co")
    """A store may send a download there, without credentials; to any other host it may not."""
    cloud_credentials: bool = False
    """Let a cloud's metadata service be asked for credentials, never for a model."""


@dataclass(frozen=True, slots=True)
class Limits:
    max_bytes: int = 500 * GIB
    max_file_bytes: int = 500 * GIB
    max_files: int = 50_000
    max_ratio: int = 200
    """Bytes that an archive may become, for each byte of it."""
    connections: int = 8
    min_bytes_per_second: int = 16 << 10
    """Slower than this for ten seconds: it is given up, and goes on where it was with the next start."""


@dataclass(frozen=True, slots=True)
class Storage:
    """`spec.predictor.model.storage`."""

    secret_name: str = ""
    """For messages; its keys are variables."""
    sha256: str = ""
    endpoint: str = ""
    region: str = ""
    path_style: bool = True
    anonymous: bool = False
    unpack: bool = True
    allow_patterns: tuple[str, ...] = ()
    """Of a repository of models, the files to take; empty: safetensors and what belongs to them."""


@dataclass(frozen=True, slots=True)
class Settings:
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    storage: Storage = field(default_factory=Storage)
    proxy: str = ""


_T = TypeVar("_T")


def read(env: Mapping[str, str]) -> Settings:
    """Raises BadConfig that names the field."""
    try:
        given = json.loads(env.get("SLIPWAY_FETCH") or "{}")
    except ValueError as error:
        raise BadConfig(f"SLIPWAY_FETCH is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadConfig("SLIPWAY_FETCH must be a JSON object")
    unknown = given.keys() - {"policy", "limits", "storage", "proxy"}
    if unknown:
        raise BadConfig(f"SLIPWAY_FETCH: unknown: {', '.join(sorted(unknown))}")
    proxy = given.get("proxy", "")
    if not isinstance(proxy, str):
        raise BadConfig("SLIPWAY_FETCH.proxy must be a string")
    return Settings(
        policy=_made(Policy, given, "policy"),
        limits=_made(Limits, given, "limits"),
        storage=_made(Storage, given, "storage"),
        proxy=proxy,
    )


def _made(kind: type[_T], given: Mapping[str, Any], name: str) -> _T:
    values = given.get(name, {})
    if not isinstance(values, dict):
        raise BadConfig(f"SLIPWAY_FETCH.{name} must be an object")
    hints = get_type_hints(kind)
    known = {_camel(each.name): each.name for each in fields(kind)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise BadConfig(f"SLIPWAY_FETCH.{name}.{key} is unknown")
        found[known[key]] = _typed(hints[known[key]], value, f"SLIPWAY_FETCH.{name}.{key}")
    return kind(**found)


def _typed(hint: Any, value: Any, where: str) -> Any:
    if hint is bool or hint is str:
        if type(value) is hint:
            return value
    elif hint is int:
        if type(value) is int and value > 0:
            return value
    elif isinstance(value, list) and all(type(item) is str for item in value):
        return tuple(value)
    wanted = {bool: "true or false", str: "a string", int: "a whole number above 0"}.get(hint, "a list of strings")
    raise BadConfig(f"{where} must be {wanted}")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
