"""What a real Envoy counts as finished, failed, rejected and refused, of users and of copies, one by one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from aiohttp import ClientPayloadError, web

from slipway.api.access import RateLimit
from slipway.api.routing import RoutedAccess, RoutedMirror
from slipway.decide.release import EDGES_MS, Sample
from slipway.gateway.admin import Admin
from slipway.gateway.counters import COPIES_BY_GRPC, FILTER, Counters
from slipway.gateway.render import counting
from slipway.gateway.views import Endpoint, ServiceView
from slipway.signals import report
from tests.gateway import clients, envoy, pods
from tests.gateway.envoy import Envoy
from tests.gateway.pods import Behaviour, Pod
from tests.gateway.services import service
from tests.gateway.waiting import first, until


async def counted(gateway: Envoy, revision: str = "r", *, requests: int, copies: bool = False) -> Sample:
    """Once so many requests have been counted, which is after the caller has its answer, and all that is of them."""
    admin, counters, before = Admin(gateway.settings.admin_socket), Counters(), None
    try:
        async with asyncio.timeout(20):
            while True:
                counters.read("Counters", await admin.stats("Counters", FILTER))
                counters.read_pods(await admin.pods(COPIES_BY_GRPC))
                told = counters.of(f"vision/{revision}")
                found = report.sample(report.Counters.model_validate(told.get("shadow", {}) if copies else told), None)
                if found.requests >= requests and found == before:
                    return found
                before = found
                await asyncio.sleep(0.02)
    finally:
        await admin.close()


def one(pod: Pod | Endpoint, **more: object) -> ServiceView:
    return service({"r": 10_000}, {"r": [pod]}, **more)  # type: ignore[arg-type]


def answers(status: int) -> Behaviour:
    async def behaviour(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    return behaviour


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.abort()
    return web.Response()


async def breaks_off_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "100"})
    await response.prepare(request)
    await response.write(b"abc")
    await asyncio.sleep(0.05)
    return await breaks_off(request)


async def drips(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"abc")
    await asyncio.sleep(30)
    return response


@pytest.mark.parametrize(
    ("behaviour", "errors"),
    [
        pytest.param(None, 0, id="answers"),
        pytest.param(answers(429), 0, id="queue full"),
        pytest.param(answers(500), 1, id="fails"),
        pytest.param(answers(503), 1, id="says that it is not there"),
        pytest.param(hangs, 1, id="too late, which is a 504 too"),
        pytest.param(breaks_off, 1, id="closes without an answer"),
        pytest.param(breaks_off_in_the_middle, 1, id="closes after the head of a 200"),
    ],
)
async def test_a_rest_request_is_an_error_once_or_not_at_all(
    tmp_path: Path, behaviour: Behaviour | None, errors: int
) -> None:
    async with pods.pod() as pod:
        pod.behaviour = behaviour
        view = one(pod, timeout_ms=300 if behaviour is hangs else 10_000)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            with contextlib.suppress(ClientPayloadError):
                await ask.infer()
            assert await counted(gateway, requests=1) == Sample(requests=1, errors=errors)


@pytest.mark.parametrize(
    ("status", "errors"),
    [
        (None, 0),
        *((status, 0) for status in ("CANCELLED", "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED")),
        *((status, 1) for status in ("UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")),
    ],
)
async def test_a_grpc_call_is_an_error_when_its_status_is_the_servers_fault(
    tmp_path: Path, status: str | None, errors: int
) -> None:
    async with pods.pod(with_grpc=True) as pod:
        pod.grpc_error = grpc.StatusCode[status] if status else None
        async with envoy.serving(tmp_path, one(pod)) as gateway, clients.channel(gateway) as channel:
            await clients.call(channel)
            assert await counted(gateway, requests=1) == Sample(requests=1, errors=errors)


@pytest.mark.parametrize("status", counting.REJECTIONS)
async def test_a_grpc_call_that_the_pod_will_not_have_is_rejected(tmp_path: Path, status: str) -> None:
    async with pods.pod(with_grpc=True) as pod:
        pod.grpc_error = grpc.StatusCode[status]
        async with envoy.serving(tmp_path, one(pod)) as gateway, clients.channel(gateway) as channel:
            await clients.call(channel)
            assert await counted(gateway, requests=1) == Sample(requests=1, rejected=1)


@pytest.mark.parametrize(
    ("status", "rejected"),
    [
        *((status, 1) for status in (400, 404, 405, 413, 415, 422, 499)),
        *((status, 0) for status in (401, 403, 408, 429)),
    ],
)
async def test_a_rest_request_that_the_pod_will_not_have_is_rejected_but_for_who_and_how_often(
    tmp_path: Path, status: int, rejected: int
) -> None:
    async with pods.pod() as pod:
        pod.behaviour = answers(status)
        async with envoy.serving(tmp_path, one(pod)) as gateway, clients.rest(gateway) as ask:
            await ask.infer()
            assert await counted(gateway, requests=1) == Sample(requests=1, rejected=rejected)


async def test_a_grpc_call_that_takes_too_long_or_finds_no_pod_is_an_error(tmp_path: Path) -> None:
    dead = Endpoint("127.0.0.1", envoy.free_port(), envoy.free_port())
    async with pods.pod(with_grpc=True) as pod:
        pod.grpc_delay_s = 30
        async with envoy.serving(tmp_path / "a", one(pod, timeout_ms=200)) as gateway, clients.channel(gateway) as late:
            await clients.call(late)
            assert await counted(gateway, requests=1) == Sample(requests=1, errors=1)
        async with envoy.serving(tmp_path / "b", one(dead)) as gateway, clients.channel(gateway) as lost:
            await clients.call(lost)
            assert await counted(gateway, requests=1) == Sample(requests=1, errors=1)


async def test_a_request_that_only_the_second_try_answered_is_an_error(tmp_path: Path) -> None:
    dead = Endpoint("127.0.0.1", envoy.free_port(), envoy.free_port())
    async with pods.pod() as pod:
        view = service({"r": 10_000}, {"r": [dead, pod]}, targets={"r": {"judged": True}})
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            assert {(await ask.infer()).status for _ in range(40)} == {200}
            found = await counted(gateway, requests=40)
            retried = sum(line["attempts"] > 1 for line in await gateway.logged(40))
    assert 0 < retried < 40  # one in 5 * 10^11 draws only one of the two
    assert found == Sample(requests=40, errors=retried)


async def test_a_revision_without_a_pod_fails_every_request(tmp_path: Path) -> None:
    view = service({"r": 10_000}, {"r": []})
    async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
        assert (await ask.infer()).status == 503
        assert await counted(gateway, requests=1) == Sample(requests=1, errors=1)


@contextlib.asynccontextmanager
async def gone(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """What a caller is answered who goes away once the block is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v2/models/resnet/infer HTTP/1.1\r\nhost: resnet.vision\r\ncontent-length: 0\r\n\r\n"
    writer.write(head)
    yield reader
    writer.transport.abort()


@pytest.mark.parametrize(("behaviour", "requests"), [(hangs, 0), (drips, 1)])
async def test_a_caller_who_goes_away_is_nobodys_error(tmp_path: Path, behaviour: Behaviour, requests: int) -> None:
    async with pods.pod() as pod:
        pod.behaviour = behaviour
        async with envoy.serving(tmp_path, one(pod)) as gateway:
            async with gone(gateway.port) as answer, asyncio.timeout(20):
                await until(lambda: pod.seen, "the pod has the request")
                if requests:
                    await answer.readuntil(b"\r\nabc\r\n")
            await gateway.logged(1)
            assert await counted(gateway, requests=requests) == Sample(requests=requests)


async def test_who_never_got_to_a_pod_is_not_counted(tmp_path: Path) -> None:
    rate = RoutedAccess(rate_limit=RateLimit(requests_per_second=1), max_body_bytes=100)
    async with pods.pod() as pod:
        async with envoy.serving(tmp_path / "a", one(pod, access=RoutedAccess(clients=["web"]))) as gateway:
            async with clients.rest(gateway) as ask:
                assert (await ask.infer({"x-envoy-attempt-count": "7"})).status == 401
            await gateway.logged(1)
            assert await counted(gateway, requests=0) == Sample()
        async with envoy.serving(tmp_path / "b", one(pod, access=rate)) as gateway, clients.rest(gateway) as ask:
            found = [(await ask.infer({"x-envoy-attempt-count": "7"})).status for _ in range(3)]
            found.append((await ask.infer(data=b"x" * 200)).status)
            await gateway.logged(4)
            assert await counted(gateway, requests=1) == Sample(requests=found.count(200))


async def test_what_is_refused_for_want_of_room_is_no_models_error(tmp_path: Path) -> None:
    others = asyncio.Event()

    async def busy(_: web.Request) -> web.StreamResponse:
        await others.wait()
        return web.Response()

    async with pods.pod() as pod:
        pod.behaviour = busy
        view = one(pod, access=RoutedAccess(max_concurrency=1))
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            refused, [served] = await first(4, (ask.infer() for _ in range(5)))
            others.set()
            assert [answer.status for answer in refused] == [503] * 4
            assert (await served).status == 200
            await gateway.logged(5)
            assert await counted(gateway, requests=1) == Sample(requests=1)


async def test_copies_that_fail_are_errors_of_copies_only_by_rest_and_by_grpc(tmp_path: Path) -> None:
    async with pods.pod(with_grpc=True) as stable, pods.pod(with_grpc=True) as shadow:
        view = service(
            {"old": 10_000, "b": 0}, {"old": [stable], "b": [shadow]}, mirror=RoutedMirror(revision="b", share=10_000)
        )
        async with (
            envoy.serving(tmp_path, view) as gateway,
            clients.rest(gateway) as ask,
            clients.channel(gateway) as channel,
        ):
            await ask.infer()
            await clients.call(channel)
            assert await counted(gateway, "b", requests=2, copies=True) == Sample(requests=2)
            shadow.behaviour, shadow.grpc_error = answers(500), grpc.StatusCode.INTERNAL
            for _ in range(3):
                await ask.infer()
                await clients.call(channel)
            assert await counted(gateway, "b", requests=8, copies=True) == Sample(requests=8, errors=6)
            assert await counted(gateway, "old", requests=8) == Sample(requests=8)
            assert await counted(gateway, "b", requests=0) == Sample()
            for number, (status, rejected) in enumerate(((400, 1), (422, 2), (429, 2)), start=9):
                shadow.behaviour = answers(status)
                await ask.infer()  # which does not wait for its copy
                copies = Sample(requests=number, errors=6, rejected=rejected)
                assert await counted(gateway, "b", requests=number, copies=True) == copies


async def test_latencies_are_counted_in_the_buckets_that_releases_are_judged_by(tmp_path: Path) -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.06)
        return web.Response()

    async with pods.pod() as pod:
        pod.behaviour = slow
        async with envoy.serving(tmp_path, one(pod)) as gateway, clients.rest(gateway) as ask:
            await ask.infer()
            admin, counters = Admin(gateway.settings.admin_socket), Counters()
            try:
                async with asyncio.timeout(15):
                    while not counters.of("vision/r").get("latency_ms"):
                        counters.read("Histograms", await admin.stats("Histograms", FILTER))
                        await asyncio.sleep(0.1)
            finally:
                await admin.close()
    latency = report.sample(report.Counters.model_validate(counters.of("vision/r")), None).latency
    assert sum(latency) == 1
    assert EDGES_MS[latency.index(1)] > 56
