"""Two workers of one server, and a connection to each."""

import http.client
import json
import os
import re
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.runtime.load import until
from tests.runtime.process import DEADLINE_S, ServerProcess

Launch = Callable[..., ServerProcess]
MODEL = """
import os
from pathlib import Path

class Model:
    def load(self, context):
        self.folder = context.folder
        gate = context.folder / "gate"
        try:
            (context.folder / "first").touch(exist_ok=False)
        except FileExistsError:
            return
        if gate.exists() and gate.read_text() == "fail":  # waits until somebody writes
            raise ValueError("told to fail")

    def infer(self, batch):
        if batch["x"][0][0] == 13:
            os._exit(13)
        return {"y": 2 * batch["x"] + 1}

    def close(self):
        (closing := self.folder / "closing").exists() and closing.read_text()
"""
TENSOR = {"data_type": "TYPE_FP32", "dims": [4]}
CONFIG = {"max_batch_size": 8, "input": [{"name": "x", **TENSOR}], "output": [{"name": "y", **TENSOR}]}


def add_model(repository: Path, name: str, **config: Any) -> Path:
    folder = repository / name
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def two(repository: Path, *arguments: str) -> list[str]:
    return ["--repository", str(repository), "--allow-code", "true", "--workers", "2", *arguments]


class Both:
    """A connection to each of two workers."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.connections = [self._open(), self._open()]
        self.pids = [self.one(index, "GET", "/debug/stats")[1]["pid"] for index in range(2)]
        until(self._are_two)

    def _open(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._server.http_port, timeout=20)

    def _are_two(self) -> bool:
        """The next is taken by who has fewer, unless that one is busy at the moment."""
        if self.pids[0] == self.pids[1]:
            self.connections[1].close()
            self.connections[1] = self._open()
            self.pids[1] = self.one(1, "GET", "/debug/stats")[1]["pid"]
        return bool(self.pids[0] != self.pids[1])

    def one(self, index: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = self.connections[index]
        connection.request(method, path, body if isinstance(body, str) else json.dumps(body))
        response = connection.getresponse()
        text = response.read()
        is_json = response.headers["content-type"].startswith("application/json")
        return response.status, (json.loads(text) if text else None) if is_json else text.decode()

    def each(self, method: str, path: str, body: Any = None) -> list[tuple[int, Any]]:
        return [self.one(index, method, path, body) for index in range(2)]

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


def counted(text: str, name: str) -> float:
    found = re.search(rf'^{name}{{model="hello",version="1"}} (\S+)$', text, re.MULTILINE)
    assert found, text
    return float(found[1])


def children(server: ServerProcess) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def died(handle: int) -> bool:
    """Wait for the end of a process."""
    return bool(select.select([handle], [], [], DEADLINE_S)[0])


def lines(server: ServerProcess, message: str) -> int:
    return sum(json.loads(line)["message"] == message for line in server.lines if line.startswith("{"))


def opened(fifo: Path, found: list[int]) -> bool:
    """Whether somebody reads it: then it is open, and in `found`."""
    try:
        found.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
