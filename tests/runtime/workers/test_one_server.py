"""`--workers 2`: two real processes on one port look like one server."""

import json
import os
import re
from multiprocessing import shared_memory as posix
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from tests.runtime.fuzz import FULL
from tests.runtime.load import BODY
from tests.runtime.process import ServerProcess
from tests.runtime.workers.two_workers import Both, Launch, children, counted

pytestmark = pytest.mark.timeout(3600 if FULL else 300)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(launch: Launch, server: ServerProcess) -> None:
    second = launch("--model", "sample://hello", "--workers", "2", "--http-port", str(server.http_port))
    assert second.wait() == 78
    assert second.lines == [f"cannot listen on HTTP port {server.http_port}: Address already in use"]


def test_figures_are_those_of_both_workers_whoever_is_asked(both: Both) -> None:
    before = counted(both.one(0, "GET", "/metrics")[1], "nv_inference_count")
    for index in (0, 0, 0, 1, 1):
        assert both.one(index, "POST", "/v2/models/hello/infer", BODY)[0] == 200
    for _, text in both.each("GET", "/metrics"):
        assert counted(text, "nv_inference_count") - before == 5
        assert counted(text, "slipway_runtime_batch_rows_count") - before == 5
        assert "\nslipway_runtime_ready 1\n" in text
        assert text.count("\nprocess_cpu_seconds_total ") == 1
    for _, answer in both.each("GET", "/v2/models/hello/stats"):
        assert answer["model_stats"][0]["inference_count"] - before == 5


def test_triton_clients_see_one_server(server: ServerProcess) -> None:
    x = np.array([[1, 2, 3, 4]], np.float32)
    rest, rpc = http_client.InferenceServerClient(server.http), grpc_client.InferenceServerClient(server.grpc)
    before = int(rest.get_inference_statistics("hello")["model_stats"][0]["inference_count"])
    for module, client in ((http_client, rest), (grpc_client, rpc)):
        item = module.InferInput("x", [1, 4], "FP32")
        item.set_data_from_numpy(x)
        for _ in range(3):
            assert client.infer("hello", [item]).as_numpy("y").tolist() == [[3, 5, 7, 9]]
    assert int(rest.get_inference_statistics("hello")["model_stats"][0]["inference_count"]) - before == 6
    assert rpc.get_inference_statistics("hello").model_stats[0].inference_count - before == 6
    rest.close()
    rpc.close()


def test_a_model_loaded_by_one_worker_is_there_in_both_and_gone_from_both(both: Both) -> None:
    ready, change = "/v2/models/other/ready", "/v2/repository/models/other/"
    assert [status for status, _ in both.each("GET", ready)] == [404, 404]
    assert both.one(0, "POST", f"{change}load", {})[0] == 200
    assert [status for status, _ in both.each("GET", ready)] == [200, 200]
    assert both.one(1, "POST", f"{change}unload", {})[0] == 200
    assert [status for status, _ in both.each("GET", ready)] == [503, 503]
    status, answer = both.one(0, "POST", "/v2/repository/models/none/load", {})
    assert (status, "there is no such model" in answer["error"]) == (400, True)


def test_shared_memory_registered_with_one_worker_is_read_by_both(both: Both) -> None:
    segment = posix.SharedMemory(create=True, size=32)
    np.ndarray((8,), np.float32, segment.buf)[:] = [1, 2, 3, 4, 0, 0, 0, 0]
    region = {"key": f"/{segment.name}", "offset": 0, "byte_size": 32}
    part = {"shared_memory_region": "workers", "shared_memory_offset": 0, "shared_memory_byte_size": 16}
    item = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": part}
    try:
        assert both.one(0, "POST", "/v2/systemsharedmemory/region/workers/register", region)[0] == 200
        for status, answer in both.each("POST", "/v2/models/hello/infer", {"inputs": [item]}):
            assert (status, answer["outputs"][0]["data"]) == (200, [3, 5, 7, 9])
        assert both.one(1, "POST", "/v2/systemsharedmemory/region/workers/register", region)[0] == 400
        assert both.one(1, "POST", "/v2/systemsharedmemory/unregister", {})[0] == 200
        assert both.each("GET", "/v2/systemsharedmemory/status") == [(200, [])] * 2
    finally:
        segment.close()
        segment.unlink()


def test_the_level_of_the_log_is_changed_in_both(both: Both) -> None:
    for info in (False, True):
        assert both.one(int(info), "POST", "/v2/logging", {"log_info": info})[1]["log_info"] is info
        assert [answer["log_info"] for _, answer in both.each("GET", "/v2/logging")] == [info] * 2
    assert both.one(0, "POST", "/v2/logging", {"log_colour": "red"})[0] == 400


def test_the_load_report_has_the_names_of_one_process(both: Both) -> None:
    both.connections[0].request("GET", "/v2", headers={"endpoint-load-metrics-format": "json"})
    response = both.connections[0].getresponse()
    response.read()
    report = json.loads(response.headers["endpoint-load-metrics"].removeprefix("JSON "))
    assert report == {
        "application_utilization": 0.0,
        "named_metrics": {"queue_requests": 0.0, "running_requests": 0.0},
    }


def test_a_program_that_a_worker_starts_inherits_nothing_of_it(server: ServerProcess) -> None:
    for pid in children(server):
        kept = [int(path.name) for path in Path(f"/proc/{pid}/fdinfo").iterdir() if not is_closed_by_exec(path)]
        assert {fd for fd in kept if fd > 2} == set(), [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in kept]


def is_closed_by_exec(fdinfo: Path) -> bool:
    """One that is closed by now, as the connection of a client that has just left, is inherited by nobody."""
    try:
        text = fdinfo.read_text()
    except FileNotFoundError:
        return True
    found = re.search(r"^flags:\s+(\d+)$", text, re.MULTILINE)
    return found is not None and bool(int(found[1], 8) & os.O_CLOEXEC)
