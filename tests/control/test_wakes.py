"""Long questions to gateways: who is waited for is known at once, and a gateway that fails delays no other."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipway.api.manifest import Key
from slipway.edge.conflicts import Conflicts
from slipway.edge.scope import Scope
from slipway.edge.wakes import WakeWatch
from slipway.kube.errors import Forbidden, KubeError, Unavailable
from slipway.kube.kinds import HORIZONTAL_POD_AUTOSCALER, Kind
from slipway.signals.gateways import GatewayPod
from tests.control.conftest import logged

HELLO: Key = ("team", "hello")


class Agent:
    """Each question that knows the present number is answered by what happens next; after the last it waits."""

    def __init__(self) -> None:
        self.number, self.revisions = 0, dict[str, int]()
        self.next: list[dict[str, int] | str] = []
        self.asked: list[str | None] = []

    async def answer(self, request: web.Request) -> web.Response:
        since = request.query.get("since")
        self.asked.append(since)
        if since == str(self.number) and not self.next:
            await asyncio.Event().wait()
        if since == str(self.number) or self.next[:1] == ["nonsense"]:
            happens = self.next.pop(0)
            if isinstance(happens, str):
                return web.Response(text=happens)
            self.number += 1
            self.revisions = {f"team/hello-{name}": count for name, count in happens.items()}
        return web.json_response({"number": self.number, "held": {}, "revisions": self.revisions})


@pytest_asyncio.fixture
async def agent() -> AsyncIterator[tuple[Agent, int]]:
    found, app = Agent(), web.Application()
    app.router.add_get("/wakes", found.answer)
    async with TestServer(app) as site:
        assert site.port is not None
        yield found, site.port


class Operator:
    def __init__(self) -> None:
        self.held: dict[str, Mapping[str, int]] = {}
        self.woken: list[Key] = []
        self.pods = [GatewayPod("gw-a", "1", "127.0.0.1", takes_traffic=True)]
        self.heard = asyncio.Queue[Mapping[str, int]]()
        self.reports = False
        """Whether reports tell, before the next answer, that nobody waits any more."""

    def hold(self, gateway: str, revisions: Mapping[str, int]) -> set[str]:
        anew = revisions.keys() - self.held.get(gateway, {})
        self.held[gateway] = {} if self.reports else revisions
        self.heard.put_nowait(revisions)
        return anew

    async def hear(self, port: int, number: int) -> list[Mapping[str, int]]:
        """The first so many things that it is told."""
        async with aiohttp.ClientSession() as session:
            watch = WakeWatch(session, port, lambda: self.pods, self.hold, self.woken.append)
            task = asyncio.create_task(watch.run())
            try:
                async with asyncio.timeout(30):
                    return [await self.heard.get() for _ in range(number)]
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


A, B = "team/hello-a", "team/hello-b"


async def test_a_service_that_is_waited_for_is_woken_at_once_and_not_again_for_more(agent: tuple[Agent, int]) -> None:
    found, port = agent
    found.next = [{"a": 1}, {"a": 5}, {"a": 5, "b": 1}]
    operator = Operator()
    assert await operator.hear(port, 4) == [{}, {A: 1}, {A: 5}, {A: 5, B: 1}]
    assert operator.woken == [HELLO, HELLO], "for the first of each revision"
    assert found.asked[:4] == [None, "0", "1", "2"]


async def test_only_who_waits_anew_is_woken_however_many_wait_already(agent: tuple[Agent, int]) -> None:
    found, port = agent
    many = {f"s{number}-a": 1 for number in range(30)}
    found.next = [dict(list(many.items())[: number + 1]) for number in range(30)]
    operator = Operator()
    await operator.hear(port, 31)
    assert len(operator.woken) == len(set(operator.woken))
    assert 29 <= len(operator.woken) <= 30


async def test_what_no_longer_waits_is_known_too(agent: tuple[Agent, int]) -> None:
    found, port = agent
    found.next = [{"a": 1}, {}, {"a": 1}]
    operator = Operator()
    assert await operator.hear(port, 4) == [{}, {A: 1}, {}, {A: 1}]
    assert operator.woken == [HELLO, HELLO]


async def test_what_was_woken_slept_and_is_waited_for_again_within_one_question_is_woken_again(
    agent: tuple[Agent, int],
) -> None:
    """A gateway answers when requests begin to wait, not when they go on: two seconds late each time on the cluster."""
    found, port = agent
    found.next = [{"a": 1}, {"a": 1}]
    operator = Operator()
    operator.reports = True
    assert await operator.hear(port, 3) == [{}, {A: 1}, {A: 1}]
    assert operator.woken == [HELLO, HELLO]


async def test_a_gateway_that_answers_nonsense_or_not_at_all_delays_no_other(agent: tuple[Agent, int]) -> None:
    found, port = agent
    found.next = ["nonsense", {"a": 1}]
    operator = Operator()
    operator.pods = [GatewayPod("gw-dead", "0", "127.255.255.254", takes_traffic=True), *operator.pods]
    assert await operator.hear(port, 2) == [{}, {A: 1}]
    assert operator.held.keys() == {"gw-a"}
    assert operator.woken == [HELLO]


class Api:
    """Lists autoscalers, or fails."""

    def __init__(self, *found: tuple[str, str, str]) -> None:
        self.found = found
        self.error: KubeError | None = None
        self.asked: list[str | None] = []

    async def list(self, kind: Kind, namespace: str | None, **_: object) -> list[dict[str, object]]:
        assert kind == HORIZONTAL_POD_AUTOSCALER
        self.asked.append(namespace)
        if self.error is not None:
            raise self.error
        return [
            {
                "metadata": {"name": name, "namespace": "team"},
                "spec": {"scaleTargetRef": {"apiVersion": version, "kind": "Deployment", "name": target}},
            }
            for name, version, target in self.found
        ]


async def test_another_autoscaler_of_a_deployment_is_found_by_name_and_only_of_that_very_kind() -> None:
    api = Api(("theirs", "apps/v1", "hello-a"), ("other", "argoproj.io/v1", "hello-b"))
    conflicts = Conflicts(api, Scope(("team",)))  # type: ignore[arg-type]
    await conflicts.look()
    assert api.asked == ["team"]
    assert conflicts.of("team", "hello-a") == "HorizontalPodAutoscaler team/theirs"
    assert conflicts.of("team", "hello-b") == ""
    assert conflicts.of("elsewhere", "hello-a") == ""


async def test_what_cannot_be_listed_now_stays_as_it_was_and_a_missing_right_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Api(("theirs", "apps/v1", "hello-a"))
    conflicts = Conflicts(api, Scope())  # type: ignore[arg-type]
    await conflicts.look()
    api.error = Unavailable("gone for a moment")
    await conflicts.look()
    assert conflicts.of("team", "hello-a")
    api.error = Forbidden("no right to list them")
    caplog.clear()
    await conflicts.look()
    await conflicts.look()
    assert conflicts.of("team", "hello-a") == ""
    assert [record.levelname for record in logged(caplog)] == ["WARNING"]
    api.error = None
    await conflicts.look()
    assert conflicts.of("team", "hello-a")
