"""From the first byte to the last: starting, failing to start, draining. Real processes, exact exit codes."""

import concurrent.futures
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc_client

from tests.runtime.process import DEADLINE_S, ServerProcess

pytestmark = pytest.mark.timeout(300)  # importing torch takes a minute on a machine that does other things

Launch = Callable[..., ServerProcess]
Servers = dict[str, ServerProcess]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})


def get(server: ServerProcess, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


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


class Load:
    """Clients that ask as fast as they can, over HTTP (kept alive, as long as the server likes) and gRPC."""

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self.counts: Counter[str] = Counter()
        self.closes = 0
        self._server = server
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(2 * clients)
        self._done = [self._pool.submit(ask) for ask in [self._http, self._grpc] * clients]

    def stop(self) -> None:
        self._stop.set()
        for future in self._done:
            future.result(DEADLINE_S)
        self._pool.shutdown()

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.counts[outcome] += 1

    def _http(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.http_port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v2/models/hello/infer", BODY)
                response = connection.getresponse()
                data = json.loads(response.read())["outputs"][0]["data"]
                self._count("ok" if data == [3, 5, 7, 9] else f"wrong {data}")
                self.closes += response.headers["connection"] == "close"
            except (OSError, http.client.HTTPException) as error:
                self._count(f"http {error!r}")
                return
        connection.close()

    def _grpc(self) -> None:
        item = grpc_client.InferInput("x", [1, 4], "FP32")
        item.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
        with grpc_client.InferenceServerClient(self._server.grpc) as client:
            while not self._stop.is_set():
                data = client.infer("hello", [item]).as_numpy("y").tolist()
                self._count("ok" if data == [[3, 5, 7, 9]] else f"wrong {data}")


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


def waiting(server: ServerProcess) -> int:
    """How many requests wait, from /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(int(line.split()[1]) for line in lines if line.startswith("nv_inference_pending_request_count{"))


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)
