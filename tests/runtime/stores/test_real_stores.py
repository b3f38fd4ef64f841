"""Every kind of store, by a real server behind a proxy that fails on demand: the right model, or a clear reason.

Whatever happens, nothing half-loaded is published, no key is in any word, and memory stays bounded: `Place.fetch`
looks after that in each run. All runs are begun at once, before the first test looks: most of their time is waiting.
"""

import hashlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime.fetch.journal import PART
from tests.conftest import FULL
from tests.runtime.fetching.stand_in import Asked, Fault
from tests.runtime.stores.hub import Hub
from tests.runtime.stores.proxy import Proxy, Spoilt, before, part
from tests.runtime.stores.running import RSS_MAX_MIB, Fetching, Outcome
from tests.runtime.stores.sites import S3, Azure, Google, Https, Model, Oci, Site

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FULL, reason="servers that take minutes to build; SLIPWAY_FULL=1"),
]

SITES = {site.name: site for site in (S3, Google, Azure, Https, Oci, Hub)}
SOON_S = 15
MIB = 1 << 20
FOR_EVER = 1 << 30
CANARY = "canary"


@dataclass
class Place:
    """Of one run: a model of its own, a proxy of its own, a volume of its own."""

    site: Site
    proxy: Proxy
    folder: Path
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    storage: dict[str, Any] = field(default_factory=dict)

    @property
    def dest(self) -> Path:
        return self.folder / "volume"

    def put(self, sizes: Mapping[str, int], seed: int = 0) -> Model:
        """A model of files of these sizes, in place of what has its name."""
        folder = self.folder / f"made-{seed}"
        model = {path: _file(folder / path, size, f"{self.name}-{seed}-{path}") for path, size in sizes.items()}
        self.site.put(self.name, model)
        return model

    def begin(self, secret: dict[str, str] | None = None, under: tuple[str | Path, ...] = ()) -> Fetching:
        uri, storage = self.site.where(self.name, self.proxy.port)
        policy = {"policy": {"insideHosts": [f"127.0.0.1:{self.proxy.port}"]}}
        self.dest.mkdir(exist_ok=True)
        settings = {**policy, **self.settings, "storage": storage | self.storage}
        return Fetching(uri, self.dest, settings, self.site.secret if secret is None else secret, under)

    def fetch(self, secret: dict[str, str] | None = None, under: tuple[str | Path, ...] = ()) -> Outcome:
        got = self.begin(secret, under).ended()
        assert got.rss_mib <= RSS_MAX_MIB
        assert CANARY not in got.log + got.message
        if got.code:
            assert self.published() == {}
        if under:  # its disk is gone with it
            assert self.dest.with_name("volume.left").read_text() == ""
        if self.proxy.failed_at is not None:
            assert got.ended_at - self.proxy.failed_at <= SOON_S or not got.code, "told too late"
        return got

    def published(self) -> dict[str, Path]:
        """What the server would see."""
        files = (path for path in self.dest.rglob("*") if path.is_file())
        seen = {str(path.relative_to(self.dest)): path for path in files}
        return {
            name: path
            for name, path in seen.items()
            if name != ".slipway-fetched" and not name.startswith(".slipway-fetch/")
        }

    def has(self, model: Model) -> bool:
        """Whether the model is published: all of it, and nothing else."""
        found = self.published()
        return found.keys() == model.keys() and all(_same(found[name], file) for name, file in model.items())

    def starts(self) -> list[int]:
        """Where the parts of large files began that were asked for."""
        asked = [each.headers.get("range", "bytes=0-") for each in self.proxy.asked if self.site.is_body(each)]
        return [int(text.removeprefix("bytes=").partition("-")[0]) for text in asked]

    def of_body(self, when: Callable[[Asked], bool] = lambda asked: True) -> Callable[[Asked], bool]:
        return lambda asked: self.site.is_body(asked) and when(asked)


def _file(path: Path, size: int, seed: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(random.Random(seed).randbytes(min(size, MIB)))  # noqa: S311
        file.truncate(size)  # what is beyond is a hole: large files cost no time
    return path


def _same(first: Path, second: Path) -> bool:
    with first.open("rb") as one, second.open("rb") as other:
        return hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()


SMALL = {"model.pt": 3 * MIB, "config.json": 100, "1/ä b+c%(d)=&.txt": 5, "empty": 0}
PARTS = {"model.pt": PART + MIB, "config.json": 100}
ONE_BY_ONE = {"limits": {"connections": 1}}


def a_model_is_fetched(place: Place) -> None:
    model = place.put(SMALL)
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got


def a_stranger_is_denied(place: Place) -> None:
    place.put(SMALL)
    got = place.fetch(place.site.stranger)
    assert (got.code, got.reason) == (77, "AccessDenied"), got
    assert "denie" in got.message


def what_is_missing_is_told(place: Place) -> None:
    got = place.fetch()
    assert (got.code, got.reason) == (66, "ModelNotFound"), got


def a_model_replaced_meanwhile_is_one_of_the_two(place: Place) -> None:
    old = place.put(PARTS)
    place.settings = ONE_BY_ONE
    new: dict[str, Path] = {}
    done = threading.Event()

    def replace() -> None:
        new.update(place.put(PARTS, seed=1))
        done.set()

    place.proxy.faults = [Fault(before=replace, when=place.of_body(part(PART)))]
    got = place.fetch()
    in_time = done.is_set()  # a slow machine asks for the part again meanwhile
    assert done.wait(60)
    whole = place.has(old) if place.site.is_frozen else place.has(new) or (not in_time and place.has(old))
    assert (got.code, whole) == (0, True), got


def a_model_removed_meanwhile_is_told(place: Place) -> None:
    place.put(PARTS)
    place.settings = ONE_BY_ONE
    place.proxy.faults = [Fault(before=lambda: place.site.remove(place.name), when=place.of_body(part(PART)))]
    got = place.fetch()
    if isinstance(place.site, Oci) and not got.code:
        return  # the registry keeps blobs that nothing names any more
    assert (got.code, got.reason) == (66, "ModelNotFound"), got


def a_cut_goes_on_at_its_byte(place: Place) -> None:
    model = place.put(SMALL)
    place.proxy.faults = [Fault(cut_after=MIB + 1000, when=place.of_body(), times=1)]
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got
    assert MIB + 1000 in place.starts()


def a_kill_half_way_goes_on_with_what_is_there(place: Place) -> None:
    model = place.put(PARTS)
    place.settings = ONE_BY_ONE
    killed = threading.Event()

    def kill() -> None:
        begun.kill()
        killed.set()

    place.proxy.faults = [Fault(before=kill, cut_after=1000, when=place.of_body(part(PART)))]
    begun = place.begin()
    assert (begun.ended().code, killed.is_set()) == (-9, True)
    assert place.published() == {}
    place.proxy.asked.clear()
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got
    assert 0 not in place.starts()


def an_error_for_a_moment_is_tried_again(place: Place) -> None:
    model = place.put(SMALL)
    place.proxy.faults = [Fault(status=500, when=place.of_body(), times=3)]
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got


def errors_for_good_are_told(place: Place) -> None:
    model = place.put(PARTS)
    place.proxy.faults = [Fault(status=500, when=place.of_body(part(PART)), times=FOR_EVER)]
    got = place.fetch()
    assert (got.code, got.reason, "answers 500" in got.message) == (75, "StoreUnavailable", True), got
    place.proxy.faults, place.proxy.failed_at = [], None
    place.proxy.asked.clear()
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got
    assert 0 not in place.starts(), "what an earlier start has brought is not asked for again"


def a_store_that_fails_from_the_first_is_told(place: Place) -> None:
    place.put(SMALL)
    place.proxy.faults = [Fault(status=500, times=FOR_EVER)]
    got = place.fetch()
    assert (got.code, got.reason) == (75, "StoreUnavailable"), got


def one_kilobyte_a_second_is_told(place: Place) -> None:
    place.put(SMALL)
    place.proxy.faults = [Fault(bytes_per_second=1000, when=place.of_body(), times=FOR_EVER)]
    got = place.fetch()
    assert (got.code, got.reason, "/s needed here" in got.message) == (75, "StoreTooSlow", True), got


def silence_is_tried_again(place: Place) -> None:
    model = place.put(SMALL)
    # Silence of five seconds and a busy machine are together slower than a store may be.
    place.settings = {"limits": {"minBytesPerSecond": 1}}
    place.proxy.faults = [Fault(stall_after=1000, when=place.of_body())]
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got
    assert 1000 in place.starts()


def another_digest_is_told(place: Place) -> None:
    place.put(SMALL)
    place.storage = {"sha256": "0" * 64}
    got = place.fetch()
    assert (got.code, got.reason, "0" * 64 in got.message) == (65, "ChecksumMismatch", True), got


def damage_is_seen(place: Place) -> None:
    model = place.put(SMALL)
    if not place.site.announces:
        place.storage = {"sha256": _digest(place, model)}
    place.proxy.faults = [Spoilt(when=place.of_body(), times=FOR_EVER)]
    got = place.fetch()
    assert (got.code, got.reason) == (65, "ChecksumMismatch"), got


def _digest(place: Place, model: Model) -> str:
    """As docs/storage.md says: of the one file that is fetched, or of the list of all."""
    if place.site.name == "https":
        return hashlib.sha256(urlopened(place)).hexdigest()
    names = sorted(model, key=str.encode)
    lines = "".join(f"{hashlib.sha256(model[name].read_bytes()).hexdigest()}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def urlopened(place: Place) -> bytes:
    assert isinstance(place.site, Https)
    return place.site.file(place.name).read_bytes()


def a_disk_without_room_is_told_at_once(place: Place) -> None:
    place.put(SMALL)
    got = place.fetch(under=_on_disk("size=2m"))
    assert (got.code, got.reason, "give the pod more disk" in got.message) == (73, "DiskFull", True), got
    assert place.starts() == []


def a_disk_that_becomes_full_is_told(place: Place) -> None:
    place.put(SMALL | {f"{n}.bin": 10 for n in range(60)})
    got = place.fetch(under=_on_disk("size=90m,nr_inodes=40"))
    assert (got.code, got.reason) == (73, "DiskFull"), got


def _on_disk(options: str) -> tuple[str, ...]:
    """What runs a program with a filesystem of its own where its last argument says."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    left = 'find "$last" -type f ! -path \'*/.slipway-fetch/*\' > "$last.left"'
    script = (
        f'for last; do :; done; mount -t tmpfs -o {options} tmpfs "$last" && {{ "$@"; code=$?; {left}; exit $code; }}'
    )
    return "unshare", *user, "--mount", "sh", "-c", script, "sh"


def many_small_files_are_fetched(place: Place) -> None:
    model = place.put({f"{n // 100:03d}/{n % 100:02d}.bin": 100 for n in range(10_000 if FULL else 60)})
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got


def a_large_file_is_fetched(place: Place) -> None:
    # The hub's stand-in is in memory.
    size = 5 * 10**9 if FULL and not isinstance(place.site, Hub) else 2 * PART
    model = place.put({"model.pt": size})
    got = place.fetch()
    assert (got.code, place.has(model)) == (0, True), got


# Those that wait longest come first.
SCENARIOS = [
    one_kilobyte_a_second_is_told, errors_for_good_are_told, a_store_that_fails_from_the_first_is_told,
    silence_is_tried_again, a_large_file_is_fetched, many_small_files_are_fetched, a_model_is_fetched,
    a_stranger_is_denied, what_is_missing_is_told, a_model_replaced_meanwhile_is_one_of_the_two,
    a_model_removed_meanwhile_is_told, a_cut_goes_on_at_its_byte, a_kill_half_way_goes_on_with_what_is_there,
    an_error_for_a_moment_is_tried_again, another_digest_is_told, damage_is_seen, a_disk_without_room_is_told_at_once,
    a_disk_that_becomes_full_is_told,
]  # fmt: skip
NOT_THERE = {
    ("gs", a_stranger_is_denied): "fake-gcs-server knows nobody",
    # A download of one file asks for all of its room first.
    ("https", a_disk_that_becomes_full_is_told): "nothing to run out of",
}
Runs = dict[tuple[str, str], "Future[None]"]
CASES = [(site, each) for each in SCENARIOS for site in SITES if (site, each) not in NOT_THERE]


def _run(site: Site, scenario: Callable[[Place], None], folder: Path) -> None:
    name = scenario.__name__.replace("_", "-")
    (folder / name).mkdir()
    try:
        with before(site.upstream) as proxy:
            scenario(Place(site, proxy, folder / name, name))
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Runs]:
    specs = [item.callspec.params for item in request.session.items if item.module is request.module]  # type: ignore[attr-defined]
    wanted = [(each["site"], each["scenario"]) for each in specs]
    with ExitStack() as stack:
        sites: dict[str, Site] = {}
        for name in dict.fromkeys(site for site, _ in wanted):
            sites[name] = stack.enter_context(SITES[name].serving(tmp_path_factory.mktemp(f"server-{name}")))
        pool = stack.enter_context(ThreadPoolExecutor(2 if FULL else 8))
        folders = {name: tmp_path_factory.mktemp(name) for name in sites}
        yield {
            (name, each.__name__): pool.submit(partial(_run, sites[name], each, folders[name])) for name, each in wanted
        }


@pytest.mark.parametrize(("site", "scenario"), CASES, ids=lambda each: each if isinstance(each, str) else each.__name__)
def test_from_a_real_store(runs: Runs, site: str, scenario: Callable[[Place], None]) -> None:
    runs[site, scenario.__name__].result()
