"""Waiting for the world: poll with a deadline, and say at the end what was seen instead."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.15


def until(what: str, probe: Callable[[], T | None], *, within_s: float, seen: Callable[[], object] = lambda: "") -> T:
    """The first truthy answer of `probe`; AssertionError with `what` and `seen()` when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        if answer := probe():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}\nseen: {seen()}")
        time.sleep(POLL_S)
