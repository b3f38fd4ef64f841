"""A server's processes, seen from outside: its whole tree's CPU time and memory, from /proc, and its end."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from e2e.bench.machine import cpu_s

GRACE_S = 1


@contextmanager
def running(
    command: list[str], log: Path, env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, which is asked to end at the end of the context; what of its tree is then left is killed."""
    with log.open("wb") as output:
        argv = ["setpriv", "--pdeathsig", "KILL", *command]
        process = subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process)


def tree(pid: int) -> list[int]:
    """This process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def tree_cpu_s(pid: int) -> dict[int, float]:
    """CPU seconds of each until now; one that is just ending is left out."""
    times: dict[int, float] = {}
    for one in tree(pid):
        with suppress(IndexError):
            times[one] = cpu_s(one)
    return times


def spent_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU seconds between two looks; a process that ended between them is not counted."""
    return sum(now - before.get(pid, 0.0) for pid, now in after.items())


def tree_rss_mib(pid: int) -> float:
    """The sum of what each has resident: pages that processes share are counted in each of them."""
    return sum(rss_mib(one) for one in tree(pid))


def rss_mib(pid: int) -> float:
    try:
        found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    handles = list(_handles(tree(process.pid)))
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
    process.wait()


def _handles(pids: list[int]) -> Iterator[int]:
    """Unlike an id, a handle can never come to mean another process."""
    for pid in pids:
        with suppress(OSError):
            # Python's own cleaner of what others leave in /dev/shm: it ends by itself when it has done so.
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                yield os.pidfd_open(pid)
