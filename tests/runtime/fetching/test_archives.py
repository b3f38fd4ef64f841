"""Archives become plain files below one folder, or are refused with a sentence: nothing of a bad one is served."""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.settings import Limits
from slipway_runtime.fetch.unpack import Unpacked, unpack, unpack_layer
from slipway_runtime.fetch.zips import look
from tests.runtime.fetching.archives import entry, gz, overlapping, raw_header, tar, with_flag, zip_of, zipped, zst

FILES = {"model.pt": b"weights" * 1000, "sub/labels.txt": b"a\nb\n", "empty": b""}
FOLDERS = [entry(name, b"", tarfile.DIRTYPE) for name in (".", "sub")]
PLAIN = tar(*(entry(name, data) for name, data in FILES.items()))
MIB = 1 << 20
SMALL = Limits(max_bytes=64 * MIB, max_file_bytes=32 * MIB, max_files=100, max_ratio=50)


def unpacked(tmp_path: Path, name: str, data: bytes, limits: Limits = SMALL) -> dict[str, bytes]:
    archive, folder = tmp_path / name, tmp_path / "out" / "in"
    archive.write_bytes(data)
    folder.mkdir(parents=True)
    if name.endswith(".zip"):
        look(archive, limits.max_files)
    unpack(archive, Unpacked(folder, limits, len(data)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_zip() -> bytes:
    def fill(made: zipfile.ZipFile) -> None:
        for name, data in FILES.items():
            made.writestr(name, data)

    return zipped(fill)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.tar", PLAIN),
        ("m.tar.gz", gz(PLAIN)),
        ("m.tgz", gz(PLAIN[:1000]) + gz(PLAIN[1000:])),
        ("m.tar.gz", gz(PLAIN) + b"\0" * 512),
        ("m.TAR.ZST", zst(PLAIN)),
        ("m.tar.zst", zst(PLAIN[:1000]) + zst(PLAIN[1000:])),
        ("m.tar", tar(*(entry("./" + name, data) for name, data in FILES.items()))),
        ("m.tar", tar(FOLDERS[0], FOLDERS[1], *(entry(name, data) for name, data in FILES.items()))),
        ("m.tar", tar(*(entry(name, data) for name, data in FILES.items()), form=tarfile.GNU_FORMAT)),
        ("m.tar", tar(*(entry(name, data) for name, data in FILES.items()), form=tarfile.USTAR_FORMAT)),
        ("m.zip", as_zip()),
    ],
)  # fmt: skip
def test_an_archive_becomes_its_files(tmp_path: Path, name: str, data: bytes) -> None:
    assert unpacked(tmp_path, name, data) == FILES


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_odd_names_are_kept(tmp_path: Path, form: int) -> None:
    names = ["a" * 200 + "/" + "b" * 200, "ünï", "with space", "-rf", ".hidden", "..x", "x.."]
    assert set(unpacked(tmp_path, "m.tar", tar(*(entry(name) for name in names), form=form))) == set(names)


def test_modes_and_owners_of_the_archive_mean_nothing(tmp_path: Path) -> None:
    unpacked(tmp_path, "m.tar", tar(entry("setuid", mode=0o6777, uid=0, gid=0), entry("none", mode=0)))
    for name in ("setuid", "none"):
        assert (tmp_path / "out" / "in" / name).stat().st_mode & 0o7777 == 0o644


CLIMBING = [
    "../x", "a/../../x", "/etc/x", "//x", "a/..", "..", "a/./x", "a//x", "~/x", "~root/x", "..\\x", "a\\..\\x", "C:/x",
    "C:x", "C:\\x", "a\nb", "a\rb", "a\x1bb", "a\x7f", "./../x", ".slipway-fetch/x", ".slipway-fetched", "a" * 256,
    "x/" * 40 + "x",
]  # fmt: skip
LINKS = [
    ("a symbolic link out", entry("x", b"", tarfile.SYMTYPE, "/etc/passwd")),
    ("a symbolic link within", entry("x", b"", tarfile.SYMTYPE, "model.pt")),
    ("a hard link", entry("x", b"", tarfile.LNKTYPE, "model.pt")),
    ("a hard link out", entry("x", b"", tarfile.LNKTYPE, "../../etc/passwd")),
]
DEVICES = [
    ("a character device", entry("x", b"", tarfile.CHRTYPE)),
    ("a block device", entry("x", b"", tarfile.BLKTYPE)),
    ("a pipe", entry("x", b"", tarfile.FIFOTYPE)),
    ("something unknown", entry("x", b"", b"Z")),
    ("a contiguous file is a file, a volume is none", entry("x", b"", b"V")),
]


def refusal(tmp_path: Path, name: str, data: bytes, limits: Limits = SMALL) -> FetchError:
    """Why it is refused. Whatever was written by then is inside the folder."""
    with pytest.raises(FetchError) as refused:
        unpacked(tmp_path, name, data, limits)
    assert [path for path in tmp_path.rglob("*") if path.is_symlink()] == []
    outside = {
        path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(tmp_path / "out" / "in")
    }
    assert outside == {tmp_path / name}
    return refused.value


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_that_could_be_elsewhere_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    data = tar(entry("model.pt"), entry(name)) if kind == "tar" else zip_of("model.pt", name)
    assert refusal(tmp_path, f"m.{kind}", data).why is Why.ARCHIVE


@pytest.mark.parametrize("member", [each for _, each in LINKS], ids=[name for name, _ in LINKS])
def test_a_link_is_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    assert "has a link, 'x'" in str(refusal(tmp_path, "m.tar.gz", gz(tar(entry("model.pt"), member, entry("x/y")))))


@pytest.mark.parametrize("member", [each for _, each in DEVICES], ids=[name for name, _ in DEVICES])
def test_a_device_is_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    assert "neither a file nor a folder" in str(refusal(tmp_path, "m.tar", tar(member)))


def sparse() -> bytes:
    return tar((_sparse_info(), b"0\n1\n"))


def _sparse_info() -> tarfile.TarInfo:
    info = tarfile.TarInfo("x")
    info.size = 4
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "x",
        "GNU.sparse.realsize": str(1 << 40),
    }
    return info


def deep_headers() -> bytes:
    return (raw_header(b"x", b"16", b"x") + b"16 path=aaaaaaaa".ljust(512, b"\0")) * 3000 + raw_header(b"x", b"0")


def _ended(count: int = 1, directory: int = 47) -> bytes:
    """A zip of one file whose end says something else."""
    return zip_of("x")[:-22] + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, directory, 34, 0)


def _lzma() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as made:
        made.writestr("x", b"x")
    return out.getvalue()


HOSTILE: list[tuple[str, str, Callable[[], bytes], Why]] = [
    ("a file twice", "m.tar", lambda: tar(entry("x"), entry("x")), Why.ARCHIVE),
    ("a file below a file", "m.tar", lambda: tar(entry("x"), entry("x/y")), Why.ARCHIVE),
    ("a folder where a file is", "m.tar", lambda: tar(entry("x"), entry("x", b"", tarfile.DIRTYPE)), Why.ARCHIVE),
    ("a sparse file of a tebibyte", "m.tar", sparse, Why.ARCHIVE),
    ("an old sparse file", "m.tar", lambda: raw_header(b"x", b"0", b"S"), Why.ARCHIVE),
    ("a long name of a gigabyte", "m.tar", lambda: raw_header(b"x", b"10000000000", b"L"), Why.ARCHIVE),
    ("a long link of a gigabyte", "m.tar", lambda: raw_header(b"x", b"10000000000", b"K"), Why.ARCHIVE),
    ("an extended header of a gigabyte", "m.tar", lambda: raw_header(b"x", b"10000000000", b"x"), Why.ARCHIVE),
    ("a global header of a gigabyte", "m.tar", lambda: raw_header(b"x", b"10000000000", b"g"), Why.ARCHIVE),
    ("extended headers without end", "m.tar", deep_headers, Why.ARCHIVE),
    ("a file larger than the archive", "m.tar", lambda: raw_header(b"x", b"10000000000") + b"x" * 512, Why.ARCHIVE),
    ("no tar", "m.tar", lambda: b"hello" * 1000, Why.ARCHIVE),
    ("no gzip", "m.tar.gz", lambda: PLAIN, Why.ARCHIVE),
    ("no zstd", "m.tar.zst", lambda: PLAIN, Why.ARCHIVE),
    ("no zip", "m.zip", lambda: PLAIN, Why.ARCHIVE),
    ("nothing", "m.tar.gz", lambda: b"", Why.ARCHIVE),
    ("a cut gzip", "m.tar.gz", lambda: gz(os.urandom(9000) + PLAIN)[:5000], Why.ARCHIVE),
    ("a cut gzip after its tar", "m.tar.gz", lambda: gz(PLAIN)[:-6], Why.ARCHIVE),
    ("a gzip with a wrong sum", "m.tar.gz", lambda: gz(PLAIN)[:-8] + b"\0" * 8, Why.ARCHIVE),
    ("a cut zstd", "m.tar.zst", lambda: zst(PLAIN + os.urandom(9000))[:-3000], Why.ARCHIVE),
    ("a cut zip", "m.zip", lambda: as_zip()[:-30], Why.ARCHIVE),
    ("a zip with damage", "m.zip", lambda: as_zip().replace(b"model.pt", b"model.px", 1), Why.ARCHIVE),
    ("a gzip bomb", "m.tar.gz", lambda: gz(tar(entry("x", bytes(30 * MIB)))), Why.LIMIT),
    ("a bomb of two gzips", "m.tar.gz", lambda: gz(gz(bytes(30 * MIB))), Why.ARCHIVE),
    ("a bomb behind the end of a tar", "m.tar.gz", lambda: gz(PLAIN + bytes(40 * MIB)), Why.ARCHIVE),
    ("a zstd bomb", "m.tar.zst", lambda: zst(tar(entry("x", bytes(30 * MIB)))), Why.LIMIT),
    ("a zstd that wants two gigabytes", "m.tar.zst", lambda: b"\x28\xb5\x2f\xfd\x00\xa8" + zst(PLAIN)[6:], Why.ARCHIVE),
    ("a zip bomb", "m.zip", lambda: zip_of("x", data=bytes(30 * MIB)), Why.LIMIT),
    ("an overlapping zip bomb", "m.zip", lambda: overlapping(90, bytes(MIB)), Why.ARCHIVE),
    ("a zip of many entries", "m.zip", lambda: zip_of(*map(str, range(101))), Why.LIMIT),
    ("a tar of many entries", "m.tar", lambda: tar(*(entry(str(n)) for n in range(101))), Why.LIMIT),
    ("a tar of many folders", "m.tar", lambda: tar(*(entry(f"{n}", b"", b"5") for n in range(101))), Why.LIMIT),
    ("a file above its limit", "m.tar", lambda: tar(entry("x", os.urandom(33 * MIB))), Why.LIMIT),
    ("files above their limit", "m.tar", lambda: tar(*(entry(n, os.urandom(22 * MIB)) for n in "abc")), Why.LIMIT),
    ("an encrypted zip", "m.zip", lambda: with_flag(zip_of("x"), 1), Why.ARCHIVE),
    ("a zip with a link", "m.zip", lambda: zip_of("x", mode=0o120777, data=b"/etc/passwd"), Why.ARCHIVE),
    ("a zip with a device", "m.zip", lambda: zip_of("x", mode=0o020666), Why.ARCHIVE),
    ("a zip with a file twice", "m.zip", lambda: zip_of("xx1", "xx2").replace(b"xx2", b"xx1"), Why.ARCHIVE),
    ("a zip with a NUL in a name", "m.zip", lambda: zip_of("x_y").replace(b"x_y", b"x\0y"), Why.ARCHIVE),
    ("a zip with two names for one file", "m.zip", lambda: zip_of("xyz").replace(b"xyz", b"../", 1), Why.ARCHIVE),
    ("a zip of a rare method", "m.zip", _lzma, Why.ARCHIVE),
    ("a zip whose directory is larger than itself", "m.zip", lambda: _ended(directory=0x7FFFFFFF), Why.ARCHIVE),
    ("a zip that counts entries it has not", "m.zip", lambda: _ended(count=64), Why.ARCHIVE),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "why"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
def test_a_hostile_archive_is_refused_with_a_sentence(
    tmp_path: Path, name: str, make: Callable[[], bytes], why: Why
) -> None:
    error = refusal(tmp_path, name, make())
    assert (error.why, len(str(error)) > 20) == (why, True), str(error)


PEAK = """
import sys, tracemalloc
from pathlib import Path
from slipway_runtime.fetch.settings import Limits
from slipway_runtime.fetch.unpack import Unpacked, unpack
archive, folder = map(Path, sys.argv[1:])
into = Unpacked(folder, Limits(), archive.stat().st_size)
tracemalloc.start()
unpack(archive, into)
print(tracemalloc.get_traced_memory()[1])
"""


def test_an_archive_of_many_files_is_unpacked_in_little_memory(tmp_path: Path) -> None:
    """Python's own reader keeps what it has seen of each: with it this takes 2 MB, and a million files take 400."""
    data = gz(tar(*(entry(f"{n % 100}/{n}", b"") for n in range(3000))))
    archive, folder = tmp_path / "m.tar.gz", tmp_path / "out"
    archive.write_bytes(data)
    folder.mkdir()
    # In a process of its own: tables of the interpreter that grow by megabytes now and then are no part of it.
    told = subprocess.run([sys.executable, "-c", PEAK, archive, folder], check=True, capture_output=True, text=True)  # noqa: S603
    peak = int(told.stdout)
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 3000
    assert peak < 1_400_000


def test_a_full_disk_is_told_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert refusal(tmp_path, "m.tar", PLAIN).why is Why.DISK


def layered(tmp_path: Path, *layers: bytes) -> dict[str, bytes]:
    folder = tmp_path / "out"
    folder.mkdir()
    into = Unpacked(folder, SMALL, sum(map(len, layers)))
    for number, layer in enumerate(layers):
        archive = tmp_path / f"{number}.tar.gz"
        archive.write_bytes(layer)
        unpack_layer(archive, into, "models")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_an_image_only_what_is_below_models_is_taken(tmp_path: Path) -> None:
    base = tar(
        entry("bin/sh", b"", tarfile.SYMTYPE, "busybox"),
        entry("dev/null", b"", tarfile.CHRTYPE),
        entry("modelsx", b"no"),
    )
    model = tar(
        entry("models", b"", tarfile.DIRTYPE),
        entry("models/a", b"old"),
        entry("./models/sub/b", b"b"),
        entry("models/c", b"c"),
    )
    change = tar(entry("models/a", b"new"), entry("models/.wh.c", b""))
    assert layered(tmp_path, gz(base), gz(model), gz(change)) == {"a": b"new", "sub/b": b"b"}


def test_a_layer_may_take_a_whole_folder_away(tmp_path: Path) -> None:
    first = tar(entry("models/sub/a"), entry("models/sub/b"), entry("models/c", b"c"))
    second = tar(entry("models/sub/.wh..wh..opq", b""), entry("models/sub/n", b"new"))
    assert layered(tmp_path, gz(first), gz(second)) == {"c": b"c", "sub/n": b"new"}


@pytest.mark.parametrize("name", ["models/../../x", "models/.wh...", "models/a/../../.wh.x"])
def test_a_layer_that_climbs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FetchError):
        layered(tmp_path, gz(tar(entry(name, b""))))
    assert (tmp_path / "x").read_text() == "mine"


def test_a_link_below_models_of_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="has a link"):
        layered(tmp_path, gz(tar(entry("models/x", b"", tarfile.SYMTYPE, "/etc/passwd"))))


def test_the_helpers_make_what_they_say() -> None:
    assert gzip.decompress(gz(b"x")) == b"x"
    assert zstandard.ZstdDecompressor().decompress(zst(b"x")) == b"x"
