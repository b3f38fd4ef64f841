"""A real Triton, started as in a pod: by `python -m slipway_runtime.triton`, in the environment that its image has."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
DEADLINE_S = 150.0  # the machine may be busy; every wait ends as soon as what it waits for is there


@cache
def environment() -> Path:
    """Where Triton is installed; installed first if it is not there yet. Fails when it cannot be had."""
    clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    made = subprocess.run(
        ["make", "--silent", "triton"], cwd=REPOSITORY, env=clean, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, f"Triton could not be installed: {made.stderr}"
    return Path(made.stdout.split()[-1])


def python(*argv: str, **env: str) -> list[str | Path]:
    return [environment() / "bin" / "python", "-m", *argv]


def clean_environment(**own: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "PYTHON"))}
    return kept | {"PYTHONPATH": str(REPOSITORY / "runtime"), "PYTHONUNBUFFERED": "1"} | own


def lay_out(dest: Path) -> Path:
    subprocess.run(python("slipway_runtime.triton.install", str(dest)), env=clean_environment(), check=True)
    return dest


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Triton:
    def __init__(self, home: Path, work: Path, model: Path, *argv: str, **env: str) -> None:
        """`env` without SLIPWAY_, as the operator gives it; the service is called `shop`."""
        self.work = work
        self.http, self.grpc, self.metrics = free_port(), free_port(), free_port()
        ports = {"http": self.http, "grpc": self.grpc, "metrics": self.metrics}
        told = [f"--{name}-port={port}" for name, port in ports.items()]
        own = {"MODEL_NAME": "shop", "MODEL_PATH": str(model)} | env
        self._process = subprocess.Popen(
            [*python("slipway_runtime.triton"), f"--triton={home}", f"--work={work}", "--host=127.0.0.1", *told, *argv],
            env=clean_environment(**{f"SLIPWAY_{name}": value for name, value in own.items()}),
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self.lines.append(line.rstrip())

    def wait_ready(self) -> "Triton":
        ends = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends and self._process.poll() is None:
            if self.is_open() and self.get("/v2/models/shop/ready")[0] == 200:
                return self
            time.sleep(0.05)
        raise AssertionError("\n".join(["Triton did not become ready:", *self.lines[-40:]]))

    def wait_line(self, words: str) -> None:
        ends = time.monotonic() + DEADLINE_S
        while not any(words in line for line in list(self.lines)):
            assert time.monotonic() < ends, self.lines
            assert self._process.poll() is None, self.lines
            time.sleep(0.02)

    def is_open(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.http)) == 0

    def child(self) -> int:
        """The process of Triton itself."""
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(found[0])

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code."""
        code = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def stop(self) -> int:
        self.terminate()
        return self.wait()

    # Asking

    def get(self, path: str, port: int = 0) -> tuple[int, str]:
        return ask(f"127.0.0.1:{port or self.http}", path)[:2]

    def post(self, path: str, body: Any = None) -> tuple[int, str]:
        return ask(f"127.0.0.1:{self.http}", path, {} if body is None else body)[:2]

    def infer(self, *rows: list[float], name: str = "x") -> Any:
        """What came back for FP32 rows: the answer's object, or code and error."""
        code, text = self.post("/v2/models/shop/infer", question(*rows, name=name))
        return json.loads(text) if code == 200 else (code, json.loads(text)["error"])


def ask(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, Mapping[str, str]]:
    """Code, text and headers of an answer; POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{address}{path}", data, named), timeout=30
        ) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


def question(*rows: list[float], name: str = "x") -> dict[str, Any]:
    values = [value for row in rows for value in row]
    return {"inputs": [{"name": name, "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": values}]}
