"""How far a download is, told at a port: in the middle of it, to dawdlers' neighbours, and never in its way."""

import json
import socket
import urllib.request
from typing import Any

import pytest

from slipway_runtime.fetch.board import Board
from slipway_runtime.fetch.progress import Progress
from tests.runtime.fetching import buckets
from tests.runtime.fetching.conftest import S3_KEYS, Fetch
from tests.runtime.fetching.stand_in import Fault, Store

FILES = {"a.pt": b"a" * 30_000, "b.pt": b"b" * 70_000}


def ask(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture
def port() -> int:
    with socket.create_server(("", 0)) as taken:
        number: int = taken.getsockname()[1]
        return number


@pytest.fixture
def uri(store: Store) -> str:
    buckets.s3(store)
    buckets.fill(store, "/models/m", FILES)
    return "s3://models/m"


def test_it_is_told_in_the_middle_of_a_download_and_no_longer(store: Store, fetch: Fetch, uri: str, port: int) -> None:
    seen: list[dict[str, Any]] = []
    store.faults = [
        Fault(before=lambda: seen.append(ask(port)), when=lambda asked: asked.path.endswith(".pt"), times=len(FILES))
    ]
    settings = {"limits": {"connections": 1}, "storage": {"endpoint": store.url}}
    got = fetch(uri, env=S3_KEYS | {"SLIPWAY_FETCH_PROGRESS_PORT": str(port)}, **settings)
    assert (got.code, got.model) == (0, FILES), got.message
    assert [(each["done"], each["total"]) for each in seen] == [(0, 100_000), (30_000, 100_000)]
    assert seen[1]["bytesPerSecond"] > 0
    with pytest.raises(OSError, match="refused"):
        ask(port)


def test_a_port_that_is_taken_is_no_reason_not_to_fetch(store: Store, fetch: Fetch, uri: str) -> None:
    with socket.create_server(("", 0)) as taken:
        env = S3_KEYS | {"SLIPWAY_FETCH_PROGRESS_PORT": str(taken.getsockname()[1])}
        got = fetch(uri, env=env, storage={"endpoint": store.url})
    assert (got.code, got.model) == (0, FILES), got.message
    assert "nobody can ask how far the download is" in got.log


def test_who_dawdles_keeps_others_waiting_for_a_moment_only() -> None:
    board = Board()
    progress = Progress("s3://m", None, 1)
    progress.add(5)
    board.show(progress)
    with (
        board.at(0) as port,
        socket.create_connection(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert ask(port)["done"] == 5
        assert ask(port)["total"] is None


def test_before_there_is_anything_to_tell_nothing_is_told() -> None:
    assert Board().answer().startswith(b"HTTP/1.1 503 ")
