"""Who gets which revision: shares, users who stay, groups, copies. All by a real Envoy."""

import asyncio
import re
from collections import Counter
from itertools import pairwise
from math import sqrt
from pathlib import Path

import pytest
from aiohttp import web

from slipway.api.access import RateLimit
from slipway.api.routing import RoutedAccess, RoutedMatch, RoutedMirror, Sticky
from slipway.api.traffic import Match, StickyCookie
from tests.conftest import FULL
from tests.gateway import clients, envoy, pods
from tests.gateway.chance import likely
from tests.gateway.envoy import Envoy
from tests.gateway.services import service

REQUESTS = 100_000 if FULL else 8000
USERS = 4000 if FULL else 800


@pytest.mark.timeout(300)
@pytest.mark.parametrize("weight", [1, 100, 500, 3333, 5000])
async def test_a_share_is_met_to_the_hundredth_of_a_percent(tmp_path: Path, weight: int) -> None:
    async with pods.quick() as one:
        view = service({"new": weight, "old": 10_000 - weight}, {"new": [one], "old": [one]})
        async with envoy.serving(tmp_path, view) as gateway:
            found = Counter(await clients.revisions(gateway.port, [clients.get()] * REQUESTS))
    assert found["new"] in likely(REQUESTS, weight / 10_000), found
    assert set(found) <= {"new", "old"}


async def test_users_move_to_a_growing_candidate_and_none_comes_back(tmp_path: Path) -> None:
    """And those of a variant beside stable do not move at all."""
    heads = [clients.get(x_user=f"user-{number}") for number in range(USERS)]
    placed: list[list[str]] = []
    async with pods.quick() as one:
        for step in (0, 100, 500, 2500, 5000, 8000):
            view = service(
                {"new": step, "old": 8000 - step, "b": 2000},
                {name: [one] for name in ("new", "old", "b")},
                sticky=Sticky(by="header", header="x-user"),
            )
            async with envoy.serving(tmp_path / str(step), view) as gateway:
                placed.append(await clients.revisions(gateway.port, heads))
    for before, after in pairwise(placed):
        moved = {(was, now) for was, now in zip(before, after, strict=True) if was != now}
        assert moved <= {("old", "new")}
    assert set(placed[-1]) == {"new", "b"}
    assert abs(placed[0].count("b") - 0.2 * USERS) < 4 * sqrt(0.16 * USERS)


async def test_an_abort_gives_the_candidates_users_back_and_a_promotion_takes_the_rest(tmp_path: Path) -> None:
    """Stable's users stay while the candidate's go back; those of the variant stay whatever happens."""
    heads = [clients.get(x_user=f"user-{number}") for number in range(USERS)]
    placed: dict[str, list[str]] = {}
    tables = {
        "before": {"old": 8000, "b": 2000},
        "started": {"new": 0, "old": 8000, "b": 2000},
        "half": {"new": 4000, "old": 4000, "b": 2000},
        "aborted": {"new": 0, "old": 8000, "b": 2000},
        "whole": {"new": 8000, "old": 0, "b": 2000},
        "promoted": {"new": 8000, "b": 2000},
    }
    async with pods.quick() as one:
        for name, weights in tables.items():
            view = service(
                weights, {revision: [one] for revision in weights}, sticky=Sticky(by="header", header="x-user")
            )
            async with envoy.serving(tmp_path / name, view) as gateway:
                placed[name] = await clients.revisions(gateway.port, heads)
    assert placed["before"] == placed["started"] == placed["aborted"]
    assert placed["whole"] == placed["promoted"]
    for earlier, later in (("started", "half"), ("half", "whole")):
        moved = {(a, b) for a, b in zip(placed[earlier], placed[later], strict=True) if a != b}
        assert moved == {("old", "new")}


async def test_the_first_answer_of_a_minted_cookie_agrees_with_all_later_ones(tmp_path: Path) -> None:
    sticky = Sticky(by="cookie", cookie=StickyCookie(name="seat", max_age="2h"))
    async with pods.pod("a") as one:
        view = service({"new": 5000, "old": 5000}, {"new": [one], "old": [one]}, sticky=sticky)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            first_seen = set()
            for _ in range(300):
                first = await ask.infer()
                cookie = first.headers["set-cookie"]
                assert re.fullmatch(r"seat=[0-9a-f-]{36}; Path=/; Max-Age=7200; HttpOnly; SameSite=Lax", cookie)
                revision = first.headers["x-slipway-revision"]
                first_seen.add(revision)
                again = await ask.infer({"cookie": f"other=1; {cookie.split(';')[0]}; more=2"})
                assert again.headers["x-slipway-revision"] == revision
                assert "set-cookie" not in again.headers
    assert first_seen == {"new", "old"}


async def test_a_client_cannot_put_words_into_its_minted_cookie(tmp_path: Path) -> None:
    async with pods.pod("a") as one:
        view = service({"old": 10_000}, {"old": [one]}, sticky=Sticky(by="cookie"))
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            answer = await ask.infer({"x-request-id": "evil; Domain=all.example"})
    assert "evil" not in answer.headers["set-cookie"]


async def test_one_address_keeps_to_one_revision(tmp_path: Path) -> None:
    async with pods.quick() as one:
        view = service({"new": 5000, "old": 5000}, {"new": [one], "old": [one]}, sticky=Sticky(by="clientAddress"))
        async with envoy.serving(tmp_path, view) as gateway:
            found = [(await clients.revisions(gateway.port, [clients.get()] * 5)) for _ in range(20)]
    assert len({one for some in found for one in some}) == 1


RULES = [
    ({"header": "x-group", "exact": "beta"}, "", {"x-group": "beta"}, {"x-group": "betas"}),
    ({"header": "x-group", "prefix": "be"}, "", {"x-group": "beta"}, {"x-group": "abe"}),
    ({"header": "x-group", "regex": "b.*a|c"}, "", {"x-group": "c"}, {"x-group": "cc"}),
    ({"cookie": "g", "exact": "a.b"}, "", {"cookie": "x=1; g=a.b; y=2"}, {"cookie": "g=axb"}),
    ({"cookie": "g", "exact": "beta"}, "", {"cookie": "g=beta"}, {"cookie": "gg=beta; g=betas"}),
    ({"cookie": "g", "prefix": "be"}, "", {"cookie": "a=b;g=beta"}, {"cookie": "g=x; h=be"}),
    ({"cookie": "g", "regex": "a|b"}, "", {"cookie": "g=b"}, {"cookie": "g=ab"}),
    ({"query": "g", "exact": "beta"}, "g=beta", {}, {"x-g": "beta"}),
    ({"query": "g", "prefix": "be"}, "x=1&g=beta", {}, {}),
    ({"query": "g", "regex": "b[a-z]+"}, "g=beta", {}, {}),
]


@pytest.mark.parametrize(("match", "query", "fits", "not_quite"), RULES)
async def test_a_rule_takes_what_it_names_and_nothing_else(
    tmp_path: Path, match: dict[str, str], query: str, fits: dict[str, str], not_quite: dict[str, str]
) -> None:
    rules = [RoutedMatch(revision="b", match=[Match(**match)])]
    async with pods.pod("a", with_grpc=True) as one:
        view = service({"old": 10_000, "b": 0}, {"old": [one], "b": [one]}, rules=rules)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            path = "/v2/models/resnet/infer"
            taken = await ask("POST", f"{path}?{query}", fits)
            left = await ask("POST", path, not_quite)
            assert taken.headers["x-slipway-revision"] == "b"
            assert left.headers["x-slipway-revision"] == "old"
            if "header" in match:
                async with clients.channel(gateway) as channel:
                    _, _, headers = await clients.call(channel, x_group=fits["x-group"])
                assert headers["x-slipway-revision"] == "b"


async def test_the_first_rule_that_fits_wins(tmp_path: Path) -> None:
    rules = [
        RoutedMatch(revision="b", match=[Match(header="x-a", exact="1"), Match(header="x-b", exact="1")]),
        RoutedMatch(revision="c", match=[Match(header="x-b", prefix="1")]),
    ]
    async with pods.pod("a") as one:
        view = service({"old": 10_000, "b": 0, "c": 0}, {name: [one] for name in ("old", "b", "c")}, rules=rules)
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            found = [
                (await ask.infer(headers)).headers["x-slipway-revision"] for headers in ({"x-b": "1"}, {"x-b": "12"})
            ]
    assert found == ["b", "c"]


async def quiet(gateway: Envoy) -> dict[str, int]:
    """Envoy's numbers once nothing is on its way to a pod or there: no answer waits for its copy."""
    async with asyncio.timeout(20):
        while True:
            stats = await gateway.stats("cluster.vision")
            if not any(count for name, count in stats.items() if name.endswith(("_rq_active", "_rq_pending_active"))):
                return stats
            await asyncio.sleep(0.02)


async def test_copies_are_marked_and_counted_apart_and_their_failure_is_nobodys(tmp_path: Path) -> None:
    async with pods.pod("stable", with_grpc=True) as stable, pods.pod("shadow", with_grpc=True) as shadow:

        async def fail(_: object) -> web.StreamResponse:
            return web.Response(status=500)

        shadow.behaviour = fail
        view = service(
            {"old": 10_000, "b": 0},
            {"old": [stable], "b": [shadow]},
            mirror=RoutedMirror(revision="b", share=5000),
        )
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            answers = [await ask.infer({"x-slipway-shadow": "forged"}, data=b"{}") for _ in range(200)]
            await ask("GET", "/v2")
            async with clients.channel(gateway) as channel:
                for _ in range(40):
                    assert (await clients.call(channel))[1] == "stable"
            stats = await quiet(gateway)
        assert {answer.status for answer in answers} == {200}
        assert len(shadow.seen) in likely(200, 0.5)
        assert len(shadow.calls) in likely(40, 0.5)
        assert {copy.headers["x-slipway-revision"] for copy in shadow.seen} == {"b"}
        assert all(copy.headers["x-slipway-shadow"] == "true" and copy.body == b"{}" for copy in shadow.seen)
        assert not any("x-slipway-shadow" in request.headers for request in stable.seen)
        assert {request.method for request in shadow.seen} == {"POST"}
        assert stats["cluster.vision/b/shadow.upstream_rq_total"] == len(shadow.seen)
        assert stats["cluster.vision/b/grpc/shadow.upstream_rq_total"] == len(shadow.calls)
        assert stats.get("cluster.vision/b.upstream_rq_total", 0) == 0
        assert stats["cluster.vision/old.upstream_rq_2xx"] == 201


async def test_who_is_turned_away_before_a_pod_is_told_of_no_revision(tmp_path: Path) -> None:
    """No key, too large, too often: what serves behind is nobody's business. Whose pod failed to answer is."""
    async with pods.pod("a") as one:

        async def hang(request: web.Request) -> web.StreamResponse:
            assert request.headers["x-slipway-revision"] == "old", "not what a caller wrote"
            await asyncio.sleep(30)
            return web.Response()

        forged = {"x-slipway-revision": "mine"}
        access = RoutedAccess(clients=["web"], max_body_bytes=10, rate_limit=RateLimit(requests_per_second=1, burst=3))
        rules = [RoutedMatch(revision="b", match=[Match(header="x-group", exact="b")])]
        view = service(
            {"old": 10_000, "b": 0},
            {"old": [one], "b": []},
            access=access,
            keys={"web": ("key-of-web-0123456789",)},
            rules=rules,
            timeout_ms=200,
        )
        async with envoy.serving(tmp_path, view) as gateway, clients.rest(gateway) as ask:
            key = {"x-api-key": "key-of-web-0123456789", **forged}
            one.behaviour = hang
            stranger = await ask.infer(forged)
            nobody = await ask.infer(key | {"x-group": "b"})
            large = await ask.infer(key, data=b"x" * 11)
            late = await ask.infer(key)
            often = await clients.refused(lambda: ask.infer(key | {"x-group": "b"}))
    assert [answer.status for answer in (late, often, stranger, nobody, large)] == [504, 429, 401, 503, 413]
    assert (late.headers["x-slipway-revision"], nobody.headers["x-slipway-revision"]) == ("old", "b")
    assert not any("x-slipway-revision" in answer.headers for answer in (often, stranger, large))
