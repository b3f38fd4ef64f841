"""What everybody who uses the cluster relies on: quick when it runs, one run's at a time, and it keeps books."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import Cluster, choose, hold
from e2e.cluster.lock import BUSY, TOKEN
from e2e.cluster.paths import REPO
from e2e.cluster.processes import running


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    provider = choose()
    provider.up()
    return provider.cluster()


def _tool(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "e2e.cluster", *arguments]
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)


def test_up_of_a_running_cluster_takes_about_a_second(cluster: Cluster) -> None:
    """The quickest of three, on a machine that does other things too."""

    def took_s() -> float:
        began = time.monotonic()
        done = _tool("up")
        assert (done.returncode, done.stdout.strip()) == (0, str(cluster.kubeconfig))
        return time.monotonic() - began

    assert any(took_s() < 5 for _ in range(3))


def test_a_second_run_is_told_who_has_the_cluster_and_goes() -> None:
    with hold("a test of the lock"):
        strangers = {name: value for name, value in os.environ.items() if name != TOKEN}
        done = _tool("down", env=strangers)
    assert done.returncode == BUSY
    holder = re.search(r"in use by process (\d+) \(", done.stderr)
    assert holder is not None, done.stderr
    assert int(holder[1]) in (os.getpid(), os.getppid())  # `make test` holds it for us


def test_the_holder_and_its_children_may_take_the_lock_again() -> None:
    script = "from e2e.cluster import hold\nwith hold('a child'): print('mine')"
    with hold("a test of the lock"), hold("the same once more"):
        child = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert child.stdout == "mine\n"


def test_a_person_reading_a_log_is_none_of_the_clusters_processes(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    log.touch()
    with subprocess.Popen(["tail", "--follow", log]) as reader:
        try:
            assert running(tmp_path) == {}
        finally:
            reader.kill()


def test_the_audit_log_tells_who_wrote_what_with_which_field_manager(cluster: Cluster) -> None:
    if not cluster.audit_log:
        pytest.skip("somebody else's cluster shows no audit log")
    name = f"audit-{time.time_ns()}"
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}})
    kubectl = (cluster.kubectl, "--kubeconfig", cluster.kubeconfig, "--namespace", "default")
    apply = (*kubectl, "apply", "--server-side", "--field-manager=bookkeeper", "--filename=-")
    begin = cluster.audit_log.stat().st_size
    subprocess.run(apply, input=body, text=True, capture_output=True, check=True)
    subprocess.run([*kubectl, "delete", "configmap", name], capture_output=True, check=True)
    seen = _events_by_verb(cluster.audit_log, begin, name, last="delete")
    assert seen["patch"]["user"]["username"]
    assert seen["patch"]["responseStatus"]["code"] == 201
    assert "fieldManager=bookkeeper" in seen["patch"]["requestURI"]
    assert seen["delete"]["objectRef"]["name"] == name


def _events_by_verb(log: Path, begin: int, name: str, *, last: str) -> dict[str, Any]:
    """The audit events about an object, in what came after the first `begin` bytes of the log, which is long.

    A client may have its answer a moment before the event is written.
    """
    deadline = time.monotonic() + 30
    while True:
        with log.open("rb") as lines:
            lines.seek(begin)
            events = [json.loads(line) for line in lines if name.encode() in line and line.endswith(b"}\n")]
        seen = {event["verb"]: event for event in events}
        if last in seen or time.monotonic() > deadline:
            return seen
        time.sleep(0.1)
