"""How many CPUs this container may use: its cgroup's quota (v1 and v2) and its affinity, whichever is less."""

import os
from collections.abc import Iterator
from pathlib import Path


def cpu_limit(root: Path = Path("/")) -> int:
    """Whole CPUs, at least 1. A quota of 1.5 gives 1: a thread too many is throttled for most of each period."""
    affinity = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(root) if (quota := _quota(folder)) is not None]
    return max(1, int(min([affinity, *quotas])))


def _folders(root: Path) -> Iterator[Path]:
    """Our cgroup and the ones around it, in either hierarchy; a limit on any of them binds us."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    mounts = root / "sys/fs/cgroup"
    for line in ["0::/", ":cpu:/", ":cpu,cpuacct:/", *lines]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        yield from (mounts / controllers / folder for folder in (own, *own.parents))


def _quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # v2
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()  # v1
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
