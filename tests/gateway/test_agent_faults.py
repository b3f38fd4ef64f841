"""The agent beside a real Envoy where something is late, missing or refused: keys, pods, rights, a routing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.gateway.agent import Agent
from tests.gateway.api import SECRETS, SERVICES, Api, api_server
from tests.gateway.gateway import Gateway, Load, complaints, eventually, gateway, notes
from tests.gateway.pods import pod
from tests.gateway.views import routing

pytestmark = pytest.mark.timeout(120)


async def _start(tmp_path: Path, api: Api, **more: Any) -> Gateway:
    found = Gateway(tmp_path, api, **more)
    await found.start_agent()
    await found.start_envoy()
    return found


async def test_a_gateway_is_not_ready_before_it_knows_the_keys_of_clients(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1", access={"clients": ["web"]}))
        await api.keys(web="s3cret-key-of-web\n")
        await api.pods("r1", one.endpoint)
        api.silent.add(SECRETS)
        found = await _start(tmp_path, api)
        try:
            await found.takes("a", "v1")
            assert found.agent
            assert "keys have not been read yet" in found.agent.unready()
            await api.speak()
            await found.ready()
            assert await found.ask(x_api_key="s3cret-key-of-web") == (200, "one")
        finally:
            await found.close()


async def test_a_gateway_that_may_not_read_secrets_serves_the_rest_and_says_so(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1", access={"clients": ["web"]}))
        await api.route("b", routing("v1"))
        await api.pods("r1", one.endpoint)
        api.forbidden.add(SECRETS)
        async with gateway(tmp_path, api) as found:
            assert await found.ask("b") == (200, "one")
            assert "cannot be read" in (await found.report())["notes"]["ns/a"]
            assert (await found.report())["refused"] == {}


async def test_a_routing_waits_for_its_pods_and_is_not_acknowledged_before(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found, Load(found, "a") as load:
            await api.route("a", routing("v2", {"r2": 10_000}))
            await found.until(lambda: bool(notes(found)), "the wait is told")
            assert (await found.report())["taken"] == {"ns/a": "v1"}
            await api.pods("r2", two.endpoint)
            await found.takes("a", "v2")
            assert notes(found) == {}
        assert load.failed == []


async def test_a_revoked_key_is_refused_while_envoy_refuses_a_newer_table(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        access = {"clients": ["web"]}
        await api.route("a", routing("v1", access=access))
        await api.keys(web="s3cret-key-of-web\n")
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            await api.route("a", routing("bad", sticky={"by": "header", "header": ""}, access=access))
            await found.until(lambda: bool(complaints(found)), "the refusal is reported")
            await api.keys(web="an0ther-key-of-web\n")
            await eventually(lambda: found.ask(x_api_key="an0ther-key-of-web"), (200, "one"))
            assert (await found.ask(x_api_key="s3cret-key-of-web"))[0] == 401


async def test_a_service_made_anew_while_the_agent_was_away_is_not_served_from_its_disk(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one:
        await api.route("a", routing("v1"))
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            await found.kill_agent()
            await api.put(SERVICES, "ns", "a", status={}, metadata={"uid": "another"})
            await found.start_agent()
            await found.until(lambda: bool(found.agent and found.agent.is_synced), "in step again")
            await found.takes("a", None)

            async def status() -> int:
                return (await found.ask())[0]

            await eventually(status, 404)


async def test_pods_and_keys_move_on_while_a_routing_cannot_be_read(tmp_path: Path) -> None:
    async with api_server() as api, pod("one") as one, pod("two") as two:
        await api.route("a", routing("v1", access={"clients": ["web"]}))
        await api.keys(web="s3cret-key-of-web\n")
        await api.pods("r1", one.endpoint)
        async with gateway(tmp_path, api) as found:
            await found.kill_agent()
            await api.put(SERVICES, "ns", "a", status={"routing": {"version": "v9", "targets": "?"}})
            await found.start_agent()
            await found.until(lambda: bool(complaints(found)), "it is said")
            await api.pods("r1", two.endpoint)
            await api.keys(web="an0ther-key-of-web\n")
            await eventually(lambda: found.ask(x_api_key="an0ther-key-of-web"), (200, "two"))
            assert (await found.ask(x_api_key="s3cret-key-of-web"))[0] == 401


def test_an_answer_that_comes_late_does_not_make_another_envoy(tmp_path: Path) -> None:
    """Only how long it took is unknown then; what began later is another one."""
    agent: Any = SimpleNamespace(_settings=SimpleNamespace(state_dir=tmp_path, pod="gw-a"))
    known = Agent._epoch(agent, 999.0, 1000.0)
    assert Agent._epoch(agent, 999.5, 1030.0) == known
    assert Agent._epoch(agent, 1001.0, 1002.0) == known, "clocks are told to the second"
    assert Agent._epoch(agent, 1009.0, 1010.0) != known
