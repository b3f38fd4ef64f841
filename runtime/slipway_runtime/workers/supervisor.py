"""`serve --workers N`: N processes that take connections from the same ports, one that starts and watches them.

The ports are the supervisor's, and inherited: whichever worker has the fewest connections takes the next, one that died
leaves no connection waiting, and the supervisor answers no request itself. It imports no torch.

worker   LOADING ──▶ READY ──▶ dies ──▶ AWAY ──▶ READY       the others go on, and the server stays ready
            │                            └──▶ LOST           it fails again and again: not live
            └──▶ the first time, before all are ready: the server ends with the worker's exit code and sentence
"""

import asyncio
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from slipway_runtime.errors import BadConfig, Failure
from slipway_runtime.gpus import gpus
from slipway_runtime.settings import Settings
from slipway_runtime.signals import wish
from slipway_runtime.wire.http1_server import bound
from slipway_runtime.workers.crew import Place
from slipway_runtime.workers.hub import Hub, Member
from slipway_runtime.workers.link import Link
from slipway_runtime.workers.page import Page, Seat

log = logging.getLogger("slipway.workers")
_WELL_S = 10.0  # who lived so long died of something else than its start
_MOST_FAILURES = 5  # in a row, before it had loaded
_DELAY_S, _MOST_DELAY_S = 0.1, 10.0
_KILL_S = 10.0  # beyond the time for draining; for a process whose end of the link is closed; for one that was killed


async def supervise(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        Failure: the first worker's that could not start, or had to cut requests off.
    """
    _check(settings)
    supervisor = Supervisor(settings)
    try:
        await supervisor.run()
    finally:
        supervisor.close()


def _check(settings: Settings) -> None:
    if settings.device == "auto" and gpus():
        raise BadConfig(
            f"--workers {settings.workers} is for models on CPUs, and this container has a GPU; give --device cpu, or "
            "--workers 1"
        )


class Process:
    """One run of a worker's process, watched itself: a child that it has forked holds all else that it had."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self.popen = popen
        self._over = asyncio.Event()
        self._handle = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._handle, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        self.popen.poll()
        self._over.set()

    def signal(self, number: signal.Signals) -> None:
        if not self._over.is_set():
            self.popen.send_signal(number)

    async def ended(self, left: asyncio.Event) -> str:
        """Wait for its end; when it has `left`, not for long. Returns how it ended."""
        over, gone = asyncio.create_task(self._over.wait()), asyncio.create_task(left.wait())
        try:
            await asyncio.wait({over, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not (await asyncio.wait({over}, timeout=_KILL_S))[0]:
                self.popen.kill()
            await over
        finally:
            over.cancel()
            gone.cancel()
        code = self.popen.returncode
        return f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


@dataclass(eq=False, slots=True)
class Worker:
    """What the supervisor knows of one run of a worker."""

    number: int
    process: Process
    link: Link
    member: Member
    loaded: bool = False
    failure: Failure | None = None
    watch: asyncio.Task[None] | None = None


class Supervisor:
    """Must be made inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = replace(settings, device="cpu")
        self._count = settings.workers
        self._page = Page(self._count)
        self._hub = Hub()
        self._listeners: list[socket.socket] = []
        self._running: dict[int, Worker] = {}
        self._seats_before: dict[int, Seat] = {}
        self._stop = asyncio.Event()
        self._is_told = False
        self._over: Failure | None = None
        """Why the server cannot go on."""
        self._all_loaded = False
        self._began_s = time.monotonic()

    async def run(self) -> None:
        """Raises Failure as `supervise`."""
        loop = asyncio.get_running_loop()
        told = wish(self._told_to_stop, loop.time)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        self._listen()
        keepers = [asyncio.create_task(self._keep(number)) for number in range(self._count)]
        for keeper in keepers:
            keeper.add_done_callback(self._kept)
        await self._stop.wait()
        await self._let_end(keepers)
        for keeper in keepers:
            if keeper.done():
                keeper.result()
        if self._over is not None:
            raise self._over
        log.info("all workers have stopped")

    def close(self) -> None:
        self._close_ports()
        self._signal(signal.SIGKILL)

    def _close_ports(self) -> None:
        for listener in self._listeners:
            listener.close()

    # --- the ports

    def _listen(self) -> None:
        settings, ports = self._settings, {}
        wanted = {"http_port": settings.http_port, "grpc_port": settings.grpc_port}
        if settings.metrics_port:
            wanted["metrics_port"] = settings.metrics_port
        for name, port in wanted.items():
            try:
                listener = bound(settings.host, port)
            except OSError as exc:
                what = {"http_port": "HTTP", "grpc_port": "gRPC"}.get(name, "metrics")
                raise BadConfig(f"cannot listen on {what} port {port}: {os.strerror(exc.errno or 0)}") from exc
            self._listeners.append(listener)
            ports[name] = int(listener.getsockname()[1])
        log.info("listening", extra={"f": {**ports, "workers": self._count}})

    # --- the end

    def _told_to_stop(self) -> None:
        if self._is_told:
            self._signal(signal.SIGTERM)  # a second time: they end at once
        self._is_told = True
        self._stop.set()

    async def _let_end(self, keepers: list[asyncio.Task[None]]) -> None:
        """All at once stop being ready; each then drains as one process does, and takes connections till then."""
        self._close_ports()  # or what comes after the last of them would wait for nobody
        for number in range(self._count):
            self._page.sit(number, Seat.DRAINING)
        for worker in self._running.values():
            self._watch_no_more(worker)  # a model that is closed may have a lot to save
        self._signal(signal.SIGTERM)
        _, late = await asyncio.wait(keepers, timeout=self._settings.drain_timeout_s + _KILL_S)
        if late:
            self._signal(signal.SIGKILL)
            _, late = await asyncio.wait(late, timeout=_KILL_S)
        if late:  # the kernel does not let them go
            self._end(Failure(f"{len(late)} workers did not end though they were killed; the node is not well"))

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._running.values():
            worker.process.signal(number)

    def _end(self, failure: Failure) -> None:
        self._over = self._over or failure
        self._stop.set()

    # --- a worker

    async def _keep(self, number: int) -> None:
        """Start it, and again whenever it has died."""
        failures = deaths = 0
        while not self._stop.is_set():
            began_s = time.monotonic()
            worker, how = await self._one_run(number, is_again=failures + deaths > 0)
            if self._stop.is_set() or not self._all_loaded or not self._running:
                self._judge(number, worker, how)
                return
            failures = 0 if worker is not None and worker.loaded else failures + 1
            deaths = 1 if time.monotonic() - began_s > _WELL_S else deaths + 1
            why = str((worker and worker.failure) or how)
            if failures >= _MOST_FAILURES:
                self._page.leave(number, Seat.LOST)
                log.error("a worker cannot be started any more", extra={"f": {"of": number, "reason": why}})
                return
            delay_s = min(_MOST_DELAY_S, _DELAY_S * 2 ** (deaths - 1))
            what = "a worker died" if worker is not None else "a worker could not be started"
            log.error(what, extra={"f": {"of": number, "reason": why, "again_in_s": delay_s}})
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stop.wait()

    async def _one_run(self, number: int, *, is_again: bool) -> tuple[Worker | None, str]:
        """Returns how it ended, or why there was no process."""
        try:
            worker = await self._start(number, is_again=is_again)
        except OSError as error:  # no process, no memory, no descriptor: perhaps soon there is
            return None, f"could not be started: {error.strerror or error}"
        how = await worker.process.ended(worker.link.closed)
        self._gone(worker)
        return worker, how

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        """Raised again at the end: what is wrong here is wrong in the supervisor itself."""
        if not keeper.cancelled() and keeper.exception() is not None:
            self._end(Failure("the supervisor failed"))

    def _judge(self, number: int, worker: Worker | None, how: str) -> None:
        """It was the last, or one that could not start, or was told to end: is this the end of the server, and why?"""
        code = worker.process.popen.returncode if worker is not None else 0
        if worker is not None and worker.failure is not None:
            self._end(worker.failure)
        elif not self._stop.is_set():
            why = "every worker is gone: the last of them" if self._all_loaded else f"worker {number}"
            self._end(Failure(f"{why} {how}; the log says more, or it had too little memory"))
        elif code not in (0, -signal.SIGTERM):  # the latter before it had a handler for it
            self._end(Failure(f"worker {number} {how} when it was told to stop"))

    def _gone(self, worker: Worker) -> None:
        worker.link.abort()
        self._watch_no_more(worker)
        self._running.pop(worker.number, None)
        self._seats_before.pop(worker.number, None)
        self._hub.leave(worker.member)
        self._page.leave(worker.number, Seat.DRAINING if self._stop.is_set() else Seat.AWAY)

    def _watch_no_more(self, worker: Worker) -> None:
        if worker.watch is not None:
            worker.watch.cancel()

    async def _start(self, number: int, *, is_again: bool) -> Worker:
        """Raises OSError when there can be no further process."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._spawn(number, theirs, is_again=is_again)
            except OSError:
                ours.close()
                raise
        worker: Worker | None = None

        async def answer(what: str, about: Any) -> Any:
            assert worker is not None  # noqa: S101 - it is there before the loop's next turn
            return await self._answers[what](self, worker, about)

        link = await Link.over(ours, answer)
        member = Member(number, link, process.popen.kill, lambda is_away: self._away(number, is_away=is_away))
        worker = self._running[number] = Worker(number, process, link, member)
        self._hub.connect(member)
        if self._stop.is_set():
            process.signal(signal.SIGTERM)
        return worker

    def _spawn(self, number: int, link: socket.socket, *, is_again: bool) -> Process:
        fds = (self._page.fd, link.fileno(), *(listener.fileno() for listener in self._listeners))
        place = Place(number, self._count, is_again, fds[0], fds[1], fds[2:])
        warnings = [f"-W{option}" for option in sys.warnoptions]
        command = [sys.executable, "-P", *warnings, "-m", "slipway_runtime.workers.worker", str(os.getpid())]
        # The path by which we were found, installed or not; never the folder the server happens to run in.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        # A group of its own: of Ctrl-C in a terminal the supervisor tells it, once.
        popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, pass_fds=fds, env=environment, stdin=subprocess.PIPE, process_group=0
        )
        assert popen.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError), popen.stdin as pipe:  # if it is gone already, its end says so
            pipe.write(pickle.dumps((self._settings, place)))
        try:
            return Process(popen)
        except OSError:
            popen.kill()
            popen.wait()
            raise

    def _away(self, number: int, *, is_away: bool) -> None:
        """The others take the connections of one that does not hear, until it does again."""
        seat = self._page.seats()[number]
        if is_away and seat in (Seat.READY, Seat.PARTLY):
            self._page.sit(number, Seat.AWAY)
            self._seats_before[number] = seat
        elif not is_away and (before := self._seats_before.pop(number, None)) is not None and seat is Seat.AWAY:
            self._page.sit(number, before)

    # --- what workers ask

    async def _past(self, worker: Worker, _: Any) -> Any:
        return self._hub.past(worker.member)

    async def _join(self, worker: Worker, _: Any) -> None:
        await self._hub.join(worker.member)

    async def _loaded(self, worker: Worker, _: Any) -> None:
        worker.loaded = True
        worker.watch = asyncio.create_task(self._hub.watch(worker.member))
        if not self._all_loaded and len(self._running) == self._count and all(w.loaded for w in self._running.values()):
            self._all_loaded = True
            log.info("ready", extra={"f": {"load_s": round(time.monotonic() - self._began_s, 3)}})

    async def _failed(self, worker: Worker, about: Any) -> None:
        code, sentence = about
        worker.failure = Failure(sentence)
        worker.failure.exit_code = code

    async def _metrics(self, worker: Worker, _: Any) -> Any:
        return await self._hub.metrics()

    async def _statistics(self, worker: Worker, _: Any) -> Any:
        return await self._hub.statistics()

    async def _change(self, worker: Worker, change: Any) -> Any:
        return await self._hub.change(change)

    _answers: dict[str, Callable[["Supervisor", Worker, Any], Awaitable[Any]]] = {  # noqa: RUF012
        "past": _past,
        "join": _join,
        "loaded": _loaded,
        "failed": _failed,
        "metrics": _metrics,
        "statistics": _statistics,
        "change": _change,
    }
