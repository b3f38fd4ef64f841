"""One server with one model, alone on the machine: started, asked, checked, measured, ended."""

import http.client
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory

import grpc

from e2e.bench.api import CannotMeasureError
from e2e.bench.machine import Usage
from e2e.bench.report import say
from e2e.bench.runtime import load, open_loop, processes
from e2e.bench.runtime.cells import Cell, Figures, Subject
from e2e.bench.runtime.load import Load, Target
from e2e.bench.runtime.messages import Message, Sample, WrongAnswerError, check, message
from e2e.bench.runtime.processes import running, spent_s, tree_cpu_s, tree_rss_mib
from e2e.bench.runtime.results import Results
from e2e.bench.runtime.servers import Place, Server, environment

START_S = 90
_WARM_CLIENTS = 8
_WARM_S = 1


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things lie, how long a cell is measured, and what came out."""

    models: Path
    work: Path
    seconds: int
    results: Results
    absent: dict[str, str] = field(default_factory=dict)
    """What could not be measured, and why."""

    @contextmanager
    def started(self, server: Server, model: str) -> Iterator[tuple[Place, "Popen[bytes]"]]:
        """The server with this model, ready.

        Raises:
            CannotMeasureError: when it is not ready in time.
        """
        folder = self.work / f"{server.title.replace(' ', '-')}-{model}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        place = Place(model, self.models, folder)
        launch, log = server.launch(server, place), self.work / f"{folder.name}.log"
        # Its name is short: some put sockets there, and a socket's path has 107 bytes at most.
        with TemporaryDirectory(prefix="bench", ignore_cleanup_errors=True) as temporary:
            env = environment(server, launch, place) | {"TMPDIR": temporary, "RAY_TMPDIR": temporary}
            with running([str(word) for word in launch.command], log, env, launch.cwd) as process:
                wait_until(lambda: _get(place.http_port, launch.ready) == 200, process, f"readiness (see {log})")
                yield place, process

    def measure(self, server: Server, model: str, cells: list[Cell]) -> None:
        """Adds the figures of each cell; a cell that cannot be measured is told and left out."""
        try:
            with self.started(server, model) as (place, process):
                for protocol in dict.fromkeys(cell.protocol for cell in cells):
                    same = [cell for cell in cells if cell.protocol == protocol]
                    self._protocol(server, place, process, same)
        except (CannotMeasureError, OSError) as error:
            self._miss(f"{server.title}, {model}", error)

    def _protocol(self, server: Server, place: Place, process: "Popen[bytes]", cells: list[Cell]) -> None:
        sample = Sample.of(self.models, cells[0].model)
        request = message(sample, server.style, cells[0].protocol)
        port = place.grpc_port if request.is_grpc else place.http_port
        try:
            target = Target(request, port, self._checked(sample, request, port, process), place.work)
            with suppress(CannotMeasureError):  # a second is not enough for everybody
                load.apply(target, min(_WARM_CLIENTS, max(cell.clients for cell in cells)), _WARM_S)
            for cell in cells:
                self._cell(Subject.of(server), cell, process, target)
        except (CannotMeasureError, WrongAnswerError) as error:
            self._miss(f"{server.title}, {cells[0].model} {cells[0].protocol}", error)

    def _miss(self, what: str, error: Exception) -> None:
        self.absent[what] = str(error).splitlines()[0]
        say(f"{what}: NOT MEASURED: {error}")

    def _checked(self, sample: Sample, request: Message, port: int, process: "Popen[bytes]") -> int:
        """Bytes of a right answer; some servers are ready before their workers are."""
        answers: list[tuple[bytes, dict[str, str]]] = []

        def is_answered() -> bool:
            answer = ask(request, port)
            answers.extend([answer] if answer else [])
            return bool(answer)

        wait_until(is_answered, process, "an answer")
        body, headers = answers[0]
        check(sample, request.read(body, headers))
        return len(body)

    def _cell(self, subject: Subject, cell: Cell, process: "Popen[bytes]", target: Target) -> None:
        figures = watched(lambda: self._load(subject, cell, target), process.pid)
        self.results.add(subject, cell, figures)
        clients = f"{cell.clients:2} clients" if cell.clients else "open loop "
        what = f"{cell.model} {cell.protocol}, {clients}"
        say(f"{subject.name} {subject.variant}: {what}: {figures.per_s:,.0f}/s, p50 {figures.p50_ms:.2f} ms")

    def _load(self, subject: Subject, cell: Cell, target: Target) -> Load:
        if cell.clients:
            return load.apply(target, cell.clients, self.seconds)
        saturated = self.results.medians(Cell(cell.model, cell.protocol, 64)).get(subject)
        if saturated is None:
            raise CannotMeasureError("the open loop needs the rate with 64 clients first")
        return open_loop.apply(target, saturated.per_s / 2, self.seconds)


def watched(loader: Callable[[], Load], pid: int) -> Figures:
    """The figures of a load on the server of this process."""
    before, cpu_s, own_s = Usage.now(), tree_cpu_s(pid), sum(os.times()[:4])
    done = loader()
    after, server_s = Usage.now(), spent_s(cpu_s, tree_cpu_s(pid))
    # Of this process, which is the generator of the open loop, and of the generator that has just ended.
    ours_s = server_s + sum(os.times()[:4]) - own_s
    others_s = after.everybody_s - before.everybody_s - ours_s
    return Figures(
        done.per_s,
        done.p50_ms,
        done.p99_ms,
        server_s / done.requests * 1e6,
        tree_rss_mib(pid),
        done.generator_pct,
        max(0.0, others_s / (after.at - before.at) * 100),
    )


def ask(request: Message, port: int) -> tuple[bytes, dict[str, str]] | None:
    """The body and headers of an answer, without gRPC's prefix; None when there is none."""
    return _ask_grpc(request, port) if request.is_grpc else _ask_http(request, port)


def _ask_http(request: Message, port: int) -> tuple[bytes, dict[str, str]] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        body = response.read()
        return (
            (body, {name.lower(): value for name, value in response.getheaders()}) if response.status == 200 else None
        )
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _ask_grpc(request: Message, port: int) -> tuple[bytes, dict[str, str]] | None:
    own = ("content-type", "te")  # gRPC sends these itself
    metadata = [(name, value) for name, value in request.headers.items() if name not in own]
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_receive_message_length", -1)]) as channel:
        try:
            answer: bytes = channel.unary_unary(request.path)(request.body[5:], timeout=30, metadata=metadata)
        except grpc.RpcError:
            return None
        return answer, {}


def _get(port: int, path: str) -> int:
    """The status; 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def wait_until(done: Callable[[], bool], process: "Popen[bytes]", what: str) -> None:
    deadline = time.monotonic() + START_S
    while not done():
        if process.poll() is not None:
            raise CannotMeasureError(f"waited for {what}, and it ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise CannotMeasureError(f"waited {START_S} s for {what}")
        time.sleep(0.1)


def idle_cpu_pct(bench: Bench, server: Server, seconds: float) -> float:
    """Of one core, after it was ready and nobody asks for anything."""
    with bench.started(server, "tiny") as (_, process):
        time.sleep(2)
        before, begin = tree_cpu_s(process.pid), time.monotonic()
        time.sleep(seconds)
        return spent_s(before, tree_cpu_s(process.pid)) / (time.monotonic() - begin) * 100


_BARE = "print(flush=True); input()"
_OURS = f"import slipway_runtime.__main__, slipway_runtime.server, sys; assert 'torch' not in sys.modules; {_BARE}"


def rss_over_python_mib() -> float:
    """What our server has in memory before torch is loaded, above a bare Python."""
    return _rss_of(_OURS) - _rss_of(_BARE)


def _rss_of(program: str) -> float:
    with Popen([sys.executable, "-c", program], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        mib = processes.rss_mib(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.wait()
    return mib
