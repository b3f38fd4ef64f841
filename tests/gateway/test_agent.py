"""The agent beside a real Envoy: what the API server says is served, whoever of the three is away."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.api import SERVICES, api_server
from tests.gateway.gateway import Gateway, Load, complaints, eventually, gateway, is_gone
from tests.gateway.pods import pod
from tests.gateway.views import routing

pytestmark = pytest.mark.timeout(120)


async def test_a_routing_that_is_written_is_served_and_reported(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            assert await found.ask() == (200, "one")
            await api.pods("r2", two.endpoint)
            await api.route("a", routing("v2", {"r2": 10_000}))
            await found.takes("a", "v2")
            assert await found.ask() == (200, "two")
            report = await found.report()
            assert report["full"]
            assert report["ready"]
            assert report["taken"] == {"ns/a": "v2"}
            await api.delete(SERVICES, "ns", "a")
            await found.takes("a", None)
            await eventually(lambda: status(found), 404)
            assert (await found.report(report["token"]))["taken"] == {"ns/a": None}


async def status(found: Gateway) -> int:
    """That a service is gone the agent tells as it tells Envoy, which needs a moment."""
    return (await found.ask())[0]


async def test_a_hundred_weight_changes_under_load_lose_no_request(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        await api.route("a", routing("v0"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found, Load(found, "a") as load:
            await api.pods("r2", two.endpoint)
            for number in range(1, 101):
                # Every third time the other revision goes for good, and comes anew with the next.
                weights = {"r2": number * 97 % 10_000, "r1": 10_000 - number * 97 % 10_000}
                await api.route("a", routing(f"v{number}", weights if number % 3 else {"r1": 10_000}))
                await found.takes("a", f"v{number}")
                await asyncio.sleep(0.01)
        assert load.failed == []
        assert min(load.answers["one"], load.answers["two"]) > 20


async def test_a_table_that_envoy_refuses_leaves_the_old_one_and_every_other_service_in_force(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        for name, revision, backend in (("a", "r1", one), ("b", "q1", two)):
            await api.route(name, routing("v1", {revision: 10_000}))
            await api.pods(revision, backend.endpoint)
        async with gateway(tmp_path, api) as found, Load(found, "a", "b") as load:
            await api.route("a", routing("bad", sticky={"by": "header", "header": ""}))
            await api.route("b", routing("v2", {"q1": 10_000}, timeout_ms=5000))
            await found.takes("b", "v2")
            await found.until(lambda: bool(complaints(found)), "the refusal is reported")
            report = await found.report()
            assert report["taken"] == {"ns/a": "v1", "ns/b": "v2"}
            assert report["refused"]["ns/a"]["version"] == "bad"
            assert report["refused"]["ns/a"]["message"].startswith("RouteConfiguration ns/a: ")
            assert report["ready"]
            # The pods of the refused service move; the table that serves follows them, and is not tried again.
            await api.pods("r1", two.endpoint)
            await eventually(lambda: found.ask("a"), (200, "two"))
            await api.route("a", routing("v3"))
            await found.takes("a", "v3")
            assert is_gone(await found.report(report["token"]), "refused", "ns/a")
        assert load.failed == []


async def test_traffic_goes_on_while_the_agent_is_killed_and_another_one_starts(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found, Load(found, "a") as load:
            await found.kill_agent()
            await api.pods("r2", two.endpoint)
            await api.route("a", routing("v2", {"r2": 10_000}))
            await asyncio.sleep(0.3)
            await found.start_agent()
            await found.takes("a", "v2")
            await found.ready()
            assert await found.ask() == (200, "two")
        assert load.failed == []


async def test_envoy_alone_comes_back_with_everything_in_a_second(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            assert await found.ask() == (200, "one")
            await found.until(lambda: _count(found) == 1, "the request is counted")
            before = await found.report()
            await found.kill_envoy()
            await found.until(lambda: bool(found.agent and found.agent.unready()), "it is not ready")
            await asyncio.sleep(5)  # Envoy tells its age in whole seconds, and a busy one tells it late
            await found.start_envoy()
            await found.ready()
            assert await found.ask() == (200, "one")
            assert found.agent
            counted = found.agent
            await found.until(lambda: counted.report("")["epoch"] != before["epoch"], "the counts are the new Envoy's")
            assert _count(found) <= 1
            assert (await found.report(before["token"]))["full"]


def _counts(found: Gateway) -> dict[str, Any]:
    assert found.agent
    counters: Any = found.agent.report("")["counters"]
    return counters.get("ns/r1", {})  # type: ignore[no-any-return]


def _count(found: Gateway) -> int:
    return int(_counts(found).get("requests", 0))


def _timed(found: Gateway) -> int:
    return sum(_counts(found).get("latency_ms", {}).values())


async def test_without_the_api_server_envoy_and_agent_restart_and_traffic_goes_on(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        await api.route("a", routing("v1", access={"clients": ["web"]}))
        await api.keys(web="s3cret-key-of-web\n")
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            assert await found.ask(x_api_key="s3cret-key-of-web") == (200, "one")
            port = int(api.url.rpartition(":")[2])
            await api.stop()
            await found.kill_agent()
            await found.kill_envoy()
            await found.start_agent()
            await found.start_envoy()
            await found.ready()
            assert await found.ask(x_api_key="s3cret-key-of-web") == (200, "one")
            assert (await found.ask())[0] == 401
            state = [path for path in (tmp_path / "state").rglob("*.json") if "s3cret-key-of-web" in path.read_text()]
            assert [path.stat().st_mode & 0o777 for path in state] == [0o600]
            assert state[0].parent.stat().st_mode & 0o777 == 0o700
            # It comes back and has moved on meanwhile.
            await api.pods("r1", two.endpoint)
            await api.keys(web="an0ther-key-of-web\n")
            await api.start(port)
            await found.until(lambda: bool(found.agent and found.agent.is_synced), "in step again")
            await eventually(lambda: found.ask(x_api_key="an0ther-key-of-web"), (200, "two"))
            assert (await found.ask(x_api_key="s3cret-key-of-web"))[0] == 401


async def test_what_is_gone_when_a_watch_can_bridge_no_gap_is_dropped(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        for name in ("a", "b"):
            await api.route(name, routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            port = int(api.url.rpartition(":")[2])
            await api.stop()
            await api.delete(SERVICES, "ns", "a")
            api.forget_history()
            await api.start(port)
            await found.takes("a", None)
            await eventually(lambda: status(found), 404)
            assert await found.ask("b") == (200, "one")


async def test_a_status_that_was_lost_or_cannot_be_read_takes_nothing_away(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            await api.put(SERVICES, "ns", "a", status={})
            await api.put(SERVICES, "ns", "a", status={"routing": {"version": "v9", "targets": "?"}})
            await found.until(lambda: bool(complaints(found)), "it is said")
            assert "targets" in (await found.report())["refused"]["ns/a"]["message"]
            await found.kill_agent()
            await found.start_agent()
            await found.until(lambda: bool(found.agent and found.agent.is_synced), "in step again")
            assert await found.ask() == (200, "one")
            await api.route("a", routing("v2"))
            await found.takes("a", "v2")
            assert complaints(found) == {}


async def test_of_two_services_that_claim_a_host_the_older_has_it_until_it_goes(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        await api.route("b", routing("v1"), namespace="a-c", creationTimestamp="2026-01-02T00:00:00Z")
        await api.route("b-a", routing("v1"), namespace="c", creationTimestamp="2026-01-01T00:00:00Z")
        await api.pods("r1", one.endpoint, namespace="a-c")
        await api.pods("r1", two.endpoint, namespace="c")
        async with gateway(tmp_path, api) as found:

            async def outside(model: str) -> tuple[int, str]:
                async with found.session.get(
                    f"{found.base}/v2/models/{model}", headers={"host": "b-a-c.example.org"}
                ) as answer:
                    return answer.status, (await answer.text())[:13]

            assert await outside("b-a") == (200, '{"pod": "two"')
            assert await found.ask("b", "a-c") == (200, "one")
            await api.delete(SERVICES, "c", "b-a")
            await eventually(lambda: outside("b"), (200, '{"pod": "one"'))


async def test_sigterm_lets_the_last_request_end(tmp_path: Path) -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(1.5)
        return web.json_response({"pod": "one"})

    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            one.behaviour = slow
            request = asyncio.create_task(found.ask())
            await found.until(lambda: one.seen, "the pod has the request")
            drained = asyncio.create_task(found.get("/drained"))
            ending = asyncio.create_task(found.stop_agent())
            await found.until(lambda: found.agent and found.agent.ending.is_set(), "it heard the signal")
            assert (await found.get("/readyz"))[0] == 503
            one.behaviour = None
            assert await found.ask() == (200, "one")  # somebody who has not heard yet
            assert not drained.done()
            assert await request == (200, "one")
            assert await drained == (200, "drained\n")
            await found.kill_envoy()
            await ending


async def test_a_gateway_that_is_still_asked_now_and_then_does_not_end(tmp_path: Path) -> None:
    """Requests so short that hardly any look finds one under way."""
    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api, drain_quiet_s=2.5, drain_grace_s=30.0) as found:
            drained = asyncio.create_task(found.get("/drained"))
            ending = asyncio.create_task(found.stop_agent())
            for _ in range(8):
                assert await found.ask() == (200, "one")
                await asyncio.sleep(0.5)
                assert not drained.done()
            assert await drained == (200, "drained\n")
            await found.kill_envoy()
            await ending


async def test_nobody_can_drain_a_gateway_by_asking(tmp_path: Path) -> None:
    async with api_server() as api, gateway(tmp_path, api) as found:
        assert await found.get("/drained") == (200, "the agent goes on\n")
        assert (await found.get("/readyz"))[0] == 200


async def test_people_read_counts_by_service_and_revision(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            for _ in range(3):
                await found.ask()
            await found.until(lambda: _count(found) == 3, "the requests are counted")
            text = (await found.get("/metrics"))[1]
            whose = 'namespace="ns",service="a",revision="r1",variant="",protocol="http"'
            assert f'slipway_gateway_requests_total{{{whose},code="2xx"}} 3' in text
            assert "slipway_gateway_services 1" in text
            await found.until(lambda: _timed(found) >= 3, "Envoy sums up how long they took, perhaps not all at once")
            counts = _counts(found)
            told = (counts["finished"], counts.get("failed", 0), counts["active"])
            assert (*told, _timed(found)) == (3, 0, 0, 3)
            text = (await found.get("/metrics"))[1]
            assert f"slipway_gateway_request_duration_seconds_count{{{whose}}} 3" in text


async def test_judging_begins_and_ends_without_breaking_a_request(tmp_path: Path) -> None:
    """Other clusters are made then, which set no pods aside. A request on its way goes on in the old one."""

    def judged(version: str, *revisions: str) -> Any:
        weights = {"r2": 1000, "r1": 9000}
        table = routing(version, weights)
        targets = [target.model_copy(update={"judged": target.revision in revisions}) for target in table.targets]
        return table.model_copy(update={"targets": targets})

    async with api_server() as api, pod("one", with_grpc=True) as one:

        async def slow_inference(request: web.Request) -> web.StreamResponse:
            if request.method == "GET":
                return web.json_response({"pod": "one"})
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(30):
                await response.write(b"x")
                await asyncio.sleep(0.05)
            return response

        await api.route("a", judged("v0"))
        await api.pods("r1", one.endpoint)
        await api.pods("r2", one.endpoint)
        async with gateway(tmp_path, api) as found, Load(found, "a") as load:
            one.behaviour = slow_inference
            asked = {"host": "a.ns"}
            async with found.session.post(f"{found.base}/v2/models/a/infer", headers=asked) as answer:
                for number in range(1, 9):
                    await api.route("a", judged(f"v{number}", *(("r1", "r2") if number % 2 else ())))
                    await found.takes("a", f"v{number}")
                    asked_so = load.answers["one"] + 13
                    await found.until(lambda least=asked_so: load.answers["one"] >= least, "it is asked")  # type: ignore[misc]
                text = await answer.read()
            assert (answer.status, len(text)) == (200, 30)
        assert load.failed == []
        assert load.answers["one"] > 100
