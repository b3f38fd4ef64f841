"""How far a long replay has come, told to whoever waits: nothing in the first two seconds, nothing on the way out."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from slipway.sim.policy import Policy, Sight

QUIET_S = 2.0
EVERY_S, EVERY_LINE_S = 0.5, 15.0
"""On a terminal one line is written anew; in a log each would be a line of its own."""

Told = Callable[[float], None]


class Progress:
    """Of one replay after the other."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._is_live = out.isatty()

    @contextmanager
    def of(self, name: str, until: float) -> Iterator[Told]:
        """Call what comes with the virtual time that is reached."""
        begin = self._clock()
        due = begin + QUIET_S
        shown = 0

        def told(reached: float) -> None:
            nonlocal due, shown
            now = self._clock()
            if now < due:
                return
            due = now + (EVERY_S if self._is_live else EVERY_LINE_S)
            text = f"{name}: {min(100.0, 100 * reached / max(1e-9, until)):.0f} % in {now - begin:.0f} s"
            self._out.write(f"\r{text:<{shown}}" if self._is_live else f"{text}\n")
            self._out.flush()
            shown = len(text)

        try:
            yield told
        finally:
            if shown and self._is_live:
                self._out.write("\r" + " " * shown + "\r")
                self._out.flush()


class Watched:
    """A policy that tells what time it is."""

    def __init__(self, policy: Policy, told: Told) -> None:
        self._policy, self._told = policy, told

    def decide(self, seen: Sight) -> int:
        self._told(seen.now)
        return self._policy.decide(seen)
