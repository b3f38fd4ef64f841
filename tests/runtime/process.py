"""A real `slipway-runtime serve` process on free ports, with warnings as errors."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 200.0  # importing torch on a busy machine; every wait ends as soon as what it waits for is there


class ServerProcess:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.wait_log('listening')['http_port']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.wait_log('listening')['grpc_port']}"

    @property
    def http_port(self) -> int:
        return int(self.wait_log("listening")["http_port"])

    def wait_log(self, message: str) -> dict[str, Any]:
        """The first log line with this message."""
        ends = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends:
            for line in self.lines:
                if line.startswith("{") and (entry := json.loads(line))["message"] == message:
                    return dict(entry)
            if self._process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"no '{message}' in {self.lines}")

    def wait_ready(self) -> "ServerProcess":
        self.wait_log("ready")
        return self

    def memory_mib(self, field: str) -> float:
        """A line of the kernel's about the process, such as VmHWM, the most memory that it ever had."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))

    def rss_mib(self) -> float:
        return self.memory_mib("VmRSS")

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit code."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def stop(self) -> int:
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))


def environment(samples: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLIPWAY_")}
    return kept | {"PYTHONPATH": str(REPOSITORY / "runtime"), "SLIPWAY_SAMPLES_DIR": str(samples)}


def start(samples: Path, *arguments: str) -> ServerProcess:
    command = [sys.executable, "-W", "error", "-m", "slipway_runtime", "serve"]
    ports = ["--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--threads", "1"]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [*command, *ports, *arguments], env=environment(samples), stderr=subprocess.PIPE, text=True
    )
    return ServerProcess(process)
