"""Who ends a connection without requests: never the pod, for a request may be on its way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from slipway.gateway.views import Endpoint
from tests.gateway import clients, envoy
from tests.gateway.services import service

PODS_S = 10.0
"""Far beyond what the gateway is told, so that a busy machine ends it late and not too late."""


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        pytest.param({"idle_timeout_ms": 600}, {"pod_idle_timeout_s": 60.0}, id="the pod says when"),
        pytest.param({}, {"pod_idle_timeout_s": 0.5}, id="the pod does not say"),
    ],
)
async def test_the_gateway_ends_a_quiet_connection_before_the_pod_does(
    tmp_path: Path, target: dict[str, Any], settings: dict[str, Any]
) -> None:
    ended_by: list[str] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PODS_S)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            ended_by.append("gateway")
        except TimeoutError:
            ended_by.append("pod")
        writer.close()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        pod = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], 0)
        view = service({"old": 10_000}, {"old": [pod]}, targets={"old": target})
        async with (
            envoy.serving(tmp_path, view, settings=envoy.settings_in(tmp_path, **settings)) as gateway,
            clients.rest(gateway) as ask,
        ):
            assert (await ask("GET", "/v2/models/resnet")).status == 200
            await asyncio.wait_for(done.wait(), 2 * PODS_S)
    assert ended_by == ["gateway"]
