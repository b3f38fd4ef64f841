"""Whether the machine was ours alone: what else ran makes every time longer, and a reader has to know."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)  # of /proc/stat's first line: idle, iowait


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since boot, and when that was."""

    at: float
    everybody_s: float
    ours_s: float

    @classmethod
    def now(cls) -> "Usage":
        """Ours are this process and its children."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        busy = sum(ticks) - sum(ticks[field] for field in _IDLE)
        return cls(time.monotonic(), busy / _TICKS, sum(map(_cpu_s, _ours())))

    def others_pct(self, before: "Usage") -> float:
        """Share of all cores that others used since `before`."""
        others_s = (self.everybody_s - before.everybody_s) - (self.ours_s - before.ours_s)
        return max(0.0, others_s / (self.at - before.at) / (os.cpu_count() or 1) * 100)


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process until now."""
    return _cpu_s(_fields(pid))


def precise_cpu_s(pid: int) -> float:
    """The same, to the microsecond, of the threads that are there now."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _ours() -> list[list[str]]:
    found = [_fields(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [fields for fields in found if fields and int(fields[1]) == os.getpid()] + [_fields(os.getpid())]


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat from the third, the state; empty when the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(fields: list[str]) -> float:
    return (int(fields[11]) + int(fields[12])) / _TICKS
