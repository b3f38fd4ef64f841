"""The probes tell the truth: what the kubelet and Prometheus get to see in every state of the process."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from slipway.control.metrics import Metrics
from slipway.control.workqueue import WorkQueue
from slipway.edge.probes import Health, serve


class Probed:
    def __init__(self, health: Health, metrics: Metrics, session: aiohttp.ClientSession, port: int) -> None:
        self.health, self.metrics, self._session, self._port = health, metrics, session, port

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(f"http://127.0.0.1:{self._port}{path}") as response:
            return response.status, await response.text()


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    health, metrics = Health(WorkQueue()), Metrics()
    metrics.watch_queue(health.queue)
    async with serve(health, metrics, 0) as port, aiohttp.ClientSession() as session:
        yield Probed(health, metrics, session, port)


async def test_a_process_that_starts_is_alive_but_not_ready(probed: Probed) -> None:
    assert await probed.get("/healthz") == (200, "ok\n")
    assert await probed.get("/readyz") == (503, "starting or stopping\n")


async def test_a_standby_is_ready_to_take_over(probed: Probed) -> None:
    probed.health.ready = True
    assert await probed.get("/readyz") == (200, "ok\n")


async def test_a_part_that_ended_makes_the_process_unhealthy_and_is_named(probed: Probed) -> None:
    async def watch() -> None:
        raise RuntimeError("the watch broke")

    probed.health.ready = True
    probed.health.parts["watches"] = asyncio.create_task(watch())
    await asyncio.wait([probed.health.parts["watches"]])
    assert await probed.get("/healthz") == (503, "ended: watches\n")
    assert await probed.get("/readyz") == (503, "ended: watches\n")
    assert probed.health.parts["watches"].exception() is not None


@pytest.mark.looptime
async def test_a_reconcile_that_hangs_makes_the_process_unhealthy() -> None:
    health = Health(WorkQueue())
    health.queue.add(("team", "hello"))
    await health.queue.get()
    await asyncio.sleep(299)
    assert health.complaint() == ""
    await asyncio.sleep(2)
    assert health.complaint() == "a reconcile has been running for 301 s"


async def test_a_loop_that_was_blocked_is_measured(probed: Probed) -> None:
    await asyncio.sleep(0)  # the measuring task sleeps now
    time.sleep(1.5)  # noqa: ASYNC251 (the very thing that must not happen in the operator)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if probed.health.lag_s > 0.3:
            break
    assert 0.3 < probed.health.lag_s < 60, "seconds; a busy machine adds some"
    assert "slipway_loop_lag_seconds_count" in (await probed.get("/metrics"))[1]


async def test_metrics_have_controller_runtime_s_names(probed: Probed) -> None:
    probed.health.queue.add(("team", "hello"))
    probed.metrics.called("patch", "Deployment", "200")
    probed.metrics.reconciled("success", 0.02)
    code, text = await probed.get("/metrics")
    assert code == 200
    for line in (
        'workqueue_depth{controller="inferenceservice",name="inferenceservice"} 1.0',
        'slipway_api_calls_total{code="200",kind="Deployment",verb="patch"} 1.0',
        'controller_runtime_reconcile_total{controller="inferenceservice",result="success"} 1.0',
        'slipway_reconcile_seconds_count{outcome="success"} 1.0',
        "slipway_leader 0.0",
    ):
        assert line in text.splitlines()
