"""A user stays with a version: nobody goes back while its share grows, and everybody does when it is taken away."""

import itertools

import pytest

from e2e.support.installation import Installation
from e2e.support.load import Answer, interval, one_each
from e2e.support.manifests import service, variant, with_spec
from e2e.support.team import Team

USERS = [{"x-user": f"user-{number}"} for number in range(4000)]
RAMP = (1, 5, 25, 50, 100)
NEW = "101"


@pytest.fixture(scope="module")
def hello(shared_slipway: Installation, shared_team: Team) -> Team:
    assert shared_slipway
    shared_team.apply(with_spec(service(), traffic={"variants": [variant("b")]}))
    shared_team.start_client()
    shared_team.wait_settled("hello")
    return shared_team


def share(team: Team, percent: int, stickiness: object) -> None:
    traffic = {"variants": [variant("b", weight=f"{percent}%")], "stickiness": stickiness}
    team.apply(with_spec(service(), traffic=traffic))
    team.wait_shares("hello", {"": 10_000 - percent * 100, "b": percent * 100})


def movers(answers: list[Answer]) -> set[int]:
    """The users, by number, that the variant answers."""
    assert {answer.code for answer in answers} <= {"200", "grpc 0"}
    return {number for number, answer in enumerate(answers) if answer.offset == NEW}


def test_no_user_goes_back_on_a_ramp_and_all_do_on_an_abort(hello: Team) -> None:
    steps = []
    for percent in RAMP:
        share(hello, percent, {"header": "x-user"})
        found = movers(one_each(hello, "hello", USERS))
        steps.append(found)
        low, high = interval(percent / 100, len(USERS)) if percent < 100 else (len(USERS), len(USERS))
        assert low <= len(found) <= high, f"{len(found)} of {len(USERS)} at {percent} %"
    for before, after in itertools.pairwise(steps):
        assert before <= after, f"{len(before - after)} users went back"
    share(hello, 0, {"header": "x-user"})
    assert movers(one_each(hello, "hello", USERS)) == set()
    share(hello, RAMP[1], {"header": "x-user"})
    assert movers(one_each(hello, "hello", USERS)) == steps[1], "the same users come first again"


def test_a_user_is_the_same_over_rest_and_grpc_and_on_every_gateway(hello: Team, slipway: Installation) -> None:
    share(hello, 50, {"header": "x-user"})
    users = USERS[:300]
    ways = [f"{pod['status']['podIP']}:8080" for pod in slipway.gateways()]
    assert len(ways) == 2
    found = [
        movers(one_each(hello, "hello", users, protocol=protocol, through=through))
        for protocol in ("rest", "grpc")
        for through in ways
    ]
    assert all(each == found[0] for each in found)
    assert 100 < len(found[0]) < 200


def test_a_minted_cookie_agrees_with_the_answer_it_came_with(hello: Team) -> None:
    """300 of 300, three requests each; and those who are with the variant stay when its share grows."""
    share(hello, 30, {"cookie": {"name": "who"}})
    first = one_each(hello, "hello", [{} for _ in range(300)])
    cookies = [answer.headers["set-cookie"] for answer in first]
    assert all("HttpOnly" in cookie and cookie.startswith("who=") for cookie in cookies)
    own = [{"cookie": f"theme=dark; {cookie.partition(';')[0]}"} for cookie in cookies]
    assert len({each["cookie"] for each in own}) == 300
    for _ in range(3):
        again = one_each(hello, "hello", own)
        assert movers(again) == movers(first)
        assert not any("set-cookie" in answer.headers for answer in again)
    share(hello, 60, {"cookie": {"name": "who"}})
    assert movers(one_each(hello, "hello", own)) >= movers(first)


def test_an_address_is_one_user(hello: Team) -> None:
    """All requests of the client's pod, over many connections, to one version."""
    share(hello, 50, {"clientAddress": True})
    answers = one_each(hello, "hello", [{} for _ in range(200)])
    assert len({answer.offset for answer in answers}) == 1
