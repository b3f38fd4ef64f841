"""Who waits for a first pod, how long, and who goes when, in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import looptime
import pytest

from slipway.gateway.asks import BUFFER_BYTES, Ask, Bounds, Place, Result, Verdict
from slipway.gateway.holds import BURST, FULL_S, MISSED_S, SETTLING_S, Holds
from slipway.gateway.views import Endpoint
from tests.gateway.views import routing, view

KEY = ("ns", "a")
POD = Endpoint("10.0.0.1", 8080)


def place(
    pods: int = 0, *, uid: str = "u", hold_ms: int = 10_000, slots: int = 4, gateways: int = 1, **more: Any
) -> Place:
    table = routing(hold_ms=hold_ms, slots=slots, **more)
    endpoints = {"r1": tuple(Endpoint(f"10.0.0.{number}", 8080) for number in range(pods))}
    return Place.of(view(uid=uid, table=table, endpoints=endpoints), ["a.ns"], gateways)


class Scene:
    def __init__(self, bounds: Bounds | None = None) -> None:
        self.changes: list[tuple[str, str]] = []
        self.holds = Holds(bounds or Bounds(), self.changes.append)
        self.waiting: list[asyncio.Task[Verdict]] = []

    async def ask(self, count: int = 1, **about: Any) -> None:
        fields: dict[str, Any] = {"key": KEY, "revision": "r1", "scope": "a.ns"} | about
        self.waiting += [asyncio.create_task(self.holds.hold(Ask(**fields))) for _ in range(count)]
        await asyncio.sleep(0.001)

    async def verdicts(self) -> list[Verdict]:
        return await asyncio.gather(*self.waiting)

    @property
    def held(self) -> dict[str, int]:
        counts = self.holds.revisions(asyncio.get_running_loop().time())
        return {revision: count for (_, revision), count in counts.items()}

    @property
    def gone(self) -> int:
        return sum(task.done() for task in self.waiting)


def told(story: Callable[[Scene], Coroutine[Any, Any, None]], bounds: Bounds | None = None) -> None:
    async def main() -> None:
        scene = Scene(bounds)
        scene.holds.taken(KEY, place())
        try:
            await story(scene)
        finally:
            scene.holds.end()
            await asyncio.gather(*scene.waiting, return_exceptions=True)

    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_all_who_wait_go_when_a_pod_has_room_for_them() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(3)
        assert scene.held == {"r1": 3}
        await asyncio.sleep(2)
        scene.holds.taken(KEY, place(1))
        assert await scene.verdicts() == [Verdict(Result.SERVED)] * 3
        assert scene.held == {}
        assert scene.changes == [KEY]
        assert scene.holds.tally.buckets == {3.0: 3}

    told(story)


def test_no_more_go_at_once_than_the_pods_hold_and_the_rest_in_order_as_they_answer() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(10)
        scene.holds.taken(KEY, place(1))
        assert scene.holds.crowd.is_set()
        assert list(scene.holds.crowded()) == [(KEY, "r1", "r1")]
        await asyncio.sleep(0)
        assert [task.done() for task in scene.waiting] == [True] * 4 + [False] * 6
        scene.holds.seen(KEY, "r1", 1, begun=1)  # three of the four have no connection yet
        await asyncio.sleep(0.2)
        assert scene.gone == 4
        scene.holds.seen(KEY, "r1", 3, begun=4)
        await asyncio.sleep(0.2)
        assert scene.gone == 5
        scene.holds.taken(KEY, place(2))
        await asyncio.sleep(0.2)
        assert scene.gone == 9

    told(story)


def test_who_comes_while_others_wait_goes_after_them_and_at_once_when_nobody_does() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(5)
        scene.holds.taken(KEY, place(1))
        await scene.ask()
        assert scene.gone == 4
        assert scene.holds.holds_back(KEY, "r1", has_pods=True)
        scene.holds.seen(KEY, "r1", 2, begun=4)
        await asyncio.sleep(0)
        assert scene.gone == 6
        assert not scene.holds.holds_back(KEY, "r1", has_pods=True)
        await scene.ask()
        assert scene.gone == 7

    told(story)


def test_who_was_lost_on_the_way_keeps_nobody_waiting() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(8)
        scene.holds.taken(KEY, place(1))
        await asyncio.sleep(SETTLING_S + 0.1)
        scene.holds.seen(KEY, "r1", 0, begun=1)
        await asyncio.sleep(0)
        assert scene.gone == 8

    told(story)


def test_a_pod_that_holds_thousands_does_not_get_as_many_connections_at_once() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(3 * BURST, bytes=1)
        scene.holds.taken(KEY, place(1, slots=1000))
        await asyncio.sleep(0)
        assert scene.gone == BURST
        scene.holds.seen(KEY, "r1", 100, begun=100)
        await asyncio.sleep(0)
        assert scene.gone == BURST + 100

    told(story)


def test_gateways_share_the_room_of_a_pod() -> None:
    assert place(1, gateways=2).room == {"r1": 2}
    assert place(1, gateways=100).room == {"r1": 1}
    assert place(3, gateways=2).room == {"r1": 6}
    assert place(3, access={"maxConcurrency": 6}, gateways=2).room == {"r1": 3}
    assert place(0).room == {"r1": 0}


@pytest.mark.parametrize(
    ("about", "after_s", "whose"),
    [
        pytest.param({}, 10.0, "10 s that a request waits", id="what the service says"),
        pytest.param({"limit_s": 2.0}, 2.0, "2 s that its caller gives", id="what its caller says"),
        pytest.param({"limit_s": 60.0}, 10.0, "10 s that a request", id="a caller with more patience than the service"),
        pytest.param({"age_s": 4.0}, 6.0, "10 s that a request waits", id="it has waited for another agent already"),
        pytest.param({"age_s": 40.0}, 0.0, "10 s that a request waits", id="it has waited for too long already"),
    ],
)
def test_a_wait_ends_in_time_with_a_sentence_that_says_why(about: dict[str, Any], after_s: float, whose: str) -> None:
    async def story(scene: Scene) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await scene.ask(**about)
        [late] = await scene.verdicts()
        assert loop.time() - begun == pytest.approx(after_s, abs=0.01)
        assert (late.result, late.status, late.retry_after_s) == (Result.LATE, 503, 5)
        assert whose in late.sentence
        assert scene.held == {"r1": 1}, "who looks later has to see that somebody asked"
        await asyncio.sleep(MISSED_S + 0.1)
        assert scene.held == {}

    told(story)


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [
        (Bounds(requests=6), 4),
        (Bounds(per_service=3), 3),
        (Bounds(bytes=2_900), 2),
    ],
    ids=["two thirds of the gateway's", "of the service", "two thirds of its bodies'"],
)
def test_beyond_a_bound_requests_are_refused_at_once(bounds: Bounds, fits: int) -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(8, bytes=1_000)
        assert scene.held == {"r1": fits}
        assert scene.gone == 8 - fits
        refused = scene.waiting[-1].result()
        assert (refused.result, refused.status) == (Result.FULL, 503)
        scene.holds.taken(KEY, place(8))
        assert [verdict.result for verdict in await scene.verdicts()].count(Result.SERVED) == fits
        scene.holds.taken(KEY, place())
        await scene.ask(8, bytes=1_000)
        assert scene.held == {"r1": fits}, "what was let go takes no room"

    told(story, bounds)


def test_while_a_service_is_full_envoy_refuses_by_itself_and_a_second_later_at_the_soonest_asks_again() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(5)
        assert not scene.holds.holds_back(KEY, "r1", has_pods=False)
        assert scene.changes == [KEY]
        scene.holds.taken(KEY, place(2))
        await scene.verdicts()
        scene.holds.taken(KEY, place())
        assert not scene.holds.holds_back(KEY, "r1", has_pods=False)
        await asyncio.sleep(FULL_S + 0.1)
        assert scene.holds.holds_back(KEY, "r1", has_pods=False)

    told(story, Bounds(per_service=4))


def test_one_service_that_is_full_takes_nothing_from_another() -> None:
    async def story(scene: Scene) -> None:
        scene.holds.taken(("ns", "b"), place())
        await scene.ask(9)
        await scene.ask(1, key=("ns", "b"), revision="r1")
        assert not scene.waiting[-1].done()
        assert scene.holds.holds_back(("ns", "b"), "r1", has_pods=False)

    told(story, Bounds(per_service=4))


def test_whatever_one_namespace_claims_others_find_room() -> None:
    async def story(scene: Scene) -> None:
        others = [(f"other{number}", "b") for number in range(4)]
        for key in others:
            scene.holds.taken(key, place())
        for number in range(20):
            scene.holds.taken(("ns", f"a{number}"), place())
            await scene.ask(30, key=("ns", f"a{number}"), bytes=5 * BUFFER_BYTES)
        assert sum(not task.done() for task in scene.waiting) == 14, "70 of 100 MiB"
        for key in others:
            await scene.ask(key=key, bytes=BUFFER_BYTES)
            assert not scene.waiting[-1].done()
            assert scene.holds.holds_back(key, "r1", has_pods=False)

    told(story, Bounds(bytes=100 * BUFFER_BYTES))


def test_a_service_whose_bodies_fill_its_room_is_not_asked_for_until_half_of_it_is_free() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(9)
        assert len(scene.changes) == 1
        await asyncio.sleep(4 * FULL_S)
        assert len(scene.changes) == 1
        for task in scene.waiting[:4]:
            task.cancel()
        await asyncio.sleep(FULL_S + 0.1)
        assert len(scene.changes) == 2
        assert scene.holds.holds_back(KEY, "r1", has_pods=False)

    told(story, Bounds(bytes=9 * BUFFER_BYTES))


def test_a_caller_that_goes_away_takes_no_room_and_has_still_asked() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(2)
        scene.waiting[0].cancel()
        await asyncio.sleep(0)
        assert scene.held == {"r1": 1}
        scene.waiting[1].cancel()
        await asyncio.sleep(0)
        assert scene.held == {"r1": 1}
        assert scene.holds.tally.results == {Result.LEFT: 2}
        await asyncio.sleep(MISSED_S + 0.1)
        assert scene.held == {}

    told(story)


def test_the_first_of_a_revision_is_news_and_the_second_is_not() -> None:
    async def story(scene: Scene) -> None:
        number = scene.holds.number
        news = asyncio.create_task(scene.holds.news(number))
        await asyncio.sleep(0)
        await scene.ask()
        assert news.done()
        number = scene.holds.number
        await scene.ask()
        assert scene.holds.number == number
        await scene.ask(revision="r2")
        assert scene.holds.number == number + 1

    told(story)


def test_who_waits_for_a_revision_that_is_replaced_goes_the_new_way_once_that_has_pods() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask()
        table = routing(weights={"r2": 10_000}, hold_ms=1000)
        scene.holds.taken(KEY, Place.of(view(uid="u", table=table), ["a.ns"], 1))
        await asyncio.sleep(0.1)
        assert scene.gone == 0
        scene.holds.taken(KEY, Place.of(view(uid="u", table=table, endpoints={"r2": (POD,)}), ["a.ns"], 1))
        assert await scene.verdicts() == [Verdict(Result.SERVED, is_rerouted=True)]

    told(story)


@pytest.mark.parametrize(
    ("after", "status", "sentence"),
    [
        pytest.param(None, 404, "there is no such service any more", id="deleted"),
        pytest.param(place(1, uid="v"), 503, "the service changed", id="made anew by the same name"),
    ],
)
def test_who_waits_for_a_service_that_is_no_more_is_told_so(after: Place | None, status: int, sentence: str) -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(2)
        scene.holds.taken(KEY, after)
        first, second = await scene.verdicts()
        assert first == second
        assert first.status == status
        assert first.sentence.startswith(sentence)

    told(story)


def test_who_came_by_a_host_that_moved_to_another_service_is_not_let_go_there() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(scope="a-ns.example.org")
        scene.holds.taken(KEY, place(1))
        assert [verdict.sentence for verdict in await scene.verdicts()] == [
            "the service changed while this request waited; try again"
        ]

    told(story)


def test_a_service_that_may_not_sleep_any_more_lets_those_wait_who_do_and_nobody_new() -> None:
    """No tick of the operator after its restart, or a service that never wakes: the first may still be served."""

    async def story(scene: Scene) -> None:
        await scene.ask()
        scene.holds.taken(KEY, place(hold_ms=0))
        assert scene.gone == 0
        await asyncio.sleep(11)
        await scene.ask()
        late, refused = await scene.verdicts()
        assert late.result is Result.LATE
        assert refused.sentence == "no replica of this service is ready; try again later"

    told(story)


def test_a_rest_caller_is_left_what_it_has_not_waited_of_its_own_limit() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(limit_s=5.0, age_s=1.0)
        await scene.ask(limit_s=5.0, is_rest=False)
        await asyncio.sleep(2)
        scene.holds.taken(KEY, place(1))
        rest, grpc = await scene.verdicts()
        assert 1900 <= rest.left_ms <= 2000
        assert grpc.left_ms == 0

    told(story)


def test_a_gateway_that_ends_says_no_to_those_who_wait_and_to_who_comes() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(2)
        assert scene.holds.end()
        await scene.ask()
        assert {verdict.result for verdict in await scene.verdicts()} == {Result.ENDED}
        assert not scene.holds.end()

    told(story)


def test_before_all_services_are_known_who_asks_for_one_that_is_not_waits_and_later_does_not() -> None:
    async def story(scene: Scene) -> None:
        await scene.ask(key=("ns", "new"))
        assert scene.gone == 0
        scene.holds.taken(("ns", "new"), place(1))
        await scene.ask(key=("ns", "none"))
        scene.holds.knows_all = True
        await scene.ask(key=("ns", "gone"))
        assert scene.waiting[0].result().result is Result.SERVED
        assert not scene.waiting[1].done()
        assert scene.waiting[2].result().result is Result.GONE

    told(story)
