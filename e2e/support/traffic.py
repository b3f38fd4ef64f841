"""Users of a service while something happens to it; `traffic_client.py` is what runs, in a pod of the namespace."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.support.site import Site
from e2e.support.wait import until

SCRIPT = Path(__file__).with_name("traffic_client.py")


class Traffic:
    """`sums` is the newest line of the client."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.sums: dict[str, Any] = {"sent": 0, "answered": 0, "failed": 0, "failures": [], "offsets": {}, "recent": []}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.sums = json.loads(line)

    def wait_answered(self, more: int, within_s: float = 20) -> None:
        goal = self.sums["answered"] + more
        until(f"{goal} answers", lambda: self.sums["answered"] >= goal, within_s=within_s, seen=lambda: self.sums)

    def wait_only(self, offset: int, within_s: float = 20) -> None:
        """Until the last 50 answers are all of one version of the model."""
        until(
            f"only answers with {offset}",
            lambda: self.sums["recent"] == [str(offset)] * 50,
            within_s=within_s,
            seen=lambda: self.sums,
        )

    def stop(self) -> None:
        errors = self._end()
        assert self._process.returncode == 0, f"the client of the scenario itself failed:\n{errors[-2000:]}"

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


@contextmanager
def traffic(site: Site, namespace: str, host: str, *, pod: str = "client", rate: float = 50) -> Iterator[Traffic]:
    """Requests at `rate` a second to `host` until the context ends, sent from a pod that is there already."""
    kubectl = [str(site.cluster.kubectl), "--kubeconfig", str(site.cluster.kubeconfig)]
    script = ["python", "-c", SCRIPT.read_text(), host, host.partition(".")[0], str(rate)]
    with subprocess.Popen(
        [*kubectl, "exec", "--namespace", namespace, "--stdin", pod, "--", *script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        flow = Traffic(process)
        try:
            yield flow
            flow.stop()
        finally:
            if process.poll() is None:
                process.kill()
