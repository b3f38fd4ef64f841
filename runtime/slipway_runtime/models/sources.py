"""Where a model lies on disk, given its storage URI. Shared by `serve` and `fetch`; imports no torch.

    sample://NAME        a model shipped with the runtime image
    pvc://CLAIM/PATH     the claim is mounted at /mnt/pvc while it is fetched
    file:///ABS/PATH     a path of this container

Refuses addresses that climb (`..`), carry a query, or name another host.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from slipway_runtime.errors import BadConfig, MissingModel

PVC_MOUNT = Path("/mnt/pvc")


@dataclass(frozen=True, slots=True)
class Source:
    """`path` is what the URI names; nothing outside `within` may be read for it."""

    uri: str
    path: Path
    within: Path


def samples_dir() -> Path:
    return Path(os.environ.get("SLIPWAY_SAMPLES_DIR", "/opt/slipway/samples"))


def locate(uri: str) -> Source:
    """The existing file or folder that `uri` names.

    Raises:
        BadConfig: the URI is not one we understand.
        MissingModel: it is, but nothing is there.
    """
    parts = urlsplit(uri)
    if parts.query or parts.fragment:
        raise BadConfig(f"storageUri '{uri}' has a query or a fragment; only a plain path is understood")
    path = unquote(parts.path)
    if ".." in path.split("/") or ".." in parts.netloc or "\0" in path:
        raise BadConfig(f"storageUri '{uri}' climbs out of its folder ('..'); name the model's own path")
    match parts.scheme:
        case "sample":
            return _sample(uri, unquote(parts.netloc), path)
        case "pvc":
            return _pvc(uri, parts.netloc, path)
        case "file":
            return _file(uri, parts.netloc, path)
    raise BadConfig(f"storageUri '{uri}' is not understood; use sample://NAME, pvc://CLAIM/PATH or file:///PATH")


def _sample(uri: str, name: str, path: str) -> Source:
    root = samples_dir()
    if not name or path.strip("/"):
        raise BadConfig(f"storageUri '{uri}' must be sample://NAME")
    if not root.is_dir():
        raise MissingModel(
            f"no samples are installed in {root}; make them with 'python -m slipway_runtime.samples FOLDER' and set "
            "SLIPWAY_SAMPLES_DIR=FOLDER"
        )
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if name not in names:
        raise MissingModel(f"sample '{name}' does not exist; there are: {', '.join(names)}")
    return Source(uri, root / name, root / name)


def _pvc(uri: str, claim: str, path: str) -> Source:
    if not claim:
        raise BadConfig(f"storageUri '{uri}' must be pvc://CLAIM/PATH")
    found = PVC_MOUNT / path.strip("/")
    if not found.exists():
        raise MissingModel(
            f"'{path or '/'}' does not exist on the volume of claim '{claim}'; check the path in '{uri}'"
        )
    return Source(uri, found, PVC_MOUNT)


def _file(uri: str, host: str, path: str) -> Source:
    if host not in ("", "localhost") or not path.strip("/"):
        raise BadConfig(f"storageUri '{uri}' must be file:///ABSOLUTE/PATH (three slashes)")
    found = Path(path)
    if not found.exists():
        raise MissingModel(f"file '{path}' does not exist in this container; check the path in '{uri}'")
    return Source(uri, found, found)
