"""The gateway pods of a small HTTP API server: found, asked, and moved out of their Service while they are silent."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipway.api.manifest import Key, Manifest
from slipway.edge.gateways import Asker, GatewayWatch, Place
from slipway.kube.client import KubeClient
from slipway.kube.kinds import ENDPOINT_SLICE, POD
from slipway.signals.gateways import Gateways
from tests.control.apiserver import ApiServer
from tests.fake import Store

NAMESPACE, HELLO = "slipway-system", ("team", "hello")
DEADLINE_S = 10.0
SERVING = "slipway.dev/serving"


class Fleet:
    """Gateways on loopback. One agent answers for every pod whose address is 127.0.0.1; at others nobody listens."""

    def __init__(self, session: aiohttp.ClientSession, url: str, port: int, api: ApiServer) -> None:
        self.api, self.store = api, api.store
        self.news: list[set[Key]] = []
        self._kube, self._place = KubeClient(session, url), Place(NAMESPACE, "slipway-gateway", "app=gateway", port)
        self.gateways = Gateways(Asker(session, port), self.news.append, silent_s=0.2)
        self.taken = "v1"
        self.watch = self.watching(period_s=0.02)

    def watching(self, *, period_s: float) -> GatewayWatch:
        return GatewayWatch(self._kube, self._kube, self._place, self.gateways, period_s=period_s)

    def add(self, name: str, address: str) -> None:
        meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": "gateway", SERVING: "true"}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "envoy"}]}}
        uid = self.store.create(POD, pod)["metadata"]["uid"]

        def runs(live: Manifest) -> None:
            live["status"] = {"phase": "Running", "podIP": address}

        self.store.edit(POD, NAMESPACE, name, runs, manager="kubelet", subresource="status")
        self.store.create(ENDPOINT_SLICE, _slice(name, uid, address))

    def label(self, name: str) -> str:
        live = self.store.get(POD, NAMESPACE, name)
        assert live is not None
        return str(live["metadata"]["labels"][SERVING])

    async def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.005)


def _slice(name: str, uid: str, address: str) -> Manifest:
    labels = {"kubernetes.io/service-name": "slipway-gateway"}
    target = {"kind": "Pod", "name": name, "uid": uid}
    end = {"addresses": [address], "conditions": {"ready": True, "serving": True}, "targetRef": target}
    meta = {"name": f"slice-{name}", "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": ENDPOINT_SLICE.api_version, "kind": "EndpointSlice", "metadata": meta, "endpoints": [end]}


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    api = ApiServer(Store(), (POD, ENDPOINT_SLICE))
    agent = web.Application()

    async def report(_: web.Request) -> web.Response:
        return web.json_response({"epoch": "e", "token": "t", "ready": True, "taken": {"team/hello": made.taken}})

    agent.router.add_get("/report", report)
    async with TestServer(api.app()) as http, TestServer(agent) as agents, aiohttp.ClientSession() as session:
        made = Fleet(session, str(http.make_url("")).rstrip("/"), int(agents.port or 0), api)
        yield made


async def test_the_first_look_finds_the_gateways_and_hears_them(fleet: Fleet) -> None:
    fleet.add("gw-a", "127.0.0.1")
    await fleet.watch.prime()
    (view,) = fleet.gateways.views(HELLO) or ()
    assert (view.name, view.taken, view.takes_traffic) == ("gw-a", "v1", True)
    assert fleet.news == [{HELLO}]


async def test_who_may_not_look_goes_on_without_knowing(fleet: Fleet) -> None:
    fleet.api.refuse(403, times=1000)
    await fleet.watch.prime(patience_s=0.05)
    assert fleet.gateways.views(HELLO) is None


async def test_a_silent_gateway_is_taken_out_of_the_service_and_a_new_one_is_seen(fleet: Fleet) -> None:
    fleet.add("gw-a", "127.0.0.1")
    fleet.add("gw-mute", "127.0.0.9")
    await fleet.watch.prime()
    task = asyncio.create_task(fleet.watch.run())
    try:
        await fleet.until(lambda: fleet.label("gw-mute") == "false")
        assert fleet.label("gw-a") == "true"
        fleet.add("gw-c", "127.0.0.1")
        await fleet.api.publish()
        await fleet.until(lambda: fleet.gateways.number_behind() == 3)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_release_that_waits_for_an_acknowledgement_hears_of_it_before_the_next_round(fleet: Fleet) -> None:
    """Rounds are half a minute apart here; it comes a moment after it was asked for."""
    fleet.add("gw-a", "127.0.0.1")
    watch = fleet.watching(period_s=30)
    await watch.prime()
    task = asyncio.create_task(watch.run())
    try:
        await fleet.until(lambda: len(fleet.news) >= 1)
        fleet.gateways.hurry()
        asyncio.get_running_loop().call_later(0.15, setattr, fleet, "taken", "v2")
        await fleet.until(lambda: (fleet.gateways.views(HELLO) or ())[0].taken == "v2")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
