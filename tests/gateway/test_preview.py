"""Where a candidate alone answers: NAME-preview, by host, path and header, with the access of the service itself."""

import json
from pathlib import Path

import grpc
import pytest

from slipway.api.routing import RoutedAccess, RoutedMatch, RoutedMirror, Routing, Sticky, Target
from slipway.api.traffic import Match
from slipway.gateway.views import ServiceView
from tests.gateway import clients, envoy, pods
from tests.gateway.api import SERVICES, api_server
from tests.gateway.gateway import Load, eventually, gateway
from tests.gateway.pods import Pod
from tests.gateway.services import service
from tests.gateway.views import routing

V2 = "/v2/models/resnet"
HOSTS = ("resnet-preview.vision", "resnet-preview.vision.svc", "resnet-preview.vision.svc.cluster.local:8080")


def released(new: Pod, old: Pod, **more: object) -> ServiceView:
    weights, ready = {"new": 0, "old": 10_000}, {"new": [new], "old": [old]}
    return service(weights, ready, preview="new", **more)  # type: ignore[arg-type]


async def test_every_form_of_its_name_leads_to_the_previewed_revision_and_the_services_to_stable(
    tmp_path: Path,
) -> None:
    async with pods.pod("new", with_grpc=True) as new, pods.pod("old", with_grpc=True) as old:
        view = released(new, old)
        async with envoy.serving(tmp_path, view) as served, clients.rest(served) as ask:
            for host in HOSTS:
                assert (await ask("POST", f"{V2}/infer", host=host)).headers["x-slipway-revision"] == "new", host
                async with clients.channel(served, host) as channel:
                    assert (await clients.call(channel))[1] == "new", host
            by_path = await ask("POST", f"/vision/resnet-preview{V2}/infer?a=b", host="gateway.example")
            assert by_path.headers["x-slipway-revision"] == "new"
            assert new.seen[-1].path == f"{V2}/infer?a=b"
            async with clients.channel(served, "gateway.example") as channel:
                assert (await clients.call(channel, x_slipway_service="vision/resnet-preview"))[1] == "new"
            assert {(await ask.infer()).headers["x-slipway-revision"] for _ in range(20)} == {"old"}
            assert {seen.path for seen in old.seen} == {f"{V2}/infer"}


async def test_rules_users_places_and_copies_are_not_for_the_preview(tmp_path: Path) -> None:
    everybody = [RoutedMatch(revision="old", match=[Match(header="x-group", prefix="a")])]
    async with pods.pod("new") as new, pods.pod("old") as old:
        view = released(
            new,
            old,
            rules=everybody,
            mirror=RoutedMirror(revision="old", share=10_000),
            sticky=Sticky(by="header", header="x-user"),
        )
        async with envoy.serving(tmp_path, view) as served, clients.rest(served) as ask:
            answer = await ask("POST", f"{V2}/infer", {"x-group": "a", "x-user": "u"}, host=HOSTS[0])
            assert answer.headers["x-slipway-revision"] == "new"
            assert len(new.seen) == 1
            assert not old.seen


async def test_the_preview_is_as_closed_as_the_service(tmp_path: Path) -> None:
    access = RoutedAccess(clients=["web"])
    async with pods.pod("new", with_grpc=True) as new, pods.pod("old") as old:
        view = released(new, old, access=access, keys={"web": ("key-of-web-0123456789",)})
        async with envoy.serving(tmp_path, view) as served, clients.rest(served) as ask:
            forms = [(V2, HOSTS[0]), (f"/vision/resnet-preview{V2}", "gateway"), (f"/vision/resnet-preview{V2}", "x.y")]
            for path, host in forms:
                assert (await ask("GET", path, host=host)).status == 401
                assert (await ask("GET", path, {"x-api-key": "wrong"}, host=host)).status == 401
                assert (await ask("GET", path, {"x-api-key": "key-of-web-0123456789"}, host=host)).status == 200
            async with clients.channel(served, HOSTS[0]) as channel:
                assert (await clients.call(channel))[0] is grpc.StatusCode.UNAUTHENTICATED
            key = {"x-api-key": "key-of-web-0123456789"}
            for path in ("/metrics", "/v2/repository/index", "/v2/models/resnet-preview", f"/vision/resnet{V2}/config"):
                assert (await ask("GET", path, key, host=HOSTS[0])).status == 404, path


async def test_without_a_preview_its_names_lead_nowhere(tmp_path: Path) -> None:
    view = service({"old": 10_000}, {"old": []})
    async with envoy.serving(tmp_path, view) as served, clients.rest(served) as ask:
        assert (await ask("GET", V2, host=HOSTS[0])).status == 404
        assert (await ask("GET", f"/vision/resnet-preview{V2}", host="gateway")).status == 404


def test_a_preview_is_one_of_the_targets() -> None:
    with pytest.raises(ValueError, match="leads to new, which is no target"):
        Routing(version="1", targets=[Target(revision="old", weight=10_000)], preview="new", timeout_ms=1)


@pytest.mark.timeout(120)
async def test_a_preview_comes_and_goes_with_the_routing_and_gives_its_name_to_a_real_service(tmp_path: Path) -> None:
    weights = {"r2": 0, "r1": 10_000}
    async with api_server() as api, pods.pod("one") as one, pods.pod("two") as two, pods.pod("real") as real:
        for revision, pod in (("r1", one), ("r2", two), ("q1", real)):
            await api.pods(revision, pod.endpoint)
        await api.route("a", routing("v1"))
        async with gateway(tmp_path, api) as found, Load(found, "a") as load:

            async def preview(model: str = "a") -> tuple[int, str]:
                asked = {"host": "a-preview.ns"}
                async with found.session.get(f"{found.base}/v2/models/{model}", headers=asked) as answer:
                    text = await answer.text()
                    return answer.status, json.loads(text)["pod"] if answer.status == 200 else text

            assert (await preview())[0] == 404
            await api.route("a", routing("v2", weights, preview="r2"))
            await found.takes("a", "v2")
            assert await preview() == (200, "two")
            await api.route("a-preview", routing("w1", {"q1": 10_000}))
            await found.takes("a-preview", "w1")
            await eventually(lambda: preview("a-preview"), (200, "real"))
            assert (await preview())[0] == 404, "it is the real service's now"
            await api.delete(SERVICES, "ns", "a-preview")
            await eventually(preview, (200, "two"))
            await api.route("a", routing("v3"))
            await found.takes("a", "v3")

            async def status() -> int:
                return (await preview())[0]

            await eventually(status, 404)
        assert load.failed == []
        assert set(load.answers) == {"one"}
