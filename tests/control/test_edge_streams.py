"""The watches of what Slipway makes, on a small HTTP API server: nothing lost, nothing of others, nothing for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from slipway.api.manifest import Manifest
from slipway.api.names import LABEL_MANAGED_BY, LABEL_SERVICE, MANAGED_BY
from slipway.control.cache import Cache
from slipway.control.metrics import Metrics
from slipway.control.workqueue import WorkQueue
from slipway.edge.scope import Scope
from slipway.edge.streams import Streams
from slipway.kube.client import KubeClient
from slipway.kube.errors import Unavailable
from slipway.kube.kinds import DEPLOYMENT, OWNED, Kind
from tests.control.apiserver import ApiServer
from tests.fake import Store

HELLO = ("team", "hello")
DEADLINE_S = 30.0


def deployment(name: str = "hello-1", *, ours: bool = True) -> Manifest:
    labels = {LABEL_SERVICE: "hello"} | ({LABEL_MANAGED_BY: MANAGED_BY} if ours else {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "team", "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "m", "image": "x"}]}},
        },
    }


class Watched:
    def __init__(self, api: ApiServer, session: aiohttp.ClientSession, url: str) -> None:
        self.api, self.store = api, api.store
        self.cache, self.queue = Cache(), WorkQueue()
        self.recovered: list[Kind] = []
        self.obstacles = 0
        self.streams = Streams(KubeClient(session, url), Scope(), self.cache, self.queue, Metrics())

    async def recover(self, kind: Kind) -> None:
        if kind == DEPLOYMENT and self.obstacles:
            self.obstacles -= 1
            raise Unavailable("not now")
        self.recovered.append(kind)

    async def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.005)

    async def watching(self) -> None:
        """Every kind is watched."""
        await self.until(lambda: len(self.api.watched) == len(OWNED))

    @property
    def names(self) -> set[str]:
        return {manifest["metadata"]["name"] for manifest in self.cache.objects(DEPLOYMENT)}


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    api = ApiServer(Store(), Scope().kinds)
    async with TestServer(api.app()) as http, aiohttp.ClientSession() as session:
        watched = Watched(api, session, str(http.make_url("")).rstrip("/"))
        await watched.streams.begin()
        task = asyncio.create_task(watched.streams.run(watched.recover))
        yield watched
        task.cancel()
        await asyncio.wait([task])


async def test_news_reaches_the_cache_and_then_the_queue(watched: Watched) -> None:
    watched.store.create(DEPLOYMENT, deployment())
    await watched.api.publish()
    assert await asyncio.wait_for(watched.queue.get(), DEADLINE_S) == HELLO
    assert watched.names == {"hello-1"}
    watched.queue.done(HELLO)
    watched.store.delete(DEPLOYMENT, "team", "hello-1")
    await watched.api.publish()
    assert await asyncio.wait_for(watched.queue.get(), DEADLINE_S) == HELLO
    assert watched.names == set()


async def test_only_what_slipway_made_is_asked_for(watched: Watched) -> None:
    watched.store.create(DEPLOYMENT, deployment("foreign", ours=False))
    watched.store.create(DEPLOYMENT, deployment("ours"))
    await watched.api.publish()
    await watched.until(lambda: watched.names)
    assert watched.names == {"ours"}
    watches = [path for path in watched.api.requests if "watch=true" in path]
    assert watches
    assert all("labelSelector=app.kubernetes.io%2Fmanaged-by%3Dslipway" in path for path in watches)


async def test_what_comes_between_the_first_look_and_the_watch_is_not_lost() -> None:
    api = ApiServer(Store(), Scope().kinds)
    async with TestServer(api.app()) as http, aiohttp.ClientSession() as session:
        watched = Watched(api, session, str(http.make_url("")).rstrip("/"))
        await watched.streams.begin()
        watched.store.create(DEPLOYMENT, deployment())
        task = asyncio.create_task(watched.streams.run(watched.recover))
        await watched.until(lambda: watched.names)
        task.cancel()
        await asyncio.wait([task])


async def test_after_a_gap_the_kind_is_compared_and_the_watch_goes_on(watched: Watched) -> None:
    await watched.watching()
    await watched.api.forget_history()
    await watched.until(lambda: DEPLOYMENT in watched.recovered)
    watched.store.create(DEPLOYMENT, deployment())
    await watched.api.publish()
    await watched.until(lambda: watched.names)


async def test_a_comparison_that_fails_is_made_again_before_the_watch_goes_on(watched: Watched) -> None:
    await watched.watching()
    watched.obstacles = 2
    await watched.api.forget_history()
    await watched.until(lambda: DEPLOYMENT in watched.recovered)
    assert watched.obstacles == 0


@pytest.mark.parametrize("code", [403, 429, 500, 503])
async def test_refusals_are_waited_out(code: int) -> None:
    api = ApiServer(Store(), Scope().kinds)
    async with TestServer(api.app()) as http, aiohttp.ClientSession() as session:
        watched = Watched(api, session, str(http.make_url("")).rstrip("/"))
        await watched.streams.begin()
        api.refuse(code, times=5)
        task = asyncio.create_task(watched.streams.run(watched.recover))
        await watched.until(lambda: not api.refusals)
        watched.store.create(DEPLOYMENT, deployment())
        await watched.api.publish()
        await watched.until(lambda: watched.names)
        task.cancel()
        await asyncio.wait([task])
