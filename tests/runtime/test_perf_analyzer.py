"""perf_analyzer, as it lies in tritonclient's wheel, measures our server to its table: it reads config and statistics.

It is linked with two libraries that few machines have. They too come from PyPI, so nothing of the system is touched.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.runtime.process import ServerProcess

pytestmark = pytest.mark.timeout(300)  # it may have to be downloaded first

CACHE = Path(os.environ.get("SLIPWAY_CACHE") or Path.home() / ".cache" / "slipway")
FOLDER = CACHE / "perf_analyzer-2.41.0"
PACKAGES = ["tritonclient==2.41.0", "nvidia-cuda-runtime-cu12==12.4.127", "nvidia-pytriton==0.7.0"]
QUICK = [
    "--measurement-mode",
    "count_windows",
    "--measurement-request-count",
    "40",
    "-p",
    "300",
    "-s",
    "999",
    "-r",
    "3",
]

STREAM = ["-i", "grpc", "--streaming"]


@pytest.fixture(scope="session")
def analyzer() -> Path:
    program = FOLDER / "bin" / "perf_analyzer"
    if not (FOLDER / "done").exists():
        uv = os.environ.get("UV") or str(sorted(CACHE.glob("uv-*/bin/uv"))[-1])
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER), *PACKAGES]
        subprocess.run(command, check=True)  # noqa: S603 - the tool that made this environment
        (FOLDER / "done").touch()
    named = FOLDER / "libb64.so.0d"  # the wheel gave it a name of its own
    if not named.exists():
        named.symlink_to(next(FOLDER.glob("nvidia_pytriton.libs/libb64-*")))
    return program


def measured(analyzer: Path, *arguments: str) -> list[float]:
    """Inferences per second of each row of the table."""
    libraries = f"{FOLDER}:{FOLDER / 'nvidia' / 'cuda_runtime' / 'lib'}"
    command = [str(analyzer), *QUICK, *arguments]
    done = subprocess.run(  # noqa: S603
        command,
        check=False,
        env=os.environ | {"LD_LIBRARY_PATH": libraries},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    table = done.stdout.partition("Inferences/Second vs. Client")[2]
    rows = re.findall(r"^Concurrency: \d+, throughput: ([\d.]+) infer/sec, latency \d+ usec$", table, re.MULTILINE)
    assert "Error" not in done.stderr, done.stderr
    return [float(rate) for rate in rows]


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        pytest.param(["-i", "http", "-m", "simple", "--concurrency-range", "1:3:2"], 2, id="http"),
        pytest.param(["-i", "grpc", "-m", "simple", "--concurrency-range", "1:3:2"], 2, id="grpc"),
        pytest.param(["-i", "http", "-m", "simple", "-b", "4", "--async"], 1, id="http, asynchronous, batches"),
        pytest.param(["-i", "grpc", "-m", "simple", "-b", "4", "--async"], 1, id="grpc, asynchronous, batches"),
        pytest.param(["-i", "http", "-m", "simple", "--shared-memory", "system"], 1, id="http, shared memory"),
        pytest.param(["-i", "grpc", "-m", "simple", "--shared-memory", "system"], 1, id="grpc, shared memory"),
        pytest.param([*STREAM, "-m", "simple_sequence"], 1, id="a stream of sequences"),
        pytest.param(
            [*STREAM, "-m", "repeat_int32", "--async", "--shape", "IN:1", "--shape", "DELAY:1", "--input-data", "zero"],
            1,
            id="a decoupled model",
        ),
        pytest.param(["-i", "http", "-m", "simple_identity", "--shape", "INPUT0:4"], 1, id="text"),
    ],
)
def test_perf_analyzer_runs_to_its_table(
    analyzer: Path, examples: ServerProcess, arguments: list[str], rows: int
) -> None:
    address = examples.grpc if "grpc" in arguments else examples.http
    rates = measured(analyzer, "-u", address, *arguments)
    assert len(rates) == rows
    assert min(rates) > 0
