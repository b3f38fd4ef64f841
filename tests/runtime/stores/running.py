"""The fetcher as a process of its own, as the init container runs it: how it ends, what it says, what it takes."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RSS_MAX_MIB = 150
# Kubernetes' own place for last words is not this machine's to write to. What the kernel tells of a child's memory by
# wait4 has its parent's in it, from before the child was another program: so it looks itself.
_PROGRAM = """
import os, re, runpy, sys
from pathlib import Path
from slipway_runtime import errors
words = errors.TERMINATION_LOG = Path(sys.argv.pop(1))
def leave(code, leave=os._exit):
    words.with_suffix(".peak").write_text(re.search("VmHWM:.*?([0-9]+) kB", Path("/proc/self/status").read_text())[1])
    leave(code)
os._exit = leave
runpy.run_module("slipway_runtime.fetch", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    reason: str
    message: str
    log: str
    ended_at: float
    rss_mib: float


class Fetching:
    """One run, begun."""

    def __init__(
        self,
        uri: str,
        dest: Path,
        settings: Mapping[str, Any],
        secret: Mapping[str, str],
        under: tuple[str | Path, ...] = (),
    ) -> None:
        """`under`: a program that runs it."""
        self._words = dest.with_name(f"{dest.name}.words")
        self._words.write_text("")
        env = {**os.environ, "SLIPWAY_FETCH": json.dumps(settings), **secret}
        command = (*under, sys.executable, "-c", _PROGRAM, self._words, uri, dest)
        self._child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def kill(self) -> None:
        self._child.kill()

    def ended(self) -> Outcome:
        """Within a minute, or it is ended."""
        overdue = threading.Timer(60 if not os.environ.get("SLIPWAY_FULL") else 600, self._child.kill)
        overdue.start()
        try:
            assert self._child.stderr
            with self._child.stderr as said:
                log = said.read().decode(errors="replace")
            code = self._child.wait()
        finally:
            overdue.cancel()
        ended_at = time.monotonic()
        told = json.loads(self._words.read_text() or "{}")
        peak = self._words.with_suffix(".peak")
        rss_mib = int(peak.read_text()) / 1024 if code >= 0 else 0.0
        return Outcome(code, told.get("reason", ""), told.get("message", ""), log, ended_at, rss_mib)
