"""Copies a model that is here already, by sample://, pvc:// or file://, into a folder.

Every file appears in DEST whole or not at all: all is copied into a staging folder inside DEST (which may be
a mount point and so cannot be renamed itself) and moved into place at the end.
Refuses links that leave the source, special files and models above --max-bytes. Imports no torch.
"""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from slipway_runtime.errors import BadModel
from slipway_runtime.fetch.failures import FetchError, Why, size
from slipway_runtime.fetch.progress import say
from slipway_runtime.models.sources import Source, locate

CHUNK = 4 << 20
PROGRESS_EVERY_S = 2.0
STAGING = ".slipway-fetch"


def files_of(source: Source) -> list[tuple[Path, Path]]:
    """(real file, path relative to the destination) for every file of the model, in a fixed order."""
    if not _real(source.path, source).is_dir():
        return [(_real(source.path, source), Path(source.path.name))]
    root = source.path.resolve()
    inner = Source(source.uri, root, root)
    return [(_real(path, inner), path.relative_to(root)) for path in _walk(root)]


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _real(path: Path, source: Source) -> Path:
    """`path` with links followed, if what it leads to is ours to read."""
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of links
        raise BadModel(f"'{path}' is a link that leads nowhere; replace it by the file") from exc
    if not real.is_relative_to(source.within.resolve()):
        raise BadModel(f"'{path}' is a link that leaves the model's folder; replace it by the file")
    if stat.S_ISDIR(mode) and path.is_symlink() and path != source.path:
        raise BadModel(f"'{path}' is a link to a folder; replace it by the folder")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BadModel(f"'{path}' is neither a file nor a folder")
    return real


def fetch(uri: str, dest: Path, max_bytes: int) -> int:
    """Copy the model that `uri` names into `dest`; returns the bytes copied."""
    source = locate(uri)
    files = files_of(source)
    total = sum(real.stat().st_size for real, _ in files)
    if not files:
        raise BadModel(f"'{uri}' is an empty folder; there is no model in it")
    if total > max_bytes:
        raise BadModel(f"'{uri}' has {size(total)}, more than the {size(max_bytes)} allowed (--max-bytes)")
    dest.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(dest).free
    if total > free:
        raise FetchError(
            Why.DISK, f"'{uri}' has {size(total)}, but only {size(free)} are free at {dest}; give the pod more disk"
        )
    staging = dest / STAGING
    shutil.rmtree(staging, ignore_errors=True)  # left by a fetch that was killed
    try:
        copy_all(files, staging, Progress(uri, total))
        _publish(staging, dest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return total


class Progress:
    def __init__(self, uri: str, total: int) -> None:
        self._uri, self._total, self._done = uri, total, 0
        self._next_s = time.monotonic() + PROGRESS_EVERY_S

    def add(self, count: int) -> None:
        """Raises BadModel when the source grows while it is read: the limit was checked against its first size."""
        self._done += count
        if self._done > self._total:
            raise BadModel(f"'{self._uri}' changed while it was copied; try again when nobody writes to it")
        if time.monotonic() >= self._next_s:
            self._next_s += PROGRESS_EVERY_S
            say(f"{self._uri}: {size(self._done)} of {size(self._total)}")


def copy_all(files: list[tuple[Path, Path]], staging: Path, progress: Progress) -> None:
    staging.mkdir()
    for real, relative in files:
        target = staging / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        # O_NOFOLLOW: the links were judged above; one that appears since is not followed.
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NOFOLLOW), "rb") as src, target.open("xb") as out:
            while chunk := src.read(CHUNK):
                progress.add(len(chunk))
                out.write(chunk)


def _publish(staging: Path, dest: Path) -> None:
    for entry in sorted(staging.iterdir()):
        target = dest / entry.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        entry.replace(target)
