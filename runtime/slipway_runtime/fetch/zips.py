"""What a zip says of itself, looked at before Python's own reader takes all of its directory into memory."""

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from slipway_runtime.fetch.failures import FetchError, Why

_END = b"PK\5\6"
_END64 = b"PK\6\6"
_ENTRY_MIN = 46
_DIRECTORY_MAX = 32 << 20


def look(archive: Path, max_files: int) -> None:
    """Raises FetchError for a directory that is larger than any model's, or than its own file."""
    with archive.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - (1 << 16) - 100))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) < at + 22:
            raise FetchError(Why.ARCHIVE, "the archive is no zip, or was cut; it is refused")
        count, directory = struct.unpack("<HI", tail[at + 10 : at + 16])
        wide = tail.rfind(_END64, 0, at)
        if wide >= 0 and len(tail) >= wide + 48:
            count, directory = struct.unpack("<QQ", tail[wide + 32 : wide + 48])
    if count > max_files:
        raise FetchError(Why.LIMIT, f"the archive has {count} entries, more than the {max_files} allowed here")
    if directory > min(length, _DIRECTORY_MAX) or count * _ENTRY_MIN > directory:
        raise FetchError(Why.ARCHIVE, "the archive has a directory that makes no sense; it is refused")


def members(archive: Path, opened: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """Entries that can be read. Raises FetchError."""
    for entry in opened.infolist():
        name = entry.orig_filename[:100]
        if entry.flag_bits & 0x1:
            raise FetchError(Why.ARCHIVE, f"the archive has an encrypted file, {name!r}; it is refused")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FetchError(Why.ARCHIVE, f"the archive packs {name!r} in a way that is not supported; use deflate")
        if "\0" in entry.orig_filename or "\\" in entry.orig_filename:
            raise FetchError(Why.ARCHIVE, f"the archive has the odd name {name!r}; it is refused")
        yield entry
