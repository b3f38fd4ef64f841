"""`--workers 2`: the end, which loses nothing."""

import http.client
import os
import re
import socket
import time
from pathlib import Path

import pytest

from slipway_runtime.signals import ONE_WISH_S
from tests.runtime.fuzz import FULL
from tests.runtime.load import BODY, Load, get, until
from tests.runtime.process import ServerProcess
from tests.runtime.workers.two_workers import (
    Launch,
    children,
    lines,
    opened,
    two,
)

pytestmark = pytest.mark.timeout(3600 if FULL else 300)
DRAINS = 50 if FULL else 3


def test_sigterm_in_full_load_loses_nothing_with_two_workers(launch: Launch, repository: Path) -> None:
    for _ in range(DRAINS):
        server = launch(*two(repository)).wait_ready()
        load = Load(server, clients=4)
        until(lambda load=load: load.counts["ok"] > 200)  # type: ignore[misc]
        server.terminate()
        until(lambda server=server: lines(server, "draining") == 2)  # type: ignore[misc]
        before = load.counts["ok"]
        until(lambda load=load, before=before: load.counts["ok"] > before + 100)  # type: ignore[misc]
        load.stop()
        assert server.wait() == 0, server.lines
        assert set(load.counts) == {"ok"}, load.counts
        (repository / "hello" / "first").unlink()


def test_a_server_told_to_stop_while_workers_start_ends_well(launch: Launch, repository: Path) -> None:
    server = launch(*two(repository))
    server.wait_log("listening")
    assert server.stop() == 0, server.lines


def test_who_connects_when_the_last_worker_only_closes_its_models_is_refused(launch: Launch, repository: Path) -> None:
    os.mkfifo(closing := repository / "hello" / "closing")
    server = launch(*two(repository, "--drain-idle", "0")).wait_ready()
    server.terminate()
    until(lambda: is_refused(server))
    assert lines(server, "stopped") == 0
    until(lambda: let_go(closing) and lines(server, "stopped") == 2)
    assert server.wait() == 0, server.lines


def let_go(fifo: Path) -> bool:
    """Whoever reads it by now."""
    found: list[int] = []
    if opened(fifo, found):
        os.close(found[0])
    return True


def is_refused(server: ServerProcess) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.http_port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_first_sigterm_is_no_second_one_when_the_server_ends_for_another_reason(
    launch: Launch, repository: Path
) -> None:
    os.mkfifo(gate := repository / "hello" / "gate")
    server = launch(*two(repository, "--drain-idle", "1000"))
    server.wait_log("the worker is ready")
    gate.write_text("fail")
    server.wait_log("draining")
    time.sleep(2 * ONE_WISH_S)
    server.terminate()
    time.sleep(2 * ONE_WISH_S)
    assert get(server, "/v2/health/live") == 200
    assert server.stop() == 65
    assert "told to fail" in server.lines[-1]


def test_a_second_sigterm_ends_all_workers_at_once(launch: Launch, repository: Path) -> None:
    server = launch(*two(repository, "--drain-idle", "1000")).wait_ready()
    server.terminate()
    until(lambda: lines(server, "draining") == 2)
    time.sleep(2 * ONE_WISH_S)
    assert server.stop() == 1
    assert server.lines[-1] == "told to stop a second time, ended at once"


def test_a_drain_that_cuts_requests_off_is_told_by_the_exit_code(launch: Launch) -> None:
    limits = ["--concurrency", "1", "--drain-timeout", "0.05"]
    server = launch("--model", "sample://slow", "--workers", "2", *limits).wait_ready()
    has_torch = ["libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in (server.pid, *children(server))]
    assert has_torch == [False, True, True], "the supervisor is to take no more memory than it must"
    # More than they could answer in the time that the signal may take on a busy machine.
    connections = [http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20) for _ in range(20)]
    for connection in connections:
        connection.request("POST", "/v2/models/slow/infer", BODY)
    until(lambda: running(server) > 0)
    assert server.stop() == 1
    assert re.fullmatch(r"stopped with \d+ requests unfinished after 0.05 s \(--drain-timeout\)", server.lines[-1])
    for connection in connections:
        connection.close()


def running(server: ServerProcess) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r"^slipway_runtime_running_requests{.*} (\d+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0
