"""One model from a store, from its URI to its folder: plan, download, digest, unpack, publish."""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from slipway_runtime.fetch import hub, registry, stores, web
from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.board import Board
from slipway_runtime.fetch.credentials import Credentials, tls
from slipway_runtime.fetch.dial import Dialer, proxy
from slipway_runtime.fetch.digests import of_model
from slipway_runtime.fetch.download import Download
from slipway_runtime.fetch.errand import Errand
from slipway_runtime.fetch.failures import FetchError, Why, size
from slipway_runtime.fetch.http import Session
from slipway_runtime.fetch.items import STAGING, Listing, check
from slipway_runtime.fetch.journal import Journal
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


def fetch(
    uri: str, source: Remote, dest: Path, settings: Settings, credentials: Credentials, *, board: Board
) -> Fetched:
    """Bring the model to `dest`, and show on the way how far it is.

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
    with closing(errand.session):
        made, count = _at_last(lambda: _brought(errand, source, dest, lambda: Session(dialer, context), board))
    publish(made, dest, mark.hexdigest())
    return Fetched(count)


def _at_last(bring: Callable[[], tuple[Path, int]]) -> tuple[Path, int]:
    """Again while the model is replaced."""
    for _ in range(_TRIES - 1):
        try:
            return bring()
        except FetchError as error:
            if error.why is not Why.CHANGED:
                raise
            say(f"{error}; once more from the beginning")
    return bring()


def _brought(
    errand: Errand, source: Remote, dest: Path, open_session: Callable[[], Session], board: Board
) -> tuple[Path, int]:
    listing = _listing(errand, source)
    total = check(listing.items, errand.limits, errand.uri)
    staging = dest / STAGING
    journal = Journal(staging, errand.uri, listing.items)
    try:
        room(dest, total - _on_disk(journal.files))
        progress = Progress(errand.uri, total or None, errand.limits.min_bytes_per_second)
        board.show(progress)
        Download(listing.items, journal, errand.limits, progress, open_session).run()
        say(f"{errand.uri}: {size(progress.done)} downloaded")
        return _finished(errand, listing, journal.files, staging), progress.done
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
