"""Archives that no tool would make by itself: members of any name and kind."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable

import zstandard


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry(
    name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, target: str = "", **more: int
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def raw_header(name: bytes, size: bytes, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A tar header with whatever in its fields, and a right sum."""
    head = (
        name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.rjust(11, b"0")[:11] + b"\0" + b"00000000000\0"
    )
    head += b"        " + kind + link.ljust(100, b"\0") + b"ustar\x0000" + b"\0" * 247
    return head[:148] + f"{sum(head[:512]):06o}\0 ".encode() + head[156:512]


def zipped(fill: Callable[[zipfile.ZipFile], None]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        fill(made)
    return out.getvalue()


def zip_of(*names: str, mode: int = 0o100644, data: bytes = b"x") -> bytes:
    def fill(made: zipfile.ZipFile) -> None:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is: ZipInfo would mend it
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(info, data)

    return zipped(fill)


def with_flag(data: bytes, flag: int) -> bytes:
    """A zip whose entries say so, in both of their headers."""
    found = bytearray(data)
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        where = found.find(mark)
        while where >= 0:
            found[where + at] |= flag
            where = found.find(mark, where + 4)
    return bytes(found)


def overlapping(count: int, kernel: bytes) -> bytes:
    """A zip whose directory has the same bytes many times. Source: D. Fifield, "A better zip bomb"."""
    one = bytearray(zip_of("a", data=kernel))
    directory = one.find(b"PK\1\2")
    end = one.find(b"PK\5\6")
    record = bytes(one[directory:end])
    made = bytes(one[:directory])
    records = b"".join(record for _ in range(count))
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(records), len(made), 0)
    return made + records + tail


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def zst(data: bytes) -> bytes:
    return bytes(zstandard.ZstdCompressor(level=3).compress(data))
