"""What the load generators do against a server that does nothing with the same bytes: the most a cell could show.

HTTP/1.1 against `echo.py`, gRPC against nghttpd, which sends a file. Both servers are on the same machine and
need CPU themselves, so the generators could do more than this.
"""

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from e2e.bench import plane
from e2e.bench.api import CannotMeasureError
from e2e.bench.report import say
from e2e.bench.runtime import load
from e2e.bench.runtime.cells import ECHO, Cell, Subject
from e2e.bench.runtime.load import Target
from e2e.bench.runtime.measure import Bench, wait_until, watched
from e2e.bench.runtime.messages import Sample, message
from e2e.bench.runtime.processes import running

_SECONDS = 1


def calibrate(bench: Bench, cells: Iterable[Cell]) -> None:
    for cell in cells:
        if cell.clients:
            try:
                _calibrate(bench, cell)
            except CannotMeasureError as error:
                say(f"calibration, {cell.model} {cell.protocol}: NOT MEASURED: {error}")


def _calibrate(bench: Bench, cell: Cell) -> None:
    request = message(sample := Sample.of(bench.models, cell.model), "v2", cell.protocol)
    port, log = plane.free_port(), bench.work / "echo.log"
    # Numbers take nine bytes in JSON, four in binary.
    size = 100 + len(sample.y) * (9 if cell.protocol == "json" else 4)
    command = [sys.executable, str(Path(__file__).with_name("echo.py")), str(port), str(size)]
    if request.is_grpc:
        page = bench.work / "pages" / request.path[1:]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(bytes(size + 5))
        command = [
            "nghttpd",
            "--no-tls",
            f"--htdocs={bench.work / 'pages'}",
            "--address=127.0.0.1",
            "-w24",
            "-W24",
            str(port),
        ]
    target = Target(request, port, size, bench.work)
    with running(command, log, os.environ) as process:
        wait_until(lambda: _is_open(port), process, f"what does nothing ({log})")
        figures = watched(lambda: load.apply(target, cell.clients, _SECONDS), process.pid)
    bench.results.add(Subject(ECHO), cell, figures)
    say(f"calibration: {cell.model} {cell.protocol}, {cell.clients:2} clients: {figures.per_s:,.0f}/s")


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
