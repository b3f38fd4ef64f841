"""What came of a replay."""

from dataclasses import dataclass, field

WORST_S = 300.0
REVERSAL_S = 600.0


@dataclass(slots=True)
class Outcome:
    policy: str
    trace: str
    lead_s: float
    requests: int = 0
    late: int = 0
    gpu_hours: float = 0.0
    work_hours: float = 0.0
    """What full replicas would have taken at least."""
    events: int = 0
    reversals: int = 0
    """Changes of direction within ten minutes."""
    latencies: list[float] = field(default_factory=list)
    replicas: list[tuple[float, int, int]] = field(default_factory=list)
    """When, asked for, ready: at each change."""
    windows: dict[int, list[int]] = field(default_factory=dict)
    _last: tuple[float, int] = (float("-inf"), 0)

    @property
    def attainment_pct(self) -> float:
        """Requests that met the objective."""
        return 100.0 * (1 - self.late / self.requests) if self.requests else 100.0

    @property
    def worst_pct(self) -> float:
        """The same in the worst five minutes that had at least 20 requests."""
        shares = [1 - late / number for number, late in self.windows.values() if number >= 20]
        return 100.0 * min(shares, default=1.0)

    def add(self, now: float, latency: float, *, is_late: bool) -> None:
        self.latencies.append(latency)
        window = self.windows.setdefault(int(now // WORST_S), [0, 0])
        window[0] += 1
        window[1] += is_late

    def change(self, now: float, delta: int) -> None:
        self.events += 1
        moment, before = self._last
        if before * delta < 0 and now - moment < REVERSAL_S:
            self.reversals += 1
        self._last = (now, delta)

    def sample(self, now: float, asked: int, ready: int) -> None:
        if not self.replicas or self.replicas[-1][1:] != (asked, ready):
            self.replicas.append((now, asked, ready))
