"""Reports of gateways: what is kept of them, what they make the operator look at, and who is put out of the way."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from slipway.api.manifest import Key, Manifest
from slipway.decide.release import Sample, Window
from slipway.edge.gateways import Asker, gateway_pods
from slipway.signals.gateways import GatewayPod, Gateways
from slipway.signals.report import Report, ReportError, parse

HELLO: Key = ("team", "hello")
OTHER: Key = ("team", "other")


@dataclass
class Agents:
    """Agents by address: what each answers next; nothing when it is not there."""

    now: float = 100.0
    answers: dict[str, Report] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    news: list[set[Key]] = field(default_factory=list)

    async def ask(self, address: str, token: str) -> Report:
        self.tokens.append(token)
        if address not in self.answers:
            raise ReportError("connection refused")
        return self.answers[address]

    def gateways(self, *pods: GatewayPod) -> Gateways:
        found = Gateways(self.ask, self.news.append, silent_s=10, clock=lambda: self.now)
        found.look(pods or (pod("a"), pod("b")))
        return found


def pod(name: str, *, takes_traffic: bool = True, is_chosen: bool = True, uid: str = "1") -> GatewayPod:
    return GatewayPod(f"gw-{name}", uid, name, takes_traffic, is_chosen)


def report(version: str | None = "v1", **more: Any) -> Report:
    body = {"epoch": "e", "token": "t1", "ready": True, "taken": {"team/hello": version}} | more
    return Report.model_validate(body)


def counted(epoch: str = "e", **requests: int) -> Report:
    counters = {f"team/{name.replace('_', '-')}": {"requests": n} for name, n in requests.items()}
    return report(epoch=epoch, taken={}, counters=counters)


async def test_what_a_gateway_serves_is_kept_with_its_age_until_it_says_otherwise() -> None:
    agents = Agents(answers={"a": report("v1")})
    gateways = agents.gateways()
    await gateways.poll()
    agents.now += 3
    a, b = gateways.views(HELLO) or ()
    assert (a.name, a.taken, a.age_s, a.takes_traffic) == ("gw-a", "v1", 3, True)
    assert (b.name, b.taken, b.age_s) == ("gw-b", "", float("inf"))
    agents.answers.clear()
    await gateways.poll()
    assert (gateways.views(HELLO) or ())[0].taken == "v1", "silence changes nothing but the age"


async def test_only_what_changed_is_asked_for_and_looked_at() -> None:
    agents = Agents(answers={"a": report("v1", full=True, taken={"team/hello": "v1", "team/other": "w1"})})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.answers["a"] = report(token="t2", taken={})  # noqa: S106 (a place in a stream of reports)
    await gateways.poll()
    agents.answers["a"] = report("v2", token="t3")  # noqa: S106
    await gateways.poll()
    assert agents.tokens == ["", "t1", "t2"]
    assert agents.news == [{HELLO, OTHER}, {HELLO}]
    assert (gateways.views(OTHER) or ())[0].taken == "w1"
    agents.answers["a"] = report(None, full=False)
    await gateways.poll()
    assert (gateways.views(HELLO) or ())[0].taken == ""
    agents.answers["a"] = report("v3", full=True)
    await gateways.poll()
    assert (gateways.views(OTHER) or ())[0].taken == "", "everything it has, after a restart"


async def test_a_refusal_comes_with_its_words_and_goes() -> None:
    refusal = {"team/hello": {"version": "v2", "message": "bad regex"}}
    agents = Agents(answers={"a": report("v1", refused=refusal)})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    view = (gateways.views(HELLO) or ())[0]
    assert (view.taken, view.refused, view.words) == ("v1", "v2", "bad regex")
    agents.answers["a"] = report("v3", refused={"team/hello": None})
    await gateways.poll()
    view = (gateways.views(HELLO) or ())[0]
    assert (view.taken, view.refused) == ("v3", "")


async def test_a_note_is_news_of_its_service_and_goes_as_it_came() -> None:
    agents = Agents(answers={"a": report("v1")})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.news.clear()
    agents.answers["a"] = report("v1", notes={"team/hello": "client web: a key is too short"})
    await gateways.poll()
    assert agents.news == [{HELLO}]
    assert (gateways.views(HELLO) or ())[0].note == "client web: a key is too short"
    await gateways.poll()
    assert agents.news == [{HELLO}], "once"
    agents.answers["a"] = report("v1", notes={"team/hello": None})
    await gateways.poll()
    assert agents.news == [{HELLO}, {HELLO}]
    assert (gateways.views(HELLO) or ())[0].note == ""


async def test_before_the_first_look_it_is_not_known_which_gateways_there_are() -> None:
    assert Gateways(Agents().ask, lambda _: None).views(HELLO) is None
    assert Agents().gateways(pod("a")).views(HELLO) is not None


async def test_a_gateway_that_goes_is_news_for_all_services() -> None:
    agents = Agents(answers={"a": report("v1"), "b": report("v1")})
    gateways = agents.gateways()
    await gateways.poll()
    agents.news.clear()
    gateways.look([pod("a"), pod("b")])
    assert agents.news == []
    gateways.look([pod("a")])
    assert agents.news == [{HELLO}]


async def test_a_gateway_that_comes_is_news_when_it_has_reported_or_fails_to() -> None:
    agents = Agents(answers={"a": report("v1")})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.news.clear()
    gateways.look([pod("a"), pod("b"), pod("c")])
    await gateways.poll()
    assert agents.news == []
    assert [view.takes_traffic for view in gateways.views(HELLO) or ()] == [True, True, True], "it counts all the same"
    agents.answers["b"] = report(None)
    await gateways.poll()
    assert agents.news == [{HELLO}]
    agents.now += 11
    await gateways.poll()
    assert agents.news == [{HELLO}, {HELLO}], "gw-c has been silent too long"
    await gateways.poll()
    assert len(agents.news) == 2


async def test_a_gateway_that_is_not_ready_counts_until_it_has_been_silent_too_long() -> None:
    """Its agent died: Envoy goes on for clients that keep their connections."""
    agents = Agents(answers={"a": report("v1"), "b": report("v1")})
    gateways = agents.gateways()
    await gateways.poll()
    del agents.answers["b"]
    agents.now += 3
    gateways.look([pod("a"), pod("b", takes_traffic=False)])
    agents.news.clear()
    for waited, counts in ((6, True), (2, False)):
        agents.now += waited
        await gateways.poll()
        assert (gateways.views(HELLO) or ())[1].takes_traffic is counts
        assert agents.news == ([] if counts else [{HELLO}])


async def test_a_gateway_that_is_not_ready_but_reports_counts_no_longer_than_one_that_is_silent() -> None:
    agents = Agents(answers={"a": report("v1"), "b": report("v1")})
    gateways = agents.gateways()
    await gateways.poll()
    gateways.look([pod("a"), pod("b", takes_traffic=False)])
    for waited, counts in ((9, True), (2, False)):
        agents.now += waited
        await gateways.poll()
        assert (gateways.views(HELLO) or ())[1].takes_traffic is counts


async def test_a_silent_gateway_that_was_taken_out_of_the_service_keeps_nobody_waiting() -> None:
    agents = Agents(answers={"a": report("v1"), "b": report("v1")})
    gateways = agents.gateways()
    await gateways.poll()
    del agents.answers["b"]
    agents.now += 11
    await gateways.poll()
    gateways.look([pod("a"), pod("b", takes_traffic=False)])
    assert (gateways.views(HELLO) or ())[1].takes_traffic is False


async def test_a_pod_made_anew_under_its_name_has_said_nothing_yet() -> None:
    agents = Agents(answers={"a": report("v1")})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    gateways.look([pod("a", uid="2")])
    assert (gateways.views(HELLO) or ())[0].taken == ""


# Counts


async def test_requests_are_counted_from_the_first_report_on_over_all_gateways() -> None:
    agents = Agents(answers={"a": counted(hello_1=1000), "b": counted(hello_1=500)})
    gateways = agents.gateways()
    await gateways.poll()
    assert gateways.counts(HELLO) == {}, "what was before nobody saw begin"
    agents.answers = {"a": counted(hello_1=1010, hello_2=3), "b": counted(hello_1=505)}
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 15, "hello-2": 3}


async def test_an_envoy_that_restarts_counts_from_zero_and_nothing_is_counted_twice() -> None:
    agents = Agents(answers={"a": counted(hello_1=1000)})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.answers["a"] = counted(epoch="e2", hello_1=2000)
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 2000}
    agents.answers["a"] = counted(epoch="e2", hello_1=5)
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 2005}, "a number that fell is a restart nobody told of"


async def test_an_agent_that_restarts_beside_its_envoy_counts_nothing_twice() -> None:
    agents = Agents(answers={"a": counted(hello_1=1000)})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    for answer in (counted(epoch=""), counted(hello_1=1007)):
        agents.answers["a"] = answer
        await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 7}


async def test_another_table_begins_a_new_count() -> None:
    agents = Agents(answers={"a": counted(hello_1=0)})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.answers["a"] = counted(hello_1=50)
    await gateways.poll()
    agents.answers["a"] = report("v2", counters={"team/hello-1": {"requests": 60}})
    await gateways.poll()
    assert gateways.counts(HELLO) == {}


async def test_what_was_counted_before_a_reading_after_the_change_is_of_neither_table() -> None:
    """Envoy's counters are read once a second: the first ones after a change have requests of both tables in them."""
    agents = Agents(answers={"a": counted(hello_1=0)})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.answers["a"] = report("v2", counted_s=0.9)
    await gateways.poll()
    for passed, requests, counted_s in ((0.5, 60, 0.8), (0.5, 100, 0.2), (1.0, 104, 0.2)):
        agents.now += passed
        news = {"team/hello-1": {"requests": requests}}
        agents.answers["a"] = report(taken={}, counters=news, counted_s=counted_s)
        await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 4}


async def test_nothing_is_kept_of_a_service_that_is_gone() -> None:
    """Its last requests end after it."""
    agents = Agents(answers={"a": report(counters={"team/hello-1": {"requests": 1}})})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.answers["a"] = report(None, counters={"team/hello-1": {"requests": 3}})
    await gateways.poll()
    agents.answers["a"] = counted(hello_1=200)
    await gateways.poll()
    agents.answers["a"] = report(taken={}, counters={"team/hello-1": None})
    await gateways.poll()
    assert gateways.counts(HELLO) == {}


async def test_a_share_that_moves_is_news_and_one_that_stays_is_not() -> None:
    agents = Agents(answers={"a": counted(hello_1=0, hello_2=0)})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.news.clear()
    for one, two in ((900, 100), (1800, 200), (2700, 300), (2800, 1200)):
        agents.answers["a"] = counted(hello_1=one, hello_2=two)
        await gateways.poll()
    assert agents.news == [{HELLO}, {HELLO}], "the first measure, and the one that left its interval"


# Silence


async def silent(agents: Agents, *pods: GatewayPod) -> list[tuple[str, bool]]:
    gateways = agents.gateways(*pods)
    await gateways.poll()
    agents.now += 11
    await gateways.poll()
    return [(found.name, chosen) for found, chosen in gateways.misplaced()]


async def test_a_silent_gateway_leaves_the_service_when_another_answers() -> None:
    assert await silent(Agents(answers={"a": report()}), pod("a"), pod("b")) == [("gw-b", False)]


async def test_when_all_are_silent_nobody_leaves() -> None:
    assert await silent(Agents(), pod("a"), pod("b")) == []


async def test_the_last_one_never_leaves_and_comes_back_when_the_others_are_gone() -> None:
    assert await silent(Agents(answers={"a": report(ready=False)}), pod("a"), pod("b")) == []
    assert await silent(Agents(), pod("a", takes_traffic=False, is_chosen=False)) == [("gw-a", True)]


async def test_a_gateway_that_reports_again_comes_back_once_it_is_ready() -> None:
    out = pod("b", takes_traffic=False, is_chosen=False)
    assert await silent(Agents(answers={"a": report(), "b": report(ready=False)}), pod("a"), out) == []
    assert await silent(Agents(answers={"a": report(), "b": report()}), pod("a"), out) == [("gw-b", True)]


async def test_a_gateway_that_starts_slowly_is_left_alone() -> None:
    assert await silent(Agents(answers={"a": report()}), pod("a"), pod("b", takes_traffic=False)) == []


async def test_the_age_of_the_oldest_report_is_told() -> None:
    agents = Agents(answers={"a": report()})
    gateways = agents.gateways()
    await gateways.poll()
    agents.now += 4
    assert (gateways.number_behind(), gateways.silence_s()) == (2, 4)


# Which pods are gateways


def _pod(name: str, **labels: str) -> Manifest:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}, "status": {"podIP": "10.0.0.1"}}


def _slice(*names: str, **conditions: bool) -> Manifest:
    target = [{"kind": "Pod", "name": name, "uid": f"uid-{name}"} for name in names]
    return {"endpoints": [{"addresses": ["10.0.0.9"], "conditions": conditions, "targetRef": t} for t in target]}


def test_gateways_are_what_the_selector_chooses_and_what_the_service_leads_to() -> None:
    pods = [_pod("a"), _pod("b", **{"slipway.dev/serving": "false"})]
    found = gateway_pods(pods, [_slice("a", "c", ready=True), _slice("d", ready=False, serving=True, terminating=True)])
    assert [(one.name, one.takes_traffic, one.is_chosen) for one in found] == [
        ("a", True, True),
        ("b", False, False),
        ("c", True, True),
        ("d", True, True),
    ]


def test_an_endpoint_that_does_not_serve_takes_no_traffic() -> None:
    assert [one.takes_traffic for one in gateway_pods([_pod("a")], [_slice("a", ready=False, serving=False)])] == [
        False
    ]


# Over HTTP


@pytest_asyncio.fixture
async def agent() -> AsyncIterator[tuple[dict[str, Any], Asker]]:
    """An agent on loopback that answers as told."""
    told: dict[str, Any] = {"status": 200, "body": "{}", "asked": []}

    async def handle(request: web.Request) -> web.StreamResponse:
        told["asked"].append(dict(request.query))
        if told.get("hangs"):
            await asyncio.Event().wait()
        headers = {"Location": "http://169.254.169.254/"} if told["status"] == 302 else {}
        return web.Response(status=told["status"], text=told["body"], headers=headers)

    app = web.Application()
    app.router.add_get("/report", handle)
    server = TestServer(app)
    await server.start_server()
    async with aiohttp.ClientSession() as session:
        yield told, Asker(session, int(server.port or 0))
    await server.close()


async def test_a_report_is_asked_for_with_the_last_token(agent: tuple[dict[str, Any], Asker]) -> None:
    told, ask = agent
    told["body"] = json.dumps({"token": "t", "taken": {"team/hello": "v"}, "later": {"field": 1}})
    assert (await ask("127.0.0.1", "")).taken == {"team/hello": "v"}
    await ask("127.0.0.1", "t")
    assert told["asked"] == [{}, {"since": "t"}]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"status": 500}, id="an error"),
        pytest.param({"status": 302}, id="a redirect, which is not followed"),
        pytest.param({"body": "no"}, id="no JSON"),
        pytest.param({"body": '{"taken": []}'}, id="another shape"),
        pytest.param({"hangs": True}, id="silence"),
    ],
)
async def test_whatever_is_no_report_is_an_error_and_no_crash(
    agent: tuple[dict[str, Any], Asker], answer: dict[str, Any]
) -> None:
    told, ask = agent
    told.update(answer)
    with pytest.raises(ReportError):
        await ask("127.0.0.1", "")
    assert len(told["asked"]) == 1


async def test_nobody_there_is_an_error(agent: tuple[dict[str, Any], Asker]) -> None:
    _, ask = agent
    with pytest.raises(ReportError):
        await ask("::1", "")


def test_a_report_that_is_none_says_what_is_wrong() -> None:
    with pytest.raises(ReportError, match=r"counters\.x\.requests"):
        parse(b'{"counters": {"x": {"requests": -1}}}')


# What a release and an experiment read: windows of counts


def finished(epoch: str = "e", **requests: tuple[int, int, int]) -> Report:
    """Revision -> finished, failed and copies of each."""
    counters = {
        f"team/{name.replace('_', '-')}": {"requests": n, "finished": n, "failed": bad, "shadow": {"finished": copies}}
        for name, (n, bad, copies) in requests.items()
    }
    return report(epoch=epoch, taken={}, counters=counters)


async def test_a_window_has_what_all_gateways_counted_since_it_was_opened() -> None:
    agents = Agents(answers={"a": finished(hello_1=(1000, 10, 0)), "b": finished(hello_1=(500, 0, 0))})
    gateways = agents.gateways()
    await gateways.poll()
    assert gateways.window(HELLO, "hello-1") == Window(0.0, 0.0), "the first reports only say from where to count"
    agents.now += 5
    agents.answers["a"] = finished(hello_1=(1040, 12, 0), hello_2=(3, 1, 5))
    agents.answers["b"] = finished(epoch="restarted", hello_1=(7, 0, 0))
    await gateways.poll()
    agents.now += 1
    window = gateways.window(HELLO, "hello-1")
    assert window is not None
    assert window.samples == {"hello-1": Sample(47, 2), "hello-2": Sample(3, 1)}
    assert window.copies == {"hello-2": Sample(5)}
    assert (window.seconds, window.age_s) == (6.0, 1.0)
    gateways.close(HELLO, window)
    assert sum(sample.requests for sample in (gateways.window(HELLO, "hello-1") or window).samples.values()) == 0


async def test_a_stretch_of_an_experiment_ends_without_ending_the_window_of_a_release() -> None:
    agents = Agents(answers={"a": finished(hello_1=(1000, 10, 0)), "b": finished()})
    gateways = agents.gateways()
    await gateways.poll()
    assert gateways.stretch(HELLO) == gateways.window(HELLO, "hello-1") == Window(0.0, 0.0)
    agents.answers["a"] = finished(hello_1=(1040, 12, 0))
    agents.now += 5
    await gateways.poll()
    stretch = gateways.stretch(HELLO)
    assert stretch is not None
    assert stretch.samples["hello-1"] == Sample(40, 2)
    gateways.end_stretch(HELLO, stretch)
    assert gateways.stretch(HELLO) == Window(0.0, 0.0, {"hello-1": Sample(0, 0)})
    assert gateways.window(HELLO, "hello-1") == Window(5.0, 0.0, {"hello-1": Sample(40, 2)})
    gateways.forget_stretches(HELLO)
    assert gateways.stretch(HELLO) == Window(0.0, 0.0)
    assert Gateways(Agents().ask, lambda _: None).stretch(HELLO) is None


async def test_a_window_is_as_old_as_the_gateway_that_was_silent_longest() -> None:
    agents = Agents(answers={"a": counted(hello_1=1), "b": counted(hello_1=1)})
    gateways = agents.gateways()
    await gateways.poll()
    del agents.answers["b"]
    agents.now += 7
    await gateways.poll()
    assert (gateways.window(HELLO, "hello-1") or Window(0, 0)).age_s == 7.0


async def test_counters_of_revisions_that_a_full_report_has_no_more_are_kept_no_longer_than_needed() -> None:
    """An agent that was away for long does not tell one by one what went meanwhile."""
    agents = Agents(answers={"a": report(counters={"team/hello-1": {"requests": 10}})})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    for number in range(2, 1100):
        agents.answers["a"] = report(taken={}, full=True, counters={f"team/hello-{number}": {"requests": 0}})
        await gateways.poll()
    agents.answers["a"] = report(taken={}, full=True, counters={"team/hello-1099": {"requests": 7}})
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1099": 7}
    known = (gateways._known or {})["gw-a"]
    assert list(known.counters) == ["team/hello-1099"]
    assert len(known.former) == 1000


async def test_a_full_report_without_a_revision_counts_nothing_twice_when_it_comes_again() -> None:
    agents = Agents(answers={"a": counted(hello_1=10)})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.answers["a"] = report(taken={}, full=True)
    await gateways.poll()
    agents.answers["a"] = counted(hello_1=15)
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 5}


async def test_nothing_is_counted_before_it_is_known_which_gateways_there_are() -> None:
    assert Gateways(Agents().ask, lambda _: None).window(HELLO, "") is None


async def test_a_revision_made_again_is_not_given_the_requests_of_its_former_life() -> None:
    agents = Agents(answers={"a": report(counters={"team/hello-1": {"requests": 10}})})
    gateways = agents.gateways(pod("a"))
    await gateways.poll()
    agents.answers["a"] = counted(hello_1=110)
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 100}
    agents.answers["a"] = report(taken={}, counters={"team/hello-1": None})
    await gateways.poll()
    agents.answers["a"] = counted(hello_1=117)  # the totals of Envoy, which never forgot it
    await gateways.poll()
    assert gateways.counts(HELLO) == {"hello-1": 107}


@pytest.mark.parametrize(
    ("state", "ready", "is_alive"),
    [
        pytest.param({"running": {}}, {"status": "True"}, True, id="well"),
        pytest.param(
            {"running": {}}, {"status": "False", "reason": "ContainersNotReady"}, True, id="without its agent"
        ),
        pytest.param({"terminated": {}}, {"status": "False", "reason": "ContainersNotReady"}, False, id="ended"),
        pytest.param({"running": {}}, {"status": "False"}, False, id="on a node that is lost"),
        pytest.param(None, {"status": "True"}, True, id="nothing known"),
    ],
)
def test_a_gateway_is_taken_to_serve_as_long_as_its_envoy_runs(
    state: Manifest | None, ready: Manifest, is_alive: bool
) -> None:
    pod = _pod("a")
    containers = [{"name": "agent", "state": {"waiting": {}}}, *([{"name": "envoy", "state": state}] if state else [])]
    pod["status"] |= {"conditions": [{"type": "Ready"} | ready], "containerStatuses": containers}
    assert [one.is_alive for one in gateway_pods([pod], [])] == [is_alive]
