"""A service at zero behind a real Envoy: requests wait for the first pod, none is lost, and there are bounds."""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

from slipway.gateway.asks import Bounds
from tests.gateway import clients
from tests.gateway.api import SERVICES, Api, api_server
from tests.gateway.chance import likely
from tests.gateway.gateway import Gateway, Load, gateway, is_gone
from tests.gateway.pods import Pod, pod
from tests.gateway.views import routing

pytestmark = pytest.mark.timeout(120)
HOLD_MS = 10_000
PATIENT_MS = 60_000
"""Where many have to come first, all of whom wait."""
KEY = "k" * 16


def held(found: Gateway, service: str = "a") -> int:
    assert found.agent
    count: int = found.agent.report("")["held"].get(f"ns/{service}", 0)  # type: ignore[attr-defined]
    return count


def waits(found: Gateway) -> int:
    """Without who left of late, of whom one is still told."""
    assert found.agent
    return sum(len(line.held) for lines in found.agent._holds._lines.values() for line in lines.values())


async def lost(found: Gateway, revision: str = "ns/r1") -> int:
    counters = (await found.report())["counters"]
    count: int = counters.get(revision, {}).get("held_lost", 0)
    return count


async def infer(found: Gateway, body: bytes = b"{}", **headers: str) -> tuple[int, str, dict[str, str]]:
    asked = {"host": "a.ns", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with found.session.post(f"{found.base}/v2/models/a/infer", headers=asked, data=io.BytesIO(body)) as answer:
        return answer.status, await answer.text(), {name.lower(): value for name, value in answer.headers.items()}


async def test_two_hundred_requests_to_a_service_at_zero_are_all_answered_when_its_pod_comes(tmp_path: Path) -> None:
    async with api_server() as api, pod("one", with_grpc=True) as one:
        await api.route("a", routing(hold_ms=PATIENT_MS))
        await api.pods("r1")
        async with gateway(tmp_path, api) as found, clients.channel_to(found.base, "a.ns") as channel:
            rest = [asyncio.create_task(infer(found)) for _ in range(120)]
            large = [asyncio.create_task(infer(found, b"x" * (4 << 20))) for _ in range(4)]
            unary = [asyncio.create_task(clients.call(channel, deadline_s=60)) for _ in range(60)]
            streams = [asyncio.create_task(echoed(channel)) for _ in range(16)]
            await found.until(lambda: held(found) == 200, "all wait")
            await asyncio.sleep(3)
            begun = time.monotonic()
            await api.pods("r1", one.endpoint)
            assert {answer[0] for answer in await asyncio.gather(*rest, *large)} == {200}
            assert {code for code, _, _ in await asyncio.gather(*unary)} == {grpc.StatusCode.OK}
            assert await asyncio.gather(*streams) == [[b"1", b"2"]] * 16
            took_s = time.monotonic() - begun
            assert took_s < PATIENT_MS / 1000 / 3, took_s
            await found.until(lambda: held(found) == 0, "nobody waits")
            assert await found.ask() == (200, "one")


async def echoed(channel: grpc.aio.Channel) -> list[bytes]:
    async def two() -> Any:
        yield b"1"
        yield b"2"

    return [bytes(each) async for each in channel.stream_stream(clients.STREAM)(two())]


@contextlib.asynccontextmanager
async def asleep(folder: Path, hold_ms: int = HOLD_MS, **more: Any) -> AsyncIterator[tuple[Api, Gateway, Pod]]:
    """A gateway with a service that has no pod, and a pod that could be its own."""
    settings = {name: more.pop(name) for name in ("holds", "drain_grace_s") if name in more}
    async with api_server() as api, pod("one", with_grpc=True) as one:
        await api.route("a", routing(hold_ms=hold_ms, **more))
        await api.pods("r1")
        async with gateway(folder, api, **settings) as found:
            yield api, found, one


async def test_a_service_that_falls_asleep_and_wakes_under_load_loses_no_request(tmp_path: Path) -> None:
    async with asleep(tmp_path) as (api, found, one):
        async with Load(found, "a", callers=8) as load:
            for _ in range(12):
                await api.pods("r1", one.endpoint)
                seen = load.answers["one"]
                await found.until(lambda seen=seen: load.answers["one"] > seen + 40, "it is awake")  # type: ignore[misc]
                await api.pods("r1")
                await found.until(lambda: held(found) == 8, "it sleeps")
            await api.pods("r1", one.endpoint)
        assert load.failed == []
        assert await lost(found) == 0


async def test_a_wait_that_is_too_long_is_answered_503_with_when_to_try_again(tmp_path: Path) -> None:
    async with asleep(tmp_path, 1100) as (_, found, _one), clients.channel_to(found.base, "a.ns") as channel:
        begun = time.monotonic()
        status, text, headers = await infer(found)
        assert 1 < time.monotonic() - begun < HOLD_MS / 1000
        assert (status, headers["retry-after"]) == (503, "5")
        sentence = "no replica of this service became ready in the 1.1 s that a request waits for one; try again later"
        assert json.loads(text) == {"error": sentence}
        assert "x-slipway-revision" not in headers
        code, message, more = await clients.call(channel)
        assert (code, message, more["retry-after"]) == (grpc.StatusCode.UNAVAILABLE, sentence, "5")
        whose = 'namespace="ns",service="a",revision="r1",variant=""'
        seen = f"slipway_gateway_held{{{whose}}} 1"
        assert seen in (await found.get("/metrics"))[1], "who looks later has to see that somebody asked"
        await eventually_lost(found, 2)
        counts = (await found.report())["counters"]["ns/r1"]
        assert [counts.get(name, 0) for name in ("finished", "failed", "refused", "requests")] == [0, 0, 0, 0]
        text = (await found.get("/metrics"))[1]
        assert f'slipway_gateway_held_lost_total{{{whose},protocol="grpc"}} 1' in text
        assert 'slipway_gateway_held_total{result="late"} 2' in text
        assert 'slipway_gateway_hold_seconds_bucket{le="3"} 2' in text


async def eventually_lost(found: Gateway, count: int) -> None:
    async with asyncio.timeout(10):
        while await lost(found) != count:
            await asyncio.sleep(0.05)


async def test_a_callers_own_deadline_ends_its_wait_and_what_is_left_of_it_reaches_the_pod(tmp_path: Path) -> None:
    async with asleep(tmp_path) as (api, found, one), clients.channel_to(found.base, "a.ns") as channel:
        begun = time.monotonic()
        status, text, _ = await infer(found, x_slipway_timeout_ms="300")
        assert status == 503
        assert "0.3 s that its caller gives" in text
        code, _, _ = await clients.call(channel, deadline_s=None, metadata={"grpc_timeout": "300m"})
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert time.monotonic() - begun < HOLD_MS / 1000
        begun = time.monotonic()
        waiting = asyncio.create_task(infer(found, x_slipway_timeout_ms="8000"))
        await found.until(lambda: waits(found) == 1, "it waits")
        await asyncio.sleep(1)
        await api.pods("r1", one.endpoint)
        assert (await waiting)[0] == 200
        left_ms = int(one.seen[-1].headers["x-slipway-timeout-ms"])
        assert 8000 - 1000 * (time.monotonic() - begun) - 100 < left_ms <= 7100
        assert one.seen[-1].headers["x-slipway-revision"] == "r1"


async def test_only_what_the_gateway_would_let_through_waits(tmp_path: Path) -> None:
    access = {"clients": ["web"], "rateLimit": {"requestsPerSecond": 1, "burst": 2, "per": "client"}, "maxBodyBytes": 9}
    async with asleep(tmp_path, 500, access=access) as (api, found, _):
        await api.keys(web=KEY)

        assert (await infer(found))[0] == 401
        assert (await infer(found, b"x" * 10, x_api_key="other"))[0] == 401
        assert held(found) == 0
        async with asyncio.timeout(20):
            while (await infer(found, b"x" * 10, x_api_key=KEY))[0] != 413:
                await asyncio.sleep(0.6)
        assert held(found) == 0
        codes = [code for code, _, _ in await asyncio.gather(*(infer(found, x_api_key=KEY) for _ in range(8)))]
        assert set(codes) == {429, 503}
        assert found.agent
        assert found.agent._holds.tally.results["late"] == codes.count(503)  # type: ignore[index]


async def test_only_requests_to_the_variant_that_sleeps_wait(tmp_path: Path) -> None:
    rules = [{"revision": "b1", "match": [{"header": "x-group", "exact": "beta"}]}]
    async with api_server() as api, pod("one") as one, pod("beta") as beta:
        table = routing("v1", {"r1": 10_000, "b1": 0}, rules=rules)
        targets = [each.model_copy(update={"hold_ms": HOLD_MS * (each.revision == "b1")}) for each in table.targets]
        await api.route("a", table.model_copy(update={"targets": targets}))
        await api.pods("r1", one.endpoint)
        await api.pods("b1")
        async with gateway(tmp_path, api) as found:
            waiting = asyncio.create_task(found.ask(x_group="beta"))
            await found.until(lambda: held(found) == 1, "it waits")
            for _ in range(20):
                assert await found.ask() == (200, "one")
            assert (await found.report())["counters"]["ns/b1"]["held"] == 1
            await api.pods("b1", beta.endpoint)
            assert await waiting == (200, "beta")
            # By weight, too: half of the requests wait, those that came to it.
            halves = [target.model_copy(update={"weight": 5000}) for target in targets]
            await api.pods("b1")
            await api.route("a", table.model_copy(update={"targets": halves, "version": "v2"}))
            await found.takes("a", "v2")
            tasks = [asyncio.create_task(found.ask()) for _ in range(40)]
            await found.until(lambda: held(found) + sum(task.done() for task in tasks) == 40, "all have gone somewhere")
            assert held(found) in likely(40, 0.5)
            await api.pods("b1", beta.endpoint)
            answers = await asyncio.gather(*tasks)
            assert {status for status, _ in answers} == {200}
            assert {name for _, name in answers} == {"one", "beta"}


async def test_beyond_its_bound_a_service_refuses_and_another_one_still_waits(tmp_path: Path) -> None:
    async with asleep(tmp_path, holds=Bounds(per_service=3)) as (api, found, one):
        await api.route("b", routing(weights={"q1": 10_000}, hold_ms=HOLD_MS))
        await found.takes("b", "v1")
        tasks = [asyncio.create_task(infer(found)) for _ in range(5)]
        await found.until(lambda: sum(task.done() for task in tasks) == 2, "two are too many")
        other = asyncio.create_task(found.ask("b"))
        await found.until(lambda: held(found, "b") == 1, "the other service waits")
        await api.pods("r1", one.endpoint)
        answers = await asyncio.gather(*tasks)
        assert sorted(status for status, _, _ in answers) == [200, 200, 200, 503, 503]
        refused = [(text, headers) for status, text, headers in answers if status == 503]
        assert all("try again later" in text and headers["retry-after"] for text, headers in refused)
        await api.pods("q1", one.endpoint)
        assert await other == (200, "one")
        assert await found.ask() == (200, "one")


async def test_a_pod_that_wakes_to_a_crowd_gets_no_more_at_once_than_it_holds(tmp_path: Path) -> None:
    busy, most = 0, 0

    async def slowly(_: web.Request) -> web.StreamResponse:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.03)
        busy -= 1
        return web.json_response({"pod": "one"})

    async with asleep(tmp_path, PATIENT_MS, slots=8) as (api, found, one):
        one.behaviour = slowly
        tasks = [asyncio.create_task(infer(found)) for _ in range(100)]
        await found.until(lambda: held(found) == 100, "all wait")
        await api.pods("r1", one.endpoint)
        assert {status for status, _, _ in await asyncio.gather(*tasks)} == {200}
        assert 1 < most <= 8
        assert await lost(found) == 0


async def test_a_caller_that_goes_away_is_not_waited_for(tmp_path: Path) -> None:
    async with asleep(tmp_path) as (api, found, one):
        tasks = [asyncio.create_task(infer(found)) for _ in range(3)]
        await found.until(lambda: held(found) == 3, "all wait")
        tasks[0].cancel()
        await found.until(lambda: held(found) == 2, "one has gone")
        await api.pods("r1", one.endpoint)
        assert [status for status, _, _ in await asyncio.gather(*tasks[1:])] == [200, 200]
        assert len(one.seen) == 2
        assert await lost(found) == 0


async def test_who_waits_for_a_revision_that_is_replaced_is_answered_by_the_new_one(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        api, found, _ = await stack.enter_async_context(asleep(tmp_path))
        two = await stack.enter_async_context(pod("two", with_grpc=True))
        async with clients.channel_to(found.base, "a.ns") as channel:
            rest, unary = asyncio.create_task(infer(found)), asyncio.create_task(clients.call(channel))
            await found.until(lambda: held(found) == 2, "both wait")
            await api.route("a", routing("v2", {"r2": 10_000}, hold_ms=HOLD_MS))
            await found.takes("a", "v2")
            await asyncio.sleep(1.2)  # what led to the old revision is gone
            await api.pods("r2", two.endpoint)
            status, text, headers = await rest
            assert (status, json.loads(text)["pod"], headers["x-slipway-revision"]) == (200, "two", "r2")
            code, text, more = await unary
            assert (code, text, more["x-slipway-revision"]) == (grpc.StatusCode.OK, "two", "r2")


async def test_who_waits_for_a_service_that_is_deleted_is_told_so(tmp_path: Path) -> None:
    async with asleep(tmp_path) as (api, found, _), clients.channel_to(found.base, "a.ns") as channel:
        rest, unary = asyncio.create_task(infer(found)), asyncio.create_task(clients.call(channel))
        await found.until(lambda: held(found) == 2, "both wait")
        await api.delete(SERVICES, "ns", "a")
        status, text, _ = await rest
        assert (status, json.loads(text)["error"]) == (404, "there is no such service any more")
        assert (await unary)[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_requests_go_on_waiting_while_the_agent_is_killed_and_another_one_starts(tmp_path: Path) -> None:
    async with asleep(tmp_path, PATIENT_MS) as (api, found, one), clients.channel_to(found.base, "a.ns") as channel:
        tasks = [asyncio.create_task(infer(found)) for _ in range(20)]
        unary = [asyncio.create_task(clients.call(channel, deadline_s=60)) for _ in range(5)]
        await found.until(lambda: held(found) == 25, "all wait")
        await found.kill_agent()
        late = asyncio.create_task(infer(found))
        await asyncio.sleep(0.5)
        await found.start_agent()
        await found.until(lambda: held(found) > 0, "they ask the new agent")
        await api.pods("r1", one.endpoint)
        assert [status for status, _, _ in await asyncio.gather(*tasks, late)] == [200] * 21
        assert {code for code, _, _ in await asyncio.gather(*unary)} == {grpc.StatusCode.OK}
        assert await lost(found) == 0


async def test_an_agent_that_cannot_be_asked_is_a_503_that_says_so(tmp_path: Path) -> None:
    async with asleep(tmp_path) as (_, found, _one), clients.channel_to(found.base, "a.ns") as channel:
        await found.kill_agent()
        ignorant = grpc.aio.server()
        Path(found.settings.envoy.ads_socket).unlink(missing_ok=True)
        ignorant.add_insecure_port(f"unix:{found.settings.envoy.ads_socket}")
        await ignorant.start()
        status, text, headers = await infer(found)
        assert (status, headers["retry-after"]) == (503, "1")
        sentence = "the gateway could not wait for a replica of this service; try again"
        assert json.loads(text) == {"error": sentence}
        code, message, _ = await clients.call(channel)
        assert (code, message) == (grpc.StatusCode.UNAVAILABLE, sentence)
        await ignorant.stop(0)


async def test_a_gateway_on_its_way_out_waits_for_a_pod_too_and_says_no_at_its_end(tmp_path: Path) -> None:
    async with asleep(tmp_path, drain_grace_s=2.0) as (_, found, _one):
        task = asyncio.create_task(infer(found))
        await found.until(lambda: held(found) == 1, "it waits")
        begun = time.monotonic()
        stopping = asyncio.create_task(found.stop_agent())
        number = json.loads((await found.get("/wakes"))[1])
        assert number["held"] == {"ns/a": 1}, "the operator is still told"
        status, text, headers = await task
        assert 1.5 < time.monotonic() - begun < HOLD_MS / 1000
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(text)["error"] == "this gateway ends before a replica was ready; try again"
        await found.kill_envoy()
        await stopping


async def test_the_first_request_to_a_service_at_zero_is_told_at_once(tmp_path: Path) -> None:
    async with asleep(tmp_path) as (api, found, one):
        first = json.loads((await found.get("/wakes"))[1])
        assert first["held"] == {}
        news = asyncio.create_task(found.get(f"/wakes?since={first['number']}"))
        await asyncio.sleep(0.2)
        assert not news.done()
        begun = time.monotonic()
        waiting = asyncio.create_task(infer(found))
        told = json.loads((await news)[1])
        assert time.monotonic() - begun < 10, "not at the end of the question's 20 s"
        assert (told["held"], told["revisions"]) == ({"ns/a": 1}, {"ns/r1": 1})
        report = await found.report()
        assert report["held"] == {"ns/a": 1}
        assert report["counters"]["ns/r1"]["held"] == 1
        await api.pods("r1", one.endpoint)
        await waiting
        later = await found.report(report["token"])
        assert is_gone(later, "held", "ns/a")
        assert "held" not in later["counters"]["ns/r1"]
