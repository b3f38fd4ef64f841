"""Users of a service while something happens to it; `traffic_client.py` is what runs, in a pod of the namespace."""

import json
import math
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.support.site import Site
from e2e.support.wait import until

SCRIPT = Path(__file__).with_name("traffic_client.py")
SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
"""By WebSocket kubectl cannot end its standard input later than a minute after it wrote there: the end of the traffic
is never heard of, and a minute later the connection breaks."""


class Traffic:
    """`sums` is the newest line of the client."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.sums: dict[str, Any] = {"sent": 0, "answered": 0, "failed": 0, "failures": [], "offsets": {}, "recent": []}
        self.sums |= {"arms": {}, "seconds": {}, "times_ms": []}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.sums = json.loads(line)

    def go(self, rate: float, within_s: float = 0) -> None:
        """From now on so many requests a second; with `within_s` evenly more or fewer until then."""
        assert self._process.stdin
        self._process.stdin.write(f"{rate:g} {within_s:g}\n")
        self._process.stdin.flush()

    def in_time(self, begin: float = 0, end: float = math.inf) -> tuple[int, int]:
        """Of the requests sent in those epoch seconds: how many were answered, and how many within the limit."""
        chosen = [counts for second, counts in self.sums["seconds"].items() if begin <= int(second) < end]
        answered = sum(counts[0] for counts in chosen)
        return answered, answered - sum(counts[1] for counts in chosen)

    def late(self, begin: float) -> str:
        """When, in seconds after `begin`, how many of them were not in time."""
        counts = sorted((int(second), late) for second, (_, late) in self.sums["seconds"].items() if late)
        return ", ".join(f"{second - begin:.0f} s: {late}" for second, late in counts)

    def recent_ms(self) -> float:
        """The longest that one of the last 50 answers took."""
        return max(self.sums["times_ms"], default=math.inf)

    def wait_answered(self, more: int, within_s: float = 60) -> None:
        """Patient: the client may have just been started, which takes seconds of a busy machine."""
        goal = self.sums["answered"] + more
        until(f"{goal} answers", lambda: self.sums["answered"] >= goal, within_s=within_s, seen=lambda: self.sums)

    def wait_only(self, offset: int, within_s: float = 60) -> None:
        """Until the last 50 answers are all of one version of the model."""
        until(
            f"only answers with {offset}",
            lambda: self.sums["recent"] == [str(offset)] * 50,
            within_s=within_s,
            seen=lambda: self.sums,
        )

    def arm(self, revision: str) -> dict[str, Any]:
        """What a revision has done: `answered`, `failed`, and when the `first` and the `last` of them was sent."""
        found: dict[str, Any] = {"answered": 0, "failed": 0, "first": 0.0, "last": 0.0}
        return found | dict(self.sums["arms"].get(revision, {}))

    def stop(self) -> None:
        errors = self._end()
        assert self._process.returncode == 0, (
            f"the client of the scenario itself failed:\n{errors[:1000]}\n...\n{errors[-1000:]}"
        )

    def _end(self) -> str:
        assert self._process.stdin
        assert self._process.stderr
        self._process.stdin.close()
        errors = self._process.stderr.read()
        self._process.wait(30)
        self._reader.join(5)
        return errors

    def assert_unharmed(self) -> None:
        """Every request sent so far was answered, and rightly."""
        assert self.sums["failed"] == 0, f"{self.sums['failed']} of {self.sums['sent']} failed: {self.sums['failures']}"
        assert self.sums["answered"] > 0

    def assert_unharmed_but_by(self, *revisions: str) -> None:
        """Every request that failed was one that these revisions were asked."""
        others = {name: arm for name, arm in self.sums["arms"].items() if arm["failed"] and name not in revisions}
        assert not others, f"failed elsewhere: {others}\n{self.sums['failures']}"
        assert self.sums["answered"] > 0


@contextmanager
def traffic(
    site: Site,
    namespace: str,
    host: str,
    *,
    pod: str = "client",
    rate: float = 50,
    through: str = "",
    kinds: str = "",
    limit_s: float = 0,
) -> Iterator[Traffic]:
    """Requests at `rate` a second to `host` until the context ends, sent from a pod that is there already.

    `through` is ADDRESS:PORT of a gateway where it is not the one that the name leads to; `kinds` some of the client's;
    with `limit_s` it is told which answers took longer.
    """
    kubectl = [str(site.cluster.kubectl), "--kubeconfig", str(site.cluster.kubeconfig)]
    script = ["python", "-c", SCRIPT.read_text(), host, host.partition(".")[0], str(rate), through, kinds, str(limit_s)]
    with subprocess.Popen(
        [*kubectl, "exec", "--namespace", namespace, "--stdin", pod, "--", *script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | SPDY,
    ) as process:
        flow = Traffic(process)
        try:
            yield flow
            flow.stop()
        finally:
            if process.poll() is None:
                process.kill()
