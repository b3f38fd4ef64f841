"""The node's cache: asked before the store, and given what came from there. If it is not well, the store is left.

A model has a key: its `sha256` where the service says one, else what the store lists just now (names, sizes, versions),
so that a model which was replaced is another one. Who can list it, or had it before under the same ServiceAccount, gets
it. While the store is down, its last known listing counts for a day.
"""

import hashlib
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slipway_runtime.fetch import dial
from slipway_runtime.fetch.answers import Answer, BrokenAnswer
from slipway_runtime.fetch.failures import FetchError, Transient, Why
from slipway_runtime.fetch.http import Request, Session, authority
from slipway_runtime.fetch.items import MARKER, STAGING, Item, Listing, safe_path
from slipway_runtime.fetch.progress import say
from slipway_runtime.fetch.settings import Policy, Storage

ADDRESS, TOKEN = "SLIPWAY_FETCH_CACHE", "SLIPWAY_FETCH_CACHE_TOKEN"
"""Variables: its URL, and the file with the pod's token for it."""
STALE_S = 24 * 3600.0
"""For so long the last known listing of a store that is down counts."""
_LISTING_MAX = 64 << 20
_FAULTS = (FetchError, Transient, BrokenAnswer, OSError, ValueError, KeyError, TypeError)
_DOWN = (Why.STORE, Why.SLOW)


@dataclass(frozen=True, slots=True)
class Cache:
    url: str
    token_file: Path
    dialer: dial.Dialer
    tls: ssl.SSLContext
    session: Session

    def open_session(self) -> Session:
        """Connections of one more thread."""
        return Session(self.dialer, self.tls)

    def find(self, key: str) -> Listing | None:
        """The files of a model, to be downloaded from there as from a store."""
        found = self._asked(f"/v1/models/{key}")
        try:
            return None if found is None else Listing(tuple(self._items(key, found["files"])))
        except _FAULTS as error:
            return _without(error)

    def last(self, source: str) -> str | None:
        """The key that a source had when it was last seen, if that is not too long ago."""
        found = self._asked(f"/v1/sources/{source}")
        try:
            return None if found is None or found["age"] > STALE_S else str(found["key"])
        except _FAULTS as error:
            return _without(error)

    def remember(self, source: str, key: str) -> None:
        self._put(f"/v1/sources/{source}", len(key), [key.encode()])

    def keep(self, key: str, folder: Path) -> None:
        """Hand over what lies there, unless it is known."""
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_ours(path, folder))
        head = json.dumps({"files": [[str(path.relative_to(folder)), path.stat().st_size] for path in files]}).encode()
        begin = b"%d\n%b" % (len(head), head)
        self._put(f"/v1/models/{key}", len(begin) + sum(path.stat().st_size for path in files), [begin, *files])

    def _items(self, key: str, files: Any) -> Iterator[Item]:
        for index, (path, size) in enumerate(files):
            request = partial(Request, f"{self.url}/v1/models/{key}/{index}", {}, self._authorization())
            yield Item(safe_path(path), int(size), "", request)

    def _authorization(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}

    def _asked(self, path: str) -> Any:
        try:
            answer, _ = self.session.get(Request(self.url + path, {}, self._authorization()))
            try:
                if answer.status == 404:
                    return None
                body = answer.read(_LISTING_MAX)
                return json.loads(body) if answer.status == 200 else _without(_error(answer.status, body))
            finally:
                self.session.drop(answer)
        except _FAULTS as error:
            return _without(error)

    def _put(self, path: str, length: int, parts: list[bytes | Path]) -> None:
        host, port = authority(self.url)
        headers = {"Host": f"{host}:{port}", "Content-Length": str(length), **self._authorization()}
        lines = [f"PUT {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        try:
            with closing(self.dialer.connect(host, port, tls=False)) as connection:
                connection.sendall("\r\n".join(lines).encode())
                for part in parts:
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    else:
                        with part.open("rb") as file:
                            connection.sendfile(file)
                answer = Answer(connection)
                if answer.status >= 300:
                    _without(_error(answer.status, answer.read(1 << 12)))
        except _FAULTS as error:
            _without(error)


def opened(env: Mapping[str, str]) -> Cache | None:
    """The cache that the pod was told of, if any."""
    url, token = env.get(ADDRESS), env.get(TOKEN)
    if not url or not token:
        return None
    host, port = authority(url)
    # A policy of its own: the administrator says where the cache is, and no model says anything about it.
    dialer, tls = dial.Dialer(Policy(inside_hosts=(f"{host}:{port}",))), ssl.create_default_context()
    return Cache(url.rstrip("/"), Path(token), dialer, tls, Session(dialer, tls))


def source_of(uri: str, storage: Storage) -> str:
    """What a service asks for, whatever the store has there."""
    return _hash("source", uri, _told(storage))


def pinned(storage: Storage) -> str | None:
    """The key of a model whose digest the service says: no store needs to be asked what it has."""
    return _hash("sha256", storage.sha256.lower(), _told(storage)) if storage.sha256 else None


def listed(listing: Listing, storage: Storage) -> str | None:
    """The key of what a store has now; None where it does not tell one content from another."""
    marks = [
        (item.path, item.size, item.version, item.modified, item.digest and (item.digest.kind, item.digest.hex))
        for item in listing.items
    ]
    if any(not (item.version or item.digest) for item in listing.items):
        return None
    return _hash("listed", marks, listing.unpack, _told(storage))


def is_down(error: FetchError) -> bool:
    return error.why in _DOWN


def _told(storage: Storage) -> tuple[object, ...]:
    """What decides which files a model has, and where from."""
    return storage.endpoint, storage.unpack, storage.allow_patterns


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _is_ours(path: Path, folder: Path) -> bool:
    return path.relative_to(folder).parts[0] in (MARKER, STAGING)


def _error(status: int, body: bytes) -> FetchError:
    return FetchError(Why.STORE, f"it answers {status}: {body[:300].decode('utf-8', 'replace')}")


def _without(error: Exception) -> None:
    say(f"the node's cache is left out: {str(error)[:400] or type(error).__name__}")
