"""How far a download is: a line for the log now and then, and the judge of a store that is too slow.

Who asks is told the same by `board.py`.
"""

import sys
import threading
import time

from slipway_runtime.fetch.failures import FetchError, Why, size

EVERY_S = 2.0
SLOW_AFTER_S = 10.0
FILE_WORTH = 4 << 10
"""Bytes that a whole file counts for beside its own, where it is judged whether a store is too slow."""


class Progress:
    """Threads add to it; one looks at it."""

    def __init__(self, uri: str, total: int | None, min_bytes_per_second: int) -> None:
        self._uri, self._total, self._least = uri, total, min_bytes_per_second
        self._lock = threading.Lock()
        self._done = self._had = self._files = 0
        self._started = self._told = time.monotonic()
        self._window = (self._started, 0)
        """Since when, and what was done by then, that the present speed is judged by."""

    @property
    def done(self) -> int:
        return self._done

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count

    def whole(self) -> None:
        """A file is there: of thousands of small ones a store is asked for one by one, which is not slowness."""
        with self._lock:
            self._files += 1

    def had(self, count: int) -> None:
        """What an earlier try has left: done, and no measure of speed."""
        with self._lock:
            self._done += count
            self._had += count
            self._window = (time.monotonic(), self._worth())

    def look(self) -> None:
        """Tell, if it is time to.

        Raises:
            FetchError: the store brings less than it must.
        """
        now = time.monotonic()
        if now - self._told >= EVERY_S:
            self._told = now
            say(f"{self._uri}: {self.line(now)}")
        since, had = self._window
        if now - since >= SLOW_AFTER_S:
            speed = (self._worth() - had) / (now - since)
            self._window = (now, self._worth())
            if speed < self._least:
                least = f"less than the {size(self._least)}/s needed here"
                words = f"the store of '{self._uri}' brings {size(speed)}/s, {least}"
                raise FetchError(Why.SLOW, f"{words}; {self.line(now)}")

    def facts(self, now: float) -> dict[str, int | None]:
        return {"done": self._done, "total": self._total, "bytesPerSecond": int(self._speed(now))}

    def _worth(self) -> int:
        return self._done + self._files * FILE_WORTH

    def _speed(self, now: float) -> float:
        return (self._done - self._had) / max(now - self._started, 0.001)

    def line(self, now: float) -> str:
        speed = self._speed(now)
        if not self._total:
            return f"{size(self._done)}, {size(speed)}/s"
        left_s = (self._total - self._done) / speed if speed else float("inf")
        eta = f", {left_s:.0f} s left" if left_s < 1e6 else ""
        return (
            f"{100 * self._done / self._total:.0f} %, {size(self._done)} of {size(self._total)}, {size(speed)}/s{eta}"
        )


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
