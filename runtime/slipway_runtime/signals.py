"""Telling one wish of a person from two: signals that come together are one."""

import math
from collections.abc import Callable

ONE_WISH_S = 0.1  # signals closer together are one; nobody presses a key twice in that time


def wish(tell: Callable[[], None], clock: Callable[[], float]) -> Callable[[], None]:
    """What a signal does: `tell`, unless another has just come: `timeout` signals a process, then its group."""
    told_s = -math.inf

    def signalled() -> None:
        nonlocal told_s
        if clock() - told_s >= ONE_WISH_S:
            told_s = clock()
            tell()

    return signalled
