"""Shared memory regions: only what was registered is read and written, and only inside of it."""

import os
from pathlib import Path

import numpy as np
import pytest

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol.shared_memory import MAX_REGIONS, SharedMemory
from slipway_runtime.tensors import Region


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "seg").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "seg")
    return tmp_path


@pytest.fixture
def memory(directory: Path) -> SharedMemory:
    return SharedMemory(directory)


@pytest.mark.parametrize("offset", [0, 5, 4096, 5000])
def test_a_region_begins_where_it_was_said_to(memory: SharedMemory, directory: Path, offset: int) -> None:
    memory.register("r", "/seg", offset, 100)
    content = (directory / "seg").read_bytes()
    assert bytes(memory.read(Region("r", 10, 20))) == content[offset + 10 : offset + 30]
    memory.write(Region("r", 96, 4), b"abcd", "y")
    assert (directory / "seg").read_bytes()[offset + 96 : offset + 100] == b"abcd"


def test_reading_is_a_view_that_cannot_write(memory: SharedMemory, directory: Path) -> None:
    memory.register("r", "seg", 0, 8)
    view = memory.read(Region("r", 0, 8))
    assert view.readonly
    with (directory / "seg").open("r+b") as file:
        file.write(b"\xff")
    assert view[0] == 0xFF


def test_a_view_outlives_its_region(memory: SharedMemory) -> None:
    memory.register("r", "seg", 0, 8)
    array = np.frombuffer(memory.read(Region("r", 0, 8)), np.uint8)
    memory.unregister("r")
    assert array.tolist() == list(range(8))
    with pytest.raises(RequestError, match="Unable to find shared memory region: 'r'") as caught:
        memory.read(Region("r", 0, 8))
    assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 101), (101, 0), (100, 1), (2**63, 1), (1, 2**63), (60, 41)],
)
def test_nothing_outside_of_a_region_is_touched(memory: SharedMemory, offset: int, size: int) -> None:
    memory.register("r", "seg", 8, 100)
    for use in (memory.read, memory.check, lambda part: memory.write(part, b"", "y")):
        with pytest.raises(RequestError, match="Invalid offset \\+ byte size for shared memory region: 'r'"):
            use(Region("r", offset, size))


def test_an_output_too_large_for_its_place_is_refused(memory: SharedMemory) -> None:
    memory.register("r", "seg", 0, 100)
    with pytest.raises(RequestError, match=r"output 'y' \(4 bytes\) should be at least 8 bytes"):
        memory.write(Region("r", 0, 4), bytes(8), "y")


@pytest.mark.parametrize(
    "key", ["../seg", "..", ".", "", "/", "//seg", "folder/seg", "/folder/../seg", "seg\0", "a" * 300, "/etc/passwd"]
)
def test_a_key_is_a_name_never_a_path(memory: SharedMemory, key: str) -> None:
    with pytest.raises(RequestError, match="must be one name") as caught:
        memory.register("r", key, 0, 8)
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("key", "offset", "size", "sentence"),
    [
        pytest.param("none", 0, 8, "Unable to open shared memory region: 'none': No such file", id="no object"),
        pytest.param("link", 0, 8, "Unable to open", id="a link"),
        pytest.param("folder", 0, 8, "Unable to open", id="a folder"),
        pytest.param("seg", 0, 20_000, "needs 20000 bytes, its object has 16384", id="beyond the object"),
        pytest.param("seg", 2**64 - 1, 8, "its object has 16384", id="offset beyond all"),
        pytest.param("seg", 0, 0, "must have byte_size > 0", id="nothing"),
        pytest.param("seg", -1, 8, "offset >= 0", id="before the object"),
    ],
)
def test_what_is_not_there_cannot_be_registered(
    memory: SharedMemory, key: str, offset: int, size: int, sentence: str
) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RequestError, match=sentence):
        memory.register("r", key, offset, size)
    assert memory.status("") == []
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_an_object_that_became_shorter_is_noticed_before_it_is_read(memory: SharedMemory, directory: Path) -> None:
    memory.register("r", "seg", 0, 16384)
    os.truncate(directory / "seg", 4096)
    with pytest.raises(RequestError, match="needs 16384 bytes, its object has 4096"):
        memory.read(Region("r", 0, 8))


def test_names_are_taken_once_and_given_back(memory: SharedMemory) -> None:
    memory.register("r", "seg", 0, 8)
    with pytest.raises(RequestError, match="already in manager") as caught:
        memory.register("r", "seg", 0, 8)
    assert caught.value.kind is Kind.EXISTS
    memory.register("s", "seg", 8, 8)
    assert memory.status("s") == [{"name": "s", "key": "seg", "offset": 8, "byte_size": 8}]
    memory.unregister("unknown")
    memory.unregister("")
    assert memory.status("") == []
    memory.register("r", "seg", 0, 8)
    with pytest.raises(RequestError, match="must have a name"):
        memory.register("", "seg", 0, 8)


def test_regions_and_their_descriptors_are_bounded(memory: SharedMemory) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for index in range(50):
        memory.register(str(index), "seg", 0, 8)
    memory.unregister("")
    assert len(os.listdir("/proc/self/fd")) <= before
    assert MAX_REGIONS <= 1024
