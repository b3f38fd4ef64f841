"""The fetcher and the node's cache together: what is had without the store, by whom, and what goes wrong harmlessly."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from slipway.api.manifest import Manifest
from slipway.decide.fetching import AUDIENCE
from slipway.nodecache.server import Cache, serve
from slipway.nodecache.store import Store as Disk
from slipway.nodecache.tokens import Tokens
from slipway_runtime.fetch import nodecache
from slipway_runtime.fetch.digests import of_model
from tests.runtime.fetching import buckets
from tests.runtime.fetching.archives import entry, gz, tar
from tests.runtime.fetching.conftest import S3_KEYS, Fetch, Outcome
from tests.runtime.fetching.stand_in import Answer, Asked, Store

FOREIGN, FALSE = "0dd", "bad"
FILES = {"a/model.pt": b"weights" * 200_000, "b/small.pt": b"w" * 70_000, "config.json": b"{}", "empty": b""}
URI = "s3://models/m"
SERVED = 3
"""Files that a store is asked for: an empty one needs no answer."""


async def review(body: Manifest) -> Manifest:
    """Tokens are their ServiceAccount's uid; some were made for another audience, or are false."""
    token = body["spec"]["token"]
    audience = "elsewhere" if token == FOREIGN else AUDIENCE
    user = {"username": "system:serviceaccount:team:default", "uid": token}
    return {"status": {"authenticated": token != FALSE, "audiences": [audience], "user": user}}


@contextmanager
def running(disk: Disk) -> Iterator[int]:
    """A cache in a thread; its port."""
    loop, ready, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    ports: list[int] = []

    async def run() -> None:
        async with serve(Cache(disk, Tokens(review)), 0) as port:
            ports.append(port)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(60)
        loop.close()


@dataclass
class Node:
    """Each call of `start` is another pod on it."""

    store: Store
    disk: Disk
    env: dict[str, str]
    token: Path
    start: Callable[..., Outcome]

    @property
    def downloads(self) -> int:
        """Files that the store has served so far."""
        return sum(asked.path.startswith("/models/m/") for asked in self.store.asked)


@pytest.fixture
def node(tmp_path: Path, store: Store, fetch: Fetch) -> Iterator[Node]:
    buckets.s3(store)
    buckets.fill(store, "/models/m", FILES)
    token = tmp_path / "token"
    token.write_text("aa\n")
    disk = Disk(tmp_path / "cache", 8 << 20, "boot")
    with running(disk) as port:
        env = S3_KEYS | {nodecache.ADDRESS: f"http://127.0.0.1:{port}", nodecache.TOKEN: str(token)}
        number = iter(range(1000))

        def start(uri: str = URI, **storage: object) -> Outcome:
            return fetch(uri, pod=f"pod{next(number)}", env=env, storage={"endpoint": store.url} | storage)

        yield Node(store, disk, env, token, start)


def silent(_: Asked) -> Answer:
    return Answer(503, b"<Error/>")


def test_the_second_pod_downloads_nothing_from_the_store(node: Node) -> None:
    first, served = node.start(), node.downloads
    second = node.start()
    assert (first.model, second.model) == (FILES, FILES), first.log
    assert node.downloads == served == SERVED, first.log
    assert "from the node's cache" in second.log
    assert "from the node's cache" not in first.log


def test_a_model_that_was_replaced_comes_from_the_store(node: Node) -> None:
    node.start()
    node.store.files["/models/m/config.json"] = b'{"new": 1}'
    assert node.start().model == FILES | {"config.json": b'{"new": 1}'}


def test_while_the_store_is_down_its_last_known_model_counts(node: Node) -> None:
    node.start()
    node.store.routes.insert(0, silent)
    got = node.start()
    assert got.model == FILES, got.message
    assert "what was there last comes from the node's cache" in got.log


def test_a_model_with_a_digest_needs_no_store_at_all(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    node.start(sha256=of_model(folder))
    asked = len(node.store.asked)
    assert node.start(sha256=of_model(folder)).model == FILES
    assert len(node.store.asked) == asked


def test_what_is_denied_by_the_store_does_not_come_from_the_cache(node: Node) -> None:
    node.start()
    node.env |= dict.fromkeys(S3_KEYS, "AKIASTRANGER")
    assert node.start().reason == "AccessDenied"


@pytest.mark.parametrize(("token", "told"), [("bb", ""), (FOREIGN, "401"), (FALSE, "401")])
def test_nobody_gets_what_another_serviceaccount_has_brought(node: Node, token: str, told: str) -> None:
    node.start()
    served = node.downloads
    node.token.write_text(token)
    got = node.start()
    assert got.model == FILES
    assert node.downloads == served + SERVED
    assert told in got.log


def test_a_cache_that_is_not_there_costs_nothing_but_a_line(node: Node) -> None:
    node.env[nodecache.ADDRESS] = "http://127.0.0.1:1"
    got = node.start()
    assert got.model == FILES
    assert "the node's cache is left out" in got.log


@pytest.mark.parametrize("index", [0, 1], ids=["large", "small"])
def test_a_file_that_vanished_from_the_cache_comes_from_the_store(node: Node, tmp_path: Path, index: int) -> None:
    node.start()
    [kept] = (tmp_path / "cache").glob(f"aa/*/{index}")
    kept.unlink()
    got = node.start()
    assert got.model == FILES
    assert "the node's cache is left out" in got.log


def test_an_unpacked_archive_is_kept_as_it_was_unpacked(node: Node) -> None:
    node.store.files["/models/packed.tar.gz"] = gz(tar(entry("model.pt", b"weights")))
    assert node.start("s3://models/packed.tar.gz").model == {"model.pt": b"weights"}
    again = node.start("s3://models/packed.tar.gz")
    assert (again.model, "from the node's cache" in again.log) == ({"model.pt": b"weights"}, True)


def test_credentials_do_not_reach_the_cache(node: Node, tmp_path: Path) -> None:
    node.start()
    said = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert FILES["config.json"] in said
    assert buckets.SECRET.encode() not in said
