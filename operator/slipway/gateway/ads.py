"""The delta ADS server for the Envoy beside this process: gRPC on a unix socket, one stream, the newest counts."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from slipway.gateway import xds
from slipway.gateway.store import Store
from slipway.gateway.stream import Request, Response, Stream

log = logging.getLogger(__name__)

_ENDING_S = 0.2


class AdsServer:
    def __init__(self, store: Store, socket: str, *more: Any) -> None:
        """`more`: handlers of what else Envoy asks for by this socket."""
        self._store, self._socket, self._more = store, socket, more
        self._server: Any = None
        self._gone = asyncio.Event()
        self._gone.set()
        self.stream: Stream | None = None
        """The one that speaks for Envoy now."""

    async def start(self) -> None:
        """Listen; only now can Envoy's start go on, so that what it is to have should be in the store."""
        # Else the library asks for a proxy by the environment and compiles thread pools that nobody uses.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.stream_stream_rpc_method_handler(
            self._talk,
            request_deserializer=xds.request_class().FromString,
            response_serializer=xds.response_class().SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(xds.SERVICE, {xds.METHOD: handler}), *self._more)
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    @property
    def is_started(self) -> bool:
        return self._server is not None

    async def disconnected(self) -> None:
        """Wait until there is no Envoy on the other side."""
        await self._gone.wait()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(_ENDING_S)

    async def _talk(self, requests: AsyncIterator[Any], context: Any) -> None:
        wake = asyncio.Event()
        stream = Stream(self._store, wake.set)
        self.stream = stream
        self._store.follow(stream)
        self._gone.clear()
        log.info("Envoy connected")
        reader = asyncio.create_task(_read(requests, stream), name="requests of Envoy")
        reader.add_done_callback(lambda _: wake.set())
        try:
            while not reader.done() and self._store.is_current(stream):
                while response := stream.due():
                    await context.write(_message(response))
                await wake.wait()
                wake.clear()
            if reader.done() and not reader.cancelled() and (error := reader.exception()):
                raise error
        finally:
            reader.cancel()
            if self._store.is_current(stream):
                self._store.follow(None)
                self.stream = None
                self._gone.set()
            log.info("Envoy disconnected")


async def _read(requests: AsyncIterator[Any], stream: Stream) -> None:
    async for message in requests:
        try:
            kind = xds.Kind(message.type_url)
        except ValueError:
            log.warning("Envoy asks for a type that nothing is known of: %s", message.type_url)
            continue
        request = Request(
            kind=kind,
            nonce=message.response_nonce,
            error=(message.error_detail.message or "refused without a word")
            if message.HasField("error_detail")
            else "",
            subscribe=tuple(message.resource_names_subscribe),
            unsubscribe=tuple(message.resource_names_unsubscribe),
            held=dict(message.initial_resource_versions),
        )
        stream.receive(request)


def _message(response: Response) -> Any:
    message = xds.response_class()(type_url=response.kind, nonce=response.nonce)
    for name, resource in response.resources:
        added = message.resources.add(name=name, version=resource.version)
        added.resource.type_url, added.resource.value = str(response.kind), resource.body
    message.removed_resources.extend(response.removed)
    return message
