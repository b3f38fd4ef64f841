"""One page of memory that all processes of a server see: which worker is in which state, and how much each has to do.

Every word is written by one process at a time and read whole, so nobody waits for anybody: a request costs no message.

    seat of a worker   | state | connections | waiting | running | utilization in millionths |
    supervisor writes    state of who is gone               the worker itself writes all of its own
"""

import mmap
import os
from enum import IntEnum

from slipway_runtime.share import Share

_WORDS = 5
_STATE, _CONNECTIONS, _WAITING, _RUNNING, _UTILIZATION = range(_WORDS)
_MILLION = 1_000_000


class Seat(IntEnum):
    """What a worker is to the others."""

    LOADING = 0  # for the first time: the server is not ready
    READY = 1
    PARTLY = 2  # a model that was asked for at the start could not be loaded
    AWAY = 3  # it has died and is started again; the others do its work
    DRAINING = 4
    LOST = 5  # it cannot be started any more: the server is not live


class Page:
    """`fd` None makes one; otherwise it is that of another process, inherited."""

    def __init__(self, workers: int, fd: int | None = None) -> None:
        self.fd = os.memfd_create("slipway-workers") if fd is None else fd
        self._workers = range(workers)
        size = 8 * _WORDS * workers
        if fd is None:
            os.ftruncate(self.fd, size)
        self._words = memoryview(mmap.mmap(self.fd, size)).cast("q")

    def seats(self) -> list[Seat]:
        return [Seat(self._words[_WORDS * worker + _STATE]) for worker in self._workers]

    def sit(self, worker: int, seat: Seat) -> None:
        self._words[_WORDS * worker + _STATE] = seat

    def connected(self, worker: int, count: int) -> None:
        self._words[_WORDS * worker + _CONNECTIONS] = count

    def has_fewest(self, worker: int) -> bool:
        """Whether no other worker that answers has fewer connections."""
        words, own = self._words, self._words[_WORDS * worker + _CONNECTIONS]
        return all(
            words[_WORDS * other + _CONNECTIONS] >= own or words[_WORDS * other + _STATE] not in _ANSWERING
            for other in self._workers
        )

    def busy(self, worker: int, share: Share) -> None:
        words, start = self._words, _WORDS * worker
        words[start + _WAITING], words[start + _RUNNING] = share.waiting, share.running
        words[start + _UTILIZATION] = int(share.utilization * _MILLION)

    def shares(self) -> list[Share]:
        words = self._words
        return [
            Share(words[start + _WAITING], words[start + _RUNNING], words[start + _UTILIZATION] / _MILLION)
            for start in range(0, _WORDS * len(self._workers), _WORDS)
        ]

    def leave(self, worker: int, seat: Seat) -> None:
        """It is gone, with all that it had."""
        self.sit(worker, seat)
        self.connected(worker, 0)
        self.busy(worker, Share())


_ANSWERING = (Seat.LOADING, Seat.READY, Seat.PARTLY)
