"""The cluster's processes: found in /proc by program and folder, so there are no pid files that could lie.

A process is ours if its program is one of the cluster's and an argument names the cluster's folder. Somebody's
`less audit.log` has the second but not the first, another cluster's etcd the first but not the second.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from . import network
from .build import COMPONENTS

SHIM = "containerd-shim-runc-v2"
PROGRAMS = frozenset({*COMPONENTS, "containerd", SHIM})


def start(folder: Path, name: str, command: list[str]) -> None:
    """Start a daemon in the node's network namespace, in a session of its own, its output in log/NAME.log."""
    argv = ["setsid", "--fork", *network.enter(folder), *command]
    with (folder / "log" / f"{name}.log").open("wb") as output:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True)


def running(folder: Path) -> dict[str, list[int]]:
    """The ids of the processes that belong to the cluster in `folder`, by program."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (program := _program(int(entry.name), folder)):
            found.setdefault(program, []).append(int(entry.name))
    return found


def _program(pid: int, folder: Path) -> str | None:
    """The name of the cluster's program that this process runs; None for every process that is not ours."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    name = Path(argv[0]).name
    return name if name in PROGRAMS and any(f"{folder}/" in argument for argument in argv[1:]) else None


def stop(folder: Path, names: Iterable[str], grace_s: float) -> None:
    """Ask these programs to end, all at once, and kill what has not ended within `grace_s`."""
    wanted = set(names)
    with _handles(folder, wanted) as handles:
        for handle in handles:
            _signal(handle, signal.SIGTERM)
        if not _ended(handles, grace_s):
            for handle in handles:
                _signal(handle, signal.SIGKILL)
            _ended(handles, 10)


class _handles:
    """Handles on processes: unlike an id, a handle can never come to mean another process."""

    def __init__(self, folder: Path, names: set[str]) -> None:
        self._folder, self._names = folder, names
        self._open: list[int] = []

    def __enter__(self) -> list[int]:
        self._open = list(self._opened())
        return self._open

    def __exit__(self, *_: object) -> None:
        for handle in self._open:
            os.close(handle)

    def _opened(self) -> Iterator[int]:
        for name, pids in running(self._folder).items():
            for pid in pids if name in self._names else ():
                with suppress(ProcessLookupError):
                    handle = os.pidfd_open(pid)
                    if _program(pid, self._folder) == name:  # still the same, now that it cannot change
                        yield handle
                    else:
                        os.close(handle)


def _signal(handle: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _ended(handles: list[int], within_s: float) -> bool:
    poll, open_ = select.poll(), set(handles)
    for handle in handles:
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + within_s
    while open_ and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            open_.discard(handle)
    return not open_
