"""What a server, or a part of it, has to do at this moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """`utilization`: 1 = all instances have work."""

    waiting: int = 0
    running: int = 0
    utilization: float = 0.0

    def report(self) -> dict[str, float]:
        """By the names of an ORCA report."""
        return {
            "application_utilization": self.utilization,
            "named_metrics.queue_requests": float(self.waiting),
            "named_metrics.running_requests": float(self.running),
        }
