"""A stand-in for Hugging Face's hub, as the hub's own client sees it: `test_hub_client.py` holds it to that client.

Large files lie elsewhere (LFS): the hub redirects to them, and tells their SHA-256; small ones are git's.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.runtime.fetching.stand_in import Answer, Asked, Store, serving
from tests.runtime.stores.proxy import Upstream
from tests.runtime.stores.sites import LARGE_FROM, Model, Site


class Hub(Site):
    name = "hf"
    is_frozen = True

    def __init__(self, store: Store) -> None:
        self._store = store
        self.large_at = ""
        """Host of large files; empty: the one that was asked."""
        self._repositories: dict[str, tuple[str, dict[str, bytes]]] = {}
        self._commits: dict[str, dict[str, bytes]] = {}
        self.upstream = Upstream(store.port)
        self.secret = {"SLIPWAY_SECRET_TOKEN": "hf_canary"}
        self.stranger = {"SLIPWAY_SECRET_TOKEN": "hf_another"}
        store.routes.append(self._route)

    @property
    def url(self) -> str:
        return self._store.url

    def put(self, name: str, model: Model) -> None:
        files = {path: file.read_bytes() for path, file in model.items()}
        commit = hashlib.sha1(repr([(path, _git(data)) for path, data in files.items()]).encode()).hexdigest()  # noqa: S324
        self._commits[commit] = files
        for data in files.values():
            self._store.files[f"/lfs/{_sha256(data)}/model.pt"] = data
        self._repositories[name] = commit, files

    def remove(self, name: str) -> None:
        commit, files = self._repositories.pop(name)
        del self._commits[commit]
        for data in files.values():
            self._store.files.pop(f"/lfs/{_sha256(data)}/model.pt", None)

    def where(self, name: str, port: int) -> tuple[str, dict[str, Any]]:
        storage = {"endpoint": f"http://127.0.0.1:{port}", "secretName": "token", "allowPatterns": ["*"]}
        return f"hf://org/{name}", storage

    def is_body(self, asked: Asked) -> bool:
        return asked.path.startswith("/lfs/")

    def _route(self, asked: Asked) -> Answer | None:
        if asked.path.startswith("/lfs/"):
            return None  # its address was told to who may read it
        if asked.headers.get("authorization") != "Bearer hf_canary":
            return Answer(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        match asked.path.strip("/").split("/"):
            case ["api", "models", "org", name, "revision", revision] if self._known(name, revision):
                return _about(f"org/{name}", *self._known(name, revision), blobs="blobs" in asked.query)
            case ["api", "models", "org", name, "tree", revision] if self._known(name, revision):
                return _tree(self._known(name, revision)[1])
            case ["org", name, "resolve", revision, *path] if known := self._known(name, revision):
                commit, files = known
                return _resolved(commit, files.get("/".join(path)), self.large_at or asked.headers["host"])
        return Answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _known(self, name: str, revision: str) -> Any:
        """Commit and files; empty: there are none."""
        if revision == "main":
            return self._repositories.get(name, ())
        return (revision, self._commits[revision]) if revision in self._commits else ()

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator["Hub"]:
        assert folder.is_dir()
        with serving(Store()) as store:
            yield cls(store)


def _about(repository: str, commit: str, files: dict[str, bytes], *, blobs: bool) -> Answer:
    siblings = [{"rfilename": path} | (_blob(data) if blobs else {}) for path, data in files.items()]
    told = {"_id": "1", "id": repository, "modelId": repository, "sha": commit, "private": True, "siblings": siblings}
    return Answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})


def _tree(files: dict[str, bytes]) -> Answer:
    told = []
    for path, data in files.items():
        lfs = {"lfs": {"oid": _sha256(data), "size": len(data), "pointerSize": 134}} if len(data) >= LARGE_FROM else {}
        told.append({"type": "file", "path": path, "size": len(data), "oid": _git(data), **lfs})
    return Answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})


def _blob(data: bytes) -> dict[str, Any]:
    lfs = {"lfs": {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}} if len(data) >= LARGE_FROM else {}
    return {"size": len(data), "blobId": _git(data), **lfs}


def _resolved(commit: str, data: bytes | None, host: str) -> Answer:
    if data is None:
        return Answer(404, b"", {"X-Error-Code": "EntryNotFound"})
    if len(data) < LARGE_FROM:
        return Answer(200, data, {"X-Repo-Commit": commit, "ETag": f'"{_git(data)}"'})
    digest = _sha256(data)
    linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
    return Answer(302, b"", {"X-Repo-Commit": commit, "Location": f"http://{host}/lfs/{digest}/model.pt", **linked})


def _git(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
