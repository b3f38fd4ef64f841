"""Brings listed files into a folder: parts of them at the same time, each tried again from the byte where it broke off.

A file is whole when all its parts are, has the version that was listed, and the digest that is known of it.
"""

import errno
import os
import queue
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway_runtime.fetch.answers import Answer, BrokenAnswer
from slipway_runtime.fetch.digests import announced, verify
from slipway_runtime.fetch.failures import FetchError, Transient, Why, size
from slipway_runtime.fetch.http import Patience, Request, Session, check, check_up, describe
from slipway_runtime.fetch.items import Digest, Item, within
from slipway_runtime.fetch.journal import PART, Journal
from slipway_runtime.fetch.progress import Progress
from slipway_runtime.fetch.settings import Limits
from slipway_runtime.fetch.splice import Pipe

_BUFFER = 1 << 20
_LOOK_S = 0.25


@dataclass(slots=True)
class _Cursor:
    """Where a part is."""

    at: int
    end: int | None
    """None: the store does not tell how long the file is."""


class _Hands:
    """What one thread works with."""

    def __init__(self, session: Session) -> None:
        self.session, self.buffer, self.pipe = session, memoryview(bytearray(_BUFFER)), Pipe()

    def close(self) -> None:
        self.session.close()
        self.pipe.close()


class Download:
    """All of a listing into `journal.files`. `open_session` makes the connections of one thread."""

    def __init__(
        self,
        items: Sequence[Item],
        journal: Journal,
        limits: Limits,
        progress: Progress,
        open_session: Callable[[], Session],
    ) -> None:
        self._items, self._journal, self._limits, self._progress = items, journal, limits, progress
        self._open_session = open_session
        self._parts: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._left = [0] * len(items)
        self._digests: dict[int, Digest] = {}
        self._finals: dict[int, Request] = {}
        """Where a store sent a download to: asked there from then on, until that fails."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Raises FetchError; what is there by then is kept for the next try."""
        count = self._plan()
        workers = [
            threading.Thread(target=self._work, daemon=True) for _ in range(min(self._limits.connections, count))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_LOOK_S)
                self._watch()
        if self._failure is not None:
            raise self._failure

    def _plan(self) -> int:
        """What is left to do, as parts; their number."""
        folders = {Path(self._path(item)).parent for item in self._items}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for index, item in enumerate(self._items):
            starts = range(0, max(item.size, 1), PART) if item.size is not None and item.ranged else range(1)
            missing = [start for start in starts if (index, start) not in self._journal.done]
            self._left[index] = len(missing)
            had = sum(_length(item, start) or 0 for start in starts) - sum(
                _length(item, start) or 0 for start in missing
            )
            self._progress.had(had)
            if item.size and item.size > PART and not had:
                with Path(self._path(item)).open("wb") as file:
                    file.truncate(item.size)
            count += len(missing)
            for start in missing:
                self._parts.put((index, start))
            if not missing:
                self._close(index)
        return count

    def _path(self, item: Item) -> str:
        return f"{self._journal.files}/{item.path}"

    def _watch(self) -> None:
        if self._failure is None:
            try:
                self._progress.look()
            except FetchError as error:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
        self._stop.set()

    def _work(self) -> None:
        hands = _Hands(self._open_session())
        try:
            while not self._stop.is_set():
                index, start = self._parts.get_nowait()
                self._bring(hands, index, start)
        except queue.Empty:
            return
        except Exception as error:
            self._fail(error)
        finally:
            hands.close()

    def _bring(self, hands: _Hands, index: int, start: int) -> None:
        item = self._items[index]
        length = _length(item, start)
        cursor, patience = _Cursor(start, None if length is None else start + length), Patience()
        out = os.open(self._path(item), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            while not self._stop.is_set():
                before = cursor.at
                try:
                    self._stream(hands, index, cursor, out)
                    break
                except Transient as error:
                    if not item.ranged:
                        self._progress.add(start - cursor.at)
                        cursor.at = before = start
                    if cursor.at > before:
                        patience.renew()
                    self._finals.pop(index, None)
                    patience.wait(error)
            if self._stop.is_set():
                return
            if length is None:
                os.ftruncate(out, cursor.at)
        finally:
            os.close(out)
        with self._lock:
            self._left[index] -= 1
            is_whole = not self._left[index]
        if is_whole:
            self._close(index)
            self._progress.whole()
        self._journal.add(index, start)

    def _close(self, index: int) -> None:
        """All parts of a file are there: is it the right one?"""
        item = self._items[index]
        if digest := item.digest or self._digests.get(index):
            verify(Path(self._path(item)), digest, item.path)

    def _stream(self, hands: _Hands, index: int, cursor: _Cursor, out: int) -> None:
        item = self._items[index]
        if cursor.end == cursor.at and item.size == 0:
            return
        more = {}
        if item.ranged and cursor.end is not None and (cursor.at or cursor.end != item.size):
            more["Range"] = f"bytes={cursor.at}-{cursor.end - 1}"
        if item.version and not item.version.startswith("W/"):
            more["If-Match"] = f'"{bare(item.version)}"'
        if item.modified:
            more["If-Unmodified-Since"] = item.modified
        final = self._finals.get(index)
        request = final or item.request()
        answer, asked = hands.session.get(request, more)
        try:
            if asked is not request:
                self._finals[index] = asked
            _judge(answer, item, cursor, asked.url, is_final=final is not None)
            if item.digest is None and (found := announced(answer.headers)) is not None:
                self._digests[index] = found
            self._copy(hands, answer, item, cursor, out)
        except (OSError, BrokenAnswer) as error:
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            raise Transient(f"'{item.path}' broke off at {size(cursor.at)}: {describe(error)}") from error
        finally:
            hands.session.drop(answer)

    def _copy(self, hands: _Hands, answer: Answer, item: Item, cursor: _Cursor, out: int) -> None:
        """The body to its place in the file: by the kernel alone where it can, else a buffer at a time."""
        filled, buffer = 0, hands.buffer
        try:
            while not self._stop.is_set() and (room := _room(cursor, buffer, filled)):
                if hands.pipe.works and (source := answer.source) >= 0:
                    filled = _flush(out, buffer, filled, cursor)
                    count = hands.pipe.move(source, out, cursor.at, min(answer.length or 0, PART))
                    answer.took(count)
                    cursor.at += count
                    self._progress.add(count)
                    continue
                count = answer.read_into(room)
                if not count:
                    break
                filled += count
                self._progress.add(count)
                if cursor.end is None:
                    within(self._limits, item.path, cursor.at + filled)
                    self._check_total()
                if filled == len(buffer):
                    filled = _flush(out, buffer, filled, cursor)
        finally:
            _flush(out, buffer, filled, cursor)
        if cursor.end is not None and cursor.at < cursor.end and not self._stop.is_set():
            raise Transient(f"'{item.path}' was cut at {size(cursor.at)}")

    def _check_total(self) -> None:
        if self._progress.done > self._limits.max_bytes:
            raise FetchError(
                Why.LIMIT, f"the model has more than {size(self._limits.max_bytes)}, which is the limit here"
            )


_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


def _room(cursor: _Cursor, buffer: memoryview, filled: int) -> memoryview:
    """Where what comes next goes; empty: nothing more is to come."""
    return buffer[filled:] if cursor.end is None else buffer[filled : cursor.end - cursor.at]


def _flush(out: int, buffer: memoryview, filled: int, cursor: _Cursor) -> int:
    """Write what is in the buffer, which is then empty."""
    data = buffer[:filled]
    while data:
        count = os.pwrite(out, data, cursor.at)
        data = data[count:]
        cursor.at += count
    return 0


def _judge(answer: Answer, item: Item, cursor: _Cursor, url: str, *, is_final: bool) -> None:
    """Raises for an answer that is not the part that was asked for, of the version that was listed."""
    check_up(answer, url)
    if answer.status in (404, 410, 412, 416):
        raise FetchError(Why.CHANGED, f"'{item.path}' was replaced or removed while it was downloaded")
    if answer.status in (401, 403) and is_final:
        raise Transient(f"the address of '{item.path}' has expired")
    check(answer.status, url)
    found = answer.headers.get("etag")
    is_other = item.modified and answer.headers.get("last-modified") != item.modified
    if is_other or (item.version and found and bare(found) != bare(item.version)):
        raise FetchError(Why.CHANGED, f"'{item.path}' was replaced while it was downloaded")
    if answer.status == 206:
        parts = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)", answer.headers.get("content-range", ""))
        if parts is None or int(parts[1]) != cursor.at:
            raise FetchError(Why.STORE, f"the store answers with another part of '{item.path}' than was asked for")
        if item.size is not None and parts[3] not in ("*", str(item.size)):
            raise FetchError(Why.CHANGED, f"'{item.path}' has another size than before: it was replaced meanwhile")
    elif cursor.at:
        raise FetchError(Why.STORE, f"the store does not serve parts of '{item.path}'")
    elif answer.length is not None and item.size is not None and answer.length != item.size:
        raise FetchError(Why.CHANGED, f"'{item.path}' has another size than before: it was replaced meanwhile")


def bare(version: str) -> str:
    """An ETag without its quotes: stores write it with them in one place and without in the other."""
    return version.removeprefix("W/").strip('"')


def _length(item: Item, start: int) -> int | None:
    """Of the part that starts there."""
    if item.size is None:
        return None
    return min(PART, item.size - start) if item.ranged else item.size
