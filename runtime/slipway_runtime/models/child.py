"""One process of the model's: from its start, with a task, to its end. What it does is in worker.py."""

import os
import socket
import subprocess
import sys
import time

from slipway_runtime.errors import Failure
from slipway_runtime.models.channel import Channel
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.options import Options
from slipway_runtime.models.task import Result, Task
from slipway_runtime.tensors import Array, Metadata

Told = tuple[Metadata, ModelConfig, Options, bool]
"""What a process says of its model when it has loaded it; the last one: it is decoupled."""


class Child:
    """`inputs` is the memory that batches go through, where several of them read the same."""

    def __init__(self, task: Task, inputs: int | None = None) -> None:
        self.started_s = time.monotonic()
        ours, theirs = socket.socketpair()
        read = os.memfd_create("slipway-inputs") if inputs is None else os.dup(inputs)
        outputs = os.memfd_create("slipway-outputs")
        self._fds = (read, outputs)
        child = (theirs.fileno(), outputs, read)
        passed = child if task.options.shard is None else (*child, task.options.shard.store)
        command = [sys.executable, "-P", "-m", "slipway_runtime.models.worker", *map(str, child)]
        command += ["shared"] * (inputs is not None)
        # The path by which we were found, installed or not; never the folder the server happens to run in.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs:
            self._popen = subprocess.Popen(command, pass_fds=passed, env=environment, stdin=subprocess.DEVNULL)  # noqa: S603
        self.channel = Channel((ours.detach(), read, outputs))
        self.ready = False
        self._ended = ""
        self.channel.send(task, [])

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def pids(self) -> list[int]:
        return [self.pid]

    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, message: object, arrays: list[Array]) -> None:
        """Raises OSError when it is gone."""
        self.channel.send(message, arrays)

    def loaded(self) -> Told:
        """Raises Failure for what is wrong with the model; EOFError, OSError when the process died."""
        said, _ = self.channel.receive()
        if isinstance(said, Failure):
            raise said
        told: Told = said
        return told

    def result(self) -> tuple[Result, list[Array]]:
        """The arrays are views, until it is sent something. Raises EOFError, OSError when the process died."""
        return self.channel.receive()

    def close(self, wait_s: float) -> str:
        """Let it go, by force after `wait_s`. Returns how it ended."""
        if self._ended:
            return self._ended
        self.channel.close()
        try:
            code = self._popen.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        for fd in self._fds:
            os.close(fd)
        self._ended = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return self._ended
