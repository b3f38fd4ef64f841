"""Models on the disk of the cache: by owner and key, whole or not at all, the longest unused ones thrown out first.

    OWNER/KEY/head      [[path, size], ...]
    OWNER/KEY/0, 1 ...  the files, in that order
    OWNER/ALIAS.last    the key that a source had when it was last asked; its time is when that was

Nothing is synced: after the node has restarted, what lies there may be damaged, and is thrown away.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HEAD = "head"
OWNER_PART = 0.5
"""Of the room, what the models of one owner may take: nobody throws out everybody else's."""
LAST_MAX = 1000
"""Sources of one owner that are remembered."""
_KEY = re.compile(r"[0-9a-f]{64}")
_OWNER = re.compile(r"[0-9a-f][0-9a-f-]{0,63}")
_BOOT, _COMING, _LAST = "boot", ".coming", ".last"

Files = Sequence[tuple[str, int]]
"""Path and size of each."""
_Name = tuple[str, str]


class Refused(Exception):
    """Why a model is not kept, in a sentence."""


class Incoming:
    """A model on its way in: the bytes of all its files, one after the other. For one thread at a time."""

    def __init__(self, folder: Path, files: Files) -> None:
        folder.mkdir(parents=True)
        (folder / HEAD).write_text(json.dumps(list(files)))
        self.folder = folder
        self._sizes: Iterator[tuple[int, int]] = iter([(index, size) for index, (_, size) in enumerate(files)])
        self._file, self._left = -1, 0
        self.is_whole = False
        self._next()

    def write(self, data: bytes) -> None:
        """Raises Refused: more than was announced.  OSError: the disk."""
        view = memoryview(data)
        while view:
            if self.is_whole:
                raise Refused("more came than was announced")
            count = os.write(self._file, view[: self._left])
            self._left, view = self._left - count, view[count:]
            if not self._left:
                self._next()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _next(self) -> None:
        """On to the next file that has bytes; those that have none are there with that."""
        self.close()
        for index, size in self._sizes:
            self._left = size
            self._file = os.open(self.folder / str(index), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            if size:
                return
            self.close()
        self.is_whole = True


@dataclass(slots=True)
class _Kept:
    bytes: int
    used_s: float


class Store:
    """Not for threads."""

    def __init__(self, folder: Path, most_bytes: int, boot_id: str, clock: Callable[[], float] = time.time) -> None:
        """`boot_id` tells one life of the node from the next. Raises OSError."""
        self._folder, self._most, self._clock = folder, most_bytes, clock
        self._kept: dict[_Name, _Kept] = {}
        self._coming: dict[_Name, int] = {}
        self._number = 0
        self.evictions = 0
        self._open(boot_id)

    @property
    def bytes(self) -> int:
        return sum(kept.bytes for kept in self._kept.values()) + sum(self._coming.values())

    @property
    def count(self) -> int:
        return len(self._kept)

    def find(self, owner: str, key: str) -> Path | None:
        """The folder of a model, which is used with that."""
        kept = self._kept.get((owner, key))
        if kept is None:
            return None
        kept.used_s, folder = self._clock(), self._folder / owner / key
        with contextlib.suppress(OSError):
            os.utime(folder, (kept.used_s, kept.used_s))
        return folder

    def begin(self, owner: str, key: str, files: Files) -> Incoming | None:
        """Where a model is to be written; None: it is there, or on its way.

        Raises:
            Refused: there is no room for it.  OSError: the disk.
        """
        name = (_checked(_OWNER, owner), _checked(_KEY, key))
        if name in self._kept or name in self._coming:
            return None
        size = sum(size for _, size in files)
        self._make_room(owner, size)
        self._number += 1
        incoming = Incoming(self._folder / _COMING / str(self._number), files)
        self._coming[name] = size
        return incoming

    def end(self, owner: str, key: str, incoming: Incoming) -> bool:
        """Keep it if all of it came: whether it did. Raises OSError."""
        is_whole, size = incoming.is_whole, self._coming.pop((owner, key))
        incoming.close()
        if not is_whole:
            shutil.rmtree(incoming.folder, ignore_errors=True)
            return False
        target = self._folder / owner / key
        target.parent.mkdir(exist_ok=True)
        incoming.folder.rename(target)
        self._kept[owner, key] = _Kept(size, self._clock())
        return True

    def last(self, owner: str, source: str) -> tuple[str, float] | None:
        """The key that a source had, and how many seconds ago."""
        path = self._last(owner, source)
        try:
            return path.read_text(), max(0.0, self._clock() - path.stat().st_mtime)
        except OSError:
            return None

    def remember(self, owner: str, source: str, key: str) -> None:
        """A source has this key now. Raises OSError."""
        path, now = self._last(owner, source), self._clock()
        path.parent.mkdir(exist_ok=True)
        known = sorted(path.parent.glob(f"*{_LAST}"), key=lambda each: each.stat().st_mtime)
        for old in known[: max(0, len(known) - LAST_MAX + 1)] if path not in known else ():
            old.unlink()
        fresh = path.with_suffix(".new")
        fresh.write_text(_checked(_KEY, key))
        os.utime(fresh, (now, now))
        fresh.replace(path)

    def _last(self, owner: str, source: str) -> Path:
        return self._folder / _checked(_OWNER, owner) / f"{_checked(_KEY, source)}{_LAST}"

    def _make_room(self, owner: str, size: int) -> None:
        most = int(self._most * OWNER_PART)
        if size > most:
            raise Refused(f"a model of {size} bytes is more than the {most} that one owner may have here")
        own = sum(kept.bytes for (whose, _), kept in self._kept.items() if whose == owner)
        own += sum(coming for (whose, _), coming in self._coming.items() if whose == owner)
        free = self._most - self.bytes
        oldest = sorted(self._kept, key=lambda name: self._kept[name].used_s)
        for name in oldest:
            if own + size > most and name[0] == owner:
                own -= self._kept[name].bytes
            elif own + size > most or size <= free:
                continue
            free += self._drop(name)
        if own + size > most or size > free:
            raise Refused("there is no room while others are on their way in")

    def _drop(self, name: _Name) -> int:
        """Throw a model out: who reads a file of it reads on. The bytes that are free by it."""
        self.evictions += 1
        owner, key = name
        shutil.rmtree(self._folder / owner / key, ignore_errors=True)
        return self._kept.pop(name).bytes

    def _open(self, boot_id: str) -> None:
        """Take over what the process before has left, if the node has not restarted since."""
        self._folder.mkdir(parents=True, exist_ok=True)
        boot = self._folder / _BOOT
        is_same = boot.is_file() and boot.read_text() == boot_id
        for entry in self._folder.iterdir():
            if entry.is_dir() and (not is_same or entry.name == _COMING):
                shutil.rmtree(entry, ignore_errors=True)
        boot.write_text(boot_id)
        for head in self._folder.glob(f"*/*/{HEAD}"):
            files = read_head(head)
            folder = head.parent
            name = (folder.parent.name, folder.name)
            self._kept[name] = _Kept(sum(size for _, size in files), folder.stat().st_mtime)


def read_head(path: Path) -> Files:
    """The files of a model that is kept."""
    return [(str(name), int(size)) for name, size in json.loads(path.read_text())]


def _checked(form: re.Pattern[str], text: str) -> str:
    """Raises Refused: it is none, and so no name of a file of ours."""
    if not form.fullmatch(text):
        raise Refused(f"{text[:80]!r} is no name that is known here")
    return text
