"""How long a request takes in a replica, and what its service promises."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """A request of size 1 takes `base_s + each_s * n` seconds when it is the n-th at work in a replica of `slots`."""

    base_s: float
    each_s: float
    slots: int
    wait_s: float | None = None
    """The objective: no longer than this until a replica begins."""
    latency_s: float | None = None
    """The objective: no longer than this until the answer."""
    deadline_s: float = 60.0
    """When clients give up waiting."""

    def full_s(self) -> float:
        """Of a request of size 1 in a full replica."""
        return self.base_s + self.each_s * self.slots


LANGUAGE = ServiceModel(base_s=0.02, each_s=0.0012, slots=16, wait_s=2.0)
"""Size: tokens written plus 0.02 of the tokens read."""
VISION = ServiceModel(base_s=1.6, each_s=0.2, slots=8, latency_s=10.0)
