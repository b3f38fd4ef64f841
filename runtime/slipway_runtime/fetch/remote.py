"""One model from a store, from its URI to its folder: plan, download, digest, unpack, publish.

Where the node has a cache, that comes first: see `nodecache`.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from slipway_runtime.fetch import hub, nodecache, registry, stores, web
from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.board import Board
from slipway_runtime.fetch.credentials import Credentials, tls
from slipway_runtime.fetch.dial import Dialer, proxy
from slipway_runtime.fetch.digests import of_model
from slipway_runtime.fetch.download import Download
from slipway_runtime.fetch.errand import Errand
from slipway_runtime.fetch.failures import FetchError, Why, size
from slipway_runtime.fetch.http import Session
from slipway_runtime.fetch.items import STAGING, Item, Listing, check
from slipway_runtime.fetch.journal import Journal
from slipway_runtime.fetch.nodecache import Cache
from slipway_runtime.fetch.progress import Progress, say
from slipway_runtime.fetch.publish import is_published, publish, room
from slipway_runtime.fetch.settings import Settings
from slipway_runtime.fetch.unpack import Unpacked, unpack, unpack_layer
from slipway_runtime.fetch.uri import Bucket, Hub, Registry, Remote, Web
from slipway_runtime.fetch.zips import look

_TRIES = 3
"""Of a model that is replaced while it is downloaded; each begins with what there is then."""


@dataclass(frozen=True, slots=True)
class Fetched:
    bytes: int
    was_there: bool = False
    from_cache: bool = False


@dataclass(frozen=True, slots=True)
class _Aim:
    dest: Path
    board: Board
    open_session: Callable[[], Session]
    """Of one thread, to where the model comes from."""
    bring_small: Callable[[Sequence[Item], Path, Progress], None] | None = None
    """How small files come into a folder, where not by a request each."""

    @property
    def staging(self) -> Path:
        return self.dest / STAGING


def fetch(
    uri: str,
    source: Remote,
    dest: Path,
    settings: Settings,
    credentials: Credentials,
    *,
    board: Board,
    cache: Cache | None = None,
) -> Fetched:
    """Bring the model to `dest`, and show on the way how far it is. `cache` is closed.

    Raises:
        FetchError: in the words of `failures.Why`.  OSError: the disk.
    """
    rules.allow_scheme(settings.policy, uri.partition(":")[0])
    storage = settings.storage
    mark = hashlib.sha256(
        repr((uri, storage.sha256, storage.endpoint, storage.unpack, storage.allow_patterns)).encode()
    )
    dest.mkdir(parents=True, exist_ok=True)
    if is_published(dest, mark.hexdigest()):
        return Fetched(0, was_there=True)
    dialer = Dialer(settings.policy, proxy(settings.proxy))
    context = tls(credentials.authorities())
    errand = Errand(uri, storage, settings.limits, credentials, dialer, Session(dialer, context))
    aim = _Aim(dest, board, lambda: Session(dialer, context))
    with closing(errand.session):
        if cache is not None:
            with closing(cache):
                return _by_cache(errand, source, aim, cache, mark.hexdigest())
        made, count, _ = _at_last(errand, source, aim)
    publish(made, dest, mark.hexdigest())
    return Fetched(count)


def _by_cache(errand: Errand, source: Remote, aim: _Aim, cache: Cache, mark: str) -> Fetched:
    """From the node's cache where that has it, else from the store, and into the cache then."""
    place, key, listing = nodecache.source_of(errand.uri, errand.storage), nodecache.pinned(errand.storage), None
    if key is None:
        try:
            listing = _listing(errand, source)
        except FetchError as error:
            last = cache.last(place) if nodecache.is_down(error) else None
            if last is None or (count := _cached(errand, aim, cache, last, mark)) is None:
                raise
            say(f"{error}; what was there last comes from the node's cache")
            return Fetched(count, from_cache=True)
        key = nodecache.listed(listing, errand.storage)
    if key is not None and (count := _cached(errand, aim, cache, key, mark)) is not None:
        cache.remember(place, key)
        return Fetched(count, from_cache=True)
    made, count, listing = _at_last(errand, source, aim, listing)
    publish(made, aim.dest, mark)
    if key := nodecache.pinned(errand.storage) or nodecache.listed(listing, errand.storage):
        cache.keep(key, aim.dest)
        cache.remember(place, key)
    return Fetched(count)


def _cached(errand: Errand, aim: _Aim, cache: Cache, key: str, mark: str) -> int | None:
    """A model from the cache into its folder; None: it has to come from the store."""
    if (listing := cache.find(key)) is None:
        return None
    aim = replace(aim, open_session=cache.open_session, bring_small=partial(cache.bring_small, key))
    try:
        files, count = _downloaded(errand, listing, aim)
    except FetchError as error:
        if error.why is Why.DISK:
            raise
        cache.leave_out(error)
        return None
    publish(files, aim.dest, mark)
    return count


def _at_last(errand: Errand, source: Remote, aim: _Aim, listing: Listing | None = None) -> tuple[Path, int, Listing]:
    """From the store, again while the model is replaced; `listing`: what there was a moment ago."""
    for _ in range(_TRIES - 1):
        try:
            return _brought(errand, listing or _listing(errand, source), aim)
        except FetchError as error:
            if error.why is not Why.CHANGED:
                raise
            say(f"{error}; once more from the beginning")
            listing = None
    return _brought(errand, listing or _listing(errand, source), aim)


def _brought(errand: Errand, listing: Listing, aim: _Aim) -> tuple[Path, int, Listing]:
    files, count = _downloaded(errand, listing, aim)
    return _finished(errand, listing, files, aim.staging), count, listing


def _downloaded(errand: Errand, listing: Listing, aim: _Aim) -> tuple[Path, int]:
    """The files of a listing, each as it was announced; and their bytes."""
    total = check(listing.items, errand.limits, errand.uri)
    journal = Journal(aim.staging, errand.uri, listing.items)
    try:
        room(aim.dest, total - _on_disk(journal.files))
        progress = Progress(errand.uri, total or None, errand.limits.min_bytes_per_second)
        aim.board.show(progress)
        items = listing.items
        if aim.bring_small is not None:
            aim.bring_small([item for item in items if nodecache.is_small(item)], journal.files, progress)
            items = tuple(item for item in items if not nodecache.is_small(item))
        Download(items, journal, errand.limits, progress, aim.open_session).run()
        say(f"{errand.uri}: {size(progress.done)} downloaded")
        return journal.files, progress.done
    finally:
        journal.close()


def _listing(errand: Errand, source: Remote) -> Listing:
    match source:
        case Bucket():
            return stores.listing(errand, source)
        case Web():
            return web.listing(errand, source)
        case Hub():
            return hub.listing(errand, source)
        case Registry():
            return registry.listing(errand, source)


def _finished(errand: Errand, listing: Listing, files: Path, staging: Path) -> Path:
    """The folder that has the model: checked, and unpacked where it is an archive."""
    try:
        _check_digest(errand, files)
        if not listing.unpack or not (errand.storage.unpack or listing.unpack == "image"):
            return files
        return _unpacked(errand, listing, files, staging)
    except FetchError:
        # What is wrong with it once is wrong with it for ever.
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _check_digest(errand: Errand, files: Path) -> None:
    wanted = errand.storage.sha256.lower()
    if wanted and (found := of_model(files)) != wanted:
        words = f"'{errand.uri}' has the sha256 {found}, and not storage.sha256, {wanted}"
        raise FetchError(Why.CHECKSUM, f"{words}: it is another model, or was damaged")


def _unpacked(errand: Errand, listing: Listing, files: Path, staging: Path) -> Path:
    made = staging / "unpacked"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    archives = [files / item.path for item in listing.items]
    into = Unpacked(made, errand.limits, sum(path.stat().st_size for path in archives))
    for archive in archives:
        if listing.unpack == "image":
            unpack_layer(archive, into, "models")
        else:
            if archive.suffix.lower() == ".zip":
                look(archive, errand.limits.max_files)
            unpack(archive, into)
    shutil.rmtree(files)
    if not any(made.iterdir()):
        where = "below /models in the image" if listing.unpack == "image" else "in the archive"
        raise FetchError(Why.MISSING, f"there is nothing {where} of '{errand.uri}'")
    return made


def _on_disk(files: Path) -> int:
    """Bytes that an earlier try has taken already."""
    return sum(os.lstat(path).st_blocks * 512 for path in files.rglob("*") if path.is_file())
