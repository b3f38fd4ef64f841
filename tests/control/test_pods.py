"""Pods' own figures: few questions however many pods, sums that only grow, answers of strangers that do no harm."""

import asyncio
import math
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.scaled import Trust
from slipway.decide.scaling.trust import Level, of_pods
from slipway.edge.pods import PodAsker
from slipway.signals.pods import Figures, Flood, Place, PodLoads, Silent, parse

REVISION = ("team", "hello-a")
TRITON = b"""\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="hello",version="1",gpu_uuid="GPU-0"} 6
nv_inference_request_success{model="hello",version="1",gpu_uuid="GPU-1"} 4
nv_inference_request_success{model="tokens",version="1"} 10
nv_inference_request_duration_us{model="hello",version="1"} 5000000
nv_inference_request_duration_us{model="tokens",version="1"} 100
nv_inference_queue_duration_us{model="hello",version="1"} 1000000 1700000000000
nv_inference_pending_request_count{model="hello",version="1"} 3
nv_gpu_utilization{gpu_uuid="GPU-0"} 0.5
"""


def test_figures_are_those_of_the_services_own_model() -> None:
    assert parse(TRITON, "hello") == Figures(answered=10.0, busy_s=4.0, running=None, pending=3.0)
    assert parse(TRITON, "ensemble-by-another-name").answered == 20.0


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"vllm:num_requests_running 3\n", id="another server"),
        pytest.param(b'nv_inference_request_success{model="hello"} NaN\n', id="not a number"),
        pytest.param(b'nv_inference_request_success{model="hello"} -4\n', id="negative"),
        pytest.param(b'nv_inference_request_success{model="hello"} 1e999\n', id="infinite"),
        pytest.param(b"nv_inference_request_success{\n\xff\xfe", id="rubbish"),
        pytest.param(b"nv_inference_request_success", id="cut off"),
    ],
)
def test_what_no_server_would_say_is_no_figure(body: bytes) -> None:
    with pytest.raises(Silent):
        parse(body, "hello")


SCRAPS = [b"nv_inference_request_success", b"nv_inference_request_duration_us", b"{", b"}", b'model="hello"', b" "]


@given(
    st.lists(
        st.sampled_from([*SCRAPS, b"\n", b" 1", b" -1", b"NaN", b"\xff", b'"']) | st.binary(max_size=4), max_size=40
    )
)
def test_whatever_a_pod_says_there_are_sound_figures_or_none(scraps: list[bytes]) -> None:
    try:
        found = parse(b"".join(scraps), "hello")
    except Silent:
        return
    assert 0 <= found.answered < math.inf
    assert 0 <= found.busy_s < math.inf


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"nv_inference_request_success 1\n" * 8000, id="lines"),
        pytest.param(b"# nv_inference_request_success " * 8000, id="comments"),
    ],
)
def test_a_server_that_says_the_same_thousands_of_times_is_not_read_to_the_end(body: bytes) -> None:
    with pytest.raises(Flood):
        parse(body, "hello")


def test_names_that_only_begin_alike_are_others() -> None:
    body = TRITON + b"nv_inference_request_success_of_another 99\n"
    assert parse(body, "hello").answered == 10.0


class Cluster:
    """Pods by address, each with what it has answered."""

    def __init__(self, number: int) -> None:
        self.now = 100.0
        self.answered = {f"10.0.0.{index}": 0.0 for index in range(number)}
        self.mute: set[str] = set()
        self.floods = False
        self.asked = 0
        self.results: list[str] = []
        self.loads = PodLoads(self.ask, observe=self.results.append, clock=lambda: self.now)

    async def ask(self, address: str, _port: int) -> bytes:
        self.asked += 1
        if address in self.mute:
            raise Flood(address) if self.floods else Silent(address)
        count = self.answered[address]
        lines = [
            f"nv_inference_request_success {count}",
            f"nv_inference_request_duration_us {count * 2e6}",
            f"nv_inference_queue_duration_us {count * 1e6}",
            "nv_inference_pending_request_count 2",
        ]
        return "\n".join(lines).encode()

    def look(self, *addresses: str) -> None:
        chosen = addresses or tuple(self.answered)
        self.loads.look(REVISION, [Place(one, one, REVISION, one, 8080, "hello") for one in chosen])

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            for pod in self.loads.due():
                await self.loads.ask(pod)
            self.now += 0.1


async def test_sums_only_grow_whatever_becomes_of_pods() -> None:
    cluster = Cluster(2)
    cluster.look()
    await cluster.pass_time(3)
    cluster.answered |= {"10.0.0.0": 6.0, "10.0.0.1": 4.0}
    await cluster.pass_time(3)
    found = cluster.loads.of(REVISION, knows=False)
    assert found is not None
    assert (found.answered, found.busy_s, found.coverage, found.queued) == (10.0, 10.0, 1.0, 4.0)
    cluster.look("10.0.0.0")
    cluster.answered["10.0.0.0"] = 1.0  # started anew
    await cluster.pass_time(3)
    after = cluster.loads.of(REVISION, knows=False)
    assert after is not None
    assert (after.answered, after.epoch) == (11.0, found.epoch)


async def test_how_many_run_follows_from_the_time_worked_where_the_server_does_not_say() -> None:
    cluster = Cluster(1)
    cluster.look()
    await cluster.pass_time(0.1)
    for _ in range(3):
        cluster.answered["10.0.0.0"] += 6  # of a second each, in two seconds
        await cluster.pass_time(2)
    found = cluster.loads.of(REVISION, knows=False)
    assert found is not None
    assert found.running == pytest.approx(3.0, rel=0.1)
    assert cluster.loads.loads(REVISION) == {"10.0.0.0": pytest.approx(5.0, rel=0.1)}


@pytest.mark.parametrize(("pods", "least_s", "most"), [(3, 2.0, 20), (1000, 10.0, 1050)])
async def test_no_more_than_a_hundred_questions_a_second_however_many_pods(
    pods: int, least_s: float, most: int
) -> None:
    cluster = Cluster(pods)
    cluster.look()
    assert cluster.loads.period_s == least_s
    await cluster.pass_time(10)
    assert pods <= cluster.asked <= most
    found = cluster.loads.of(REVISION, knows=False)
    assert found is not None
    assert found.coverage == 1.0


async def test_pods_that_fall_silent_lower_the_coverage_and_then_there_is_nothing_to_believe() -> None:
    cluster = Cluster(4)
    cluster.look()
    await cluster.pass_time(3)
    cluster.mute = {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    await cluster.pass_time(40)
    found = cluster.loads.of(REVISION, knows=True)
    assert found is not None
    assert found.coverage == 0.25
    cluster.mute = set(cluster.answered)
    await cluster.pass_time(60)
    found = cluster.loads.of(REVISION, knows=True)
    assert found is not None
    assert found.coverage == 0.0
    assert found.age_s > 35
    assert cluster.loads.loads(REVISION) == {}


async def test_servers_that_tell_nothing_are_not_there_and_asleep_is_not_silent() -> None:
    cluster = Cluster(1)
    assert cluster.loads.of(REVISION, knows=False) is None
    asleep = cluster.loads.of(REVISION, knows=True)
    assert asleep is not None
    assert (asleep.age_s, asleep.running, asleep.queued) == (0.0, 0.0, 0.0)
    cluster.look()
    begun = cluster.loads.of(REVISION, knows=True)
    assert begun is not None
    assert begun.running is None, "it has not been asked yet"
    cluster.mute = set(cluster.answered)
    await cluster.pass_time(1)
    assert cluster.loads.of(REVISION, knows=True) is None
    assert set(cluster.results) == {"error"}


async def test_one_that_floods_is_asked_sixteen_times_more_seldom() -> None:
    cluster = Cluster(1)
    cluster.look()
    cluster.mute, cluster.floods = set(cluster.answered), True
    await cluster.pass_time(60)
    assert cluster.asked == 2


async def test_where_there_are_so_many_pods_that_each_is_asked_seldom_they_are_believed_for_longer() -> None:
    cluster = Cluster(4)
    cluster.look()
    others = ("team", "others")
    cluster.loads.look(others, [Place(f"o{n}", f"o{n}", others, "10.0.0.0", 80, "others") for n in range(4000)])
    assert cluster.loads.period_s > 40
    await cluster.pass_time(60)
    found = cluster.loads.of(REVISION, knows=True)
    assert found is not None
    assert (found.coverage, found.period_s) == (1.0, cluster.loads.period_s)
    assert of_pods(found, Trust()) is Level.FRESH


async def test_a_pod_that_has_another_address_is_asked_there() -> None:
    cluster = Cluster(2)
    cluster.loads.look(REVISION, [Place("uid", "pod", REVISION, "10.0.0.0", 80, "hello")])
    await cluster.pass_time(3)
    cluster.mute.add("10.0.0.0")
    cluster.loads.look(REVISION, [Place("uid", "pod", REVISION, "10.0.0.1", 80, "hello")])
    await cluster.pass_time(3)
    found = cluster.loads.of(REVISION, knows=True)
    assert found is not None
    assert found.coverage == 1.0


async def test_what_nobody_asks_for_any_more_is_not_asked() -> None:
    cluster = Cluster(2)
    cluster.look()
    cluster.loads.drop(REVISION)
    await cluster.pass_time(5)
    assert cluster.asked == 0
    cluster.loads.drop(REVISION)


class Pod:
    """A server of a tenant's own."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.requests: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        match self.how:
            case "well":
                return web.Response(body=TRITON)
            case "elsewhere":
                raise web.HTTPFound("http://169.254.169.254/metrics")
            case "refused":
                return web.Response(status=401)
            case _:
                return web.Response(body=b"x" * ((128 << 10) + 1))


@pytest_asyncio.fixture(params=["well"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[tuple[int, Pod]]:
    pod, app = Pod(request.param), web.Application()
    app.router.add_get("/{path:.*}", pod.answer)
    async with TestServer(app) as site:
        yield site.port or 0, pod


async def ask(port: int) -> bytes:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        return await PodAsker(session)("127.0.0.1", port)


async def test_a_pod_is_asked_for_its_metrics_and_for_nothing_packed(server: tuple[int, Pod]) -> None:
    port, pod = server
    assert parse(await ask(port), "hello").answered == 10
    (request,) = pod.requests
    assert (request.path, request.headers["Accept-Encoding"]) == ("/metrics", "identity")
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("server", ["elsewhere", "refused", "endless"], indirect=True)
async def test_a_pod_cannot_lead_the_operator_elsewhere_nor_fill_its_memory(server: tuple[int, Pod]) -> None:
    port, pod = server
    with pytest.raises(Silent):
        await ask(port)
    assert len(pod.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="closes"),
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", id="a length that is none"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nnv_", id="breaks off"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunks that are none"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n", id="a header without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\xfe;\r\nContent-Length: 0\r\n\r\n", id="bytes for words"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="upgrades"),
        pytest.param(None, id="says nothing"),
    ],
)
async def test_a_server_of_a_tenants_own_can_only_be_silent(answer: bytes | None) -> None:
    closing = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is None:
            await closing.wait()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(Silent):
            parse(await ask(port), "hello")
    finally:
        closing.set()
        server.close()
        await server.wait_closed()


async def test_a_pod_that_is_not_there_is_silent() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(Silent):
            await PodAsker(session)("127.0.0.1", 1)
        with pytest.raises(Silent):
            await PodAsker(session)("not an address", 80)
