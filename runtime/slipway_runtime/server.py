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
import sys
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from slipway_runtime.debug import debugged
from slipway_runtime.errors import BadConfig, Failure
from slipway_runtime.memory import keep_large_blocks, settle
from slipway_runtime.observe import Tracer, logged
from slipway_runtime.observe_grpc import logged_calls, traced_calls
from slipway_runtime.protocol.grpc_services import all_rpcs
from slipway_runtime.protocol.http2_methods import http2_methods
from slipway_runtime.protocol.methods import Methods
from slipway_runtime.protocol.routes import RestOptions, Routes
from slipway_runtime.protocol.shared_memory import SharedMemory
from slipway_runtime.repository import ModelFiles
from slipway_runtime.service import Service, ServiceOptions
from slipway_runtime.settings import Settings
from slipway_runtime.signals import wish
from slipway_runtime.wire.grpc_calls import GrpcServer
from slipway_runtime.wire.http1_messages import Handler
from slipway_runtime.wire.http1_server import HttpServer, Limits
from slipway_runtime.wire.inflating import Inflating
from slipway_runtime.workers.crew import Crew
from slipway_runtime.workers.together import Together

if TYPE_CHECKING:
    from slipway_runtime.protocol.grpcio_server import GrpcServer as GrpcioServer

log = logging.getLogger("slipway.server")
POLL_S = 0.02
SWITCH_S = 0.0005
SEND_S = 2.0  # for answers that are written but not yet with the client


async def serve(settings: Settings, crew: Crew | None = None) -> None:
    """Serve until told to stop. `crew`: the workers of which this is one.

    Raises:
        Failure: the server could not start, or had to cut requests off.
    """
    server = Server(settings, crew)
    stop = _signals()
    try:
        if not await _done_before(stop, server.start()):
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
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, wish(stop.set, loop.time))
    return stop


class Server:
    """Must be made inside a running event loop."""

    def __init__(self, settings: Settings, crew: Crew | None = None) -> None:
        self._settings, self._crew = settings, crew
        keep_large_blocks()
        # How long a thread that wants to run Python waits for one that does: the model's must not wait for 5 ms.
        sys.setswitchinterval(SWITCH_S)
        options = ServiceOptions(
            explicit=settings.model_control == "explicit", tracing=settings.tracing, log_format=settings.log_format
        )
        files = ModelFiles(settings)
        self._service = Service(files, options) if crew is None else Together(files, options, crew)
        self._memory = SharedMemory()
        self._inflating = Inflating()
        self._tracer = _tracer() if settings.tracing else None
        self._own_grpc, self._grpcio = self._grpc_servers()
        self._http = HttpServer(
            self._handler(),
            Limits(
                body_bytes=settings.max_body_bytes,
                held_bytes=settings.max_held_bytes,
                connections=settings.max_connections,
                idle_timeout_s=settings.idle_timeout_s,
            ),
            self._own_grpc.connection if self._own_grpc else None,
            self._own_grpc.held if self._own_grpc else None,
        )

    def _handler(self) -> Handler:
        settings = self._settings
        options = RestOptions(
            max_body_bytes=settings.max_body_bytes,
            tenant_header=settings.tenant_header.lower().encode(),
            full_status=settings.full_status,
        )
        handler: Handler = Routes(self._service, self._memory, options, self._inflating)
        if settings.debug:
            handler = debugged(handler, self._counts)
        if self._tracer is not None:
            handler = self._tracer.traced(handler)
        return logged(handler) if settings.access_log else handler

    def _counts(self) -> dict[str, Any]:
        """What this server has to do, for /debug/stats."""
        return {
            "pid": os.getpid(),
            "state": self._service.state,
            "in_flight": self._service.in_flight,
            "connections": self._http.connection_count,
            **self._service.load_report(),
        }

    def _grpc_servers(self) -> "tuple[GrpcServer | None, GrpcioServer | None]":
        settings = self._settings
        inference = Methods(self._service, self._memory, settings.tenant_header.lower().encode())
        rpcs = all_rpcs(self._service, inference)
        full_exhausts = settings.full_status == 429
        if settings.grpc_backend == "grpcio":
            from slipway_runtime.protocol.grpcio_server import GrpcServer as Fallback  # noqa: PLC0415 - only if wanted

            return None, Fallback(rpcs, settings.max_body_bytes, full_exhausts=full_exhausts)
        methods = http2_methods(rpcs, inference, full_exhausts=full_exhausts)
        if self._tracer is not None:
            methods = traced_calls(self._tracer, methods)
        if settings.access_log:
            methods = logged_calls(methods)
        own = GrpcServer(
            methods,
            max_message_bytes=settings.max_body_bytes,
            max_held_bytes=settings.max_held_bytes,
            idle_timeout_s=settings.idle_timeout_s,
            inflating=self._inflating,
        )
        return own, None

    async def start(self) -> None:
        """Listen and load. Who takes the place of a worker that died loads first: the others answer meanwhile."""
        crew, service = self._crew, self._service
        if isinstance(service, Together):
            memory = self._memory
            await service.connect({"register": memory.register, "unregister": memory.unregister})
        if crew is None or not crew.place.is_again:
            await self.listen()
        await self.load()
        if crew is not None and crew.place.is_again:
            await self.listen()

    async def listen(self) -> None:
        if (crew := self._crew) is not None:
            self._http.share(crew.listeners, crew.is_turn, crew.connected)
            return
        settings = self._settings
        ports = {"http_port": await self._listen("HTTP", settings.http_port)}
        if self._grpcio is None:
            ports["grpc_port"] = await self._listen("gRPC", settings.grpc_port)
        else:
            try:
                ports["grpc_port"] = await self._grpcio.listen(settings.host, settings.grpc_port)
            except OSError as exc:
                raise BadConfig(f"cannot listen on gRPC port {settings.grpc_port}: is it in use?") from exc
        if settings.metrics_port:
            ports["metrics_port"] = await self._listen("metrics", settings.metrics_port)
        log.info("listening", extra={"f": ports})

    async def _listen(self, what: str, port: int) -> int:
        """Every port of ours speaks HTTP/1.1 and HTTP/2, whichever the client begins with."""
        try:
            return await self._http.listen(self._settings.host, port)
        except OSError as exc:
            raise BadConfig(f"cannot listen on {what} port {port}: {os.strerror(exc.errno or 0)}") from exc

    async def load(self) -> None:
        started_s = time.monotonic()
        await self._service.start()
        settle()
        if isinstance(self._service, Together):
            await self._service.arrive()
        message = "ready" if self._crew is None else "the worker is ready"
        log.info(message, extra={"f": {"load_s": round(time.monotonic() - started_s, 3)}})

    async def drain(self) -> None:
        """Finish what there is and close.

        Raises:
            Failure: when requests were still running at the end.
        """
        settings, service = self._settings, self._service
        began_s = time.monotonic()
        ends_s = began_s + settings.drain_timeout_s
        self._http.draining = True
        if self._own_grpc is not None:
            self._own_grpc.drain()
        service.set_draining()
        log.info("draining", extra={"f": {"in_flight": service.in_flight}})
        looked_idle = False
        while time.monotonic() < ends_s and not self._is_quiet(began_s):
            looked_idle = self._end_idle_streams(began_s, looked_idle=looked_idle)
            await asyncio.sleep(POLL_S)
        if left := service.in_flight:
            await self._close_models(SEND_S)  # what is not busy: a model may have something to save
            raise Failure(
                f"stopped with {left} requests unfinished after {settings.drain_timeout_s:g} s (--drain-timeout)"
            )
        await self.close(SEND_S)
        await self._close_models(max(SEND_S, ends_s - time.monotonic()))
        log.info("stopped", extra={"f": {"drain_s": round(time.monotonic() - began_s, 3)}})

    async def _close_models(self, grace_s: float) -> None:
        try:
            async with asyncio.timeout(grace_s):
                await self._service.close()
        except TimeoutError:
            log.warning("a model did not close in time")
            # The loop waits for the threads of its executor when it ends: not for those.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))

    async def close(self, grace_s: float) -> None:
        """Let go of the ports and the connections; what is written has `grace_s` to leave. Safe to call twice."""
        grpc = self._own_grpc or self._grpcio
        try:
            async with asyncio.timeout(grace_s + 1):
                await asyncio.gather(self._http.close(), *([grpc.close(grace_s)] if grpc else []))
        except TimeoutError:
            log.debug("clients did not take their last answers in time")
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    def _end_idle_streams(self, began_s: float, *, looked_idle: bool) -> bool:
        """Those of gRPC that would hold up the end though nothing is asked for. Returns whether nothing is.

        Not at the first look: the last answer may not have been written yet.
        """
        is_idle = not self._service.in_flight and self._is_past_idle(began_s)
        if is_idle and looked_idle and self._own_grpc is not None:
            self._own_grpc.end_idle_streams()
        return is_idle

    def _is_past_idle(self, began_s: float) -> bool:
        quiet_s = time.monotonic() - max(began_s, self._service.load_now.last_asked_s)
        return quiet_s >= self._settings.drain_idle_s

    def _is_quiet(self, began_s: float) -> bool:
        grpc_is_busy = self._own_grpc is not None and self._own_grpc.is_busy()
        busy = self._service.in_flight or self._http.is_busy() or grpc_is_busy
        return not busy and self._is_past_idle(began_s)


def _tracer() -> Tracer:
    try:
        return Tracer()
    except ImportError as exc:
        raise BadConfig("--tracing needs the OpenTelemetry packages: pip install 'slipway[tracing]'") from exc
