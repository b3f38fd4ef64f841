"""One server process from start to end: listen, load, serve, drain. The only place objects are put together.

0 s       listens; live, not ready
load      on the model's thread; one request of zeros warms it up
ready     answers
SIGTERM   not ready; goes on answering (HTTP: with Connection: close) until nothing was asked for
          --drain-idle seconds or --drain-timeout is over; a second signal ends it at once
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine

from slipway_runtime.cpus import cpu_limit
from slipway_runtime.engine.executor import Executor
from slipway_runtime.errors import BadConfig, BadModel, Failure, RequestError
from slipway_runtime.models import artifacts
from slipway_runtime.protocol.grpcio_server import GrpcServer
from slipway_runtime.protocol.routes import Routes
from slipway_runtime.service import Model, Service, State
from slipway_runtime.settings import Settings
from slipway_runtime.wire.http1 import HttpServer

log = logging.getLogger("slipway.server")
POLL_S = 0.02
SEND_S = 2.0  # for answers that are written but not yet with the client


async def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        Failure: the server could not start, or had to cut requests off.
    """
    server = Server(settings)
    stop = _signals()
    try:
        await server.listen()
        if not await _done_before(stop, server.load()):
            log.info("stopped while loading: nobody was answered yet")
            return
        await stop.wait()
        stop.clear()
        if not await _done_before(stop, server.drain()):
            raise Failure("told to stop a second time, ended at once")
    finally:
        await server.close(0)


async def _done_before(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do `work`, unless told to stop first. Raises what `work` raises."""
    doing, told = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({doing, told}, return_when=asyncio.FIRST_COMPLETED)
    if doing.done():
        told.cancel()
        await doing
        return True
    doing.cancel()
    return False


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class Server:
    """Must be made inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Without a limit: one request runs, one waits on the thread so that it never idles between two.
        self._executor = Executor(slots=settings.concurrency or 2, max_queue=settings.max_queue)
        self._service = Service(settings.name, self._executor, settings.timeout_s)
        self._http = HttpServer(
            Routes(self._service, settings.max_body_bytes),
            max_body_bytes=settings.max_body_bytes,
            idle_timeout_s=settings.idle_timeout_s,
        )
        self._grpc = GrpcServer(self._service, settings.max_body_bytes)

    async def listen(self) -> None:
        settings = self._settings
        try:
            http_port = await self._http.listen(settings.host, settings.http_port)
        except OSError as exc:
            raise BadConfig(f"cannot listen on HTTP port {settings.http_port}: {os.strerror(exc.errno or 0)}") from exc
        try:
            grpc_port = await self._grpc.listen(settings.host, settings.grpc_port)
        except OSError as exc:
            raise BadConfig(f"cannot listen on gRPC port {settings.grpc_port}: is it in use?") from exc
        log.info("listening", extra={"f": {"http_port": http_port, "grpc_port": grpc_port}})

    async def load(self) -> None:
        started_s = time.monotonic()
        try:
            model, warm = await self._executor.on_thread(self._load)
        except Failure:
            self._service.state = State.FAILED
            raise
        load_s = time.monotonic() - started_s
        self._service.set_ready(model, load_s)
        log.info("ready", extra={"f": {"model": self._service.name, "load_s": round(load_s, 3), "warmed_up": warm}})

    def _load(self) -> tuple[Model, bool]:
        """On the model's thread. Importing torch takes seconds, so it is done here, while we are live already."""
        settings = self._settings
        artifact = artifacts.find(settings.model, settings.format)
        from slipway_runtime.models import torch_model as model  # noqa: PLC0415 - see above

        loaded = model.load(artifact, settings.device, settings.threads or cpu_limit())
        if ignored := loaded.metadata.ignored:
            log.warning("config.json has fields that are ignored", extra={"f": {"fields": ", ".join(ignored)}})
        try:
            warm = loaded.warm_up()
        except RequestError as exc:
            raise BadModel(
                f"model file '{artifact.path}' was loaded, but its first (warm-up) request failed: {exc.message}; "
                "run it once on zeros where it was made"
            ) from exc
        self._service.name = self._service.name or artifact.config.name or artifact.default_name
        return loaded, warm

    async def drain(self) -> None:
        """Finish what there is and close.

        Raises:
            Failure: when requests were still running at the end.
        """
        settings, service = self._settings, self._service
        began_s = time.monotonic()
        ends_s = began_s + settings.drain_timeout_s
        self._http.draining = True
        service.set_draining()
        log.info("draining", extra={"f": {"in_flight": service.in_flight}})
        while time.monotonic() < ends_s and not self._is_quiet(began_s):  # noqa: ASYNC110 - no one event for three conditions
            await asyncio.sleep(POLL_S)
        if left := service.in_flight:
            raise Failure(
                f"stopped with {left} requests unfinished after {settings.drain_timeout_s:g} s (--drain-timeout)"
            )
        await self.close(SEND_S)
        log.info("stopped", extra={"f": {"drain_s": round(time.monotonic() - began_s, 3)}})

    async def close(self, grace_s: float) -> None:
        """Let go of the ports and the connections; what is written has `grace_s` to leave. Safe to call twice."""
        try:
            async with asyncio.timeout(grace_s + 1):
                await asyncio.gather(self._http.close(), self._grpc.close(grace_s))
        except TimeoutError:
            log.debug("clients did not take their last answers in time")

    def _is_quiet(self, began_s: float) -> bool:
        service = self._service
        quiet_s = time.monotonic() - max(began_s, service.last_asked_s)
        return not service.in_flight and not self._http.is_busy() and quiet_s >= self._settings.drain_idle_s
