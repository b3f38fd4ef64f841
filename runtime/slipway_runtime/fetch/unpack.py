"""Unpacks an archive into a folder of ours. Nothing but plain files and folders, below that folder, within the limits.

Refused, whatever the archive says elsewhere: names that climb or are absolute, links, devices, sparse files, a name
twice, more bytes or files than allowed, or so many bytes for each byte of the archive that it can only be a bomb.
"""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Self, cast

import zstandard

from slipway_runtime.fetch.failures import FetchError, Why, size
from slipway_runtime.fetch.items import safe_path
from slipway_runtime.fetch.settings import Limits
from slipway_runtime.fetch.zips import members

_CHUNK = 256 << 10
_SLACK = 16 << 20
"""Small archives of very regular files may be denser than the ratio says."""
_HEADER_MAX = 64 << 10
"""Of a tar's extended header, which is read into memory as a whole."""
_WINDOW_MAX = 32 << 20
"""Of zstd; its levels up to 19 need 8 MiB."""
_SPACE_EVERY = 64 << 20


class Unpacked:
    """What has come out of archives so far, all of them together."""

    def __init__(self, folder: Path, limits: Limits, packed: int) -> None:
        self._folder, self._limits = folder, limits
        self._bytes = self._files = self._until_look = 0
        self._most = min(limits.max_bytes, packed * limits.max_ratio + _SLACK)
        self._is_ratio = self._most < limits.max_bytes

    def add_folder(self, name: str) -> None:
        self._count(name)
        try:
            (self._folder / safe_path(name)).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise refused(f"has a folder {name[:100]!r} where a file is") from error

    def add_file(self, name: str, read: Callable[[int], bytes], *, replaces: bool = False) -> None:
        self._count(name)
        path = self._folder / safe_path(name)
        written = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if replaces:
                path.unlink(missing_ok=True)
            out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise refused(f"has {name[:100]!r} twice, or below a file") from error
        with os.fdopen(out, "wb", buffering=0) as file:
            while data := read(_CHUNK):
                written += len(data)
                self._weigh(name, len(data), written)
                file.write(data)

    def remove(self, name: str) -> None:
        """What an image's layer takes away of the layers below it."""
        path = self._folder / safe_path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _count(self, name: str) -> None:
        self._files += 1
        if self._files > self._limits.max_files:
            raise FetchError(
                Why.LIMIT, f"the archive has more than {self._limits.max_files} entries, which is the limit here"
            )
        if name.startswith("/"):
            raise refused(f"has the absolute name {name[:100]!r}")

    def _weigh(self, name: str, count: int, written: int) -> None:
        self._bytes += count
        self._until_look -= count
        if self._bytes > self._most:
            if self._is_ratio:
                words = f"becomes more than {self._limits.max_ratio} times its size, which only a bomb does"
                raise FetchError(Why.LIMIT, f"the archive {words}")
            raise FetchError(
                Why.LIMIT, f"the archive has more than {size(self._limits.max_bytes)}, which is the limit here"
            )
        if written > self._limits.max_file_bytes:
            raise FetchError(
                Why.LIMIT, f"'{name[:100]}' has more than {size(self._limits.max_file_bytes)}, the limit of a file here"
            )
        if self._until_look <= 0:
            self._until_look = _SPACE_EVERY
            if shutil.disk_usage(self._folder).free < _SPACE_EVERY:
                raise FetchError(
                    Why.DISK, f"the disk is full after {size(self._bytes)} of the archive; give the pod more disk"
                )


def unpack(archive: Path, into: Unpacked) -> None:
    """All of an archive. Raises FetchError."""
    for_foreign_errors(
        archive, lambda: _unzip(archive, into) if archive.name.lower().endswith(".zip") else _untar(archive, into)
    )


def unpack_layer(archive: Path, into: Unpacked, below: str) -> None:
    """What a layer of an image does to the folder `below`. Raises FetchError."""
    for_foreign_errors(archive, lambda: _apply(archive, into, below + "/"))


def for_foreign_errors(archive: Path, work: Callable[[], None]) -> None:
    try:
        work()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise refused(f"is damaged, or not what its name says ({type(error).__name__})") from error
    except (ValueError, OverflowError, UnicodeError, RecursionError, MemoryError, NotImplementedError) as error:
        raise refused(f"has a header that makes no sense ({type(error).__name__})") from error


def refused(words: str) -> FetchError:
    return FetchError(Why.ARCHIVE, f"the archive {words}; it is refused")


def _untar(archive: Path, into: Unpacked) -> None:
    for tar, member in _entries(archive):
        _plain(member)
        if member.isdir():
            if member.name.strip("./"):
                into.add_folder(_trimmed(member.name))
        else:
            into.add_file(_trimmed(member.name), _reader(tar, member))


def _apply(archive: Path, into: Unpacked, below: str) -> None:
    """Of a layer, what is not below a folder may be anything: it is left out. Source: OCI image-spec, layer.md."""
    for tar, member in _entries(archive):
        name = _trimmed(member.name).lstrip("/")
        if not name.startswith(below):
            continue
        inner = name[len(below) :]
        parent, slash, last = inner.rpartition("/")
        if last == ".wh..wh..opq":
            into.remove(safe_path(parent)) if parent else None
        elif last.startswith(".wh."):
            into.remove(safe_path(parent + slash + last[4:]))
        elif inner.strip("/"):
            _plain(member)
            if member.isdir():
                into.add_folder(inner)
            else:
                into.add_file(inner, _reader(tar, member), replaces=True)


class _Header(tarfile.TarInfo):
    """Refuses headers that would be read into memory for ever."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        made = super().frombuf(buf, encoding, errors)
        if made.size < 0:
            raise refused("has an entry of a negative size")
        if made.type in _EXTENDED and made.size > _HEADER_MAX:
            raise refused("has an extended header of more than 64 KiB")
        return made


_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _entries(archive: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    with archive.open("rb") as file, closing(_plain_stream(archive.name.lower(), file)) as stream:
        with tarfile.open(None, "r|", stream, _CHUNK, tarinfo=_Header) as tar:
            for member in tar:
                yield tar, member
                tar.members.clear()  # type: ignore[attr-defined] # it keeps all of them otherwise
        # What a tar ends with are blocks of zeros; a decompressor tells only at its own end whether all was right.
        for _ in range(_SLACK // _CHUNK):
            if not stream.read(_CHUNK):
                return
    raise refused("goes on long after its end")


def _plain(member: tarfile.TarInfo) -> None:
    if member.issym() or member.islnk():
        raise refused(f"has a link, {member.name[:100]!r}")
    if member.issparse():
        raise refused(f"has a sparse file, {member.name[:100]!r}")
    if not (member.isreg() or member.isdir()):
        raise refused(f"has something that is neither a file nor a folder, {member.name[:100]!r}")


def _trimmed(name: str) -> str:
    """Without the `./` that `tar -c .` writes."""
    while name.startswith("./"):
        name = name[2:]
    return name


def _reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[int], bytes]:
    found = tar.extractfile(member)
    if found is None:
        raise refused(f"has no content for {member.name[:100]!r}")
    left = member.size

    def read(count: int) -> bytes:
        nonlocal left
        data = found.read(min(count, left)) if left else b""
        if left and not data:
            raise refused(f"ends in the middle of {member.name[:100]!r}")
        left -= len(data)
        return data

    return read


class _Gzip:
    """Members of a gzip file one after another, decompressed a bounded piece at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._made, self._ended, self._rest = file, zlib.decompressobj(31), False, b""

    def read(self, count: int) -> bytes:
        while True:
            if self._made.eof:
                self._rest = self._made.unused_data or self._file.read(_CHUNK)
                if not self._rest.strip(b"\0"):
                    return b""
                self._made = zlib.decompressobj(31)
            data = self._rest or self._made.unconsumed_tail or self._file.read(_CHUNK)
            self._rest = b""
            if not data and not self._made.eof:
                raise EOFError
            if out := self._made.decompress(data, count):
                return out

    def close(self) -> None:
        self._made = zlib.decompressobj(31)


def _plain_stream(name: str, file: BinaryIO) -> BinaryIO:
    if name.endswith((".tar.gz", ".tgz")):
        return cast("BinaryIO", _Gzip(file))
    if name.endswith(".tar.zst"):
        made = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
        return cast("BinaryIO", made.stream_reader(file, read_across_frames=True, closefd=False))
    return file


def _unzip(archive: Path, into: Unpacked) -> None:
    with zipfile.ZipFile(archive) as opened:
        for entry in members(archive, opened):
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refused(f"has a link or a device, {entry.filename[:100]!r}")
            if entry.is_dir():
                into.add_folder(entry.filename)
                continue
            with opened.open(entry) as file:
                into.add_file(entry.filename, file.read)
