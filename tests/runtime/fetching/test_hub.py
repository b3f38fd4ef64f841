"""Repositories of models on a hub that answers as Hugging Face's does."""

import hashlib
import json
from typing import Any

import pytest

from tests.runtime.fetching.conftest import Fetch
from tests.runtime.fetching.stand_in import Answer, Asked, Fault, Store

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"a": 1}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"import os",
    "onnx/model.onnx": b"onnx",
}
TAKEN = {name: FILES[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}


def git(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(store: Store) -> Store:
    siblings: list[dict[str, Any]] = []
    for name, data in FILES.items():
        lfs = {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}} if len(data) > 100 else {}
        siblings.append({"rfilename": name, "size": len(data), "blobId": git(data), **lfs})
        store.files[f"/cdn/{name}"] = data
    told = {"id": "org/name", "sha": COMMIT, "siblings": siblings}

    def route(asked: Asked) -> Answer | None:
        if asked.path == "/api/models/org/name/revision/main" and asked.query == {"blobs": "true"}:
            return Answer(200, json.dumps(told).encode())
        base = f"/org/name/resolve/{COMMIT}/"
        if asked.path.startswith(base):
            return Answer(302, b"", {"Location": f"/cdn/{asked.path[len(base) :]}"})
        if asked.path.startswith("/api/models/org/gated"):
            return Answer(
                200 if asked.headers.get("authorization") == "Bearer hf_x" else 401, json.dumps(told).encode()
            )
        return None

    store.routes.append(route)
    return store


def test_safetensors_and_what_belongs_to_them_are_taken(hub: Store, fetch: Fetch) -> None:
    got = fetch("hf://org/name", storage={"endpoint": hub.url})
    assert (got.code, got.model) == (0, TAKEN), got.message


def test_a_pattern_takes_what_it_says(hub: Store, fetch: Fetch) -> None:
    got = fetch("hf://org/name@main", storage={"endpoint": hub.url, "allowPatterns": ["*.onnx", "config.*"]})
    assert got.model == {"onnx/model.onnx": b"onnx", "config.json": FILES["config.json"]}


def test_a_path_names_one_file_or_a_folder(hub: Store, fetch: Fetch) -> None:
    assert fetch("hf://org/name/onnx/model.onnx", storage={"endpoint": hub.url}).model == {"model.onnx": b"onnx"}
    got = fetch("hf://org/name/onnx", storage={"endpoint": hub.url, "allowPatterns": ["*"]})
    assert got.model == {"model.onnx": b"onnx"}


def test_where_the_hub_sends_a_download_is_asked_once(hub: Store, fetch: Fetch) -> None:
    hub.faults = [Fault(cut_after=100, when=lambda asked: asked.path.endswith("model.safetensors"), times=1)]
    assert fetch("hf://org/name/model.safetensors", storage={"endpoint": hub.url}).model == {
        "model.safetensors": FILES["model.safetensors"]
    }


def test_a_gated_repository_needs_a_token(hub: Store, fetch: Fetch) -> None:
    got = fetch("hf://org/gated", storage={"endpoint": hub.url})
    assert (got.code, got.reason) == (77, "AccessDenied")
    assert (
        fetch("hf://org/gated", storage={"endpoint": hub.url}, env={"SLIPWAY_SECRET_TOKEN": "hf_x"}).reason
        == "SourceChanged"
    )


def test_a_repository_without_safetensors_asks_for_a_pattern(hub: Store, fetch: Fetch) -> None:
    got = fetch("hf://org/name/onnx", storage={"endpoint": hub.url})
    assert (got.code, got.reason) == (66, "ModelNotFound")
    assert "storage.allowPatterns" in got.message


def test_what_is_not_there_is_told(hub: Store, fetch: Fetch) -> None:
    assert fetch("hf://org/none", storage={"endpoint": hub.url}).reason == "ModelNotFound"
    assert fetch("hf://org/name/none", storage={"endpoint": hub.url, "allowPatterns": ["*"]}).reason == "ModelNotFound"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"], ids=["of LFS", "of git"])
def test_a_file_is_held_to_the_hubs_own_digest(hub: Store, fetch: Fetch, name: str) -> None:
    hub.files[f"/cdn/{name}"] = bytes(len(FILES[name]))
    got = fetch("hf://org/name", storage={"endpoint": hub.url})
    assert (got.code, got.reason, got.model) == (65, "ChecksumMismatch", {})
    assert f"'{name}' has the" in got.message


@pytest.mark.parametrize(
    "told",
    [
        b"", b"[]", b"{}", b"null", b'{"sha": "x", "siblings": []}', b'{"sha": "main/../..", "siblings": [{}]}',
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "x.safetensors"}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "../x.safetensors", "size": 1}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "/etc/x.safetensors", "size": 1}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "x.safetensors", "size": 1 << 60}]}).encode(),
    ],
)  # fmt: skip
def test_a_hub_that_answers_nonsense_is_told(store: Store, fetch: Fetch, told: bytes) -> None:
    store.routes.append(lambda _: Answer(200, told))
    got = fetch("hf://org/name", storage={"endpoint": store.url})
    assert (got.code != 0, bool(got.reason), got.model) == (True, True, {})
