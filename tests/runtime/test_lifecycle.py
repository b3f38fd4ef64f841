"""From the first byte to the last: starting, failing to start, draining. Real processes, exact exit codes."""

import asyncio
import http.client
import json
import os
import queue
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from slipway_runtime.signals import ONE_WISH_S, wish
from tests.runtime.load import BODY, Load, get, until, waiting
from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

Launch = Callable[..., ServerProcess]
Servers = dict[str, ServerProcess]


WAITS = """
class Model:
    def load(self, context):
        (context.folder / "gate").read_text()
    def infer(self, batch):
        return {"y": batch["x"]}
"""


def test_it_is_live_before_the_model_is_loaded_and_ready_after(launch: Launch, tmp_path: Path) -> None:
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    config = {"input": [{"name": "x", **tensor}], "output": [{"name": "y", **tensor}]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.py").write_text(WAITS)
    os.mkfifo(gate := tmp_path / "gate")
    server = launch("--model", str(tmp_path), "--name", "m", "--allow-code", "true")
    assert get(server, "/v2/health/live") == 200
    assert get(server, "/v2/health/ready") == 503
    assert get(server, "/v2/models/m/ready") in (404, 503)
    gate.write_text("go")
    server.wait_ready()
    assert get(server, "/v2/health/ready") == get(server, "/v2/models/m/ready") == 200
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


def test_a_signal_that_comes_twice_at_once_is_one_wish() -> None:
    stop, now_s = asyncio.Event(), 100.0
    tell = wish(stop.set, lambda: now_s)
    seen = []
    for now_s in (100.0, 100.01, 100.05, 100.0 + 1.5 * ONE_WISH_S, 200.0):  # noqa: B007 - the clock reads it
        stop.clear()
        tell()
        seen.append(stop.is_set())
    assert seen == [True, False, False, True, True]


def test_an_idle_stream_is_told_and_does_not_hold_up_the_end(launch: Launch) -> None:
    server = launch("--model", "sample://hello", "--drain-idle", "0.1").wait_ready()
    got: queue.Queue[Any] = queue.Queue()
    with grpc_client.InferenceServerClient(server.grpc) as client:
        x = grpc_client.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(np.ones((1, 4), np.float32))
        client.start_stream(lambda result, error: got.put((result, error)))
        client.async_stream_infer("hello", [x])
        assert got.get(timeout=20)[1] is None
        server.terminate()
        server.wait_log("draining")
        error = got.get(timeout=20)[1]
        assert "StatusCode.UNAVAILABLE" in str(error)
        assert "begin a new one, of another server" in str(error)
        with pytest.raises(InferenceServerException, match="new stream should be started"):
            client.async_stream_infer("hello", [x])
    assert server.wait() == 0
    assert server.wait_log("stopped")["drain_s"] < 10, "--drain-timeout is 30 s"


def test_http_and_grpc_share_the_bytes_that_may_be_held(launch: Launch) -> None:
    server = launch("--model", "sample://hello", "--max-held-bytes", "700000").wait_ready()
    # 640 kB: what comes with one read is not held before it is taken, and that may be 256 KiB.
    x = grpc_client.InferInput("x", [40_000, 4], "FP32")
    x.set_data_from_numpy(np.ones((40_000, 4), np.float32))
    with grpc_client.InferenceServerClient(server.grpc) as client, client_of(server) as half:
        assert "batch-size" in refusal(client, x), "it is read as long as there is room"
        half.sendall(b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 600000\r\n\r\n" + bytes(500_000))
        until(lambda: "700000 at most: try again" in refusal(client, x))


def client_of(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.http_port), timeout=20)


def refusal(client: Any, x: Any) -> str:
    with pytest.raises(InferenceServerException) as failed:
        client.infer("hello", [x])
    return str(failed.value)


def test_a_second_signal_ends_it_at_once(ending: Servers) -> None:
    server = ending["drains for ever"].wait_ready()
    server.terminate()
    server.wait_log("draining")
    time.sleep(2 * ONE_WISH_S)
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


def test_what_is_not_busy_is_closed_although_the_drain_takes_too_long(launch: Launch, tmp_path: Path) -> None:
    tensor = {"data_type": "TYPE_FP32", "dims": [1]}
    config = {
        "max_batch_size": 1,
        "input": [{"name": "x", **tensor}],
        "output": [{"name": "y", **tensor}],
        "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
        "parameters": {"instances": {"string_value": "threads"}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.py").write_text(
        CLOSES.replace(
            "return",
            "if batch['x'][0, 0]:\n            import time; self.file.with_name('busy').touch(); time.sleep(1000)\n"
            "        return",
        )
        % "pass"
    )
    server = launch("--model", str(tmp_path), "--name", "m", "--allow-code", "true", "--drain-timeout", "0.1")
    server.wait_ready()
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    one = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}
    connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [one]}))
    until((tmp_path / "busy").exists)
    server.terminate()
    assert server.wait() == 1
    assert "stopped with 1 requests unfinished after 0.1 s (--drain-timeout)" in server.lines[-1]
    assert len(list(tmp_path.glob("closed-*"))) == 1
    connection.close()


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
