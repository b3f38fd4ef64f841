"""Which stores are too slow: by bytes, and by files where these are small."""

import pytest

from slipway_runtime.fetch import progress
from slipway_runtime.fetch.failures import FetchError
from slipway_runtime.fetch.progress import SLOW_AFTER_S, Progress


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def brought(clock: Clock, files: int, each: int) -> None:
    """So many files in the time after which a store is judged."""
    seen = Progress("s3://m", 10**9, 16 << 10)
    for _ in range(files):
        seen.add(each)
        seen.whole()
    clock.now += SLOW_AFTER_S
    seen.look()


def test_a_hundred_small_files_a_second_are_not_slow(clock: Clock) -> None:
    brought(clock, files=100 * int(SLOW_AFTER_S), each=100)


def test_three_files_a_second_of_next_to_nothing_are(clock: Clock) -> None:
    with pytest.raises(FetchError, match=r"brings 12\.3 KiB/s, less than the 16\.0 KiB/s"):
        brought(clock, files=3 * int(SLOW_AFTER_S), each=100)


def test_silence_is(clock: Clock) -> None:
    with pytest.raises(FetchError, match="brings 0 bytes/s"):
        brought(clock, files=0, each=0)
