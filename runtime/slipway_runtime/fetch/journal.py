"""What an interrupted download has brought already, so that the next start of the container goes on from there.

One line for each part that is whole on disk; the first line says of which content. Any doubt, and all begins anew.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from slipway_runtime.fetch.items import Item

PART = 16 << 20


class Journal:
    """Of one staging folder."""

    def __init__(self, folder: Path, uri: str, items: Iterable[Item]) -> None:
        self.files = folder / "files"
        self._path = folder / "journal"
        self._mark = _fingerprint(uri, items)
        self.done = self._read()
        if not self.done:
            shutil.rmtree(folder, ignore_errors=True)
            self.files.mkdir(parents=True)
            self._path.write_text(self._mark + "\n")
        self._out = os.open(self._path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        os.close(self._out)

    def add(self, index: int, start: int) -> None:
        """A part is whole. One write each, so that threads and a sudden end leave whole lines."""
        os.write(self._out, f"{index} {start}\n".encode())

    def _read(self) -> set[tuple[int, int]]:
        try:
            first, *lines = self._path.read_text().split("\n")
        except (OSError, ValueError):
            return set()
        if first != self._mark or not self.files.is_dir():
            return set()
        # The last one is what follows the last line break: nothing, or half a line.
        pairs = [line.split(" ") for line in lines[:-1]]
        return {(int(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2 and all(map(str.isdecimal, pair))}


def _fingerprint(uri: str, items: Iterable[Item]) -> str:
    made = hashlib.sha256(f"{PART} {uri}".encode())
    for item in items:
        made.update(repr((item.path, item.size, item.version, item.modified, item.digest)).encode())
    return made.hexdigest()
