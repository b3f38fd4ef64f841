"""The cgroups that all pods of the local node are in, so that whatever runs in them can be ended for certain."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from .config import CGROUP
from .shell import ClusterError


def create() -> None:
    """Our cgroup in every hierarchy; kubelet wants to find it."""
    for root in _roots():
        root.mkdir(exist_ok=True)
        if root.parent.joinpath("cpuset.cpus").exists():  # version 1: an empty set admits no process
            for name in ("cpuset.cpus", "cpuset.mems"):
                (root / name).write_text((root.parent / name).read_text())


def kill() -> None:
    """Kill what runs in them and return when it is gone; all of it are containers, and nobody waits for them."""
    deadline = time.monotonic() + 10
    while pids := {pid for root in _roots() for folder, _, _ in os.walk(root) for pid in _members(Path(folder))}:
        if time.monotonic() > deadline:
            raise ClusterError(f"processes of pods do not end: {' '.join(sorted(pids))}")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)


def remove() -> None:
    for root in _roots():
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        if root.is_dir():
            root.rmdir()


def _roots() -> list[Path]:
    """Our cgroup in each hierarchy: one under version 2, one per controller under version 1."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(mount[1]) / CGROUP for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def _members(group: Path) -> list[str]:
    try:
        return (group / "cgroup.procs").read_text().split()
    except OSError:  # it went in between
        return []
