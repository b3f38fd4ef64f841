"""The pitfalls of the delta protocol, one by one."""

import asyncio

import pytest

from slipway.gateway.store import Refused, Store
from slipway.gateway.stream import BATCH, Request, Stream
from slipway.gateway.xds import Kind
from tests.gateway.model_envoy import resource

CLUSTER, ROUTE = resource(endpoints="c"), resource(clusters=["c"])


def stream_of(store: Store) -> Stream:
    stream = Stream(store, lambda: None)
    store.follow(stream)
    return stream


def test_a_type_with_nothing_to_send_gets_an_empty_answer_which_envoys_start_waits_for() -> None:
    stream = stream_of(Store())
    stream.receive(Request(Kind.CLUSTER))
    answer = stream.due()
    assert answer
    assert (answer.resources, answer.removed) == ((), ())
    assert stream.due() is None


def test_a_name_that_nobody_knows_is_answered_as_removed() -> None:
    stream = stream_of(Store())
    stream.receive(Request(Kind.ROUTES, subscribe=("what",)))
    answers = [stream.due(), stream.due()]
    assert [each.removed for each in answers if each] == [(), ("what",)]


def test_the_first_answer_is_whole_and_later_ones_are_bounded() -> None:
    store = Store()
    for number in range(3 * BATCH):
        store.put(Kind.CLUSTER, str(number), CLUSTER)
    stream = stream_of(store)
    stream.receive(Request(Kind.CLUSTER))
    first = stream.due()
    assert first
    assert len(first.resources) == 3 * BATCH
    for number in range(2 * BATCH):
        store.put(Kind.CLUSTER, str(number), resource(endpoints="other"))
    later = [stream.due(), stream.due(), stream.due()]
    assert [len(each.resources) for each in later if each] == [BATCH, BATCH]


def test_what_a_running_envoy_holds_is_not_sent_again() -> None:
    store = Store()
    store.put(Kind.CLUSTER, "c", CLUSTER)
    stream = stream_of(store)
    stream.receive(Request(Kind.CLUSTER, held={"c": CLUSTER.version}))
    answer = stream.due()
    assert answer
    assert answer.resources == ()
    assert store.is_taken(Kind.CLUSTER, "c")


def test_what_an_envoy_before_had_taken_counts_for_nothing_with_the_next() -> None:
    store = Store()
    store.put(Kind.CLUSTER, "c", CLUSTER)
    stream_of(store).receive(Request(Kind.CLUSTER, held={"c": CLUSTER.version}))
    stream_of(store)
    assert not store.is_taken(Kind.CLUSTER, "c")


def test_a_changed_cluster_gets_its_endpoints_again_and_is_warm_only_with_those() -> None:
    store = Store()
    store.put(Kind.CLUSTER, "c", CLUSTER)
    store.put(Kind.ENDPOINTS, "c", resource(pods=[]))
    stream = stream_of(store)
    stream.receive(Request(Kind.CLUSTER))
    assert stream.due()
    stream.receive(Request(Kind.ENDPOINTS, subscribe=("c",)))
    before = stream.due()
    assert before
    store.put(Kind.CLUSTER, "c", resource(endpoints="c", slots=2))
    stream.receive(Request(Kind.ENDPOINTS, nonce=before.nonce))
    assert not store.is_taken(Kind.ENDPOINTS, "c"), "endpoints of the cluster before"
    changed, again = stream.due(), stream.due()
    assert changed
    assert again
    assert (changed.kind, again.kind) == (Kind.CLUSTER, Kind.ENDPOINTS)
    stream.receive(Request(Kind.ENDPOINTS, nonce=again.nonce))
    assert store.is_taken(Kind.ENDPOINTS, "c")


@pytest.mark.parametrize("order", [(Kind.ENDPOINTS, Kind.CLUSTER), (Kind.CLUSTER, Kind.ENDPOINTS)])
@pytest.mark.parametrize("holds_these", [True, False])
@pytest.mark.parametrize("is_answered_at_once", [True, False])
def test_a_running_envoy_with_another_cluster_gets_the_endpoints_after_it(
    order: tuple[Kind, Kind], *, holds_these: bool, is_answered_at_once: bool
) -> None:
    """As it meets an agent that comes back and knows better: in whatever order it asks."""
    store, endpoints = Store(), resource(pods=["a"])
    store.put(Kind.CLUSTER, "c", CLUSTER)
    store.put(Kind.ENDPOINTS, "c", endpoints)
    stream, sent, owed = stream_of(store), list[Kind](), list[Request]()

    def send() -> None:
        while answer := stream.due():
            sent.extend(answer.kind for _ in answer.resources)
            owed.append(Request(answer.kind, nonce=answer.nonce))
            if is_answered_at_once:
                stream.receive(owed.pop())

    held = {Kind.CLUSTER: "before", Kind.ENDPOINTS: endpoints.version if holds_these else "before"}
    for kind in order:
        stream.receive(Request(kind, subscribe=("c",) if kind is Kind.ENDPOINTS else (), held={"c": held[kind]}))
        send()
    while owed:
        stream.receive(owed.pop(0))
        send()
    assert sent[-2:] == [Kind.CLUSTER, Kind.ENDPOINTS]
    assert len(sent) <= 3
    assert store.is_complete
    assert stream.is_quiet


def test_clusters_that_nobody_wants_go_after_the_routes_without_them_were_taken() -> None:
    store = Store()
    store.put(Kind.ROUTES, "r", resource(clusters=[]))
    store.settle()
    stream = stream_of(store)
    stream.receive(Request(Kind.CLUSTER, held={"old": "1"}))
    stream.receive(Request(Kind.ROUTES, subscribe=("r",), held={"r": "1"}))
    assert [each.kind for each in (stream.due(), stream.due()) if each] == [Kind.CLUSTER, Kind.ROUTES]
    assert stream.due() is None, "the routes are on their way"
    stream.receive(Request(Kind.ROUTES, nonce="2"))
    gone = stream.due()
    assert gone
    assert gone.removed == ("old",)


def test_nothing_that_envoy_holds_goes_before_all_that_is_wanted_is_known() -> None:
    store = Store()
    stream = stream_of(store)
    stream.receive(Request(Kind.SCOPE, held={"host": "1"}))
    assert [each.removed for each in (stream.due(), stream.due()) if each] == [()]
    store.settle()
    gone = stream.due()
    assert gone
    assert gone.removed == ("host",)


async def test_the_guilty_one_of_many_is_found_and_its_version_is_not_sent_again() -> None:
    store, refused = Store(), resource(endpoints="c", bad=True)
    for number in range(100):
        store.put(Kind.CLUSTER, str(number), refused if number == 42 else CLUSTER)
    stream = stream_of(store)
    stream.receive(Request(Kind.CLUSTER))
    answers = 0
    while answer := stream.due():
        answers += 1
        is_bad = any(each == refused for _, each in answer.resources)
        stream.receive(Request(Kind.CLUSTER, nonce=answer.nonce, error="no" if is_bad else ""))
    assert answers < 20, "halving"
    assert [name for name in map(str, range(100)) if not store.is_taken(Kind.CLUSTER, name)] == ["42"]
    with pytest.raises(Refused, match="Cluster 42: no"):
        await store.taken([(Kind.CLUSTER, "42")])
    store.put(Kind.CLUSTER, "1", resource(endpoints="d"))
    again = stream.due()
    assert again
    assert [name for name, _ in again.resources] == ["1"]


async def test_a_waiter_that_gives_up_leaves_nothing_behind() -> None:
    store = Store()
    store.put(Kind.ROUTES, "r", ROUTE)
    waiting = asyncio.create_task(store.taken([(Kind.ROUTES, "r")]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not store._waiters
