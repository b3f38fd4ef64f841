"""A model in shards in a real server: what clients see while a rank dies, and that its processes go with it."""

import http.client
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.load import BODY, Load, until
from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(300)  # each rank imports torch, and a machine may do other things

# The sum of both ranks is 2x + 1.
SOURCE = """
import torch
from torch import distributed

class Model:
    sharded = True
    def load(self, context):
        self.rank, self.group = context.rank, context.group
    def infer(self, batch):
        y = torch.from_numpy(batch["x"]) + self.rank
        distributed.all_reduce(y, group=self.group)
        return {"y": y}
"""
CONFIG = {
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4]}],
    "parameters": {"shards": {"string_value": "2"}},
}


def children(server: ServerProcess) -> list[int]:
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    return sorted(int(pid) for task in tasks for pid in (task / "children").read_text().split())


def are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def ask(server: ServerProcess, method: str, path: str, body: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=120)
    connection.request(method, path, body)
    response = connection.getresponse()
    answer = json.loads(response.read() or "{}")
    connection.close()
    return response.status, answer


def test_shards_live_and_die_as_one_model(launch: Callable[..., ServerProcess], tmp_path: Path) -> None:
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "model.py").write_text(SOURCE)
    (tmp_path / "hello" / "config.json").write_text(json.dumps(CONFIG))
    server = launch("--repository", str(tmp_path), "--model-control", "explicit", "--allow-code", "true").wait_ready()
    first = children(server)
    assert len(first) == 2
    status, answer = ask(server, "POST", "/v2/models/hello/infer", BODY)
    assert (status, answer["outputs"][0]["data"]) == (200, [3, 5, 7, 9])
    _, figures = ask(server, "GET", "/v2/models/hello/stats")
    assert figures["model_stats"][0]["inference_stats"]["success"]["count"] == 1

    load = Load(server, clients=2)
    until(lambda: load.counts["ok"] > 20)
    os.kill(first[1], signal.SIGKILL)
    until(lambda: are_gone(first))
    before = load.counts["ok"]
    until(lambda: load.counts["ok"] > before + 20)
    load.stop()
    refused = {"503", "StatusCode.UNAVAILABLE"}
    assert set(load.counts) <= {"ok", *refused}
    assert sum(load.counts[status] for status in refused) <= 4  # at most the batch that it had
    assert all("the model's process died with this batch (rank 1, by signal 9)" in said for said in load.sentences)

    second = children(server)
    assert len(second) == 2
    assert ask(server, "POST", "/v2/repository/models/hello/unload")[0] == 200
    assert are_gone(second)
    assert ask(server, "POST", "/v2/models/hello/infer", BODY)[0] == 503
    assert ask(server, "POST", "/v2/repository/models/hello/load")[0] == 200

    third = children(server)
    load = Load(server, clients=2)
    until(lambda: load.counts["ok"] > 20)
    server.terminate()
    server.wait_log("draining")
    load.stop()
    assert server.wait() == 0
    assert set(load.counts) == {"ok"}
    assert are_gone(third)
