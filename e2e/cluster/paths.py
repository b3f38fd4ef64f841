"""Where things lie: the checkout, and the cache beside which nothing is ever written."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def cache() -> Path:
    """The project's cache; every build product and all state of the local cluster lie in it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("SLIPWAY_CACHE") or home / "slipway").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def state() -> Path:
    """The local cluster's own folder."""
    return cache() / "cluster"


def kubeconfig() -> Path:
    return state() / "kubeconfig"


def audit_log() -> Path:
    return state() / "audit.log"


def digest(inputs: Iterable[Path], *more: str) -> str:
    """12 hex digits that change when a file below `inputs` (by name or content) or a string of `more` does."""
    total = hashlib.sha256()
    for path in sorted(file for entry in inputs for file in _files(entry)):
        total.update(f"{path.relative_to(REPO)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    for text in more:
        total.update(f"{text}\0".encode())
    return total.hexdigest()[:12]


def _files(entry: Path) -> list[Path]:
    if entry.is_file():
        return [entry]
    return [path for path in entry.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
