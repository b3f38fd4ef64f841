"""Closed-loop load: so many clients, each with a connection and one request at a time.

By wrk for HTTP/1.1 and h2load for gRPC, both written in C, each on one core at most. How much of it they need is among
the figures, and `calibration` says what they do when the server takes hardly any time.
"""

import json
import math
import re
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.api import CannotMeasureError
from e2e.bench.runtime.messages import Message

_SCRIPT = Path(__file__).with_name("post.lua")
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Load:
    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    generator_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def generator_pct(self) -> float:
        """Of one core, which is all that it can use."""
        return self.generator_cpu_s / self.seconds * 100


@dataclass(frozen=True, slots=True)
class Target:
    """What is sent where."""

    message: Message
    port: int
    answer_bytes: int
    """Of a right answer's body, by which failed gRPC calls are told."""
    folder: Path
    """For what the generators read and write."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.message.path}"

    @property
    def body(self) -> Path:
        return self.folder / "body"


def apply(target: Target, clients: int, seconds: int) -> Load:
    """Send requests for so long.

    Raises:
        CannotMeasureError: when the generator fails, or more than one answer in a thousand is an error.
    """
    target.body.write_bytes(target.message.body)
    before = _children_cpu_s()
    load = (_h2load if target.message.is_grpc else _wrk)(target, clients, seconds)
    if not load.requests:
        raise CannotMeasureError(f"no answer within {seconds} s")
    if load.errors > load.requests / 1000:
        raise CannotMeasureError(f"{load.errors} errors in {load.requests} requests")
    spent = _children_cpu_s() - before
    return Load(load.requests, load.errors, load.seconds, load.p50_ms, load.p99_ms, spent)


def _wrk(target: Target, clients: int, seconds: int) -> Load:
    shape = ["--threads=1", f"--connections={clients}", f"--duration={seconds}s", f"--timeout={_TIMEOUT_S}s"]
    headers = [f"{name}: {value}" for name, value in target.message.headers.items()]
    script = [f"--script={_SCRIPT}", target.url, "--", str(target.body)]
    return read_wrk(_run(["wrk", *shape, *script, *headers], seconds))


def _h2load(target: Target, clients: int, seconds: int) -> Load:
    log = target.folder / "h2load.log"
    log.unlink(missing_ok=True)
    # The windows are 16 MiB, as gRPC clients raise theirs: an answer never waits for one.
    shape = [f"--clients={clients}", "--max-concurrent-streams=1", "--threads=1", "-w24", "-W24"]
    headers = [f"--header={name}: {value}" for name, value in target.message.headers.items()]
    run = [f"--duration={seconds}", f"--log-file={log}", f"--data={target.body}"]
    output = _run(["h2load", *shape, *run, *headers, target.url], seconds)
    return read_h2load(output, log.read_text(), seconds, target.answer_bytes)


def read_wrk(output: str) -> Load:
    """The line of post.lua, the last."""
    return Load(**json.loads(output.splitlines()[-1]))


def read_h2load(output: str, log: str, seconds: float, answer_bytes: int) -> Load:
    """From its summary and the log, a line for each request: when it began, the status, and how many microseconds.

    A failed gRPC call has status 200 and, in place of an answer, trailers: too few bytes of data tell of it.
    """
    lines = [line.split("\t") for line in log.splitlines()]
    took_us = sorted(int(line[2]) for line in lines if line[1] == "200")
    traffic = re.search(r"^traffic: .* \((\d+)\) data$", output, re.MULTILINE)
    if not traffic or not took_us:
        raise CannotMeasureError(f"h2load had no answer: {output.strip()[-500:]}")
    answered = min(len(took_us), int(traffic[1]) // (answer_bytes + 5))  # 5: the prefix of each gRPC message
    errors = len(lines) - answered
    # Requests that are cut off at the end have sent part of their data.
    p50, p99 = (percentile(took_us, percent) / 1000 for percent in (50, 99))
    return Load(len(took_us), errors, seconds, p50, p99)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that is not below so many of them."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _run(command: list[str], seconds: int) -> str:
    limit = seconds + _TIMEOUT_S + 15
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise CannotMeasureError(f"{command[0]} did not end within {limit} s") from None
    if done.returncode:
        raise CannotMeasureError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
