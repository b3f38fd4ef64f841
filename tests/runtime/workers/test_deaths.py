"""`--workers 2`: starting, and what becomes of the server when a worker dies or hangs."""

import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.fuzz import FULL
from tests.runtime.load import BODY, get, until
from tests.runtime.workers.two_workers import Both, Launch, add_model, children, counted, died, lines, opened, two

pytestmark = pytest.mark.timeout(3600 if FULL else 300)
FORKING = """
import os, signal, warnings

class Model:
    def load(self, context):
        warnings.simplefilter("ignore")
        if os.fork() == 0:
            os.closerange(0, 3)
            signal.alarm(300)  # also when the test fails
            (context.folder / "hold").read_text()
            os._exit(0)

    def infer(self, batch):
        return {"y": 2 * batch["x"] + 1}
"""


def test_it_is_live_at_once_and_ready_when_every_worker_is(launch: Launch, repository: Path) -> None:
    gate = repository / "hello" / "gate"
    os.mkfifo(gate)
    server = launch(*two(repository))
    server.wait_log("the worker is ready")
    for _ in range(4):  # whoever answers
        assert get(server, "/v2/health/live") == 200
        assert get(server, "/v2/health/ready") == 503
        assert get(server, "/v2/models/hello/ready") in (404, 503)
    gate.write_text("go")
    server.wait_ready()
    for _ in range(4):
        assert get(server, "/v2/health/ready") == get(server, "/v2/models/hello/ready") == 200
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("config", "code", "sentence"),
    [
        pytest.param({"nonsense": 1}, 65, "nonsense", id="a bad config"),
        pytest.param({"sequence_batching": {}}, 65, "sequence_batching needs --workers 1", id="sequences"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_server_with_its_sentence(
    launch: Launch, tmp_path: Path, config: dict[str, Any], code: int, sentence: str
) -> None:
    add_model(tmp_path, "bad", **config)
    server = launch(*two(tmp_path))
    assert server.wait() == code, server.lines
    assert sentence in server.lines[-1]
    assert not any("Traceback" in line for line in server.lines)


def test_a_worker_that_dies_is_started_again_and_the_other_goes_on(launch: Launch, repository: Path) -> None:
    add_model(repository, "other")
    only = ["--load-models", "hello", "--model-control", "explicit", "--debug", "true"]
    server = launch(*two(repository, *only)).wait_ready()
    both = Both(server)
    for index in (0, 1, 1):
        both.one(index, "POST", "/v2/models/hello/infer", BODY)
    assert both.one(0, "POST", "/v2/repository/models/other/load", {})[0] == 200
    counted(both.one(0, "GET", "/metrics")[1], "nv_inference_count")
    os.kill(both.pids[1], signal.SIGKILL)
    server.wait_log("a worker died")
    for _ in range(20):  # nobody waits for the one that is gone
        assert get(server, "/v2/health/ready") == 200
    until(lambda: lines(server, "the worker is ready") == 3)
    both.close()
    again = Both(server)
    assert again.pids[1 - again.pids.index(both.pids[0])] not in both.pids
    assert [status for status, _ in again.each("GET", "/v2/models/other/ready")] == [200, 200]
    assert [counted(text, "nv_inference_count") for _, text in again.each("GET", "/metrics")] == [3, 3]
    again.close()
    assert server.stop() == 0


def test_a_worker_that_dies_is_missed_though_a_child_of_it_lives_on(launch: Launch, tmp_path: Path) -> None:
    folder = add_model(tmp_path, "hello")
    (folder / "model.py").write_text(FORKING)
    os.mkfifo(folder / "hold")
    server = launch(*two(tmp_path)).wait_ready()
    os.kill(children(server)[0], signal.SIGKILL)
    until(lambda: lines(server, "the worker is ready") == 3)
    server.terminate()
    assert server.wait(20) == 0, server.lines
    os.close(os.open(folder / "hold", os.O_RDWR))  # the children end


def test_a_model_that_was_unloaded_and_deleted_is_not_missed_by_a_worker_that_comes_again(
    launch: Launch, repository: Path
) -> None:
    add_model(repository, "other")
    server = launch(*two(repository, "--load-models", "hello", "--model-control", "explicit", "--debug", "true"))
    both = Both(server.wait_ready())
    assert both.one(0, "POST", "/v2/repository/models/other/load", {})[0] == 200
    assert both.one(0, "POST", "/v2/repository/models/hello/unload", {})[0] == 200
    shutil.rmtree(repository / "hello")
    os.kill(both.pids[1], signal.SIGKILL)
    until(lambda: lines(server, "the worker is ready") == 3)
    both.close()
    again = Both(server)
    assert [status for status, _ in again.each("GET", "/v2/models/other/ready")] == [200, 200]
    assert [status for status, _ in again.each("GET", "/v2/models/hello/ready")] == [503, 503]
    assert [status for status, _ in again.each("POST", "/v2/repository/models/hello/unload", {})] == [200, 200]
    again.close()
    assert server.stop() == 0


def test_the_server_is_ready_by_its_figures_too_while_a_worker_is_started_again(
    launch: Launch, repository: Path
) -> None:
    server = launch(*two(repository, "--debug", "true")).wait_ready()
    both = Both(server)
    (repository / "hello" / "first").unlink()
    os.mkfifo(gate := repository / "hello" / "gate")
    os.kill(both.pids[1], signal.SIGKILL)
    writer: list[int] = []
    until(lambda: opened(gate, writer))
    text = both.one(0, "GET", "/metrics")[1]
    assert both.one(0, "GET", "/v2/health/ready")[0] == 200
    assert "\nslipway_runtime_ready 1\n" in text
    os.close(writer[0])
    until(lambda: lines(server, "the worker is ready") == 3)
    both.close()
    assert server.stop() == 0


def test_a_worker_for_which_there_is_no_room_is_started_when_there_is(launch: Launch, repository: Path) -> None:
    server = launch(*two(repository)).wait_ready()
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (3, 1024))
    os.kill(children(server)[0], signal.SIGKILL)
    failed = server.wait_log("a worker could not be started")
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (1024, 1024))
    assert before[0] >= 3
    assert failed["reason"] == "could not be started: Too many open files"
    until(lambda: lines(server, "the worker is ready") == 3)
    assert server.stop() == 0


@pytest.mark.skipif(not FULL, reason="15 seconds of patience; its parts are tested without")
def test_a_worker_that_hangs_is_killed_and_holds_up_no_change(launch: Launch, repository: Path) -> None:
    server = launch(*two(repository, "--model-control", "explicit", "--debug", "true")).wait_ready()
    both = Both(server)
    os.kill(both.pids[1], signal.SIGSTOP)
    assert both.one(0, "POST", "/v2/repository/models/hello/load", {})[0] == 200
    until(lambda: lines(server, "the worker is ready") == 3)
    assert lines(server, "a worker is killed") == 1
    both.close()
    assert server.stop() == 0


def test_when_every_worker_is_gone_the_server_ends(launch: Launch, repository: Path) -> None:
    server = launch(*two(repository)).wait_ready()
    handles = [os.pidfd_open(pid) for pid in children(server)]
    os.kill(server.pid, signal.SIGSTOP)  # so that it finds both gone at once
    for handle in handles:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        assert died(handle)
        os.close(handle)
    os.kill(server.pid, signal.SIGCONT)
    assert server.wait() == 1
    assert "every worker is gone: the last of them ended by signal 9" in server.lines[-1]


def test_a_worker_that_cannot_be_started_again_makes_the_server_not_live(launch: Launch, repository: Path) -> None:
    server = launch(*two(repository)).wait_ready()
    (repository / "hello" / "model.py").unlink()
    os.kill(children(server)[0], signal.SIGKILL)
    server.wait_log("a worker cannot be started any more")
    assert get(server, "/v2/health/live") == get(server, "/v2/health/ready") == 503
    assert server.stop() == 0


def test_workers_do_not_outlive_a_supervisor_that_is_killed(launch: Launch, repository: Path) -> None:
    server = launch(*two(repository)).wait_ready()
    handles = [os.pidfd_open(pid) for pid in children(server)]
    server.kill()
    assert len(handles) == 2
    assert all(died(handle) for handle in handles)
    for handle in handles:
        os.close(handle)
