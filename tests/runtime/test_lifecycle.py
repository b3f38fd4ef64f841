"""From the first byte to the last: starting, failing to start, draining. Real processes, exact exit codes."""

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.runtime.load import BODY, Load, get, until, waiting
from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

Launch = Callable[..., ServerProcess]
Servers = dict[str, ServerProcess]


def test_it_is_live_before_the_model_is_loaded_and_ready_after(launch: Launch) -> None:
    server = launch("--model", "sample://hello")
    assert get(server, "/v2/health/live") == 200
    assert not any('"ready"' in line for line in server.lines), "the model was there too soon to see anything"
    assert get(server, "/v2/models/hello/ready") in (404, 503)
    server.wait_ready()
    assert get(server, "/v2/models/hello/ready") == 200
    server.terminate()
    assert server.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        pytest.param(
            ["--model", "sample://nope"], 66, "sample 'nope' does not exist; there are: add-sub", id="no sample"
        ),
        pytest.param(["--model", "/gone"], 66, "model path '/gone' does not exist; check --model", id="no path"),
        pytest.param(["--model", "sample://broken-corrupt"], 65, "damaged or cut short", id="cut short"),
        pytest.param(["--model", "s3://b/k"], 78, "is not understood; use sample://NAME", id="address"),
        pytest.param(["--timeout", "-1", "--model", "x"], 78, "--timeout is '-1', must be a number", id="range"),
        pytest.param(
            ["--model", "sample://hello", "--format", "torch-export"], 78, "is torchscript, but the format", id="format"
        ),
    ],
)
def test_a_start_that_fails_says_why_in_its_last_line(
    launch: Launch, arguments: list[str], code: int, sentence: str
) -> None:
    server = launch(*arguments)
    assert server.wait() == code, server.lines
    assert sentence in server.lines[-1]
    assert not any("Traceback" in line for line in server.lines)


def test_a_model_that_fails_its_first_request_is_named(ending: Servers) -> None:
    assert ending["crashes"].wait() == 65
    assert "its first (warm-up) request failed: the model failed: this sample fails on" in ending["crashes"].lines[-1]


def test_a_pickle_is_refused_without_being_loaded(launch: Launch, tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, tmp_path / "model.pt")
    server = launch("--model", str(tmp_path))
    assert server.wait() == 65
    assert "is a pickle made by torch.save" in server.lines[-1]


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port"])
def test_a_port_in_use_is_named(launch: Launch, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = launch("--model", "sample://hello", flag, str(port))
        assert server.wait() == 78
    assert f"port {port}" in server.lines[-1]


def test_told_to_stop_while_loading_it_stops_at_once(launch: Launch) -> None:
    server = launch("--model", "sample://hello")
    server.wait_log("listening")
    server.terminate()
    assert server.wait() == 0


def test_sigterm_under_load_loses_no_request(ending: Servers) -> None:
    server = ending["drains under load"].wait_ready()
    load = Load(server, clients=3)
    until(lambda: load.counts["ok"] > 100)
    server.terminate()
    server.wait_log("draining")
    assert get(server, "/v2/health/ready") == 503
    before = load.counts["ok"]
    until(lambda: load.counts["ok"] > before + 50)  # it goes on answering while it drains
    load.stop()
    assert server.wait() == 0
    assert set(load.counts) == {"ok"}
    assert load.closes > 0
    assert server.wait_log("stopped")["drain_s"] < 10


def test_a_request_that_runs_when_the_signal_comes_is_finished(ending: Servers) -> None:
    server = ending["drains with a queue"].wait_ready()
    connections = [http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20) for _ in range(3)]
    for connection in connections:
        connection.request("POST", "/v2/models/slow/infer", BODY)
    until(lambda: waiting(server) > 0)  # one runs, others wait
    server.terminate()
    for connection in connections:
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["outputs"][0]["data"]) == (200, [1, 2, 3, 4])
        connection.close()
    assert server.wait() == 0


def test_what_does_not_end_in_time_is_cut_off_and_said(ending: Servers) -> None:
    server = ending["drains too long"].wait_ready()
    connections = [http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20) for _ in range(6)]
    for connection in connections:
        connection.request("POST", "/v2/models/slow/infer", BODY)
    until(lambda: waiting(server) > 1)
    server.terminate()
    assert server.wait() == 1
    assert "requests unfinished after 0.05 s (--drain-timeout)" in server.lines[-1]
    for connection in connections:
        connection.close()


def test_a_second_signal_ends_it_at_once(ending: Servers) -> None:
    server = ending["drains for ever"].wait_ready()
    server.terminate()
    server.wait_log("draining")
    server.terminate()
    assert server.wait() == 1
    assert server.lines[-1] == "told to stop a second time, ended at once"


CLOSES = """
class Model:
    def load(self, context):
        self.file = context.folder / f"closed-{context.instance}"
    def infer(self, batch):
        return {"y": batch["x"]}
    def close(self):
        with self.file.open("a") as file:
            file.write("closed\\n")
        %s
"""


@pytest.mark.parametrize(
    ("instances", "then"),
    [
        pytest.param(1, "pass", id="in the server"),
        pytest.param(2, "pass", id="in processes"),
        pytest.param(1, "import time; time.sleep(1000)", id="one that does not end"),
    ],
)
def test_code_is_closed_once_when_the_server_ends(launch: Launch, tmp_path: Path, instances: int, then: str) -> None:
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    config = {
        "input": [{"name": "x", **tensor}],
        "output": [{"name": "y", **tensor}],
        "instance_group": [{"count": instances, "kind": "KIND_CPU"}],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.py").write_text(CLOSES % then)
    server = launch("--model", str(tmp_path), "--allow-code", "true", "--drain-timeout", "3", "--drain-idle", "0")
    server.wait_ready().terminate()
    assert server.wait() == 0, server.lines
    closed = {path.name: path.read_text() for path in tmp_path.glob("closed-*")}
    assert closed == {f"closed-{index}": "closed\n" for index in range(instances)}
    assert any("did not close in time" in line for line in server.lines) == (then != "pass")
