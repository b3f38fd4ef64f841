"""Until when this process may write: the leader's right, held as an instant of the monotonic clock.

The elector moves the deadline with every renewal of the Lease; the client looks at it right before a write
leaves. Nothing has to notice the loss of the Lease for writes to stop: a process that was paused, or whose
event loop hangs, finds the deadline in the past.

      renewal sent ──────────── renew deadline ───────── lease duration
           │      writes leave        │  writes in flight end │  another may lead
           └──────────────────────────┴───────────────────────┘
"""

import math
import time
from collections.abc import Callable

from slipway.kube.errors import Fenced


class Fence:
    """Closed until `allow_until`. Times are seconds of `clock`, which must not stop while a process is paused."""

    def __init__(self, *, grace_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self._grace_s = clock, grace_s
        self._deadline = -math.inf

    def allow_until(self, deadline: float) -> None:
        self._deadline = deadline

    def close(self) -> None:
        self._deadline = -math.inf

    def check(self, what: str) -> float:
        """Seconds within which a write sent now must have ended: until another process may lead.

        Raises:
            Fenced: this process is not certain to lead; `what` was not sent.
        """
        left_s = self._deadline - self.clock()
        if left_s <= 0:
            raise Fenced(f"{what}: not sent, this process is not certain to be the leader")
        return left_s + self._grace_s
