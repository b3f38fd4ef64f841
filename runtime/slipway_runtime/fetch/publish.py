"""The disk: whether there is room, and how a model appears in its folder only when all of it is safely there."""

import ctypes
import json
import os
import shutil
from pathlib import Path

from slipway_runtime.fetch.failures import FetchError, Why, size
from slipway_runtime.fetch.items import MARKER, STAGING


def room(folder: Path, needed: int) -> None:
    """Raises FetchError when a download cannot fit."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FetchError(
            Why.DISK, f"the model needs {size(needed)}, but only {size(free)} are free: give the pod more disk"
        )


def publish(made: Path, dest: Path, mark: str) -> None:
    """Move what is in `made` to `dest`, in place of what is there; the marker comes last.

    What a power cut leaves is either marked and whole, or fetched again.
    """
    sync(made)
    for entry in dest.iterdir():
        if entry.name != STAGING:
            _remove(entry)
    for entry in sorted(made.iterdir()):
        entry.replace(dest / entry.name)
    partial = dest / STAGING / "marker"
    partial.write_text(json.dumps({"model": mark}))
    partial.replace(dest / MARKER)
    shutil.rmtree(dest / STAGING, ignore_errors=True)
    sync(dest)


def is_published(dest: Path, mark: str) -> bool:
    """Whether this very model is there already: a pod that starts again needs no store."""
    try:
        found = json.loads((dest / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model") == mark


def sync(folder: Path) -> None:
    """Have all of a folder's filesystem on disk: one call, where fsync would be one for each of 10,000 files."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(opened):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(opened)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
