"""What an autoscaler sees, and the interface that all of them stand behind."""

from dataclasses import dataclass
from typing import Protocol

from slipway.decide.scaling.types import Launch


@dataclass(slots=True)
class Sight:
    """The service at one moment. Counters grow from the begin."""

    now: float
    asked: int
    ready: int
    loading: tuple[float, ...]
    """Ages."""
    in_flight: int
    queued: int
    area: float
    """In-flight requests over time: its growth over a second is their mean."""
    arrived: int
    judged: int
    late: int
    answered: int
    busy_s: float
    tail: float | None
    failed: int
    missing: str
    launches: tuple[Launch, ...]
    metrics: str = ""
    """What is wrong with the metrics now: empty, error, stale, half, or nothing."""

    @property
    def running(self) -> int:
        return self.in_flight - self.queued


class Policy(Protocol):
    """Asked every second."""

    def decide(self, seen: Sight) -> int:
        """Replicas from now on."""
        ...
