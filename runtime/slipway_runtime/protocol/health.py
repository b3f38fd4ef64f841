"""grpc.health.v1: whether the server, and its inference service, answer. Kubernetes and gateways probe it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.protocol.api import Api
from slipway_runtime.protocol.grpc_schemas import HEALTH, message_class

SERVICE = f"{HEALTH}.Health"
Request = message_class(f"{HEALTH}.HealthCheckRequest")
Response = message_class(f"{HEALTH}.HealthCheckResponse")
ListRequest = message_class(f"{HEALTH}.HealthListRequest")
ListResponse = message_class(f"{HEALTH}.HealthListResponse")
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
WATCH_S = 1.0  # how soon who watches learns of a change; nothing runs when nobody watches


class Health:
    """`services` are the names asked for beside "", the server as a whole."""

    def __init__(self, api: Api, services: tuple[str, ...], watch_s: float = WATCH_S) -> None:
        self._api = api
        self._services = ("", *services)
        self._watch_s = watch_s

    async def Check(self, message: Any, context: object) -> Any:
        if message.service not in self._services:
            raise RequestError(Kind.NOT_FOUND, f"there is no service '{message.service[:80]}' here")
        return self._response()

    async def List(self, message: Any, context: object) -> Any:
        answer = ListResponse()
        for service in self._services:
            answer.statuses[service].CopyFrom(self._response())
        return answer

    async def Watch(self, message: Any, context: object) -> AsyncIterator[Any]:
        """What it is now, and again whenever it is something else; ends with the call, and when the server drains.

        Who watches would hold up the end of the server; told that it does not serve, it turns to another.
        """
        known = message.service in self._services
        last = None
        while True:
            is_last = self._api.state == "draining"
            answer = self._response() if known else Response(status=SERVICE_UNKNOWN)
            if last is None or answer.status != last:
                last = answer.status
                yield answer
            if is_last:
                return
            await asyncio.sleep(self._watch_s)

    def _response(self) -> Any:
        return Response(status=SERVING if self._api.is_ready() else NOT_SERVING)
