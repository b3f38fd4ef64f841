"""The agent's process: where it finds the API server, and how it is told to end."""

import asyncio
import contextlib
import os
import signal

import aiohttp

from slipway.gateway import http, memory
from slipway.gateway.agent import Agent
from slipway.gateway.settings import Settings
from slipway.kube.client import KubeClient
from slipway.kube.pod import NotInPod, PodServer


async def run(settings: Settings) -> None:
    """The process from its first request to its end."""
    memory.keep_little()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url, opened = await _api_server()
    async with opened as session:
        agent = Agent(settings, KubeClient(session, url))
        async with http.serve(agent, settings.http_port):
            await agent.run(stop)


async def _api_server() -> tuple[str, aiohttp.ClientSession]:
    """In a pod by its service account; elsewhere by a kubeconfig, with the operator's own dependencies."""
    if not os.environ.get("KUBECONFIG"):
        with contextlib.suppress(NotInPod):
            pod = PodServer.load(os.environ)
            return pod.url, pod.session("slipway-gateway")
    from slipway.kube.auth import Server  # noqa: PLC0415 (needs a library that no gateway's image has)

    server = await Server.load()
    return server.url, server.session()
