"""The cache's disk: what is kept, for whom, what goes first, and what a crash or a hostile pod leaves behind."""

from pathlib import Path

import pytest

from slipway.nodecache.store import HEAD, LAST_MAX, Refused, Store, read_head

KEYS = [f"{number:064x}" for number in range(LAST_MAX + 5)]
ONE, OTHER = "aa-1", "bb-2"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(tmp_path: Path, clock: Clock) -> Store:
    return opened(tmp_path, clock)


def opened(folder: Path, clock: Clock, boot: str = "boot") -> Store:
    return Store(folder / "cache", 1000, boot, clock)


def keep(disk: Store, owner: str, key: str, size: int, name: str = "model.pt") -> None:
    incoming = disk.begin(owner, key, [(name, size)])
    assert incoming
    incoming.write(b"x" * size)
    assert disk.end(owner, key, incoming)


def test_what_came_whole_is_there_for_its_owner_alone(disk: Store) -> None:
    incoming = disk.begin(ONE, KEYS[0], [("a/b", 3), ("empty", 0), ("c", 2)])
    assert incoming
    assert disk.find(ONE, KEYS[0]) is None
    incoming.write(b"ab")
    incoming.write(b"cde")
    assert disk.end(ONE, KEYS[0], incoming)
    folder = disk.find(ONE, KEYS[0])
    assert folder
    assert [(folder / str(index)).read_bytes() for index in range(3)] == [b"abc", b"", b"de"]
    assert read_head(folder / HEAD) == [("a/b", 3), ("empty", 0), ("c", 2)]
    assert disk.find(OTHER, KEYS[0]) is None


def test_what_did_not_come_whole_is_not_there(disk: Store, tmp_path: Path) -> None:
    incoming = disk.begin(ONE, KEYS[0], [("a", 3)])
    assert incoming
    incoming.write(b"ab")
    assert not disk.end(ONE, KEYS[0], incoming)
    assert (disk.find(ONE, KEYS[0]), disk.bytes) == (None, 0)
    assert list((tmp_path / "cache" / ".coming").iterdir()) == []


def test_more_than_was_announced_is_refused(disk: Store) -> None:
    incoming = disk.begin(ONE, KEYS[0], [("a", 3)])
    assert incoming
    with pytest.raises(Refused, match="more came"):
        incoming.write(b"abcd")


def test_the_same_model_comes_in_once_at_a_time(disk: Store) -> None:
    first = disk.begin(ONE, KEYS[0], [("a", 1)])
    assert first
    assert disk.begin(ONE, KEYS[0], [("a", 1)]) is None
    assert disk.begin(OTHER, KEYS[0], [("a", 1)]) is not None


def test_who_was_not_used_for_longest_goes_first(disk: Store) -> None:
    keep(disk, ONE, KEYS[0], 200)
    keep(disk, ONE, KEYS[1], 200)
    keep(disk, OTHER, KEYS[2], 300)
    keep(disk, "cc", KEYS[3], 300)
    disk.find(ONE, KEYS[0])
    keep(disk, OTHER, KEYS[4], 200)
    assert [disk.find(ONE, KEYS[0]) is None, disk.find(ONE, KEYS[1]) is None] == [False, True]
    assert disk.bytes == 1000
    assert disk.evictions == 1


def test_an_owner_that_has_its_part_throws_out_its_own_only(disk: Store) -> None:
    keep(disk, OTHER, KEYS[0], 300)
    for key in KEYS[1:6]:
        keep(disk, ONE, key, 250)
    assert disk.find(OTHER, KEYS[0])
    assert [disk.find(ONE, key) is None for key in KEYS[1:6]] == [True, True, True, False, False]
    with pytest.raises(Refused, match="more than the 500 that one owner may have"):
        disk.begin(ONE, KEYS[7], [("a", 501)])


def test_what_is_on_its_way_takes_room_too(disk: Store) -> None:
    assert disk.begin(ONE, KEYS[0], [("a", 500)])
    assert disk.begin(OTHER, KEYS[1], [("a", 400)])
    with pytest.raises(Refused, match="no room while others are on their way"):
        disk.begin("cc", KEYS[2], [("a", 200)])


def test_a_process_that_starts_again_has_what_was_whole(tmp_path: Path, clock: Clock, disk: Store) -> None:
    keep(disk, ONE, KEYS[0], 200)
    disk.remember(ONE, KEYS[1], KEYS[0])
    assert disk.begin(ONE, KEYS[2], [("a", 100)])
    again = opened(tmp_path, clock)
    assert (again.find(ONE, KEYS[0]) is None, again.find(ONE, KEYS[2]), again.bytes) == (False, None, 200)
    last = again.last(ONE, KEYS[1])
    assert last
    assert last[0] == KEYS[0]


def test_after_the_node_has_restarted_nothing_is_trusted(tmp_path: Path, clock: Clock, disk: Store) -> None:
    keep(disk, ONE, KEYS[0], 200)
    disk.remember(ONE, KEYS[1], KEYS[0])
    again = opened(tmp_path, clock, "another boot")
    assert (again.find(ONE, KEYS[0]), again.last(ONE, KEYS[1]), again.bytes) == (None, None, 0)


@pytest.mark.parametrize("key", ["", "..", "../../x", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_no_key_is_a_path(disk: Store, key: str) -> None:
    with pytest.raises(Refused, match="no name"):
        disk.begin(ONE, key, [("a", 1)])
    with pytest.raises(Refused, match="no name"):
        disk.remember(ONE, KEYS[0], key)
    with pytest.raises(Refused, match="no name"):
        disk.last(ONE, key)


def test_names_of_files_are_kept_and_never_used_as_paths(disk: Store, tmp_path: Path) -> None:
    keep(disk, ONE, KEYS[0], 3, name="../../../../evil")
    assert not list(tmp_path.rglob("evil"))


def test_sources_are_remembered_up_to_a_number(disk: Store, tmp_path: Path) -> None:
    for key in KEYS:
        disk.remember(ONE, key, KEYS[0])
    assert len(list((tmp_path / "cache" / ONE).iterdir())) == LAST_MAX
    assert disk.last(ONE, KEYS[0]) is None
    assert disk.last(ONE, KEYS[-1]) is not None


def test_a_disk_that_fails_in_the_middle_keeps_nothing(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming = disk.begin(ONE, KEYS[0], [("a", 1), ("b", 1)])
    assert incoming

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.open", full)
        with pytest.raises(OSError, match="No space"):
            incoming.write(b"xy")
    assert not disk.end(ONE, KEYS[0], incoming)
    assert (disk.find(ONE, KEYS[0]), disk.bytes) == (None, 0)
