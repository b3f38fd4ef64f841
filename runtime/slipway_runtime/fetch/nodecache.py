"""The node's cache: asked before the store, and given what came from there. If it is not well, the store is left.

A model has a key: its `sha256` where the service says one, else what the store lists just now (names, sizes, versions),
so that a model which was replaced is another one. Who can list it, or had it before under the same ServiceAccount, gets
it. While the store is down, its last known listing counts for a day.
"""

import hashlib
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from slipway_runtime.fetch import dial
from slipway_runtime.fetch.answers import Answer, BrokenAnswer
from slipway_runtime.fetch.failures import FetchError, Transient, Why
from slipway_runtime.fetch.http import Request, Session, authority
from slipway_runtime.fetch.items import MARKER, STAGING, Item, Listing, safe_path
from slipway_runtime.fetch.progress import Progress, say
from slipway_runtime.fetch.settings import Policy, Storage

ADDRESS, TOKEN = "SLIPWAY_FETCH_CACHE", "SLIPWAY_FETCH_CACHE_TOKEN"
"""Variables: its URL, and the file with the pod's token for it."""
STALE_S = 24 * 3600.0
"""For so long the last known listing of a store that is down counts."""
_LISTING_MAX = 64 << 20
_PIECE = 64 << 20
SMALL = 1 << 20
"""Files of less are brought by one request together."""
_KEEP_S, _KEEP_RATE = 5.0, 64 << 20
"""How long a pod's start may wait until the cache has taken a model over, and for each so many bytes a second more."""
_FAULTS = (FetchError, Transient, BrokenAnswer, OSError, ValueError, KeyError, TypeError)
_DOWN = (Why.STORE, Why.SLOW)


class Cache:
    """After its first fault it is left alone: a pod's start waits for it once."""

    def __init__(self, url: str, token_file: Path) -> None:
        host, port = authority(url)
        # A policy of its own: the administrator says where the cache is, and no model says anything about it.
        self._dialer = dial.Dialer(Policy(inside_hosts=(f"{host}:{port}",)))
        self._url, self._token_file, self._tls = url.rstrip("/"), token_file, ssl.create_default_context()
        self._session, self._is_out = self.open_session(), False

    def open_session(self) -> Session:
        """Connections of one more thread."""
        return Session(self._dialer, self._tls)

    def close(self) -> None:
        self._session.close()

    def leave_out(self, error: Exception) -> None:
        """Say why it is left alone from now on."""
        self._is_out = True
        say(f"the node's cache is left out: {str(error)[:400] or type(error).__name__}")

    def find(self, key: str) -> Listing | None:
        """The files of a model, to be downloaded from there as from a store."""
        found = self._asked(f"/v1/models/{key}")
        try:
            return None if found is None else Listing(tuple(self._items(key, found["files"])))
        except _FAULTS as error:
            self.leave_out(error)
            return None

    def bring_small(self, key: str, items: Sequence[Item], folder: Path, progress: Progress) -> None:
        """Write the small files of a model.

        Raises:
            FetchError: they did not come.
        """
        answer, _ = self._session.get(Request(f"{self._url}/v1/models/{key}/small", {}, self._authorization()))
        room = memoryview(bytearray(SMALL))
        try:
            if answer.status != 200:
                raise _error(answer.status, answer.read(1 << 12))
            for item in items:
                path, left = folder / item.path, item.size or 0
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    while left:
                        if not (count := answer.read_into(room[:left])):
                            raise Transient("it was cut")
                        file.write(room[:count])
                        left -= count
                        progress.add(count)
        except (BrokenAnswer, TimeoutError, ConnectionError) as error:
            raise Transient(f"its small files broke off: {error}") from error
        finally:
            self._session.drop(answer)

    def last(self, source: str) -> str | None:
        """The key that a source had when it was last seen, if that is not too long ago."""
        found = self._asked(f"/v1/sources/{source}")
        try:
            return None if found is None or found["age"] > STALE_S else str(found["key"])
        except _FAULTS as error:
            self.leave_out(error)
            return None

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
            request = partial(Request, f"{self._url}/v1/models/{key}/{index}", {}, self._authorization())
            yield Item(safe_path(path), int(size), "", request)

    def _authorization(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}

    def _asked(self, path: str) -> Any:
        """None: it is not there, or the cache is not well."""
        if self._is_out:
            return None
        try:
            answer, _ = self._session.get(Request(self._url + path, {}, self._authorization()))
            try:
                if answer.status == 404:
                    return None
                body = answer.read(_LISTING_MAX)
                if answer.status == 200:
                    return json.loads(body)
                raise _error(answer.status, body)
            finally:
                self._session.drop(answer)
        except _FAULTS as error:
            self.leave_out(error)
            return None

    def _put(self, path: str, length: int, parts: list[bytes | Path]) -> None:
        if self._is_out:
            return
        host, port = authority(self._url)
        until_s = time.monotonic() + _KEEP_S + length / _KEEP_RATE
        try:
            headers = {"Host": f"{host}:{port}", "Content-Length": str(length), **self._authorization()}
            lines = [f"PUT {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            with closing(self._dialer.connect(host, port, tls=False)) as connection:
                connection.sendall("\r\n".join(lines).encode())
                for part in parts:
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    else:
                        _send(connection, part, until_s)
                answer = Answer(connection)
                if answer.status >= 300:
                    raise _error(answer.status, answer.read(1 << 12))
        except _FAULTS as error:
            self.leave_out(error)


def opened(env: Mapping[str, str]) -> Cache | None:
    """The cache that the pod was told of, if any."""
    url, token = env.get(ADDRESS), env.get(TOKEN)
    return Cache(url, Path(token)) if url and token else None


def _send(connection: socket.socket, path: Path, until_s: float) -> None:
    """Raises TimeoutError: it takes longer than a pod's start may wait."""
    with path.open("rb") as file:
        for at in range(0, path.stat().st_size, _PIECE):
            if time.monotonic() > until_s:
                raise TimeoutError("it takes what it is given too slowly")
            connection.sendfile(file, at, _PIECE)


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


def is_small(item: Item) -> bool:
    return item.size is not None and item.size < SMALL


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
